"""Forked children, and what they are handed."""

import os
import signal
import sys
from contextlib import contextmanager

from linuxsync import Timeline


def taken(fd):
    """A Timeline in place of the descriptor `fd`."""
    try:
        return Timeline.from_fd(fd)
    finally:
        os.close(fd)


@contextmanager
def forked(work):
    """Run `work` in a forked child; when the block ends it must have ended well."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    try:
        yield child
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0
