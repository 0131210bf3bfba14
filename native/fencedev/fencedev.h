/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * fencedev: what programs and /dev/fencedev say to each other.
 *
 * The device works through queues of jobs. A job may wait for fences, may work on dma-bufs, and
 * gives a fence. Queues and attachments are numbered from 1 in each open file of the device and
 * go with it. A structure looks the same to 32-bit and 64-bit programs, and what is called pad
 * has to be zero.
 *
 * Errors that several requests share: EFAULT, a bad pointer; EINVAL, a pad that is not zero, a
 * flag or an operation that does not exist, or a range that is not in the buffer; ENOENT, no such
 * queue or attachment; ENOTTY, no such request; ENOMEM.
 */
#ifndef FENCEDEV_H
#define FENCEDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>
#ifdef __KERNEL__
#include <linux/build_bug.h>
#else
#include <assert.h>
#endif

#define FENCEDEV_VERSION 1

#define FENCEDEV_NAME_SIZE 32
#define FENCEDEV_MAX_IN_FENCES 16
#define FENCEDEV_MAX_DURATION_NS 3600000000000ULL

/* Of this kernel: deadlines reach the device. */
#define FENCEDEV_FEATURE_DEADLINE 0x1

/**
 * struct fencedev_version - what this module is
 * @version: out, FENCEDEV_VERSION; requests are only ever added to it
 * @features: out, FENCEDEV_FEATURE_*
 */
struct fencedev_version {
	__u32 version;
	__u32 features;
};

/**
 * struct fencedev_queue_create - make a queue, a timeline of its own
 * @name: the timeline's name, at most 31 bytes and a NUL; EINVAL without the NUL
 * @queue: out, its number
 * @pad: zero
 */
struct fencedev_queue_create {
	char name[FENCEDEV_NAME_SIZE];
	__u32 queue;
	__u32 pad;
};

/**
 * struct fencedev_id - a queue or an attachment, for requests that need no more
 * @id: its number
 * @pad: zero
 */
struct fencedev_id {
	__u32 id;
	__u32 pad;
};

/**
 * struct fencedev_reset - end the job that the device is at
 * @queue: of which queue
 * @pad: zero
 * @seqno: out, of the job that ends with -ECANCELED: the first of the queue, if all that it waited
 *	for has come, be it hung or not; 0 if there is none
 */
struct fencedev_reset {
	__u32 queue;
	__u32 pad;
	__u64 seqno;
};

/* What the device may do with an attached buffer's memory. */
#define FENCEDEV_ACCESS_READ 0x1
#define FENCEDEV_ACCESS_WRITE 0x2

/**
 * struct fencedev_attach - attach a dma-buf to the device
 * @fd: of the dma-buf; EBADF if it is not open, EINVAL if it is something else
 * @access: FENCEDEV_ACCESS_*, one or both
 * @size: out, of the buffer
 * @attachment: out, its number
 * @pad: zero
 */
struct fencedev_attach {
	__s32 fd;
	__u32 access;
	__u64 size;
	__u32 attachment;
	__u32 pad;
};

/**
 * struct fencedev_transfer - look into a mapped buffer, or write to it, through its bus addresses
 * @attachment: which; ENXIO if it is not mapped, EACCES to write where the device may only read
 * @pad: zero
 * @offset: first byte
 * @length: how many, at least one
 * @data: address of the program's memory that they are copied to or from
 */
struct fencedev_transfer {
	__u32 attachment;
	__u32 pad;
	__u64 offset;
	__u64 length;
	__u64 data;
};

/* Operations. A word is 32 bits in the CPU's order; its offset and length are multiples of 4. */
#define FENCEDEV_OP_NONE 0 /* touches no memory; with buffers, stands for a use of them */
#define FENCEDEV_OP_FILL 1 /* words: dst = value */
#define FENCEDEV_OP_COPY 2 /* bytes: dst = src */
#define FENCEDEV_OP_CHECKSUM 3 /* bytes: Adler-32 of src, for FENCEDEV_QUERY */
#define FENCEDEV_OP_SCALE_ADD 4 /* words: dst = dst * value + src */

/* Wait for the buffers' fences, and add the job's fence to them: a write of dst, a read of src. */
#define FENCEDEV_SUBMIT_IMPLICIT 0x1
/* Do not end, until the queue is reset or goes. */
#define FENCEDEV_SUBMIT_HANG 0x2
/* Begin even if an in-fence has an error. */
#define FENCEDEV_SUBMIT_IGNORE_ERRORS 0x4

/**
 * struct fencedev_submit - put a job at the end of a queue
 * @queue: which
 * @flags: FENCEDEV_SUBMIT_*
 * @op: FENCEDEV_OP_*
 * @value: for FILL and SCALE_ADD, else zero
 * @dst: attachment to write; 0 for none. ENXIO if it is not mapped, EACCES if the device may not
 * @src: attachment to read; the same. It may be @dst, if the ranges do not overlap
 * @dst_offset: first byte
 * @src_offset: first byte
 * @length: bytes, at least one; zero for NONE
 * @duration_ns: how long the job takes, at most FENCEDEV_MAX_DURATION_NS
 * @error: errno that the job fails with, 1 to 4095, once it has taken its time; 0 for none
 * @in_fence_count: how many there are, at most FENCEDEV_MAX_IN_FENCES
 * @in_fences: fds of sync_files that have to signal before the job begins; EINVAL for another fd
 * @out_fence: out, fd of a sync_file with the job's fence (close-on-exec); EMFILE
 * @pad: zero
 * @seqno: out, its number on the timeline; a queue's first is 1
 *
 * The job's fence has the error of the first of @in_fences that has one, or -@error, or -ECANCELED
 * if it was ended before its time. A job with an error leaves all memory as it was, but for one
 * that was reset in the middle of its operation.
 */
struct fencedev_submit {
	__u32 queue;
	__u32 flags;
	__u32 op;
	__u32 value;
	__u32 dst;
	__u32 src;
	__u64 dst_offset;
	__u64 src_offset;
	__u64 length;
	__u64 duration_ns;
	__u32 error;
	__u32 in_fence_count;
	__s32 in_fences[FENCEDEV_MAX_IN_FENCES];
	__s32 out_fence;
	__u32 pad;
	__u64 seqno;
};

/* States of a job. */
#define FENCEDEV_JOB_WAITING 0 /* for jobs before it, or for fences */
#define FENCEDEV_JOB_RUNNING 1
#define FENCEDEV_JOB_HUNG 2
#define FENCEDEV_JOB_DONE 3 /* its fence has signaled */

/**
 * struct fencedev_query - what became of a job
 * @fence: fd of its out-fence, in whichever process; EINVAL if it is not just that
 * @state: out, FENCEDEV_JOB_*
 * @status: out, its fence's: 0 active, 1 signaled, or the error (negative)
 * @signaling: out, 1 once somebody asked to be told when it signals
 * @seqno: out
 * @checksum: out, of a CHECKSUM that is done
 * @deadline_ns: out, the earliest that was set; 0 for none. This and what follows: CLOCK_MONOTONIC
 * @submitted_ns: out
 * @started_ns: out, 0 if it has not begun
 * @ended_ns: out, when its fence signaled; 0 if it has not
 */
struct fencedev_query {
	__s32 fence;
	__u32 state;
	__s32 status;
	__u32 signaling;
	__u64 seqno;
	__u64 checksum;
	__u64 deadline_ns;
	__u64 submitted_ns;
	__u64 started_ns;
	__u64 ended_ns;
};

#define FENCEDEV_IOC_MAGIC 0xF5
#define FENCEDEV_IOC_VERSION _IOWR(FENCEDEV_IOC_MAGIC, 0x00, struct fencedev_version)
#define FENCEDEV_IOC_QUEUE_CREATE _IOWR(FENCEDEV_IOC_MAGIC, 0x01, struct fencedev_queue_create)
/* What is left of the queue's jobs ends with -ECANCELED. */
#define FENCEDEV_IOC_QUEUE_DESTROY _IOWR(FENCEDEV_IOC_MAGIC, 0x02, struct fencedev_id)
#define FENCEDEV_IOC_RESET _IOWR(FENCEDEV_IOC_MAGIC, 0x03, struct fencedev_reset)
#define FENCEDEV_IOC_SUBMIT _IOWR(FENCEDEV_IOC_MAGIC, 0x04, struct fencedev_submit)
#define FENCEDEV_IOC_QUERY _IOWR(FENCEDEV_IOC_MAGIC, 0x05, struct fencedev_query)
#define FENCEDEV_IOC_ATTACH _IOWR(FENCEDEV_IOC_MAGIC, 0x06, struct fencedev_attach)
/* EBUSY, all three: mapped already; in use by a job that has not ended. DETACH unmaps. */
#define FENCEDEV_IOC_DETACH _IOWR(FENCEDEV_IOC_MAGIC, 0x07, struct fencedev_id)
#define FENCEDEV_IOC_MAP _IOWR(FENCEDEV_IOC_MAGIC, 0x08, struct fencedev_id)
#define FENCEDEV_IOC_UNMAP _IOWR(FENCEDEV_IOC_MAGIC, 0x09, struct fencedev_id)
#define FENCEDEV_IOC_PEEK _IOWR(FENCEDEV_IOC_MAGIC, 0x0a, struct fencedev_transfer)
#define FENCEDEV_IOC_POKE _IOWR(FENCEDEV_IOC_MAGIC, 0x0b, struct fencedev_transfer)

static_assert(sizeof(struct fencedev_version) == 8, "struct fencedev_version");
static_assert(sizeof(struct fencedev_queue_create) == 40, "struct fencedev_queue_create");
static_assert(sizeof(struct fencedev_id) == 8, "struct fencedev_id");
static_assert(sizeof(struct fencedev_reset) == 16, "struct fencedev_reset");
static_assert(sizeof(struct fencedev_attach) == 24, "struct fencedev_attach");
static_assert(sizeof(struct fencedev_transfer) == 32, "struct fencedev_transfer");
static_assert(sizeof(struct fencedev_submit) == 144, "struct fencedev_submit");
static_assert(sizeof(struct fencedev_query) == 64, "struct fencedev_query");

#endif
