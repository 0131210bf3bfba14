// SPDX-License-Identifier: GPL-2.0
/*
 * fencedev: the fences of its jobs, and the steps of the kernel's Sync File guide
 * (Documentation/driver-api/sync_file.rst), each of them a function.
 *
 * A driver that sends a fence to a program: fencedev_fence_init(), fencedev_out_fence_create(),
 * fencedev_out_fence_install(), or fencedev_out_fence_drop() if something went wrong in between,
 * and one day fencedev_fence_signal_locked().
 *
 * A driver that is given one: fencedev_in_fence_get(), fencedev_in_fence_wait(),
 * fencedev_in_fence_error(), fencedev_in_fence_put().
 */
#include <linux/dma-fence-unwrap.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "device.h"

static struct fencedev_job *to_job(struct dma_fence *fence)
{
	return container_of(fence, struct fencedev_job, fence);
}

static const char *fencedev_get_driver_name(struct dma_fence *fence)
{
	return "fencedev";
}

static const char *fencedev_get_timeline_name(struct dma_fence *fence)
{
	return to_job(fence)->queue->name;
}

/*
 * Called once, under the fence's lock, when somebody first wants to know when it signals. Until
 * then a driver may leave its interrupts off. Here it is only written down: jobs end anyway.
 */
static bool fencedev_enable_signaling(struct dma_fence *fence)
{
	to_job(fence)->signaling = true;
	return true;
}

#ifdef FENCEDEV_SET_DEADLINE
/* Somebody would like the fence to signal by then. Of several such wishes the earliest counts. */
static void fencedev_set_deadline(struct dma_fence *fence, ktime_t deadline)
{
	struct fencedev_job *job = to_job(fence);
	unsigned long flags;

	spin_lock_irqsave(fence->lock, flags);
	job->deadline = min(job->deadline, deadline);
	spin_unlock_irqrestore(fence->lock, flags);
}
#endif

static void fencedev_fence_free(struct rcu_head *head)
{
	struct fencedev_job *job = to_job(container_of(head, struct dma_fence, rcu));

	fencedev_queue_put(job->queue);
	kfree(job);
	module_put(THIS_MODULE);
}

/* The last reference has gone, but others may still look at the fence under RCU. */
static void fencedev_fence_release(struct dma_fence *fence)
{
	atomic_dec(&fencedev_alive.fences);
	call_rcu(&fence->rcu, fencedev_fence_free);
}

static const struct dma_fence_ops fencedev_fence_ops = {
	.get_driver_name = fencedev_get_driver_name,
	.get_timeline_name = fencedev_get_timeline_name,
	.enable_signaling = fencedev_enable_signaling,
#ifdef FENCEDEV_SET_DEADLINE
	.set_deadline = fencedev_set_deadline,
#endif
	.release = fencedev_fence_release,
};

/*
 * Sending, before the guide begins: there is a fence. Its numbers rise along the timeline, in the
 * order in which the fences will signal. The first reference is the caller's. Whoever has one
 * can call the functions above, so the module has to stay, and what they use: the queue.
 */
void fencedev_fence_init(struct fencedev_job *job, u64 seqno)
{
	struct fencedev_queue *queue = job->queue;

	__module_get(THIS_MODULE);
	kref_get(&queue->refs);
	atomic_inc(&fencedev_alive.fences);
	dma_fence_init(&job->fence, &fencedev_fence_ops, &queue->lock, queue->context, seqno);
}

/*
 * Sending, steps 1 and 2: wrap the fence in a sync_file, which takes a reference of its own, and
 * reserve a descriptor. No program can see either yet, so what else can fail belongs after this
 * and before the next step.
 */
int fencedev_out_fence_create(struct fencedev_out_fence *out, struct dma_fence *fence)
{
	out->sync_file = sync_file_create(fence);
	if (!out->sync_file)
		return -ENOMEM;

	out->fd = get_unused_fd_flags(O_CLOEXEC);
	return out->fd < 0 ? out->fd : 0;
}

/*
 * Sending, step 3: the descriptor becomes the program's, which can use and close it from now on,
 * in another thread even before it has been told the number. This cannot fail, nor be undone.
 */
void fencedev_out_fence_install(struct fencedev_out_fence *out)
{
	fd_install(out->fd, out->sync_file->file);
}

/*
 * Sending, instead of step 3: something failed. fput() frees the sync_file, with its reference to
 * the fence; the descriptor goes back too.
 */
void fencedev_out_fence_drop(struct fencedev_out_fence *out)
{
	if (out->fd >= 0)
		put_unused_fd(out->fd);
	if (out->sync_file)
		fput(out->sync_file->file);
}

/*
 * Sending, the last step: the job is done. An error has to be set before, and what the job used
 * given back before, because whoever waited goes on at once.
 */
void fencedev_fence_signal_locked(struct fencedev_job *job, int error)
{
	if (error)
		dma_fence_set_error(&job->fence, error);
	dma_fence_signal_timestamp_locked(&job->fence, job->ended);
}

/*
 * Receiving, step 1: the fence behind a descriptor that a program gives. The reference is the
 * caller's. NULL if it is not open, or not a sync_file.
 */
struct dma_fence *fencedev_in_fence_get(int fd)
{
	return sync_file_get_fence(fd);
}

/*
 * Receiving, step 2: wait. dma_fence_wait() would do, were there nothing else to do meanwhile; a
 * queue asks to be called instead. The call comes from where the fence signals: under its lock,
 * with interrupts off. False if it has signaled already, and nothing will be called.
 */
bool fencedev_in_fence_wait(struct fencedev_dependency *in, dma_fence_func_t called)
{
	return !dma_fence_add_callback(in->fence, &in->callback, called);
}

/*
 * Receiving, between the steps: a fence that has signaled may have done so with an error. Merged
 * fences and chains do not all say so of what is in them, so every fence is asked.
 */
int fencedev_in_fence_error(struct dma_fence *fence)
{
	struct dma_fence_unwrap cursor;
	struct dma_fence *one;
	int error = 0;

	dma_fence_unwrap_for_each(one, &cursor, fence) {
		int status = dma_fence_get_status(one);

		if (status < 0 && !error)
			error = status;
	}
	return error;
}

/*
 * Receiving, step 3: give the reference back. Where a call is still to come it is called off: after
 * this it is not running either, because the fence's lock was taken.
 */
void fencedev_in_fence_put(struct fencedev_dependency *in)
{
	dma_fence_remove_callback(in->fence, &in->callback);
	dma_fence_put(in->fence);
}

/* FENCEDEV_IOC_QUERY: a job is found by its fence, so nothing has to be kept for it otherwise. */
int fencedev_query(struct fencedev_query *args)
{
	struct dma_fence *fence = fencedev_in_fence_get(args->fence);
	struct fencedev_job *job;

	if (!fence)
		return -EINVAL;
	if (fence->ops != &fencedev_fence_ops) {
		dma_fence_put(fence);
		return -EINVAL;
	}
	job = to_job(fence);
	spin_lock_irq(fence->lock);
	*args = (struct fencedev_query){
		.fence = args->fence,
		.state = job->state,
		.status = dma_fence_get_status_locked(fence),
		.signaling = job->signaling,
		.seqno = fence->seqno,
		.checksum = job->checksum,
		/* A deadline that was over before the clock began is one too. */
		.deadline_ns = job->deadline == KTIME_MAX ? 0 : max_t(s64, job->deadline, 1),
		.submitted_ns = ktime_to_ns(job->submitted),
		.started_ns = ktime_to_ns(job->started),
		.ended_ns = ktime_to_ns(job->ended),
	};
	spin_unlock_irq(fence->lock);
	dma_fence_put(fence);
	return 0;
}
