"""The rows of a table as JSON are what json.dumps makes of them."""

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linuxsync._native.table import json_rows

from linuxsync.inspect import Descriptor, Kind, Process

TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


def written(columns, rows):
    pieces = []
    json_rows(columns, rows, pieces.append)
    text = "".join(pieces)
    assert text.isascii()
    return text


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=5))
def test_any_values(pairs):
    """Of an attribute and of a function, to the character but for the line breaks between rows."""
    rows = [SimpleNamespace(a=a, b=b) for a, b in pairs]
    text = written([('"a', "a"), ("b", lambda row: row.b)], rows)
    expected = [{'"a': a, "b": b} for a, b in pairs]
    assert json.loads(text) == expected
    assert [line.strip().removesuffix(",") for line in text.splitlines()[1:-1]] == [json.dumps(one) for one in expected]


@pytest.mark.parametrize("number", [0, 9, 10, -1, 2**63 - 1, -(2**63), 2**63, 2**64, -(2**200), True])
def test_numbers(number):
    """At the ends of what a C long long holds, and beyond."""
    assert written([("n", "real")], [number]) == f'[\n  {{"n": {int(number)}}}\n ]'


def test_descriptors():
    """A descriptor says whose it is; a tuple is a list."""
    one = Descriptor(Process(12, "\x1b\udcff", 4294967294), 7, Kind.SYNC_FILE, "anon_inode:sync_file")
    (row,) = json.loads(written([("held", "by")], [SimpleNamespace(by=(one, one))]))
    assert row == {"held": [{"pid": 12, "comm": "\x1b\udcff", "uid": 4294967294, "fd": 7}] * 2}


def test_many_rows_come_in_pieces():
    """No piece is much longer than it has to be."""
    pieces = []
    json_rows([("n", "real")], range(20000), pieces.append)
    assert len(pieces) > 5
    assert max(map(len, pieces)) < 40000
    assert [row["n"] for row in json.loads("".join(pieces))] == [*range(20000)]


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"in": inner}])
def test_what_is_nested_too_deeply(wrap):
    """An exception, long before the C stack ends; and what is nested less deeply is written afterwards."""
    shallow = deep = wrap(None)
    for _ in range(100):
        shallow = wrap(shallow)
    for _ in range(100_000):
        deep = wrap(deep)
    for _ in range(3):  # each refusal leaves the depth as it was
        with pytest.raises(RecursionError):
            written([("n", "real")], [SimpleNamespace(real=deep)])
    assert written([("n", "real")], [SimpleNamespace(real=shallow)]) == f'[\n  {{"n": {json.dumps(shallow)}}}\n ]'


def test_what_goes_wrong_is_raised():
    """A value that JSON lacks, an attribute that the row lacks, a function that raises, a file that is full."""
    with pytest.raises(TypeError):
        written([("n", "real")], [SimpleNamespace(real=object())])
    with pytest.raises(AttributeError):
        written([("n", "no_such")], [1])
    with pytest.raises(ZeroDivisionError):
        written([("n", lambda row: row / 0)], [1])

    def full(text):
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        json_rows([("n", "real")], [1], full)
