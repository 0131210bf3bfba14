/* <linux/magic.h> of 4.18: a dma-buf has no file system of its own. */
#pragma once
#include_next <linux/magic.h>
#undef DMA_BUF_MAGIC
