// SPDX-License-Identifier: GPL-2.0
/* fencedev: what jobs do with buffers. */
#include <linux/minmax.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "device.h"

/**
 * struct fencedev_operation - what an operation needs
 * @dst: it writes
 * @src: it reads
 * @reads_dst: it reads what it writes over
 * @value: it has a value
 * @words: its offsets and length are whole words
 */
struct fencedev_operation {
	bool dst;
	bool src;
	bool reads_dst;
	bool value;
	bool words;
};

static const struct fencedev_operation fencedev_operations[] = {
	[FENCEDEV_OP_NONE] = {},
	[FENCEDEV_OP_FILL] = { .dst = true, .value = true, .words = true },
	[FENCEDEV_OP_COPY] = { .dst = true, .src = true },
	[FENCEDEV_OP_CHECKSUM] = { .src = true },
	[FENCEDEV_OP_SCALE_ADD] = {
		.dst = true, .src = true, .reads_dst = true, .value = true, .words = true,
	},
};

/* Find one of a job's buffers, and keep it mapped until the job has ended. */
static int fencedev_use(struct fencedev_file *file, u32 id, struct fencedev_attachment **used)
{
	struct fencedev_attachment *attachment = xa_load(&file->attachments, id);

	if (!attachment)
		return -ENOENT;
	if (!attachment->sgt)
		return -ENXIO;
	atomic_inc(&attachment->users);
	*used = attachment;
	return 0;
}

static bool fencedev_overlap(const struct fencedev_job *job)
{
	return job->dst && job->src && job->dst->dmabuf == job->src->dmabuf &&
	       job->dst_offset < job->src_offset + job->length &&
	       job->src_offset < job->dst_offset + job->length;
}

static bool fencedev_range_bad(const struct fencedev_attachment *attachment, u64 offset,
			       const struct fencedev_submit *args)
{
	if (!attachment || args->op == FENCEDEV_OP_NONE)
		return offset;
	return !fencedev_in_range(offset, args->length, attachment->dmabuf->size);
}

/* Fill in what a job does, if it may do that. */
int fencedev_operation_check(struct fencedev_file *file, struct fencedev_job *job,
			     const struct fencedev_submit *args)
{
	const struct fencedev_operation *operation;
	bool none = args->op == FENCEDEV_OP_NONE;
	int error = 0;

	if (args->op >= ARRAY_SIZE(fencedev_operations))
		return -EINVAL;
	operation = &fencedev_operations[args->op];
	if (!none && (!args->dst != !operation->dst || !args->src != !operation->src))
		return -EINVAL;
	if ((none && args->length) || (!operation->value && args->value))
		return -EINVAL;
	if (operation->words &&
	    (args->dst_offset | args->src_offset | args->length) % FENCEDEV_WORD)
		return -EINVAL;
	if (args->dst)
		error = fencedev_use(file, args->dst, &job->dst);
	if (!error && args->src)
		error = fencedev_use(file, args->src, &job->src);
	if (error)
		return error;
	if (fencedev_range_bad(job->dst, args->dst_offset, args) ||
	    fencedev_range_bad(job->src, args->src_offset, args))
		return -EINVAL;
	if ((job->dst && !fencedev_may_write(job->dst)) ||
	    (job->src && !fencedev_may_read(job->src)) ||
	    (operation->reads_dst && !fencedev_may_read(job->dst)))
		return -EACCES;
	job->op = args->op;
	job->value = args->value;
	job->dst_offset = args->dst_offset;
	job->src_offset = args->src_offset;
	job->length = args->length;
	return fencedev_overlap(job) ? -EINVAL : 0;
}

/* Adler-32 (RFC 1950) goes on; no sum of a page overflows, so one modulo for each is enough. */
static u32 fencedev_adler32(u32 adler, const u8 *bytes, size_t count)
{
	u64 low = adler & 0xffff, high = adler >> 16;

	while (count--) {
		low += *bytes++;
		high += low;
	}
	return (u32)(high % 65521) << 16 | (u32)(low % 65521);
}

/* Do a part of a job's operation that lies in one piece of memory on either side. */
static void fencedev_operate_on(struct fencedev_job *job, void *dst, const void *src, size_t count)
{
	const u32 *from = src;
	u32 *to = dst;
	size_t i;

	switch (job->op) {
	case FENCEDEV_OP_FILL:
		memset32(to, job->value, count / FENCEDEV_WORD);
		break;
	case FENCEDEV_OP_COPY:
		memcpy(to, from, count);
		break;
	case FENCEDEV_OP_CHECKSUM:
		job->checksum = fencedev_adler32(job->checksum, src, count);
		break;
	case FENCEDEV_OP_SCALE_ADD:
		for (i = 0; i < count / FENCEDEV_WORD; i++)
			to[i] = to[i] * job->value + from[i];
		break;
	}
}

/* Do a job's operation, piece by piece: the pieces of two buffers need not begin together. */
void fencedev_operate(struct fencedev_job *job)
{
	struct fencedev_cursor dst = {}, src = {};
	u64 done;
	size_t count;

	if (job->op == FENCEDEV_OP_NONE)
		return;
	if (job->op == FENCEDEV_OP_CHECKSUM)
		job->checksum = 1;
	if (job->dst)
		dst = fencedev_seek(job->dst, job->dst_offset);
	if (job->src)
		src = fencedev_seek(job->src, job->src_offset);
	for (done = 0; done < job->length; done += count) {
		void *to = NULL, *from = NULL;

		count = min_t(u64, job->length - done, PAGE_SIZE);
		if (job->dst)
			to = fencedev_open_window(&dst, &count);
		if (job->src)
			from = fencedev_open_window(&src, &count);
		fencedev_operate_on(job, to, from, count);
		if (from)
			fencedev_close_window(from);
		if (to)
			fencedev_close_window(to);
		fencedev_advance(&dst, count);
		fencedev_advance(&src, count);
		cond_resched();
	}
}
