// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A test of a program that fills a buffer for a device, as somebody's CI might have it.
 *
 *	cc -Wall -o missing_sync examples/missing_sync.c -I native/fencedev
 *	vm/run -- ./missing_sync --forget               # passes: on x86 nobody notices
 *	vm/run --incoherent -- ./missing_sync --forget  # fails, and tells what the device got
 *	vm/run --incoherent -- ./missing_sync           # passes
 *
 * What is tested is upload(); --forget leaves out its DMA_BUF_IOCTL_SYNC. The device is the fence
 * device: it copies the buffer into another, from which the test reads what has arrived.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/dma-buf.h>
#include <linux/dma-heap.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fencedev.h"

#define SIZE 16384

static int device;

static void sync_access(int dmabuf, __u64 flags)
{
	struct dma_buf_sync sync = { .flags = flags };

	if (ioctl(dmabuf, DMA_BUF_IOCTL_SYNC, &sync))
		err(2, "DMA_BUF_IOCTL_SYNC");
}

/* The code under test: put a picture into a buffer that a device will read. */
static void upload(int dmabuf, void *memory, int colour, bool forget)
{
	if (!forget)
		sync_access(dmabuf, DMA_BUF_SYNC_START | DMA_BUF_SYNC_WRITE);
	memset(memory, colour, SIZE);
	if (!forget)
		sync_access(dmabuf, DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE);
}

static int allocate(void **memory)
{
	struct dma_heap_allocation_data data = { .len = SIZE, .fd_flags = O_RDWR | O_CLOEXEC };
	int heap = open("/dev/dma_heap/system", O_RDONLY | O_CLOEXEC);

	if (heap < 0 || ioctl(heap, DMA_HEAP_IOCTL_ALLOC, &data))
		err(2, "/dev/dma_heap/system");
	close(heap);
	*memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, data.fd, 0);
	if (*memory == MAP_FAILED)
		err(2, "mmap");
	return data.fd;
}

static __u32 attach(int dmabuf)
{
	struct fencedev_attach args = {
		.fd = dmabuf,
		.access = FENCEDEV_ACCESS_READ | FENCEDEV_ACCESS_WRITE,
	};
	struct fencedev_id id = {};

	if (ioctl(device, FENCEDEV_IOC_ATTACH, &args))
		err(2, "FENCEDEV_IOC_ATTACH");
	id.id = args.attachment;
	if (ioctl(device, FENCEDEV_IOC_MAP, &id))
		err(2, "FENCEDEV_IOC_MAP");
	return args.attachment;
}

/* Have the device copy one buffer into another, and wait for the fence that it gives. */
static void copy(__u32 queue, __u32 dst, __u32 src)
{
	struct fencedev_submit job = {
		.queue = queue,
		.op = FENCEDEV_OP_COPY,
		.dst = dst,
		.src = src,
		.length = SIZE,
	};
	struct pollfd done = { .events = POLLIN };

	if (ioctl(device, FENCEDEV_IOC_SUBMIT, &job))
		err(2, "FENCEDEV_IOC_SUBMIT");
	done.fd = job.out_fence;
	if (poll(&done, 1, 10000) != 1)
		errx(2, "the job did not end");
	close(job.out_fence);
}

int main(int argc, char **argv)
{
	bool forget = argc > 1 && !strcmp(argv[1], "--forget");
	struct fencedev_queue_create queue = { .name = "copy" };
	void *picture, *arrived;
	int source, target;
	__u32 src, dst;

	device = open("/dev/fencedev", O_RDWR | O_CLOEXEC);
	if (device < 0 || ioctl(device, FENCEDEV_IOC_QUEUE_CREATE, &queue))
		err(2, "/dev/fencedev");
	source = allocate(&picture);
	target = allocate(&arrived);
	src = attach(source);
	dst = attach(target);
	for (int colour = 1; colour <= 2; colour++) {
		upload(source, picture, colour, forget);
		copy(queue.queue, dst, src);
		sync_access(target, DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
		for (int i = 0; i < SIZE; i++)
			if (((char *)arrived)[i] != colour)
				errx(1, "picture %d: byte %d is %d at the device", colour, i,
				     ((char *)arrived)[i]);
		sync_access(target, DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
	}
	puts("both pictures have arrived");
	return 0;
}
