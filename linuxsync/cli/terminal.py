"""terminal: one to draw whole screens on, key by key; whatever ends us, it is given back as it was."""

from __future__ import annotations

import codecs
import os
import re
import selectors
import signal
import socket
import sys
import termios
import tty
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from .files import write_all

__all__ = ["Terminal", "can_draw"]

# Another screen than the shell's, no cursor, and no line that wraps where the terminal finds characters wider than we.
TAKE = "\x1b[?1049h\x1b[?25l\x1b[?7l"
GIVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
FUNCTION_KEY = re.compile(r"\x1b[\[O][0-?]*[ -/]*[@-~]")


def can_draw() -> bool:
    """Whether we read from and write to a terminal that can be drawn on."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Terminal:
    """The terminal of stdin and stdout, ours for a ``with`` block. Threads: the main one alone.

    SIGTERM and SIGHUP end the block as SystemExit with 128 and their number, Ctrl-C as KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __enter__(self) -> Terminal:
        self._before = termios.tcgetattr(0)
        self._signals, self._wakeup = socket.socketpair()
        self._signals.setblocking(False)
        self._wakeup.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._signals, selectors.EVENT_READ)
        # The number of each signal can be read from then on, so that none is missed that comes between two waits.
        self._others = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, handler) for number, handler in HANDLERS.items()}
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing may interrupt what follows
        self._give()
        signal.set_wakeup_fd(self._others)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._selector.close()
        self._signals.close()
        self._wakeup.close()

    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now; 80 and 24 where the terminal does not say."""
        columns, lines = os.get_terminal_size(sys.stdout.fileno())
        return columns or 80, lines or 24

    def draw(self, lines: Sequence[str], header: int) -> None:
        """Show these lines, which fit, and nothing else; the one of that number as a header."""
        # Each is emptied before it is written: behind the last column there is no place to do so from.
        shown = [f"\x1b[2K\x1b[7m{line}\x1b[0m" if at == header else f"\x1b[2K{line}" for at, line in enumerate(lines)]
        self._write("\x1b[H" + "\r\n".join(shown) + "\x1b[J")

    def keys(self, timeout: float | None) -> str:
        """Wait for keys and return them, Escape as ``\\x1b``; "" after that many seconds or when the size changes.

        Raises:
            EOFError: there is no terminal any more.
        """
        found = ""
        for key, _ in self._selector.select(None if timeout is None else max(0.0, timeout)):
            if key.fileobj == 0:
                data = os.read(0, 1024)
                if not data:
                    raise EOFError
                found += FUNCTION_KEY.sub("", self._decoder.decode(data))
            else:
                numbers = self._signals.recv(1024)
                if signal.SIGTSTP in numbers:
                    self._stop()
                elif signal.SIGCONT in numbers:  # after a SIGSTOP, of which nobody is told
                    self._take()
        return found

    def _take(self) -> None:
        tty.setcbreak(0, termios.TCSADRAIN)
        self._write(TAKE)

    def _give(self) -> None:
        try:
            self._write(GIVE)
        except OSError:
            pass  # it has gone; there is nothing to give back
        try:
            termios.tcsetattr(0, termios.TCSAFLUSH, self._before)
        except termios.error:
            pass

    def _stop(self) -> None:
        """Do what Ctrl-Z asks for, with the shell's screen there meanwhile."""
        self._give()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, noted)
        self._take()

    def _write(self, text: str) -> None:
        write_all(sys.stdout.buffer, text.encode(sys.stdout.encoding, "replace"))
        sys.stdout.buffer.flush()


def noted(number: int, frame: FrameType | None) -> None:
    """Nothing: whoever waits for keys reads the number, and does what is to be done."""


def end(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the block."""
    sys.exit(128 + number)


HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: end,
    signal.SIGHUP: end,
    signal.SIGWINCH: noted,
    signal.SIGTSTP: noted,
    signal.SIGCONT: noted,
}
