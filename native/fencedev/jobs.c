// SPDX-License-Identifier: GPL-2.0
/* fencedev: queues, and the jobs in them from their submission to their end. */
#include <linux/minmax.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "device.h"

static void fencedev_queue_free(struct kref *refs)
{
	kfree(container_of(refs, struct fencedev_queue, refs));
}

void fencedev_queue_put(struct fencedev_queue *queue)
{
	kref_put(&queue->refs, fencedev_queue_free);
}

/* An in-fence has signaled; called with its lock held, so all the rest is left to the queue. */
static void fencedev_dependency_signaled(struct dma_fence *fence, struct dma_fence_cb *callback)
{
	struct fencedev_job *job =
		container_of(callback, struct fencedev_dependency, callback)->job;

	if (atomic_dec_and_test(&job->pending))
		queue_work(fencedev_workqueue, &job->queue->work);
}

/* Let a job wait for a fence too; takes over the reference, whatever comes of it. */
int fencedev_depend_on(struct fencedev_job *job, struct dma_fence *fence, bool implicit)
{
	struct fencedev_dependency *in;

	if (WARN_ON_ONCE(job->dependency_count == FENCEDEV_MAX_DEPENDENCIES)) {
		dma_fence_put(fence);
		return -EINVAL;
	}
	in = &job->dependencies[job->dependency_count++];
	in->fence = fence;
	in->job = job;
	in->implicit = implicit;
	/* So that it can be removed although it was never added. */
	INIT_LIST_HEAD(&in->callback.node);
	return 0;
}

/* Give back what a job holds of others: it has ended, or it does not come to be. */
static void fencedev_job_release_resources(struct fencedev_job *job)
{
	while (job->dependency_count)
		fencedev_in_fence_put(&job->dependencies[--job->dependency_count]);
	if (job->dst)
		atomic_dec(&job->dst->users);
	if (job->src)
		atomic_dec(&job->src->users);
	job->dst = NULL;
	job->src = NULL;
}

/*
 * The error that a job's in-fences give it: of several the first's. A buffer's fences are waited
 * for only: the kernel forgets those that have signaled, so their errors would come by chance.
 */
static int fencedev_job_inherited_error(struct fencedev_job *job)
{
	unsigned int i;

	if (job->flags & FENCEDEV_SUBMIT_IGNORE_ERRORS)
		return 0;
	for (i = 0; i < job->dependency_count; i++) {
		int error = 0;

		if (!job->dependencies[i].implicit)
			error = fencedev_in_fence_error(job->dependencies[i].fence);
		if (error)
			return error;
	}
	return 0;
}

/* The job leaves its queue, and its fence signals. Everything that it held has been given back. */
static void fencedev_job_end(struct fencedev_job *job, int error)
{
	struct fencedev_queue *queue = job->queue;

	fencedev_job_release_resources(job);
	atomic_dec(&fencedev_alive.jobs);
	spin_lock_irq(&queue->lock);
	/* Who asked for the reset was told that this job ends with it. */
	if (job->reset)
		error = -ECANCELED;
	list_del(&job->node);
	job->state = FENCEDEV_JOB_DONE;
	job->ended = ktime_get();
	fencedev_fence_signal_locked(job, error);
	spin_unlock_irq(&queue->lock);
	dma_fence_put(&job->fence);
}

static void fencedev_job_begin(struct fencedev_job *job)
{
	spin_lock_irq(&job->queue->lock);
	job->started = ktime_get();
	job->state = job->flags & FENCEDEV_SUBMIT_HANG ? FENCEDEV_JOB_HUNG : FENCEDEV_JOB_RUNNING;
	spin_unlock_irq(&job->queue->lock);
}

/* Take the first job as far as it goes. True if it has ended, and the next one's turn has come. */
static bool fencedev_queue_step(struct fencedev_queue *queue, struct fencedev_job *job)
{
	ktime_t end;
	bool ended;
	int error;

	spin_lock_irq(&queue->lock);
	ended = queue->dead || job->reset;
	spin_unlock_irq(&queue->lock);
	if (ended) {
		fencedev_job_end(job, -ECANCELED);
		return true;
	}
	if (job->state == FENCEDEV_JOB_WAITING) {
		if (atomic_read_acquire(&job->pending))
			return false;
		error = fencedev_job_inherited_error(job);
		if (error) {
			fencedev_job_end(job, error);
			return true;
		}
		fencedev_job_begin(job);
	}
	if (job->state == FENCEDEV_JOB_HUNG)
		return false;
	end = ktime_add_ns(job->started, job->duration);
	if (ktime_before(ktime_get(), end)) {
		hrtimer_start(&queue->timer, end, HRTIMER_MODE_ABS);
		return false;
	}
	/* The result comes last, so that not waiting for the fence shows. */
	if (!job->error)
		fencedev_operate(job);
	fencedev_job_end(job, job->error);
	return true;
}

/*
 * Runs whenever something has changed. Others wait for what is signaled in here, so in between
 * nothing may be waited for that may wait for them: no reservation lock, no memory.
 */
static void fencedev_queue_work(struct work_struct *work)
{
	struct fencedev_queue *queue = container_of(work, struct fencedev_queue, work);
	bool cookie = dma_fence_begin_signalling();
	struct fencedev_job *job;

	do {
		spin_lock_irq(&queue->lock);
		job = list_first_entry_or_null(&queue->jobs, struct fencedev_job, node);
		spin_unlock_irq(&queue->lock);
	} while (job && fencedev_queue_step(queue, job));
	dma_fence_end_signalling(cookie);
}

static enum hrtimer_restart fencedev_queue_timer(struct hrtimer *timer)
{
	struct fencedev_queue *queue = container_of(timer, struct fencedev_queue, timer);

	queue_work(fencedev_workqueue, &queue->work);
	return HRTIMER_NORESTART;
}

int fencedev_queue_create(struct fencedev_file *file, struct fencedev_queue_create *args)
{
	struct fencedev_queue *queue;
	int error;

	if (args->pad || strnlen(args->name, sizeof(args->name)) == sizeof(args->name))
		return -EINVAL;
	queue = kzalloc(sizeof(*queue), GFP_KERNEL_ACCOUNT);
	if (!queue)
		return -ENOMEM;
	kref_init(&queue->refs);
	queue->context = dma_fence_context_alloc(1);
	strscpy(queue->name, args->name, sizeof(queue->name));
	spin_lock_init(&queue->lock);
	INIT_LIST_HEAD(&queue->jobs);
	INIT_WORK(&queue->work, fencedev_queue_work);
#ifdef FENCEDEV_HRTIMER_SETUP
	hrtimer_setup(&queue->timer, fencedev_queue_timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
#else
	hrtimer_init(&queue->timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS);
	queue->timer.function = fencedev_queue_timer;
#endif
	error = xa_alloc_cyclic(&file->queues, &args->queue, queue, xa_limit_31b,
				&file->next_queue, GFP_KERNEL_ACCOUNT);
	if (error < 0) {
		kfree(queue);
		return error;
	}
	atomic_inc(&fencedev_alive.queues);
	return 0;
}

int fencedev_queue_destroy(struct fencedev_file *file, u32 id)
{
	struct fencedev_queue *queue = xa_erase(&file->queues, id);
	bool idle;

	if (!queue)
		return -ENOENT;
	spin_lock_irq(&queue->lock);
	queue->dead = true;
	spin_unlock_irq(&queue->lock);
	/*
	 * The work ends the jobs. While the timer or an in-fence is about to queue it on another
	 * CPU, queue_work() leaves that to them, and flush_work() finds nothing to wait for yet.
	 */
	do {
		queue_work(fencedev_workqueue, &queue->work);
		flush_work(&queue->work);
		spin_lock_irq(&queue->lock);
		idle = list_empty(&queue->jobs);
		spin_unlock_irq(&queue->lock);
	} while (!idle);
	/* The jobs have ended and called off what they waited for: only the timer is left. */
	hrtimer_cancel(&queue->timer);
	cancel_work_sync(&queue->work);
	atomic_dec(&fencedev_alive.queues);
	fencedev_queue_put(queue);
	return 0;
}

int fencedev_reset(struct fencedev_file *file, struct fencedev_reset *args)
{
	struct fencedev_queue *queue = xa_load(&file->queues, args->queue);
	struct fencedev_job *job;

	if (args->pad)
		return -EINVAL;
	if (!queue)
		return -ENOENT;
	args->seqno = 0;
	spin_lock_irq(&queue->lock);
	job = list_first_entry_or_null(&queue->jobs, struct fencedev_job, node);
	if (job && !job->reset && !atomic_read(&job->pending)) {
		job->reset = true;
		args->seqno = job->fence.seqno;
	}
	spin_unlock_irq(&queue->lock);
	queue_work(fencedev_workqueue, &queue->work);
	return 0;
}

static int fencedev_submit_check(const struct fencedev_submit *args)
{
	const u32 flags = FENCEDEV_SUBMIT_IMPLICIT | FENCEDEV_SUBMIT_HANG |
			  FENCEDEV_SUBMIT_IGNORE_ERRORS;

	if (args->pad || args->flags & ~flags || args->error > MAX_ERRNO ||
	    args->in_fence_count > FENCEDEV_MAX_IN_FENCES ||
	    args->duration_ns > FENCEDEV_MAX_DURATION_NS)
		return -EINVAL;
	return 0;
}

static struct fencedev_job *fencedev_job_create(struct fencedev_queue *queue,
						const struct fencedev_submit *args)
{
	struct fencedev_job *job = kzalloc(sizeof(*job), GFP_KERNEL_ACCOUNT);

	if (!job)
		return NULL;
	job->queue = queue;
	job->flags = args->flags;
	job->duration = args->duration_ns;
	job->error = -(int)args->error;
	job->deadline = KTIME_MAX;
	job->submitted = ktime_get();
	atomic_set(&job->pending, 1);
	/* The number is taken for good when the job is queued. */
	fencedev_fence_init(job, queue->seqno + 1);
	return job;
}

static int fencedev_job_take_in_fences(struct fencedev_job *job, const struct fencedev_submit *args)
{
	unsigned int i;

	for (i = 0; i < args->in_fence_count; i++) {
		struct dma_fence *fence = fencedev_in_fence_get(args->in_fences[i]);
		int error = fence ? fencedev_depend_on(job, fence, false) : -EINVAL;

		if (error)
			return error;
	}
	return 0;
}

/* From here on the job's fence will signal, come what may. */
static void fencedev_job_push(struct fencedev_job *job)
{
	struct fencedev_queue *queue = job->queue;
	unsigned int i, count = job->dependency_count;

	atomic_inc(&fencedev_alive.jobs);
	queue->seqno = job->fence.seqno;
	/* Its first count keeps the job from beginning, and from ending, until this is through. */
	spin_lock_irq(&queue->lock);
	list_add_tail(&job->node, &queue->jobs);
	spin_unlock_irq(&queue->lock);
	for (i = 0; i < count; i++) {
		atomic_inc(&job->pending);
		if (!fencedev_in_fence_wait(&job->dependencies[i], fencedev_dependency_signaled))
			atomic_dec(&job->pending);
	}
	if (atomic_dec_and_test(&job->pending))
		queue_work(fencedev_workqueue, &queue->work);
}

int fencedev_submit(struct fencedev_file *file, struct fencedev_submit *args,
		    struct fencedev_submit __user *user)
{
	struct fencedev_queue *queue = xa_load(&file->queues, args->queue);
	struct fencedev_out_fence out = { .fd = -1 };
	struct fencedev_job *job;
	int error;

	error = fencedev_submit_check(args);
	if (error)
		return error;
	if (!queue)
		return -ENOENT;
	job = fencedev_job_create(queue, args);
	if (!job)
		return -ENOMEM;
	error = fencedev_operation_check(file, job, args);
	if (!error)
		error = fencedev_job_take_in_fences(job, args);
	if (!error)
		error = fencedev_out_fence_create(&out, &job->fence);
	if (error)
		goto drop;
	/* The answer is given before there is no way back. */
	args->out_fence = out.fd;
	args->seqno = job->fence.seqno;
	if (copy_to_user(user, args, sizeof(*args))) {
		error = -EFAULT;
		goto drop;
	}
	if (args->flags & FENCEDEV_SUBMIT_IMPLICIT) {
		error = fencedev_implicit_sync(job);
		if (error)
			goto drop;
	}
	fencedev_job_push(job);
	fencedev_out_fence_install(&out);
	return 0;
drop:
	fencedev_out_fence_drop(&out);
	fencedev_job_release_resources(job);
	dma_fence_put(&job->fence);
	return error;
}
