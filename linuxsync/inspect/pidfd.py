"""pidfd: descriptors of another process, seen through duplicates that are closed again."""

from __future__ import annotations

from typing import TypeVar

from .._fd import OwnedFd
from .._native import pidfd as _native

__all__ = ["PidFd", "is_in_epoll", "order", "same_file"]

Owned = TypeVar("Owned", bound=OwnedFd)

order = _native.compare_files


class PidFd(_native.PidFd):
    """A process, held by a pidfd: its number can't come to mean another process meanwhile.

    Threads: every method may be called from many threads at once as long as none closes the object.
    """

    __slots__ = ()

    @classmethod
    def open(cls, pid: int) -> PidFd:
        """Return the process with this number in our pid namespace.

        Raises:
            OSError: ESRCH, there is none; EINVAL, ``pid`` is a thread's; EMFILE; ENOSYS, the kernel is older than 5.3.

        Mirrors pidfd_open(2).
        """
        return cls._taking(_native.open_pid, pid)

    def get(self, kind: type[Owned], fd: int) -> Owned:
        """Return a duplicate of a descriptor of the process, which keeps its own.

        Args:
            kind: the class of the object to make, ``SyncFile`` say.
            fd: its number there.
        Raises:
            ValueError: closed.
            OSError: EBADF, it has no such descriptor (any more); EPERM, it takes the right to trace the process: the
                same user and no Yama restriction (kernel.yama.ptrace_scope), or CAP_SYS_PTRACE; ESRCH, it has ended;
                ENOTTY, the file is no ``kind``; EMFILE; ENOSYS, the kernel is older than 5.6.

        Mirrors pidfd_getfd(2).
        """
        return kind._taking(self._getfd, fd)


def is_in_epoll(pid: int, fd: int, epoll: int, target: int) -> bool:
    """Return whether a descriptor is the file that an epoll of the same process has under the number `target`.

    Raises:
        OSError: EBADF, no such descriptor (any more); ENOENT, the epoll has no such number; EPERM; ESRCH; ENOSYS.

    Mirrors kcmp(2) with KCMP_EPOLL_TFD.
    """
    return _native.compare_to_epoll(pid, fd, epoll, target) == 0


def same_file(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two descriptors, (pid, fd) each, are one open file.

    Raises:
        OSError: EBADF, no such descriptor (any more); EPERM; ESRCH; ENOSYS, the kernel lacks kcmp.

    Mirrors kcmp(2).
    """
    return order(*one, *other) == 0
