// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A C program's fences and buffers, by libdrm's own calls, tested without a GPU. It prints TAP.
 *
 *	cc -Wall -o client examples/client.c -I/usr/include/libdrm -ldrm
 *	vm/run -- ./client              # or, where linuxsync is installed: linuxsync vm test ./client
 *	vm/run --kernel 6.1 -- ./client # there no device has syncobjs: those tests are skipped, and say so
 *
 * The way of a picture: a dumb buffer of one device (vgem) is a dma-buf (PRIME) and then a buffer of
 * another (vkms); a fence on it says when it may be read; sync_file and syncobj carry that fence.
 * What there is to copy is how each step is asked whether it worked: by the kernel's answer and by
 * what the other end sees, and never by the same call's word alone.
 *
 * Exit status: 0 if every test passed or was skipped, 1 if one failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/sync_file.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <xf86drm.h>
#include <xf86drmMode.h>

#define WIDTH 64
#define HEIGHT 64
#define SECOND 1000000000LL

/* include/uapi/drm/vgem_drm.h, which neither libdrm nor Debian's kernel headers install. */
struct drm_vgem_fence_attach {
	uint32_t handle;
	uint32_t flags;
	uint32_t out_fence;
	uint32_t pad;
};

struct drm_vgem_fence_signal {
	uint32_t fence;
	uint32_t flags;
};

#define VGEM_FENCE_WRITE 1
#define DRM_IOCTL_VGEM_FENCE_ATTACH \
	DRM_IOWR(DRM_COMMAND_BASE + 0x1, struct drm_vgem_fence_attach)
#define DRM_IOCTL_VGEM_FENCE_SIGNAL \
	DRM_IOW(DRM_COMMAND_BASE + 0x2, struct drm_vgem_fence_signal)

static int tests, failures;

/* One line of TAP; errno is what a failed one blames. */
static bool check(bool passed, const char *what, ...)
{
	int error = errno;
	va_list arguments;

	printf("%sok %d - ", passed ? "" : "not ", ++tests);
	va_start(arguments, what);
	vprintf(what, arguments);
	va_end(arguments);
	printf("\n");
	if (!passed) {
		printf("# errno %d: %s\n", error, strerror(error));
		failures++;
	}
	fflush(stdout);
	errno = 0;
	return passed;
}

static void skip(const char *what, const char *why)
{
	printf("ok %d - %s # SKIP %s\n", ++tests, what, why);
}

/* Nothing after it would make sense. */
static void need(bool there, const char *what)
{
	if (there)
		return;
	printf("Bail out! %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A moment on CLOCK_MONOTONIC, as libdrm's waits for syncobjs take it. */
static int64_t from_now(int64_t nanoseconds)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec + nanoseconds;
}

static bool readable(int fd, int milliseconds)
{
	struct pollfd asked = { .fd = fd, .events = POLLIN };

	return poll(&asked, 1, milliseconds) == 1 && asked.revents == POLLIN;
}

/* How many fences there are in a sync_file; *fence is the first. */
static int fences(int sync_file, int *status, struct sync_fence_info *fence)
{
	struct sync_file_info info = { .num_fences = 1, .sync_fence_info = (uintptr_t)fence };

	if (ioctl(sync_file, SYNC_IOC_FILE_INFO, &info))
		return -1;
	*status = info.status;
	return info.num_fences;
}

static void sync_access(int dmabuf, uint64_t flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	need(!drmIoctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync), "DMA_BUF_IOCTL_SYNC");
}

/* The same memory by another device's name: what was written here is read there. */
static void test_prime(int vgem, uint32_t handle, int dmabuf, uint8_t *memory)
{
	int vkms = drmOpen("vkms", NULL);
	uint32_t again = 0, imported = 0;
	uint64_t offset = 0;
	uint8_t *there;

	check(!drmPrimeFDToHandle(vgem, dmabuf, &again) && again == handle,
	      "drmPrimeFDToHandle of a device's own buffer is the handle it has");
	need(vkms >= 0, "vkms");
	if (check(!drmPrimeFDToHandle(vkms, dmabuf, &imported) && imported,
		  "vkms takes the buffer of vgem")) {
		there = mmap(NULL, 4096, PROT_READ, MAP_SHARED, dmabuf, 0);
		need(there != MAP_FAILED, "mmap");
		sync_access(dmabuf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
		memory[0] = 0xa5;
		sync_access(dmabuf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
		check(there[0] == 0xa5, "what was written through vgem is read through the dma-buf");
		munmap(there, 4096);
		check(drmModeMapDumbBuffer(vkms, imported, &offset) == -EINVAL,
		      "vkms maps only buffers of its own: EINVAL");
		check(!drmCloseBufferHandle(vkms, imported), "the handle is given back");
	}
	drmClose(vkms);
}

/* A fence on the buffer, and the sync_file that it comes out as; returns that. */
static int test_fence(int vgem, uint32_t handle, int dmabuf)
{
	struct drm_vgem_fence_attach attach = { .handle = handle, .flags = VGEM_FENCE_WRITE };
	struct drm_vgem_fence_signal done = {};
	struct dma_buf_export_sync_file out = { .flags = DMA_BUF_SYNC_READ, .fd = -1 };
	struct sync_fence_info fence = {};
	int status = -1;

	check(readable(dmabuf, 0), "nobody uses the buffer: poll says so");
	need(!drmIoctl(vgem, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach), "DRM_IOCTL_VGEM_FENCE_ATTACH");
	done.fence = attach.out_fence;
	check(!readable(dmabuf, 0), "somebody writes to it: who reads has to wait");
	need(!drmIoctl(dmabuf, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &out), "DMA_BUF_IOCTL_EXPORT_SYNC_FILE");
	check(fences(out.fd, &status, &fence) == 1 && status == 0 && !strcmp(fence.driver_name, "vgem"),
	      "the sync_file of the buffer has one fence, of vgem, which is active");
	check(drmIoctl(vgem, DRM_IOCTL_VGEM_FENCE_ATTACH, &attach) == -1 && errno == EBUSY,
	      "a second writer is refused: EBUSY");
	check(!drmIoctl(vgem, DRM_IOCTL_VGEM_FENCE_SIGNAL, &done) && readable(out.fd, 1000),
	      "signaled, and poll on the sync_file returns");
	check(fences(out.fd, &status, &fence) == 1 && status == 1 && fence.timestamp_ns,
	      "its status is 1, and it has a timestamp");
	check(readable(dmabuf, 0), "and the buffer is free");
	return out.fd;
}

static bool wait_for(int device, uint32_t syncobj, int64_t nanoseconds, int expected)
{
	return drmSyncobjWait(device, &syncobj, 1, from_now(nanoseconds), 0, NULL) == expected;
}

/* A place for fences. `signaled` is a sync_file whose fence has signaled. */
static void test_syncobj(int device, int signaled)
{
	uint32_t syncobj = 0, other = 0;
	int fd = -1;

	need(!drmSyncobjCreate(device, 0, &syncobj), "drmSyncobjCreate");
	check(wait_for(device, syncobj, 0, -EINVAL), "an empty syncobj can't be waited for: EINVAL");
	check(!drmSyncobjImportSyncFile(device, syncobj, signaled) && wait_for(device, syncobj, 0, 0),
	      "with the fence of the sync_file it has signaled");
	check(!drmSyncobjExportSyncFile(device, syncobj, &fd) && readable(fd, 0),
	      "and gives it back as a sync_file");
	close(fd);
	check(!drmSyncobjHandleToFD(device, syncobj, &fd) &&
		      !drmSyncobjFDToHandle(device, fd, &other) && other != syncobj,
	      "through a descriptor it gets a second handle");
	check(!drmSyncobjReset(device, &syncobj, 1) && wait_for(device, other, 0, -EINVAL),
	      "what is done to the one is done to the other");
	close(fd);
	check(!drmSyncobjDestroy(device, other) && !drmSyncobjDestroy(device, syncobj) &&
		      drmSyncobjDestroy(device, syncobj),
	      "destroyed, and not twice");
}

static void test_timeline(int device)
{
	uint64_t point = 2, value = 0, one = 1;
	uint32_t syncobj = 0, first;

	need(!drmSyncobjCreate(device, 0, &syncobj), "drmSyncobjCreate");
	check(drmSyncobjTimelineWait(device, &syncobj, &point, 1, from_now(SECOND / 20),
				     DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT, &first) == -ETIME,
	      "point 2 of a timeline does not come by itself: ETIME");
	check(!drmSyncobjTimelineSignal(device, &syncobj, &one, 1) &&
		      !drmSyncobjQuery(device, &syncobj, &value, 1) && value == 1,
	      "signaled up to 1, and the query says 1");
	check(!drmSyncobjTimelineSignal(device, &syncobj, &point, 1) &&
		      !drmSyncobjTimelineWait(device, &syncobj, &point, 1, from_now(SECOND), 0, &first),
	      "signaled up to 2, and the wait returns");
	drmSyncobjDestroy(device, syncobj);
}

int main(int argc, char **argv)
{
	struct {
		uint32_t handle, pitch;
		uint64_t size, offset;
	} buffer = {};
	int vgem = drmOpen("vgem", NULL), gpu = drmOpen("virtio_gpu", NULL), dmabuf = -1, fence;
	uint64_t has = 0;
	uint8_t *memory;

	if (argc > 1) {
		printf("Usage: %s\nTests of fences and buffers through libdrm, as TAP.\n", argv[0]);
		return strcmp(argv[1], "--help") ? 2 : 0;
	}
	printf("TAP version 13\n");
	need(vgem >= 0, "vgem");
	need(!drmModeCreateDumbBuffer(vgem, WIDTH, HEIGHT, 32, 0, &buffer.handle, &buffer.pitch,
				      &buffer.size),
	     "drmModeCreateDumbBuffer");
	check(buffer.pitch >= WIDTH * 4 && buffer.size >= (uint64_t)buffer.pitch * HEIGHT,
	      "a dumb buffer of vgem has room for the picture");
	need(!drmModeMapDumbBuffer(vgem, buffer.handle, &buffer.offset), "drmModeMapDumbBuffer");
	memory = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED, vgem, buffer.offset);
	need(memory != MAP_FAILED, "mmap");
	check(!drmPrimeHandleToFD(vgem, buffer.handle, DRM_CLOEXEC | DRM_RDWR, &dmabuf) &&
		      lseek(dmabuf, 0, SEEK_END) == (off_t)buffer.size,
	      "drmPrimeHandleToFD makes a dma-buf of the same size");
	test_prime(vgem, buffer.handle, dmabuf, memory);
	fence = test_fence(vgem, buffer.handle, dmabuf);
	if (gpu >= 0 && !drmGetCap(gpu, DRM_CAP_SYNCOBJ, &has) && has)
		test_syncobj(gpu, fence);
	else
		skip("syncobjs", "virtio_gpu has none on this kernel");
	if (gpu >= 0 && !drmGetCap(gpu, DRM_CAP_SYNCOBJ_TIMELINE, &has) && has)
		test_timeline(gpu);
	else
		skip("syncobj timelines", "virtio_gpu has none on this kernel");
	close(fence);
	munmap(memory, buffer.size);
	close(dmabuf);
	check(!drmModeDestroyDumbBuffer(vgem, buffer.handle) &&
		      drmCloseBufferHandle(vgem, buffer.handle),
	      "the buffer's handle is gone");
	printf("1..%d\n", tests);
	drmClose(vgem);
	if (gpu >= 0)
		drmClose(gpu);
	return failures != 0;
}
