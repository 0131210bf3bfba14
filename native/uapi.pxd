# Every `cdef extern` on the kernel's headers. Request numbers are unsigned long: as a C enum SYNC_IOC_MERGE is negative.

cdef extern from "uapi.h" nogil:
    struct sync_merge_data:
        char name[32]
        int fd2
        int fence
        unsigned int flags
        unsigned int pad

    struct sync_fence_info:
        char obj_name[32]
        char driver_name[32]
        int status
        unsigned int flags
        unsigned long long timestamp_ns

    struct sync_file_info:
        char name[32]
        int status
        unsigned int flags
        unsigned int num_fences
        unsigned int pad
        unsigned long long sync_fence_info

    struct sync_set_deadline:
        unsigned long long deadline_ns
        unsigned long long pad

    struct sw_sync_create_fence_data:
        unsigned int value
        char name[32]
        int fence

    struct sw_sync_get_deadline:
        unsigned long long deadline_ns
        unsigned int pad
        int fence_fd

    struct dma_buf_sync:
        unsigned long long flags

    struct dma_buf_export_sync_file:
        unsigned int flags
        int fd

    struct dma_buf_import_sync_file:
        unsigned int flags
        int fd

    struct ls_gem_close:
        unsigned int handle
        unsigned int pad

    struct ls_prime_handle:
        unsigned int handle
        unsigned int flags
        int fd

    struct ls_mode_create_dumb:
        unsigned int height
        unsigned int width
        unsigned int bpp
        unsigned int flags
        unsigned int handle
        unsigned int pitch
        unsigned long long size

    struct ls_mode_fb_cmd2:
        unsigned int fb_id
        unsigned int width
        unsigned int height
        unsigned int pixel_format
        unsigned int flags
        unsigned int handles[4]
        unsigned int pitches[4]
        unsigned int offsets[4]
        unsigned long long modifier[4]

    struct ls_mode_create_blob:
        unsigned long long data
        unsigned int length
        unsigned int blob_id

    struct ls_vgem_fence_attach:
        unsigned int handle
        unsigned int flags
        unsigned int out_fence
        unsigned int pad

    struct ls_vgem_fence_signal:
        unsigned int fence
        unsigned int flags

    struct ls_syncobj_create:
        unsigned int handle
        unsigned int flags

    struct ls_syncobj_destroy:
        unsigned int handle
        unsigned int pad

    struct ls_syncobj_handle:
        unsigned int handle
        unsigned int flags
        int fd
        unsigned int pad
        unsigned long long point

    struct ls_syncobj_wait:
        unsigned long long handles
        long long timeout_nsec
        unsigned int count_handles
        unsigned int flags
        unsigned int first_signaled
        unsigned int pad
        unsigned long long deadline_nsec

    struct ls_syncobj_timeline_wait:
        unsigned long long handles
        unsigned long long points
        long long timeout_nsec
        unsigned int count_handles
        unsigned int flags
        unsigned int first_signaled
        unsigned int pad
        unsigned long long deadline_nsec

    struct ls_syncobj_array:
        unsigned long long handles
        unsigned int count_handles
        unsigned int pad

    struct ls_syncobj_timeline_array:
        unsigned long long handles
        unsigned long long points
        unsigned int count_handles
        unsigned int flags

    struct ls_syncobj_transfer:
        unsigned int src_handle
        unsigned int dst_handle
        unsigned long long src_point
        unsigned long long dst_point
        unsigned int flags
        unsigned int pad

    struct ls_syncobj_eventfd:
        unsigned int handle
        unsigned int flags
        unsigned long long point
        int fd
        unsigned int pad

    const unsigned long SYNC_IOC_MERGE
    const unsigned long SYNC_IOC_FILE_INFO
    const unsigned long SYNC_IOC_SET_DEADLINE
    const unsigned long SW_SYNC_IOC_CREATE_FENCE
    const unsigned long SW_SYNC_IOC_INC
    const unsigned long SW_SYNC_GET_DEADLINE
    const unsigned long DMA_BUF_IOCTL_SYNC
    const unsigned long DMA_BUF_SET_NAME_B
    const unsigned long DMA_BUF_IOCTL_EXPORT_SYNC_FILE
    const unsigned long DMA_BUF_IOCTL_IMPORT_SYNC_FILE
    const long DMA_BUF_MAGIC
    const long SYS_pidfd_getfd, SYS_pidfd_open
    const unsigned long LS_IOCTL_GEM_CLOSE
    const unsigned long LS_IOCTL_PRIME_HANDLE_TO_FD
    const unsigned long LS_IOCTL_PRIME_FD_TO_HANDLE
    const unsigned long LS_IOCTL_MODE_CREATE_DUMB
    unsigned long LS_ONE_WAY(unsigned long request) nogil
    const unsigned long LS_IOCTL_MODE_CREATEPROPBLOB
    const unsigned long LS_IOCTL_MODE_DESTROYPROPBLOB
    const unsigned long LS_IOCTL_MODE_RMFB
    const unsigned long LS_IOCTL_MODE_ADDFB2
    const unsigned long LS_IOCTL_VGEM_FENCE_ATTACH
    const unsigned long LS_IOCTL_VGEM_FENCE_SIGNAL
    const unsigned long LS_IOCTL_SYNCOBJ_CREATE
    const unsigned long LS_IOCTL_SYNCOBJ_DESTROY
    const unsigned long LS_IOCTL_SYNCOBJ_HANDLE_TO_FD
    const unsigned long LS_IOCTL_SYNCOBJ_FD_TO_HANDLE
    const unsigned long LS_IOCTL_SYNCOBJ_WAIT
    const unsigned long LS_IOCTL_SYNCOBJ_RESET
    const unsigned long LS_IOCTL_SYNCOBJ_SIGNAL
    const unsigned long LS_IOCTL_SYNCOBJ_TIMELINE_WAIT
    const unsigned long LS_IOCTL_SYNCOBJ_QUERY
    const unsigned long LS_IOCTL_SYNCOBJ_TRANSFER
    const unsigned long LS_IOCTL_SYNCOBJ_TIMELINE_SIGNAL
    const unsigned long LS_IOCTL_SYNCOBJ_EVENTFD

    const unsigned int DMA_BUF_SYNC_READ
    const unsigned int DMA_BUF_SYNC_WRITE
    const unsigned int DMA_BUF_SYNC_RW
    const unsigned int DMA_BUF_SYNC_START
    const unsigned int DMA_BUF_SYNC_END
    const unsigned int LS_VGEM_FENCE_WRITE
    const unsigned int LS_SYNCOBJ_CREATE_SIGNALED
    const unsigned int LS_SYNCOBJ_FD_TO_HANDLE_IMPORT_SYNC_FILE
    const unsigned int LS_SYNCOBJ_FD_TO_HANDLE_TIMELINE
    const unsigned int LS_SYNCOBJ_HANDLE_TO_FD_EXPORT_SYNC_FILE
    const unsigned int LS_SYNCOBJ_HANDLE_TO_FD_TIMELINE
    const unsigned int LS_SYNCOBJ_WAIT_ALL
    const unsigned int LS_SYNCOBJ_WAIT_FOR_SUBMIT
    const unsigned int LS_SYNCOBJ_WAIT_AVAILABLE
    const unsigned int LS_SYNCOBJ_WAIT_DEADLINE
    const unsigned int LS_SYNCOBJ_QUERY_LAST_SUBMITTED
