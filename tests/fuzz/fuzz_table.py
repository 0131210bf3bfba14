"""The writer of JSON: whatever the value, the same text as json.dumps has."""

from __future__ import annotations

import json

from harness import instrumented, run

with instrumented("linuxsync.cli.table"):
    from linuxsync._native.table import json_rows


def one(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("utf-8", "surrogateescape")
    written: list[str] = []
    json_rows([("a", lambda row: row)], [value, value], written.append)
    told = json.dumps(value)
    assert "".join(written) == f'[\n  {{"a": {told}}},\n  {{"a": {told}}}\n ]'


if __name__ == "__main__":
    run(one)
