// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the benchmarks of buffers and devices cost in C; the arguments are a dma-heap, two DRM devices and the sw_sync file. */
#include "bench.h"

#include <linux/dma-heap.h>
#include <sys/mman.h>

#define MANY 256
#define PAGE 4096
#define SIZE (16 * PAGE)

static const char *heap_path, *vgem_path, *virtio_gpu_path, *sw_sync_path;

static int path_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	insist(path, fd);
	return fd;
}

/* What a case works on; `number` is the N of "case-N". */
static int number;
static int buffers[2], timeline;
static void *mapped;
static char written[SIZE];
static int device, other_device;
static __u32 handles[MANY];
static __u64 points[MANY], found[MANY];

static int heap_alloc(void)
{
	struct dma_heap_allocation_data data = { .len = SIZE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open(heap_path, O_RDONLY | O_CLOEXEC);

	insist(heap_path, heap);
	insist("DMA_HEAP_IOCTL_ALLOC", ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data));
	close(heap);
	return data.fd;
}

static void buffer_sync(__u64 flags)
{
	struct dma_buf_sync data = { .flags = flags };

	insist("DMA_BUF_IOCTL_SYNC", ioctl(buffers[0], DMA_BUF_IOCTL_SYNC, &data));
}

static void import_sync_file(int buffer, int fence, __u32 flags)
{
	struct dma_buf_import_sync_file data = { .flags = flags, .fd = fence };

	insist("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", ioctl(buffer, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &data));
}

static void set_up_buffer(void)
{
	buffers[0] = heap_alloc();
	mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, buffers[0], 0);
	if (mapped == MAP_FAILED)
		err(1, "mmap");
	memset(written, 1, SIZE);
}

static void tear_down_buffer(void)
{
	munmap(mapped, SIZE);
	close(buffers[0]);
}

static void do_bracket(void)
{
	buffer_sync(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	buffer_sync(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
}

static void do_cpu_access(void)
{
	buffer_sync(DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW);
	memcpy(mapped, written, number * PAGE);
	buffer_sync(DMA_BUF_SYNC_END | DMA_BUF_SYNC_RW);
}

static void set_up_fence(void)
{
	int fence;

	timeline = timeline_open(sw_sync_path);
	fence = fence_create(timeline, 1);
	for (int i = 0; i < 2; i++)
		buffers[i] = heap_alloc();
	import_sync_file(buffers[0], fence, DMA_BUF_SYNC_WRITE);
	close(fence);
}

static void tear_down_fence(void)
{
	close(timeline);
	for (int i = 0; i < 2; i++)
		close(buffers[i]);
}

static void do_export_import(void)
{
	struct dma_buf_export_sync_file data = { .flags = DMA_BUF_SYNC_WRITE };

	insist("DMA_BUF_IOCTL_EXPORT_SYNC_FILE", ioctl(buffers[0], DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &data));
	import_sync_file(buffers[1], data.fd, DMA_BUF_SYNC_READ);
	close(data.fd);
}

static void set_up_syncobjs(void)
{
	struct ls_syncobj_timeline_array signal = {
		.handles = (size_t)handles,
		.points = (size_t)points,
		.count_handles = number,
	};

	device = path_open(virtio_gpu_path);
	for (int i = 0; i < number; i++) {
		struct ls_syncobj_create data = { 0 };

		insist("DRM_IOCTL_SYNCOBJ_CREATE", ioctl(device, LS_IOCTL_SYNCOBJ_CREATE, &data));
		handles[i] = data.handle;
		points[i] = (1 << 20) + 1 + i;
	}
	insist("DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL", ioctl(device, LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, &signal));
}

/* Closing the device destroys its handles. */
static void tear_down_syncobjs(void)
{
	close(device);
}

static void do_syncobj_wait(void)
{
	struct ls_syncobj_timeline_wait data = {
		.handles = (size_t)handles,
		.points = (size_t)points,
		.count_handles = number,
		.flags = number > 1 ? LS_SYNCOBJ_WAIT_ALL : 0,
	};

	insist("DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT", ioctl(device, LS_IOCTL_SYNCOBJ_TIMELINE_WAIT, &data));
}

static void do_syncobj_query(void)
{
	struct ls_syncobj_timeline_array data = {
		.handles = (size_t)handles,
		.points = (size_t)found,
		.count_handles = number,
	};

	insist("DRM_IOCTL_SYNCOBJ_QUERY", ioctl(device, LS_IOCTL_SYNCOBJ_QUERY, &data));
	sink = found[number - 1] == points[number - 1];
}

static void set_up_dumb(void)
{
	struct ls_mode_create_dumb data = { .width = 1024, .height = 1, .bpp = 32 };

	device = path_open(vgem_path);
	other_device = path_open(vgem_path);
	insist("DRM_IOCTL_MODE_CREATE_DUMB", ioctl(device, LS_IOCTL_MODE_CREATE_DUMB, &data));
	handles[0] = data.handle;
}

static void tear_down_dumb(void)
{
	close(other_device);
	close(device);
}

static void do_prime(void)
{
	struct ls_prime_handle data = { .handle = handles[0], .flags = O_RDWR | O_CLOEXEC };
	struct ls_gem_close imported = { 0 };

	insist("DRM_IOCTL_PRIME_HANDLE_TO_FD", ioctl(device, LS_IOCTL_PRIME_HANDLE_TO_FD, &data));
	insist("DRM_IOCTL_PRIME_FD_TO_HANDLE", ioctl(other_device, LS_IOCTL_PRIME_FD_TO_HANDLE, &data));
	imported.handle = data.handle;
	insist("DRM_IOCTL_GEM_CLOSE", ioctl(other_device, LS_IOCTL_GEM_CLOSE, &imported));
	close(data.fd);
}

static const struct {
	const char *name;
	void (*set_up)(void);
	void (*work)(void);
	void (*tear_down)(void);
} cases[] = {
	{ "bracket", set_up_buffer, do_bracket, tear_down_buffer },
	{ "ddi", set_up_buffer, do_bracket, tear_down_buffer },
	{ "cpu_access", set_up_buffer, do_cpu_access, tear_down_buffer },
	{ "export_import", set_up_fence, do_export_import, tear_down_fence },
	{ "syncobj_wait", set_up_syncobjs, do_syncobj_wait, tear_down_syncobjs },
	{ "syncobj_query", set_up_syncobjs, do_syncobj_query, tear_down_syncobjs },
	{ "prime", set_up_dumb, do_prime, tear_down_dumb },
};

static long long run(const char *name, int count)
{
	long long start, end;
	size_t i = 0;

	while (!is_case(name, cases[i].name))
		if (++i == sizeof(cases) / sizeof(*cases))
			errx(1, "no such case: %s", name);

	number = number_in(name);
	cases[i].set_up();
	cases[i].work(); /* the first touches memory that the others find mapped */

	start = now();
	for (int repetition = 0; repetition < count; repetition++)
		cases[i].work();
	end = now();

	cases[i].tear_down();
	return end - start;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: %s HEAP VGEM VIRTIO_GPU SW_SYNC", argv[0]);
	heap_path = argv[1];
	vgem_path = argv[2];
	virtio_gpu_path = argv[3];
	sw_sync_path = argv[4];
	return serve(run);
}
