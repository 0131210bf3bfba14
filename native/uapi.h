/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own words. Installed headers come first; what they lack is declared here: sw_sync has no UAPI header,
 * and headers older than 6.8 do not know deadlines. Every struct's size is checked when this is compiled.
 */
#ifndef LINUXSYNC_UAPI_H
#define LINUXSYNC_UAPI_H

#include <linux/dma-buf.h>
#include <linux/magic.h>
#include <linux/sync_file.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

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

/* Wheels are compiled with headers of 4.18 and a C library of its time. */
#ifndef DMA_BUF_SET_NAME_B /* include/uapi/linux/dma-buf.h, since 5.8 */
#define DMA_BUF_SET_NAME_B _IOW(DMA_BUF_BASE, 1, __u64)
#endif
#ifndef DMA_BUF_MAGIC /* include/uapi/linux/magic.h, since 5.3 */
#define DMA_BUF_MAGIC 0x444d4142
#endif
#ifndef SYS_pidfd_open /* since 5.3; one number on all machines */
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd /* since 5.6 */
#define SYS_pidfd_getfd 438
#endif

#ifndef DMA_BUF_IOCTL_EXPORT_SYNC_FILE /* include/uapi/linux/dma-buf.h, since 6.0 */
struct dma_buf_export_sync_file {
	__u32 flags;
	__s32 fd;
};
struct dma_buf_import_sync_file {
	__u32 flags;
	__s32 fd;
};
#define DMA_BUF_IOCTL_EXPORT_SYNC_FILE _IOWR(DMA_BUF_BASE, 2, struct dma_buf_export_sync_file)
#define DMA_BUF_IOCTL_IMPORT_SYNC_FILE _IOW(DMA_BUF_BASE, 3, struct dma_buf_import_sync_file)
#endif

/*
 * include/uapi/drm/drm.h and vgem_drm.h. Distributions ship them with libdrm, old, or not at all, and DRM takes structs of
 * any size; so these are ours, under names of ours, as Linux 6.12 has them.
 */
#define LINUXSYNC_DRM_IOWR(nr, type) _IOWR('d', nr, type)
#define LINUXSYNC_DRM_IOW(nr, type) _IOW('d', nr, type)
/* The same without the struct's way back, which drm_ioctl() then leaves out: EFAULT means that nothing was done. */
#define LS_ONE_WAY(request) ((request) & ~((unsigned long)_IOC_READ << _IOC_DIRSHIFT))

struct ls_gem_close {
	__u32 handle;
	__u32 pad;
};
struct ls_prime_handle {
	__u32 handle;
	__u32 flags;
	__s32 fd;
};
struct ls_mode_create_dumb {
	__u32 height;
	__u32 width;
	__u32 bpp;
	__u32 flags;
	__u32 handle;
	__u32 pitch;
	__u64 size;
};
struct ls_mode_fb_cmd2 {
	__u32 fb_id;
	__u32 width;
	__u32 height;
	__u32 pixel_format;
	__u32 flags;
	__u32 handles[4];
	__u32 pitches[4];
	__u32 offsets[4];
	__u64 modifier[4];
};
struct ls_mode_create_blob {
	__u64 data;
	__u32 length;
	__u32 blob_id;
};
#define LS_IOCTL_MODE_CREATEPROPBLOB LINUXSYNC_DRM_IOWR(0xbd, struct ls_mode_create_blob)
#define LS_IOCTL_MODE_DESTROYPROPBLOB LINUXSYNC_DRM_IOWR(0xbe, __u32)
#define LS_IOCTL_MODE_RMFB LINUXSYNC_DRM_IOWR(0xaf, __u32)
#define LS_IOCTL_MODE_ADDFB2 LINUXSYNC_DRM_IOWR(0xb8, struct ls_mode_fb_cmd2)
#define LS_IOCTL_GEM_CLOSE LINUXSYNC_DRM_IOW(0x09, struct ls_gem_close)
#define LS_IOCTL_PRIME_HANDLE_TO_FD LINUXSYNC_DRM_IOWR(0x2d, struct ls_prime_handle)
#define LS_IOCTL_PRIME_FD_TO_HANDLE LINUXSYNC_DRM_IOWR(0x2e, struct ls_prime_handle)
#define LS_IOCTL_MODE_CREATE_DUMB LINUXSYNC_DRM_IOWR(0xb2, struct ls_mode_create_dumb)

struct ls_vgem_fence_attach {
	__u32 handle;
	__u32 flags;
	__u32 out_fence;
	__u32 pad;
};
struct ls_vgem_fence_signal {
	__u32 fence;
	__u32 flags;
};
#define LS_VGEM_FENCE_WRITE 0x1
#define LS_IOCTL_VGEM_FENCE_ATTACH LINUXSYNC_DRM_IOWR(0x41, struct ls_vgem_fence_attach)
#define LS_IOCTL_VGEM_FENCE_SIGNAL LINUXSYNC_DRM_IOW(0x42, struct ls_vgem_fence_signal)

struct ls_syncobj_create {
	__u32 handle;
	__u32 flags;
};
struct ls_syncobj_destroy {
	__u32 handle;
	__u32 pad;
};
struct ls_syncobj_handle { /* with the point, since 6.16 */
	__u32 handle;
	__u32 flags;
	__s32 fd;
	__u32 pad;
	__u64 point;
};
struct ls_syncobj_wait { /* with the deadline, since 6.8 */
	__u64 handles;
	__s64 timeout_nsec;
	__u32 count_handles;
	__u32 flags;
	__u32 first_signaled;
	__u32 pad;
	__u64 deadline_nsec;
};
struct ls_syncobj_timeline_wait {
	__u64 handles;
	__u64 points;
	__s64 timeout_nsec;
	__u32 count_handles;
	__u32 flags;
	__u32 first_signaled;
	__u32 pad;
	__u64 deadline_nsec;
};
struct ls_syncobj_array {
	__u64 handles;
	__u32 count_handles;
	__u32 pad;
};
struct ls_syncobj_timeline_array {
	__u64 handles;
	__u64 points;
	__u32 count_handles;
	__u32 flags;
};
struct ls_syncobj_transfer {
	__u32 src_handle;
	__u32 dst_handle;
	__u64 src_point;
	__u64 dst_point;
	__u32 flags;
	__u32 pad;
};
struct ls_syncobj_eventfd {
	__u32 handle;
	__u32 flags;
	__u64 point;
	__s32 fd;
	__u32 pad;
};
#define LS_SYNCOBJ_CREATE_SIGNALED 0x1
#define LS_SYNCOBJ_FD_TO_HANDLE_IMPORT_SYNC_FILE 0x1
#define LS_SYNCOBJ_FD_TO_HANDLE_TIMELINE 0x2
#define LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE 0x1
#define LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE 0x2
#define LS_SYNCOBJ_WAIT_ALL 0x1
#define LS_SYNCOBJ_WAIT_FOR_SUBMIT 0x2
#define LS_SYNCOBJ_WAIT_AVAILABLE 0x4
#define LS_SYNCOBJ_WAIT_DEADLINE 0x8
#define LS_SYNCOBJ_QUERY_LAST_SUBMITTED 0x1
#define LS_IOCTL_SYNCOBJ_CREATE LINUXSYNC_DRM_IOWR(0xBF, struct ls_syncobj_create)
#define LS_IOCTL_SYNCOBJ_DESTROY LINUXSYNC_DRM_IOWR(0xC0, struct ls_syncobj_destroy)
#define LS_IOCTL_SYNCOBJ_HANDLE_TO_FD LINUXSYNC_DRM_IOWR(0xC1, struct ls_syncobj_handle)
#define LS_IOCTL_SYNCOBJ_FD_TO_HANDLE LINUXSYNC_DRM_IOWR(0xC2, struct ls_syncobj_handle)
#define LS_IOCTL_SYNCOBJ_WAIT LINUXSYNC_DRM_IOWR(0xC3, struct ls_syncobj_wait)
#define LS_IOCTL_SYNCOBJ_RESET LINUXSYNC_DRM_IOWR(0xC4, struct ls_syncobj_array)
#define LS_IOCTL_SYNCOBJ_SIGNAL LINUXSYNC_DRM_IOWR(0xC5, struct ls_syncobj_array)
#define LS_IOCTL_SYNCOBJ_TIMELINE_WAIT LINUXSYNC_DRM_IOWR(0xCA, struct ls_syncobj_timeline_wait)
#define LS_IOCTL_SYNCOBJ_QUERY LINUXSYNC_DRM_IOWR(0xCB, struct ls_syncobj_timeline_array)
#define LS_IOCTL_SYNCOBJ_TRANSFER LINUXSYNC_DRM_IOWR(0xCC, struct ls_syncobj_transfer)
#define LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL LINUXSYNC_DRM_IOWR(0xCD, struct ls_syncobj_timeline_array)
#define LS_IOCTL_SYNCOBJ_EVENTFD LINUXSYNC_DRM_IOWR(0xCF, struct ls_syncobj_eventfd)

_Static_assert(sizeof(struct dma_buf_export_sync_file) == 8, "struct dma_buf_export_sync_file");
_Static_assert(sizeof(struct dma_buf_import_sync_file) == 8, "struct dma_buf_import_sync_file");
_Static_assert(sizeof(struct ls_gem_close) == 8, "struct drm_gem_close");
_Static_assert(sizeof(struct ls_prime_handle) == 12, "struct drm_prime_handle");
_Static_assert(sizeof(struct ls_mode_create_dumb) == 32, "struct drm_mode_create_dumb");
_Static_assert(sizeof(struct ls_mode_create_blob) == 16, "struct drm_mode_create_blob");
_Static_assert(sizeof(struct ls_mode_fb_cmd2) == 104, "struct drm_mode_fb_cmd2");
_Static_assert(sizeof(struct ls_vgem_fence_attach) == 16, "struct drm_vgem_fence_attach");
_Static_assert(sizeof(struct ls_vgem_fence_signal) == 8, "struct drm_vgem_fence_signal");
_Static_assert(sizeof(struct ls_syncobj_handle) == 24, "struct drm_syncobj_handle");
_Static_assert(sizeof(struct ls_syncobj_wait) == 40, "struct drm_syncobj_wait");
_Static_assert(sizeof(struct ls_syncobj_timeline_wait) == 48, "struct drm_syncobj_timeline_wait");
_Static_assert(sizeof(struct ls_syncobj_array) == 16, "struct drm_syncobj_array");
_Static_assert(sizeof(struct ls_syncobj_timeline_array) == 24, "struct drm_syncobj_timeline_array");
_Static_assert(sizeof(struct ls_syncobj_transfer) == 32, "struct drm_syncobj_transfer");
_Static_assert(sizeof(struct ls_syncobj_eventfd) == 24, "struct drm_syncobj_eventfd");
_Static_assert(sizeof(struct sync_merge_data) == 48, "struct sync_merge_data");
_Static_assert(sizeof(struct sync_file_info) == 56, "struct sync_file_info");
_Static_assert(sizeof(struct sync_fence_info) == 80, "struct sync_fence_info");
_Static_assert(sizeof(struct sync_set_deadline) == 16, "struct sync_set_deadline");
_Static_assert(sizeof(struct sw_sync_create_fence_data) == 40, "struct sw_sync_create_fence_data");
_Static_assert(sizeof(struct sw_sync_get_deadline) == 16, "struct sw_sync_get_deadline");

#endif
