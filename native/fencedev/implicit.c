// SPDX-License-Identifier: GPL-2.0
/*
 * fencedev: implicit synchronisation. The fences are not handed over, they hang on the buffers:
 * a job waits for what it finds there, and hangs its own beside it.
 */
#include <linux/dma-resv.h>

#include "device.h"

/**
 * struct fencedev_use - what a job does with one buffer
 * @resv: where the buffer's fences are
 * @write: as opposed to only reading
 */
struct fencedev_use {
	struct dma_resv *resv;
	bool write;
};

/*
 * Lock one or two. Whoever else wants the same two may take them in the other order; of two that
 * would wait for each other the kernel tells one to step back, which then queues for the other.
 */
static int fencedev_lock(struct fencedev_use *uses, unsigned int count, struct ww_acquire_ctx *turn)
{
	struct dma_resv *first = uses[0].resv, *second = count > 1 ? uses[1].resv : NULL;
	int error;

	ww_acquire_init(turn, &reservation_ww_class);
	error = dma_resv_lock_interruptible(first, turn);
	if (error)
		goto fini;
	while (second) {
		error = dma_resv_lock_interruptible(second, turn);
		if (!error)
			break;
		dma_resv_unlock(first);
		if (error != -EDEADLK)
			goto fini;
		error = dma_resv_lock_slow_interruptible(second, turn);
		if (error)
			goto fini;
		swap(first, second);
	}
	ww_acquire_done(turn);
	return 0;
fini:
	ww_acquire_fini(turn);
	return error;
}

static void fencedev_unlock(struct fencedev_use *uses, unsigned int count,
			    struct ww_acquire_ctx *turn)
{
	while (count--)
		dma_resv_unlock(uses[count].resv);
	ww_acquire_fini(turn);
}

/* Find what the job has to wait for, and make room for its own fence: all that can fail. */
static int fencedev_prepare(struct fencedev_job *job, const struct fencedev_use *use)
{
	struct dma_fence *fence;
	int error = dma_resv_reserve_fences(use->resv, 1);

	if (!error)
		error = dma_resv_get_singleton(use->resv, dma_resv_usage_rw(use->write), &fence);
	if (!error && fence)
		error = fencedev_depend_on(job, fence, true);
	return error;
}

/*
 * Wait for the fences of the job's buffers and add the job's. If this succeeds the job is on its
 * way: others may be waiting for it, and it has to be queued.
 */
int fencedev_implicit_sync(struct fencedev_job *job)
{
	struct fencedev_use uses[2];
	struct ww_acquire_ctx turn;
	unsigned int count = 0, i;
	int error;

	if (job->dst)
		uses[count++] = (struct fencedev_use){ job->dst->dmabuf->resv, true };
	/* Two buffers may have their fences in one place. */
	if (job->src && !(count && uses[0].resv == job->src->dmabuf->resv))
		uses[count++] = (struct fencedev_use){ job->src->dmabuf->resv, false };
	if (!count)
		return -EINVAL;

	error = fencedev_lock(uses, count, &turn);
	if (error)
		return error;
	for (i = 0; i < count && !error; i++)
		error = fencedev_prepare(job, &uses[i]);
	for (i = 0; i < count && !error; i++)
		dma_resv_add_fence(uses[i].resv, &job->fence,
				   uses[i].write ? DMA_RESV_USAGE_WRITE : DMA_RESV_USAGE_READ);
	fencedev_unlock(uses, count, &turn);
	return error;
}
