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

    const unsigned long SYNC_IOC_MERGE
    const unsigned long SYNC_IOC_FILE_INFO
    const unsigned long SYNC_IOC_SET_DEADLINE
    const unsigned long SW_SYNC_IOC_CREATE_FENCE
    const unsigned long SW_SYNC_IOC_INC
    const unsigned long SW_SYNC_GET_DEADLINE
