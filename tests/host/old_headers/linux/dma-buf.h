/* <linux/dma-buf.h> as wheels are compiled with it, 4.18: only DMA_BUF_IOCTL_SYNC is there. */
#pragma once
#define dma_buf_export_sync_file newer_dma_buf_export_sync_file
#define dma_buf_import_sync_file newer_dma_buf_import_sync_file
#include_next <linux/dma-buf.h>
#undef dma_buf_export_sync_file
#undef dma_buf_import_sync_file
#undef DMA_BUF_SET_NAME
#undef DMA_BUF_SET_NAME_A
#undef DMA_BUF_SET_NAME_B
#undef DMA_BUF_IOCTL_EXPORT_SYNC_FILE
#undef DMA_BUF_IOCTL_IMPORT_SYNC_FILE
