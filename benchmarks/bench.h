/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the C programs of the benchmarks share. A program reads lines "CASE COUNT" and answers each with the nanoseconds that
 * COUNT repetitions took, so that one process serves a whole interleaved run. Set-up and tear-down are not timed.
 */
#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "uapi.h"

static volatile int sink;

static inline void insist(const char *what, int result)
{
	if (result < 0)
		err(1, "%s", what);
}

static inline long long now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* The number in "case-N", 1 where there is none. */
static inline int number_in(const char *name)
{
	int n;

	return sscanf(name, "%*[a-z_]-%d", &n) == 1 ? n : 1;
}

/* Whether `name` is `wanted` or "wanted-N". */
static inline int is_case(const char *name, const char *wanted)
{
	size_t length = strcspn(name, "-");

	return strlen(wanted) == length && !strncmp(name, wanted, length);
}

static inline int timeline_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	insist(path, fd);
	return fd;
}

static inline int fence_create(int timeline, unsigned int value)
{
	struct sw_sync_create_fence_data data = { .value = value };

	insist("SW_SYNC_IOC_CREATE_FENCE", ioctl(timeline, SW_SYNC_IOC_CREATE_FENCE, &data));
	return data.fence;
}

static inline int serve(long long (*run)(const char *name, int count))
{
	char name[64];
	int count;

	while (scanf("%63s %d", name, &count) == 2) {
		printf("%lld\n", run(name, count));
		fflush(stdout);
	}
	return 0;
}

#endif
