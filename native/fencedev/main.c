// SPDX-License-Identifier: GPL-2.0
/*
 * fencedev: a device that makes and takes fences and works on dma-bufs, all of it for real, without
 * any hardware. A platform device, for the DMA API to map buffers for, and /dev/fencedev.
 *
 * What it says to programs is in fencedev.h. fences.c is the one to read first.
 */
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "device.h"

struct fencedev_counters fencedev_alive;
struct workqueue_struct *fencedev_workqueue;
struct device *fencedev_device;

static struct platform_device *fencedev_platform;
static struct dentry *fencedev_debugfs;

static int fencedev_open(struct inode *inode, struct file *filp)
{
	struct fencedev_file *file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);

	if (!file)
		return -ENOMEM;
	mutex_init(&file->lock);
	xa_init_flags(&file->queues, XA_FLAGS_ALLOC1);
	xa_init_flags(&file->attachments, XA_FLAGS_ALLOC1);
	filp->private_data = file;
	return nonseekable_open(inode, filp);
}

/* The last descriptor is closed, by the program or by its end. Jobs go first: they use buffers. */
static int fencedev_release(struct inode *inode, struct file *filp)
{
	struct fencedev_file *file = filp->private_data;
	unsigned long id;
	void *entry;

	xa_for_each(&file->queues, id, entry)
		fencedev_queue_destroy(file, id);
	xa_for_each(&file->attachments, id, entry)
		fencedev_detach(file, id);
	xa_destroy(&file->queues);
	xa_destroy(&file->attachments);
	mutex_destroy(&file->lock);
	kfree(file);
	return 0;
}

static int fencedev_version(struct fencedev_version *args)
{
	if (args->version || args->features)
		return -EINVAL;
	args->version = FENCEDEV_VERSION;
#ifdef FENCEDEV_SET_DEADLINE
	args->features |= FENCEDEV_FEATURE_DEADLINE;
#endif
	return 0;
}

static int fencedev_by_id(struct fencedev_file *file, const struct fencedev_id *args,
			  int (*function)(struct fencedev_file *file, u32 id))
{
	return args->pad ? -EINVAL : function(file, args->id);
}

/* Room for any request's argument. */
union fencedev_argument {
	struct fencedev_version version;
	struct fencedev_queue_create queue_create;
	struct fencedev_id id;
	struct fencedev_reset reset;
	struct fencedev_attach attach;
	struct fencedev_transfer transfer;
	struct fencedev_submit submit;
	struct fencedev_query query;
};

static int fencedev_request(struct fencedev_file *file, unsigned int request,
			    union fencedev_argument *args, void __user *user)
{
	switch (request) {
	case FENCEDEV_IOC_VERSION:
		return fencedev_version(&args->version);
	case FENCEDEV_IOC_QUEUE_CREATE:
		return fencedev_queue_create(file, &args->queue_create);
	case FENCEDEV_IOC_QUEUE_DESTROY:
		return fencedev_by_id(file, &args->id, fencedev_queue_destroy);
	case FENCEDEV_IOC_RESET:
		return fencedev_reset(file, &args->reset);
	case FENCEDEV_IOC_SUBMIT:
		return fencedev_submit(file, &args->submit, user);
	case FENCEDEV_IOC_QUERY:
		return fencedev_query(&args->query);
	case FENCEDEV_IOC_ATTACH:
		return fencedev_attach(file, &args->attach);
	case FENCEDEV_IOC_DETACH:
		return fencedev_by_id(file, &args->id, fencedev_detach);
	case FENCEDEV_IOC_MAP:
		return fencedev_by_id(file, &args->id, fencedev_map);
	case FENCEDEV_IOC_UNMAP:
		return fencedev_by_id(file, &args->id, fencedev_unmap);
	case FENCEDEV_IOC_PEEK:
		return fencedev_peek(file, &args->transfer);
	case FENCEDEV_IOC_POKE:
		return fencedev_poke(file, &args->transfer);
	default:
		return -ENOTTY;
	}
}

/*
 * Whether a request has anything to say but that it was done. Where it has not, nothing is written:
 * a copy that fails would make something fail that has been done. SUBMIT says it in time.
 */
static bool fencedev_answers(unsigned int request)
{
	switch (request) {
	case FENCEDEV_IOC_VERSION:
	case FENCEDEV_IOC_QUEUE_CREATE:
	case FENCEDEV_IOC_RESET:
	case FENCEDEV_IOC_QUERY:
	case FENCEDEV_IOC_ATTACH:
		return true;
	default:
		return false;
	}
}

static long fencedev_ioctl(struct file *filp, unsigned int request, unsigned long arg)
{
	struct fencedev_file *file = filp->private_data;
	void __user *user = (void __user *)arg;
	size_t size = _IOC_SIZE(request);
	union fencedev_argument args = {};
	int error;

	if (_IOC_TYPE(request) != FENCEDEV_IOC_MAGIC || size > sizeof(args))
		return -ENOTTY;
	if (copy_from_user(&args, user, size))
		return -EFAULT;
	if (mutex_lock_interruptible(&file->lock))
		return -ERESTARTSYS;
	error = fencedev_request(file, request, &args, user);
	if (!error && fencedev_answers(request) && copy_to_user(user, &args, size)) {
		/* Nobody knows the number of what was made. */
		if (request == FENCEDEV_IOC_QUEUE_CREATE)
			fencedev_queue_destroy(file, args.queue_create.queue);
		else if (request == FENCEDEV_IOC_ATTACH)
			fencedev_detach(file, args.attach.attachment);
		error = -EFAULT;
	}
	mutex_unlock(&file->lock);
	return error;
}

static const struct file_operations fencedev_fops = {
	.owner = THIS_MODULE,
	.open = fencedev_open,
	.release = fencedev_release,
	.unlocked_ioctl = fencedev_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice fencedev_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fencedev",
	.fops = &fencedev_fops,
	/* A job may hang, and all wait that wait for its buffers: this is not for everybody. */
	.mode = 0600,
};

static void __init fencedev_show_counters(void)
{
	fencedev_debugfs = debugfs_create_dir("fencedev", NULL);
	debugfs_create_atomic_t("queues", 0400, fencedev_debugfs, &fencedev_alive.queues);
	debugfs_create_atomic_t("jobs", 0400, fencedev_debugfs, &fencedev_alive.jobs);
	debugfs_create_atomic_t("fences", 0400, fencedev_debugfs, &fencedev_alive.fences);
	debugfs_create_atomic_t("attachments", 0400, fencedev_debugfs, &fencedev_alive.attachments);
	debugfs_create_atomic_t("mappings", 0400, fencedev_debugfs, &fencedev_alive.mappings);
}

static int __init fencedev_init(void)
{
	int error;

	fencedev_workqueue = alloc_workqueue("fencedev", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!fencedev_workqueue)
		return -ENOMEM;
	fencedev_platform =
		platform_device_register_simple("fencedev", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(fencedev_platform)) {
		error = PTR_ERR(fencedev_platform);
		goto destroy_workqueue;
	}
	fencedev_device = &fencedev_platform->dev;
	error = dma_coerce_mask_and_coherent(fencedev_device, DMA_BIT_MASK(64));
	if (error)
		goto unregister;
	dma_set_max_seg_size(fencedev_device, UINT_MAX);
	error = misc_register(&fencedev_misc);
	if (error)
		goto unregister;
	fencedev_show_counters();
	return 0;
unregister:
	platform_device_unregister(fencedev_platform);
destroy_workqueue:
	destroy_workqueue(fencedev_workqueue);
	return error;
}

/* Only when no file is open and no fence is left, because each of them holds the module. */
static void __exit fencedev_exit(void)
{
	debugfs_remove_recursive(fencedev_debugfs);
	misc_deregister(&fencedev_misc);
	platform_device_unregister(fencedev_platform);
	destroy_workqueue(fencedev_workqueue);
	/* The function that let go of the module for the last fence may not have returned yet. */
	rcu_barrier();
}

module_init(fencedev_init);
module_exit(fencedev_exit);
MODULE_DESCRIPTION("A device that makes and takes fences and works on dma-bufs, for tests and to learn from");
MODULE_AUTHOR("The linuxsync authors");
MODULE_LICENSE("GPL");
/* As MODULE_IMPORT_NS(), whose argument has become a string with Linux 6.13. */
MODULE_INFO(import_ns, "DMA_BUF");
