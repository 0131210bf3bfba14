"""python -m linuxsync.cli: what ``linuxsync`` does."""

from . import main

main(prog_name="linuxsync")
