"""failures: what ends any command, and is nobody's bug: a full disk, a closed pipe, no descriptors, no memory."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

import click

__all__ = ["EXPECTED", "Commands"]

EXPECTED = {
    errno.ENOSPC: "can't write",
    errno.EDQUOT: "can't write",
    errno.EFBIG: "can't write",
    errno.EIO: "can't read or write",
    errno.EPIPE: "",  # as after `| head`: who reads no more knows
    errno.EMFILE: "this process may have no more descriptors, see ulimit -n",
    errno.ENFILE: "this machine may have no more open files, see sysctl fs.file-max",
    errno.ENOMEM: "no memory is left, see free(1) and ulimit -v",
}
WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


class Failure(click.ClickException):
    """One line for people and exit status 2, which is none of the answers that a command gives."""

    exit_code = 2

    def __init__(self, error: OSError) -> None:
        super().__init__(f"{EXPECTED[error.errno or 0]}: {error.strerror}")
        self._silent = error.errno == errno.EPIPE
        if error.errno in WRITING:
            mute(sys.stdout)

    def show(self, file: Any = None) -> None:
        """Print the line; where that can't be written either, nothing."""
        try:
            if not self._silent:
                super().show(file)
        except OSError:
            mute(sys.stderr)


class Commands(click.Group):
    """A group whose commands end with a line, and no traceback, where the machine has no room for what they do."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run one, to the last byte of its output, which otherwise is written when nobody can be told that it can't."""
        if sys.stdout is None:
            click.echo("Error: stdout is closed", err=True)
            sys.exit(Failure.exit_code)
        try:
            try:
                return super().main(*arguments, **options)
            finally:
                sys.stdout.flush()
        except OSError as error:  # of --help, too
            if error.errno not in EXPECTED:
                raise
            failure = Failure(error)
            failure.show()
            sys.exit(failure.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run one; what goes wrong is told here, before click takes EPIPE for 1, which is an answer."""
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.errno not in EXPECTED:
                raise
            raise Failure(error) from None


def mute(stream: TextIO) -> None:
    """Have what is still to be written go nowhere: Python would try once more when it ends."""
    with suppress(OSError), open(os.devnull, "wb") as nothing:  # a stream without a descriptor can't be full
        os.dup2(nothing.fileno(), stream.fileno())
        stream.flush()
