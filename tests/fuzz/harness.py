"""What the harnesses share: atheris with our modules instrumented; or bytes changed at random, without it.

python tests/fuzz/fuzz_elf.py [OPTIONS OF LIBFUZZER] [CORPUS...]    atheris, which sees what an input reaches
python tests/fuzz/fuzz_elf.py CRASH                                 one input
python tests/fuzz/fuzz_elf.py --plain SECONDS SEED                  for a build that atheris can't be loaded into
"""

from __future__ import annotations

import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
PLAIN = "--plain"
LEAST = 200  # inputs, however little there is time for
LARGE = 1 << 16  # bytes; what takes time that grows with the square of that takes minutes


def instrumented(*modules: str) -> AbstractContextManager[object]:
    """Make what is imported in the block, of these modules, tell which of its branches are taken."""
    if PLAIN in sys.argv:
        return nullcontext()
    import atheris

    found: AbstractContextManager[object] = atheris.instrument_imports(include=list(modules))
    return found


def run(one: Callable[[bytes], None]) -> None:
    """Call a harness with bytes, until the time is up or something that is not documented is raised."""
    if PLAIN in sys.argv:
        seconds, seed = sys.argv[sys.argv.index(PLAIN) + 1 :]
        plain(one, float(seconds), int(seed))
        return
    import atheris

    atheris.Setup(sys.argv, atheris.instrument_func(one))
    atheris.Fuzz()


def plain(one: Callable[[bytes], None], seconds: float, seed: int) -> None:
    """Without atheris: the corpus, and then what chance makes of it."""
    corpus = [file.read_bytes() for file in sorted((CORPUS / Path(sys.argv[0]).stem.removeprefix("fuzz_")).iterdir())]
    chance = random.Random(seed)
    for data in corpus:
        one(data)
    until, count = time.monotonic() + seconds, len(corpus)
    while time.monotonic() < until or count < LEAST:
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.choice((1, 2, 4, 16))):
            at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 8, 64))
            data[at : at + chance.choice((0, length))] = chance.choice(
                (
                    b"",
                    chance.randbytes(length),
                    bytes(length),
                    b"\xff" * length,
                    chance.choice(corpus)[at : at + length],
                )
            )
        try:
            one(bytes(data))
        except BaseException:
            print(f"seed {seed}, input {bytes(data)!r}", file=sys.stderr)
            raise
        count += 1
    print(f"{count} inputs")


def stretched(data: bytes) -> Iterator[bytes]:
    """An input, and now and then what is made of it by repeating all or one byte of it: that must not take long."""
    yield data
    chosen = zlib.crc32(data)
    if data and chosen % 64 == 0:
        yield data * (LARGE // len(data))
        at = (chosen >> 8) % len(data)
        yield data[:at] + data[at : at + 1] * LARGE + data[at + 1 :]
