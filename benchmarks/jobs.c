// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the benchmarks of the fence device cost in C; the argument is its node. */
#include "bench.h"

#include <poll.h>

#include "fencedev/fencedev.h"

#define MANY 16

static const char *fencedev_path;
static int device, number;
static __u32 queues[2];

static __u32 queue_create(void)
{
	struct fencedev_queue_create data = { .name = "bench" };

	insist("FENCEDEV_IOC_QUEUE_CREATE", ioctl(device, FENCEDEV_IOC_QUEUE_CREATE, &data));
	return data.queue;
}

/* Submit a job that waits for `in_fence`, if that is one. */
static int submit(__u32 queue, int in_fence)
{
	struct fencedev_submit data = { .queue = queue };

	if (in_fence >= 0)
		data.in_fences[data.in_fence_count++] = in_fence;
	insist("FENCEDEV_IOC_SUBMIT", ioctl(device, FENCEDEV_IOC_SUBMIT, &data));
	return data.out_fence;
}

static void wait_fence(int fd)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };

	insist("poll", poll(&polled, 1, -1));
}

static void do_submit(void)
{
	int fence = submit(queues[0], -1);

	wait_fence(fence);
	close(fence);
}

static void do_chain(void)
{
	int fences[MANY];

	for (int i = 0; i < number; i++)
		fences[i] = submit(queues[i % 2], i ? fences[i - 1] : -1);
	wait_fence(fences[number - 1]);
	for (int i = 0; i < number; i++)
		close(fences[i]);
}

static const struct {
	const char *name;
	void (*work)(void);
} cases[] = {
	{ "submit", do_submit },
	{ "chain", do_chain },
};

static long long run(const char *name, int count)
{
	long long start, end;
	size_t i = 0;

	while (!is_case(name, cases[i].name))
		if (++i == sizeof(cases) / sizeof(*cases))
			errx(1, "no such case: %s", name);

	number = number_in(name);
	device = open(fencedev_path, O_RDWR | O_CLOEXEC);
	insist(fencedev_path, device);
	for (int queue = 0; queue < 2; queue++)
		queues[queue] = queue_create();

	start = now();
	for (int repetition = 0; repetition < count; repetition++)
		cases[i].work();
	end = now();

	close(device);
	return end - start;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: %s FENCEDEV", argv[0]);
	fencedev_path = argv[1];
	return serve(run);
}
