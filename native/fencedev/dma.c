// SPDX-License-Identifier: GPL-2.0
/*
 * fencedev: dma-bufs as a device sees them.
 *
 * A device knows an address on its bus and nothing else of a buffer. What is there need not be the
 * memory that programs have mapped: the DMA API may have put a copy in between (swiotlb), which
 * only the exporter's begin_cpu_access and end_cpu_access bring up to date. So everything here
 * goes from the bus address to the memory that answers to it, and never looks at the buffer's own
 * pages.
 */
#include <linux/dma-direct.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/iommu.h>
#include <linux/minmax.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "device.h"

#ifndef FENCEDEV_MAP_UNLOCKED
/* The names of Linux 6.2. */
#define dma_buf_map_attachment_unlocked dma_buf_map_attachment
#define dma_buf_unmap_attachment_unlocked dma_buf_unmap_attachment
#endif

/* What answers to a bus address: through the IOMMU if there is one, else as the bus is wired. */
static phys_addr_t fencedev_bus_to_phys(dma_addr_t address)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(fencedev_device);

	return domain ? iommu_iova_to_phys(domain, address) : dma_to_phys(fencedev_device, address);
}

/* Whether this device can reach all of a buffer: memory (not another device's), in whole words. */
static bool fencedev_reachable(struct sg_table *sgt, size_t size)
{
	struct scatterlist *sg;
	size_t there = 0;
	int i;

	for_each_sgtable_dma_sg(sgt, sg, i) {
		phys_addr_t first = fencedev_bus_to_phys(sg_dma_address(sg));
		phys_addr_t last = fencedev_bus_to_phys(sg_dma_address(sg) + sg_dma_len(sg) - 1);

		if (!pfn_valid(PHYS_PFN(first)) || !pfn_valid(PHYS_PFN(last)) ||
		    first % FENCEDEV_WORD || sg_dma_len(sg) % FENCEDEV_WORD)
			return false;
		there += sg_dma_len(sg);
	}
	return there >= size;
}

bool fencedev_may_read(const struct fencedev_attachment *attachment)
{
	return attachment->direction != DMA_FROM_DEVICE;
}

bool fencedev_may_write(const struct fencedev_attachment *attachment)
{
	return attachment->direction != DMA_TO_DEVICE;
}

int fencedev_attach(struct fencedev_file *file, struct fencedev_attach *args)
{
	static const enum dma_data_direction directions[] = {
		[FENCEDEV_ACCESS_READ] = DMA_TO_DEVICE,
		[FENCEDEV_ACCESS_WRITE] = DMA_FROM_DEVICE,
		[FENCEDEV_ACCESS_READ | FENCEDEV_ACCESS_WRITE] = DMA_BIDIRECTIONAL,
	};
	struct fencedev_attachment *attachment;
	int error;

	if (args->pad || !args->access || args->access >= ARRAY_SIZE(directions))
		return -EINVAL;
	attachment = kzalloc(sizeof(*attachment), GFP_KERNEL_ACCOUNT);
	if (!attachment)
		return -ENOMEM;
	attachment->direction = directions[args->access];
	attachment->dmabuf = dma_buf_get(args->fd);
	if (IS_ERR(attachment->dmabuf)) {
		error = PTR_ERR(attachment->dmabuf);
		goto free;
	}
	attachment->attach = dma_buf_attach(attachment->dmabuf, fencedev_device);
	if (IS_ERR(attachment->attach)) {
		error = PTR_ERR(attachment->attach);
		goto put;
	}
	error = xa_alloc_cyclic(&file->attachments, &args->attachment, attachment, xa_limit_31b,
				&file->next_attachment, GFP_KERNEL_ACCOUNT);
	if (error < 0)
		goto detach;
	args->size = attachment->dmabuf->size;
	atomic_inc(&fencedev_alive.attachments);
	return 0;
detach:
	dma_buf_detach(attachment->dmabuf, attachment->attach);
put:
	dma_buf_put(attachment->dmabuf);
free:
	kfree(attachment);
	return error;
}

int fencedev_map(struct fencedev_file *file, u32 id)
{
	struct fencedev_attachment *attachment = xa_load(&file->attachments, id);
	struct sg_table *sgt;

	if (!attachment)
		return -ENOENT;
	if (attachment->sgt)
		return -EBUSY;
	sgt = dma_buf_map_attachment_unlocked(attachment->attach, attachment->direction);
	if (IS_ERR(sgt))
		return PTR_ERR(sgt);
	if (!fencedev_reachable(sgt, attachment->dmabuf->size)) {
		dma_buf_unmap_attachment_unlocked(attachment->attach, sgt, attachment->direction);
		return -EOPNOTSUPP;
	}
	attachment->sgt = sgt;
	atomic_inc(&fencedev_alive.mappings);
	return 0;
}

static void fencedev_unmap_one(struct fencedev_attachment *attachment)
{
	dma_buf_unmap_attachment_unlocked(attachment->attach, attachment->sgt,
					  attachment->direction);
	attachment->sgt = NULL;
	atomic_dec(&fencedev_alive.mappings);
}

int fencedev_unmap(struct fencedev_file *file, u32 id)
{
	struct fencedev_attachment *attachment = xa_load(&file->attachments, id);

	if (!attachment)
		return -ENOENT;
	if (!attachment->sgt)
		return -ENXIO;
	if (atomic_read(&attachment->users))
		return -EBUSY;
	fencedev_unmap_one(attachment);
	return 0;
}

int fencedev_detach(struct fencedev_file *file, u32 id)
{
	struct fencedev_attachment *attachment = xa_load(&file->attachments, id);

	if (!attachment)
		return -ENOENT;
	if (atomic_read(&attachment->users))
		return -EBUSY;
	xa_erase(&file->attachments, id);
	if (attachment->sgt)
		fencedev_unmap_one(attachment);
	dma_buf_detach(attachment->dmabuf, attachment->attach);
	dma_buf_put(attachment->dmabuf);
	kfree(attachment);
	atomic_dec(&fencedev_alive.attachments);
	return 0;
}

/* Go on; the end of one piece is the beginning of the next. */
void fencedev_advance(struct fencedev_cursor *cursor, u64 bytes)
{
	while (cursor->sg && bytes >= sg_dma_len(cursor->sg) - cursor->at) {
		bytes -= sg_dma_len(cursor->sg) - cursor->at;
		cursor->sg = sg_next(cursor->sg);
		cursor->at = 0;
	}
	cursor->at += bytes;
}

struct fencedev_cursor fencedev_seek(struct fencedev_attachment *attachment, u64 offset)
{
	struct fencedev_cursor cursor = { .sg = attachment->sgt->sgl };

	fencedev_advance(&cursor, offset);
	return cursor;
}

/* Make the memory at a cursor usable, as far as it goes; at most *length bytes, which it sets. */
void *fencedev_open_window(struct fencedev_cursor *cursor, size_t *length)
{
	phys_addr_t where = fencedev_bus_to_phys(sg_dma_address(cursor->sg) + cursor->at);
	size_t in_page = offset_in_page(where);

	*length = min3(*length, PAGE_SIZE - in_page, (size_t)sg_dma_len(cursor->sg) - cursor->at);
	return kmap_local_page(pfn_to_page(PHYS_PFN(where))) + in_page;
}

void fencedev_close_window(void *window)
{
	kunmap_local(window);
}

/* Whether some bytes lie in a buffer; none at all do not. */
bool fencedev_in_range(u64 offset, u64 length, u64 size)
{
	return length && offset < size && length <= size - offset;
}

/* Find what PEEK and POKE are about. */
static struct fencedev_attachment *fencedev_transfer_check(struct fencedev_file *file,
							   const struct fencedev_transfer *args)
{
	struct fencedev_attachment *attachment = xa_load(&file->attachments, args->attachment);

	if (args->pad)
		return ERR_PTR(-EINVAL);
	if (!attachment)
		return ERR_PTR(-ENOENT);
	if (!attachment->sgt)
		return ERR_PTR(-ENXIO);
	if (!fencedev_in_range(args->offset, args->length, attachment->dmabuf->size))
		return ERR_PTR(-EINVAL);
	return attachment;
}

static int fencedev_transfer(struct fencedev_attachment *attachment,
			     const struct fencedev_transfer *args, bool write)
{
	struct fencedev_cursor cursor = fencedev_seek(attachment, args->offset);
	u64 done;
	size_t count;

	for (done = 0; done < args->length; done += count) {
		void __user *data = u64_to_user_ptr(args->data + done);
		unsigned long left;
		void *memory;

		count = min_t(u64, args->length - done, PAGE_SIZE);
		memory = fencedev_open_window(&cursor, &count);
		left = write ? copy_from_user(memory, data, count) :
			       copy_to_user(data, memory, count);
		fencedev_close_window(memory);
		if (left)
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		fencedev_advance(&cursor, count);
	}
	return 0;
}

/* A look at the bus is no transfer: the device may look where it only writes. */
int fencedev_peek(struct fencedev_file *file, struct fencedev_transfer *args)
{
	struct fencedev_attachment *attachment = fencedev_transfer_check(file, args);

	if (IS_ERR(attachment))
		return PTR_ERR(attachment);
	return fencedev_transfer(attachment, args, false);
}

int fencedev_poke(struct fencedev_file *file, struct fencedev_transfer *args)
{
	struct fencedev_attachment *attachment = fencedev_transfer_check(file, args);

	if (IS_ERR(attachment))
		return PTR_ERR(attachment);
	if (!fencedev_may_write(attachment))
		return -EACCES;
	return fencedev_transfer(attachment, args, true);
}
