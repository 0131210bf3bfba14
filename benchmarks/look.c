// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a look at all fences of a machine costs in C at least; the argument is the sw_sync file. 200 children with 50 fences
 * each are what there is to see, also for the other two. They end with this program, however that ends.
 */
#include "bench.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define PROCESSES 200
#define FENCES 50

/* A child: it holds a timeline and the fences on it, and says so. */
static void hold(const char *sw_sync, pid_t parent, int ready)
{
	int timeline;

	insist("PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, SIGKILL));
	if (getppid() != parent)
		_exit(1);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	timeline = timeline_open(sw_sync);
	for (int i = 0; i < FENCES; i++)
		fence_create(timeline, i + 1);
	insist("write", write(ready, "", 1));
	close(ready);
	while (1)
		pause();
}

static void set_scene(const char *sw_sync)
{
	pid_t self = getpid();
	int ready[2];
	char byte;

	insist("pipe", pipe(ready));
	for (int i = 0; i < PROCESSES; i++) {
		pid_t child = fork();

		insist("fork", child);
		if (!child)
			hold(sw_sync, self, ready[1]);
	}
	close(ready[1]);
	for (int i = 0; i < PROCESSES; i++)
		if (read(ready[0], &byte, 1) != 1)
			errx(1, "a child has failed");
	close(ready[0]);
}

static void file_info(int pidfd, int number)
{
	struct sync_fence_info all[16];
	struct sync_file_info info = { .num_fences = 16, .sync_fence_info = (size_t)all };
	int fd = syscall(SYS_pidfd_getfd, pidfd, number, 0);

	insist("pidfd_getfd", fd);
	insist("SYNC_IOC_FILE_INFO", ioctl(fd, SYNC_IOC_FILE_INFO, &info));
	sink = info.status;
	close(fd);
}

/* The fences of a process; none if it has ended. */
static int look_at(const char *pid)
{
	static const char sync_file[] = "anon_inode:sync_file";
	char path[32], target[4096];
	struct dirent *entry;
	int pidfd = -1, found = 0;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	folder = opendir(path);
	if (!folder)
		return 0;
	while ((entry = readdir(folder))) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof(target));

		if (length != sizeof(sync_file) - 1 || memcmp(target, sync_file, length))
			continue;
		if (pidfd < 0) {
			pidfd = syscall(SYS_pidfd_open, atoi(pid), 0);
			insist("pidfd_open", pidfd);
		}
		file_info(pidfd, atoi(entry->d_name));
		found++;
	}
	if (pidfd >= 0)
		close(pidfd);
	closedir(folder);
	return found;
}

static void look(void)
{
	DIR *folder = opendir("/proc");
	struct dirent *entry;
	int found = 0;

	if (!folder)
		err(1, "/proc");
	while ((entry = readdir(folder)))
		if (isdigit(entry->d_name[0]))
			found += look_at(entry->d_name);
	closedir(folder);
	if (found < PROCESSES * FENCES)
		errx(1, "%d fences seen, not %d", found, PROCESSES * FENCES);
}

/* All cases are this one: they differ in what the other two make of it. */
static long long run(const char *name, int count)
{
	long long start = now();

	(void)name;
	for (int repetition = 0; repetition < count; repetition++)
		look();
	return now() - start;
}

int main(int argc, char **argv)
{
	if (argc != 2)
		errx(2, "usage: %s SW_SYNC", argv[0]);
	set_scene(argv[1]);
	return serve(run);
}
