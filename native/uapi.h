/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own words. Installed headers come first; what they lack is declared here: sw_sync has no UAPI header,
 * and headers older than 6.8 do not know deadlines. Every struct's size is checked when this is compiled.
 */
#ifndef LINUXSYNC_UAPI_H
#define LINUXSYNC_UAPI_H

#include <linux/sync_file.h>
#include <linux/types.h>
#include <sys/ioctl.h>

#ifndef SYNC_IOC_SET_DEADLINE /* include/uapi/linux/sync_file.h, since 6.8 */
struct sync_set_deadline {
	__u64 deadline_ns;
	__u64 pad;
};
#define SYNC_IOC_SET_DEADLINE _IOW(SYNC_IOC_MAGIC, 5, struct sync_set_deadline)
#endif

/* drivers/dma-buf/sw_sync.c */
struct sw_sync_create_fence_data {
	__u32 value;
	char name[32];
	__s32 fence;
};

struct sw_sync_get_deadline { /* since 6.8 */
	__u64 deadline_ns;
	__u32 pad;
	__s32 fence_fd;
};

#define SW_SYNC_IOC_MAGIC 'W'
#define SW_SYNC_IOC_CREATE_FENCE _IOWR(SW_SYNC_IOC_MAGIC, 0, struct sw_sync_create_fence_data)
#define SW_SYNC_IOC_INC _IOW(SW_SYNC_IOC_MAGIC, 1, __u32)
#define SW_SYNC_GET_DEADLINE _IOWR(SW_SYNC_IOC_MAGIC, 2, struct sw_sync_get_deadline)

_Static_assert(sizeof(struct sync_merge_data) == 48, "struct sync_merge_data");
_Static_assert(sizeof(struct sync_file_info) == 56, "struct sync_file_info");
_Static_assert(sizeof(struct sync_fence_info) == 80, "struct sync_fence_info");
_Static_assert(sizeof(struct sync_set_deadline) == 16, "struct sync_set_deadline");
_Static_assert(sizeof(struct sw_sync_create_fence_data) == 40, "struct sw_sync_create_fence_data");
_Static_assert(sizeof(struct sw_sync_get_deadline) == 16, "struct sw_sync_get_deadline");

#endif
