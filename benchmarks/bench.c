// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What each benchmark costs in C. Reads lines "CASE COUNT" and answers each with the nanoseconds that COUNT repetitions
 * took, so that one process serves a whole interleaved run. Set-up and tear-down of a case are not timed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "uapi.h"

#define MANY 1000

static const char *sw_sync_path;
static int timelines[MANY], fences[MANY];
static int made;
static volatile int sink;

static void insist(const char *what, int result)
{
	if (result < 0)
		err(1, "%s", what);
}

static long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static int timeline_open(void)
{
	int fd = open(sw_sync_path, O_RDWR | O_CLOEXEC);

	insist(sw_sync_path, fd);
	return fd;
}

static int fence_create(int timeline, unsigned int value)
{
	struct sw_sync_create_fence_data data = { .value = value };

	insist("SW_SYNC_IOC_CREATE_FENCE", ioctl(timeline, SW_SYNC_IOC_CREATE_FENCE, &data));
	return data.fence;
}

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

static void create_inc_wait(int timeline, unsigned int value)
{
	int fence = fence_create(timeline, value);

	inc(timeline, 1);
	wait_fence(fence, -1);
	close(fence);
}

static void wake(int epoll, int timeline, unsigned int value)
{
	int fence = fence_create(timeline, value), own = dup(fence);
	struct epoll_event event = { .events = EPOLLIN, .data.fd = own };

	insist("dup", own);
	insist("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_ADD, own, &event));
	inc(timeline, 1);
	insist("epoll_wait", epoll_wait(epoll, &event, 1, -1));
	insist("epoll_ctl", epoll_ctl(epoll, EPOLL_CTL_DEL, own, NULL));
	close(own);
	close(fence);
}

static void make_fences(int count)
{
	for (made = 0; made < count; made++) {
		timelines[made] = timeline_open();
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

static long long run(const char *name, int count)
{
	long long start, end;
	int n = 1, fd = -1, timeline = timeline_open(), epoll = epoll_create1(EPOLL_CLOEXEC);

	if (sscanf(name, "%*[a-z_]-%d", &n) != 1)
		n = 1;
	make_fences(n == 1 ? 2 : n);
	if (!strncmp(name, "info", 4) && n > 1)
		fd = merge_chain();
	if (!strncmp(name, "wait", 4))
		for (int i = 0; i < made; i++)
			inc(timelines[i], 1);

	start = now();
	for (int i = 0; i < count; i++) {
		if (!strcmp(name, "status"))
			sink = status(fences[0]);
		else if (!strncmp(name, "info", 4))
			sink = info(fd >= 0 ? fd : fences[0]);
		else if (!strcmp(name, "merge"))
			close(merge(fences[0], fences[1]));
		else if (!strcmp(name, "poll"))
			sink = wait_fence(fences[0], 0);
		else if (!strcmp(name, "wait"))
			sink = wait_fence(fences[0], -1);
		else if (!strcmp(name, "create_inc_wait"))
			create_inc_wait(timeline, i + 1);
		else if (!strncmp(name, "wait_all", 8))
			wait_all();
		else if (!strncmp(name, "merge_many", 10))
			close(merge_chain());
		else if (!strcmp(name, "wake"))
			wake(epoll, timeline, i + 1);
		else
			errx(1, "no such case: %s", name);
	}
	end = now();

	if (fd >= 0)
		close(fd);
	close(epoll);
	close(timeline);
	close_fences();
	return end - start;
}

int main(int argc, char **argv)
{
	char name[64];
	int count;

	if (argc != 2)
		errx(2, "usage: %s SW_SYNC", argv[0]);
	sw_sync_path = argv[1];
	while (scanf("%63s %d", name, &count) == 2) {
		printf("%lld\n", run(name, count));
		fflush(stdout);
	}
	return 0;
}
