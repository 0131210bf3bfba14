/* SPDX-License-Identifier: GPL-2.0 */
/* fencedev: what the module's files have in common. */
#ifndef FENCEDEV_DEVICE_H
#define FENCEDEV_DEVICE_H

#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/hrtimer.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/sync_file.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "fencedev.h"

#define FENCEDEV_WORD sizeof(u32)

/* How many of each are alive, in debugfs fencedev/. */
struct fencedev_counters {
	atomic_t queues;
	atomic_t jobs;
	atomic_t fences;
	atomic_t attachments;
	atomic_t mappings;
};

extern struct fencedev_counters fencedev_alive;
extern struct workqueue_struct *fencedev_workqueue;
extern struct device *fencedev_device;

/**
 * struct fencedev_file - one open file of the device node
 * @lock: held by every request, so that they come one after another
 * @queues: its queues by number
 * @attachments: its attachments by number
 * @next_queue: the number that comes next: none is given twice, so that to destroy something a
 *	second time cannot hit something else
 * @next_attachment: the same
 */
struct fencedev_file {
	struct mutex lock; /* see above */
	struct xarray queues;
	struct xarray attachments;
	u32 next_queue;
	u32 next_attachment;
};

/**
 * struct fencedev_attachment - a dma-buf that the device may use
 * @dmabuf: holds a reference
 * @attach: the device's place among those that use it
 * @sgt: its bus addresses while it is mapped, else NULL
 * @direction: as the DMA API calls it
 * @users: jobs that have not ended and use it: meanwhile it stays mapped
 */
struct fencedev_attachment {
	struct dma_buf *dmabuf;
	struct dma_buf_attachment *attach;
	struct sg_table *sgt;
	enum dma_data_direction direction;
	atomic_t users;
};

/**
 * struct fencedev_cursor - a place in a mapping
 * @sg: the piece of the bus that it is in
 * @at: bytes from the beginning of that
 */
struct fencedev_cursor {
	struct scatterlist *sg;
	size_t at;
};

/**
 * struct fencedev_queue - jobs that the device does one after another, and their timeline
 * @refs: its file's, and one of each fence, which asks it for its names
 * @context: the number of the timeline in the kernel
 * @seqno: of the job that was put into it last
 * @name: of the timeline
 * @lock: of all that follows, of its jobs' states, and of its fences
 * @jobs: that have not ended; the first is the one that the device is at
 * @dead: it is going, and everything in it ends
 * @work: looks at the first job and does what can be done
 * @timer: starts @work when the first job has taken its time
 */
struct fencedev_queue {
	struct kref refs;
	u64 context;
	u64 seqno;
	char name[FENCEDEV_NAME_SIZE];
	spinlock_t lock; /* see above */
	struct list_head jobs;
	bool dead;
	struct work_struct work;
	struct hrtimer timer;
};

/**
 * struct fencedev_dependency - a fence that a job waits for
 * @fence: holds a reference
 * @callback: called when it signals
 * @job: whose it is
 * @implicit: it came from a buffer
 */
struct fencedev_dependency {
	struct dma_fence *fence;
	struct dma_fence_cb callback;
	struct fencedev_job *job;
	bool implicit;
};

/* The in-fences, and one for each of dst and src. */
#define FENCEDEV_MAX_DEPENDENCIES (FENCEDEV_MAX_IN_FENCES + 2)

/**
 * struct fencedev_job - a job, and the fence that it is to the rest of the world
 * @fence: comes first: what is freed is the fence
 * @queue: holds a reference
 * @node: in the queue's jobs
 * @flags: FENCEDEV_SUBMIT_*
 * @op: FENCEDEV_OP_*
 * @value: of the operation
 * @dst: what it writes, or NULL
 * @src: what it reads, or NULL
 * @dst_offset: where
 * @src_offset: where
 * @length: how much
 * @duration: how long it takes
 * @error: what it fails with, negative, or 0
 * @dependencies: what it waits for
 * @dependency_count: how many there are
 * @pending: how many of them have not signaled; one more until all have been asked to call
 * @state: FENCEDEV_JOB_*
 * @reset: it is to end with -ECANCELED
 * @signaling: somebody wants to know when the fence signals
 * @checksum: the result of CHECKSUM
 * @deadline: the earliest that somebody has set, or KTIME_MAX
 * @submitted: when
 * @started: when, or 0
 * @ended: when, or 0
 */
struct fencedev_job {
	struct dma_fence fence;
	struct fencedev_queue *queue;
	struct list_head node;
	u32 flags;
	u32 op;
	u32 value;
	struct fencedev_attachment *dst;
	struct fencedev_attachment *src;
	u64 dst_offset;
	u64 src_offset;
	u64 length;
	u64 duration;
	int error;
	struct fencedev_dependency dependencies[FENCEDEV_MAX_DEPENDENCIES];
	unsigned int dependency_count;
	atomic_t pending;
	u32 state;
	bool reset;
	bool signaling;
	u64 checksum;
	ktime_t deadline;
	ktime_t submitted;
	ktime_t started;
	ktime_t ended;
};

/**
 * struct fencedev_out_fence - a fence on its way to a program
 * @sync_file: what the program will have, or NULL
 * @fd: under which number, or negative
 */
struct fencedev_out_fence {
	struct sync_file *sync_file;
	int fd;
};

/* fences.c: the steps of the Sync File guide */
void fencedev_fence_init(struct fencedev_job *job, u64 seqno);
int fencedev_out_fence_create(struct fencedev_out_fence *out, struct dma_fence *fence);
void fencedev_out_fence_install(struct fencedev_out_fence *out);
void fencedev_out_fence_drop(struct fencedev_out_fence *out);
void fencedev_fence_signal_locked(struct fencedev_job *job, int error);
struct dma_fence *fencedev_in_fence_get(int fd);
bool fencedev_in_fence_wait(struct fencedev_dependency *in, dma_fence_func_t called);
int fencedev_in_fence_error(struct dma_fence *fence);
void fencedev_in_fence_put(struct fencedev_dependency *in);
int fencedev_query(struct fencedev_query *args);

/* implicit.c: the fences of buffers */
int fencedev_implicit_sync(struct fencedev_job *job);

/* jobs.c */
int fencedev_queue_create(struct fencedev_file *file, struct fencedev_queue_create *args);
int fencedev_queue_destroy(struct fencedev_file *file, u32 id);
int fencedev_reset(struct fencedev_file *file, struct fencedev_reset *args);
int fencedev_submit(struct fencedev_file *file, struct fencedev_submit *args,
		    struct fencedev_submit __user *user);
void fencedev_queue_put(struct fencedev_queue *queue);
int fencedev_depend_on(struct fencedev_job *job, struct dma_fence *fence, bool implicit);

/* dma.c */
int fencedev_attach(struct fencedev_file *file, struct fencedev_attach *args);
int fencedev_detach(struct fencedev_file *file, u32 id);
int fencedev_map(struct fencedev_file *file, u32 id);
int fencedev_unmap(struct fencedev_file *file, u32 id);
int fencedev_peek(struct fencedev_file *file, struct fencedev_transfer *args);
int fencedev_poke(struct fencedev_file *file, struct fencedev_transfer *args);
bool fencedev_may_read(const struct fencedev_attachment *attachment);
bool fencedev_may_write(const struct fencedev_attachment *attachment);
bool fencedev_in_range(u64 offset, u64 length, u64 size);
struct fencedev_cursor fencedev_seek(struct fencedev_attachment *attachment, u64 offset);
void fencedev_advance(struct fencedev_cursor *cursor, u64 bytes);
void *fencedev_open_window(struct fencedev_cursor *cursor, size_t *length);
void fencedev_close_window(void *window);

/* operations.c */
int fencedev_operation_check(struct fencedev_file *file, struct fencedev_job *job,
			     const struct fencedev_submit *args);
void fencedev_operate(struct fencedev_job *job);

#endif
