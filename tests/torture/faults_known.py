"""Where in the kernel an allocation, or a copy, may fail and nobody is worse off."""

import errno

# Function to reason.
SWALLOWED = {
    "exc_page_fault": "a page of the program's own: the fault is tried again",
    "__GFP_NOWARN": "what the kernel can do without, such as room for KASAN's backtraces, or gets in another way",
    "poll_select_finish": "ppoll writes how much time was left, which nobody needs",
    "proc_fill_cache": "getdents names an entry of /proc for which the cache has no room, and says no more",
    "drm_helper_probe_single_connector_modes": "a screen has a mode less, until it is asked again",
    "virtqueue_add_split": "without memory for a table of its own a request goes into the ring itself",
}
# What the kernel answers to a fault in a function, where that is not ENOMEM for memory and EFAULT for a copy.
ANSWERS = {
    "__shmem_get_inode": errno.ENOSPC,  # no inode, for whatever reason: memfd_create(2), and GEM's memory
}
# Of linuxsync's own, and Python's, for the sweeps in which they are.
ASKED_AGAIN = {"sync_file_ioctl": "linuxsync takes any refusal of the first FILE_INFO for one of too little room"}
UDEV = {
    "device_get_devnode": "the name of the node, in a file of /sys: linuxsync knows what DRM calls its own",
    "get_random_bytes_user": "libudev's tables of hashes begin with another number",
    "__do_sys_newfstatat": "libudev, too, only would like to know more of a file; what it has is complete all the same",
}
FILES = {"__do_sys_newfstatat": "Python's open() and mmap.mmap() only would like to know more of the file"}
CLOCK = {"__x64_sys_clock_gettime": "linuxsync looks again"}
POLLED_AGAIN = {"__x64_sys_poll": "linuxsync takes whatever is no yes for a no, and waits"}
NO_ANSWER = {
    "^drm_ioctl": "some requests have no answer, or are asked one way: a copy of no bytes fails, and nobody cares"
}
DESTROYED = {"^drm_ioctl": "the number of what is to be destroyed could not be read: linuxsync asks once more"}
NAME = {"__x64_sys_prctl": "the thread gets its own name back at the second try"}
# Of tracefs, while linuxsync removes what it has made.
REMOVED_AGAIN = dict.fromkeys(("__x64_sys_rmdir", "ksys_write"), "linuxsync removes it at the next try")
MADE_WITHOUT = {"__x64_sys_mkdir": "an instance has no files for some event, as one finds who wants to enable it"}
NO_INODE = {"proc_alloc_inode": errno.ENOENT}  # for an entry of /proc, which is then as if it were not there
