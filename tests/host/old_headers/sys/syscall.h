/* <sys/syscall.h> of glibc 2.28 on Linux 4.18: no pidfds. */
#pragma once
#include_next <sys/syscall.h>
#undef SYS_pidfd_open
#undef SYS_pidfd_getfd
