// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the benchmarks of sync_file and sw_sync cost in C; the argument is the sw_sync file. */
#include "bench.h"

#include <poll.h>
#include <sys/epoll.h>

#define MANY 1000

static const char *sw_sync_path;
static int timelines[MANY], fences[MANY];
static int made;

static void inc(int timeline, __u32 count)
{
	insist("SW_SYNC_IOC_INC", ioctl(timeline, SW_SYNC_IOC_INC, &count));
}

static int merge(int a, int b)
{
	struct sync_merge_data data = { .fd2 = b };

	insist("SYNC_IOC_MERGE", ioctl(a, SYNC_IOC_MERGE, &data));
	return data.fence;
}

/* The way every C program asks: how many, then all of them. */
static int info(int fd)
{
	struct sync_file_info info = { 0 };
	struct sync_fence_info *all;
	int status;

	insist("SYNC_IOC_FILE_INFO", ioctl(fd, SYNC_IOC_FILE_INFO, &info));
	all = calloc(info.num_fences, sizeof(*all));
	if (!all)
		err(1, "calloc");
	info.sync_fence_info = (size_t)all;
	insist("SYNC_IOC_FILE_INFO", ioctl(fd, SYNC_IOC_FILE_INFO, &info));
	status = all[info.num_fences - 1].status;
	free(all);
	return status;
}

static int status(int fd)
{
	struct sync_fence_info all[16];
	struct sync_file_info info = { .num_fences = 16, .sync_fence_info = (size_t)all };

	insist("SYNC_IOC_FILE_INFO", ioctl(fd, SYNC_IOC_FILE_INFO, &info));
	return info.status;
}

static int wait_fence(int fd, int timeout_ms)
{
	struct pollfd polled = { .fd = fd, .events = POLLIN };
	int result = poll(&polled, 1, timeout_ms);

	insist("poll", result);
	return result;
}

static void wait_all(void)
{
	struct pollfd *polled = calloc(made, sizeof(*polled));

	if (!polled)
		err(1, "calloc");
	for (int i = 0; i < made; i++) {
		polled[i].fd = fences[i];
		polled[i].events = POLLIN;
	}
	if (poll(polled, made, -1) != made)
		errx(1, "not all fences had signaled");
	free(polled);
}

static int merge_chain(void)
{
	int all = merge(fences[0], fences[1]);

	for (int i = 2; i < made; i++) {
		int next = merge(all, fences[i]);

		close(all);
		all = next;
	}
	return all;
}

/* One repetition of each case; `value` goes up by one each time. */
static int set_up_timeline, set_up_epoll, set_up_fd;

static void do_status(unsigned int value)
{
	(void)value;
	sink = status(fences[0]);
}

static void do_info(unsigned int value)
{
	(void)value;
	sink = info(set_up_fd);
}

static void do_merge(unsigned int value)
{
	(void)value;
	close(merge(fences[0], fences[1]));
}

static void do_poll(unsigned int value)
{
	(void)value;
	sink = wait_fence(fences[0], 0);
}

static void do_wait(unsigned int value)
{
	(void)value;
	sink = wait_fence(fences[0], -1);
}

static void do_create_inc_wait(unsigned int value)
{
	int fence = fence_create(set_up_timeline, value);

	inc(set_up_timeline, 1);
	wait_fence(fence, -1);
	close(fence);
}

static void do_wait_all(unsigned int value)
{
	(void)value;
	wait_all();
}

static void do_merge_many(unsigned int value)
{
	(void)value;
	close(merge_chain());
}

static void do_wake(unsigned int value)
{
	int fence = fence_create(set_up_timeline, value), own = dup(fence);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = own };

	insist("dup", own);
	insist("epoll_ctl", epoll_ctl(set_up_epoll, EPOLL_CTL_ADD, own, &event));
	inc(set_up_timeline, 1);
	insist("epoll_wait", epoll_wait(set_up_epoll, &event, 1, -1));
	insist("epoll_ctl", epoll_ctl(set_up_epoll, EPOLL_CTL_DEL, own, NULL));
	close(own);
	close(fence);
}

static const struct {
	const char *name;
	void (*work)(unsigned int value);
} cases[] = {
	{ "status", do_status },
	{ "info", do_info },
	{ "merge", do_merge },
	{ "poll", do_poll },
	{ "wait", do_wait },
	{ "create_inc_wait", do_create_inc_wait },
	{ "wait_all", do_wait_all },
	{ "merge_many", do_merge_many },
	{ "wake", do_wake },
};

static void make_fences(int count)
{
	for (made = 0; made < count; made++) {
		timelines[made] = timeline_open(sw_sync_path);
		fences[made] = fence_create(timelines[made], 1);
	}
}

static void close_fences(void)
{
	for (; made > 0; made--) {
		close(fences[made - 1]);
		close(timelines[made - 1]);
	}
}

/* `name` is a case, or case-N for one with N fences. */
static long long run(const char *name, int count)
{
	long long start, end;
	int n = number_in(name);
	size_t i = 0;

	while (!is_case(name, cases[i].name))
		if (++i == sizeof(cases) / sizeof(*cases))
			errx(1, "no such case: %s", name);

	make_fences(n == 1 ? 2 : n);
	set_up_timeline = timeline_open(sw_sync_path);
	set_up_epoll = epoll_create1(EPOLL_CLOEXEC);
	set_up_fd = n == 1 ? dup(fences[0]) : merge_chain();
	if (!strncmp(name, "wait", 4))
		for (int fence = 0; fence < made; fence++)
			inc(timelines[fence], 1);

	start = now();
	for (int repetition = 1; repetition <= count; repetition++)
		cases[i].work(repetition);
	end = now();

	close(set_up_fd);
	close(set_up_epoll);
	close(set_up_timeline);
	close_fences();
	return end - start;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: %s SW_SYNC", argv[0]);
	sw_sync_path = argv[1];
	return serve(run);
}
