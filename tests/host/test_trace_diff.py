"""linuxsync trace diff: what is called slower is, by more than chance and by more than a little."""

import csv
import io
import random
from itertools import combinations
from math import comb
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import made
from rich.cells import cell_len
from trace_words import MS, holding, line, recording, wait

from linuxsync.trace import Chosen, Spread, Thread, Trace, changes, compare
from linuxsync.trace.compare import mann_whitney
from tests.command_words import linuxsync

FEW = st.lists(st.integers(0, 6), min_size=1, max_size=6)
MANY = st.lists(st.integers(-5, 40), min_size=1, max_size=60)


def naive(a, b):
    """U, by its definition."""
    return sum(1.0 if y > x else 0.5 if y == x else 0.0 for x in a for y in b)


@settings(deadline=None)
@given(MANY, MANY)
def test_u(a, b):
    """As defined; and from the other side it is the rest, and as likely."""
    u, probability = mann_whitney(sorted(a), sorted(b))
    assert u == naive(a, b)
    other, same = mann_whitney(sorted(b), sorted(a))
    assert u + other == len(a) * len(b)
    assert probability == pytest.approx(same)
    assert 0 <= probability <= 1


@settings(deadline=None)
@given(FEW, FEW)
def test_its_variance(a, b):
    """The normal distribution that is taken has the mean and the variance of all ways to deal the same values."""
    pool = sorted([*a, *b])
    found = []
    for chosen in combinations(range(len(pool)), len(a)):
        left = [pool[at] for at in range(len(pool)) if at not in chosen]
        found.append(naive([pool[at] for at in chosen], left))
    assert len(found) == comb(len(pool), len(a))
    mean = sum(found) / len(found)
    assert mean == pytest.approx(len(a) * len(b) / 2)
    variance = sum((one - mean) ** 2 for one in found) / len(found)
    u, probability = mann_whitney(sorted(a), sorted(b))
    away = max(0.0, abs(u - mean) - 0.5)
    if variance > 1e-9:
        expected = 2 * (1 - NormalDist(0, variance**0.5).cdf(away))
        assert probability == pytest.approx(min(1.0, expected), abs=1e-9)
    else:
        assert probability == 1.0


def test_spread():
    """By nearest ranks."""
    assert Spread.of([10, 20, 30, 40, 50]) == Spread(5, 30, 10)
    assert Spread.of([7]) == Spread(1, 7, 0)
    assert Spread.of([]) == Spread(0)


def times(middle, count=100, seed=1, width=0.1):
    chance = random.Random(seed)
    return [round(middle * chance.uniform(1 - width, 1 + width)) for _ in range(count)]


def verdict(a, b):
    """Of two lists of times."""
    (one,) = compare(recording(line("a", "b", a)), recording(line("a", "b", b, context=55)))
    assert (one.driver, one.timeline, one.since) == ("a", "b", "init")
    return one.verdict


def test_verdicts():
    """Slower and faster are mirror images; 4 % are the same however sure they are, and chance is no difference."""
    assert verdict(times(4 * MS), times(5 * MS, seed=2)) == "slower"
    assert verdict(times(5 * MS), times(4 * MS, seed=2)) == "faster"
    assert verdict(times(4 * MS, 10_000, width=0.01), times(4.16 * MS, 10_000, 2, 0.01)) == "same"
    assert verdict(times(4 * MS, 10_000, width=0.01), times(4.24 * MS, 10_000, 2, 0.01)) == "slower"
    assert verdict(times(4 * MS, 12, width=0.9), times(4.4 * MS, 12, 2, 0.9)) == "same"
    assert verdict(times(4 * MS, 7), times(40 * MS, 100)) == "too few"
    assert verdict(times(4 * MS, 8), times(40 * MS, 8)) == "slower"
    assert verdict([5] * 20, [5] * 20) == "same"
    assert verdict([0] * 20, [5] * 20) == "slower"
    assert verdict([-5] * 20, [-20] * 20) == "faster"


def test_chance_is_seldom_taken_for_a_difference():
    """Of 300 pairs of recordings that differ by chance alone, in one of a hundred or fewer."""
    found = [verdict(times(MS, 30, 2 * seed, 0.5), times(MS, 30, 2 * seed + 1, 0.5)) for seed in range(300)]
    assert found.count("same") >= 300 - 9


def test_pooled():
    """All timelines of a driver that have one name, and waits of each once."""
    waiter = Thread(1, "waiter", 1)
    a = recording(line("a", "b", [MS] * 5, 1), line("a", "b", [MS] * 5, 2), line("c", "gone", [MS]))
    b = recording(line("a", "b", [2 * MS] * 20, 3), line("c", "new", [None]))
    for at in range(10):
        wait(a, waiter, at * MS, (at + 1) * MS, a.fences[0], a.fences[7])
        wait(b, waiter, at * MS, (at + 3) * MS if at else None, b.fences[at])
    init, waits = compare(a, b)
    assert (init.since, init.a.count, init.b.count, init.ratio, init.verdict) == ("init", 10, 20, 2.0, "slower")
    assert (waits.since, waits.a, waits.b.count, waits.verdict) == ("wait", Spread(10, MS, 0), 10, "slower")
    found = {(one.driver, one.timeline): one for one in changes(a, b)}
    assert found["a", "b"].count == (10, 20)
    assert (found["c", "gone"].count, found["c", "gone"].never) == ((1, None), (0, None))
    assert (found["c", "new"].count, found["c", "new"].never) == ((None, 1), (None, 1))
    assert compare(Chosen(a, drivers=["c"]), b) == []


@pytest.fixture
def said(monkeypatch):
    """The difference of two recordings, with options."""

    def diff(a, b, *options):
        holding(monkeypatch, A=a, B=b)
        return linuxsync("trace", "diff", "A", "B", *options)

    return diff


def slowed(trace):
    """The frames of a made recording, with half as much again of time."""
    for fence in trace.timelines[0].fences:
        if fence.signal_ns is not None:
            fence.signal_ns += (fence.signal_ns - fence.init_ns) // 2
    return trace


def test_table_json_and_csv(said):
    """The same, three times; what is slower comes first."""
    a, b = made(200), slowed(made(200, 2))
    text, document = said(a, b), said(a, b, "--json").json
    rows = [*csv.DictReader(io.StringIO(said(a, b, "--csv").out))]
    assert (text.status, text.err) == (0, "")
    assert {one["timeline"] for one in document["comparisons"][:2]} == {"frames"}
    assert [one["verdict"] for one in document["comparisons"]] == ["slower"] * 2 + ["same"] * 5
    lines = text.out.splitlines()
    assert len(rows) == len(document["comparisons"]) == lines.index("") - 1
    for one, row, shown in zip(document["comparisons"], rows, lines[1:], strict=False):
        assert (row["driver"], row["timeline"], row["since"]) == (one["driver"], one["timeline"], one["since"])
        for which in "ab":
            assert {name: int(row[f"{name}_{which}"]) for name in ("count", "p50", "spread")} == one[which]
        assert float(row["ratio"]) == one["ratio"]
        assert float(row["chance"]) == one["chance"]
        assert row["verdict"] == one["verdict"] == shown.split()[-1]
        assert f"  {one['ratio']:.2f}  " in shown
    assert "sw_sync          frames       init    4.53±0.27 ms" in text.out
    assert text.out.splitlines()[-1] == "2 slower, 5 same"
    assert document["timelines"][0] == {
        "driver": "sw_sync",
        "timeline": "frames",
        "in": "both",
        "count": [200, 200],
        "never": [1, 1],
        "errors": [3, 3],
    }
    assert max(map(cell_len, lines)) <= 80


def test_fail_if_slower(said):
    """1 if something is, and only where that was asked for."""
    assert said(made(100), slowed(made(100)), "--fail-if-slower").status == 1
    assert said(made(100), slowed(made(100)), "--fail-if-slower", "--csv").status == 1
    assert said(made(100), slowed(made(100))).status == 0
    assert said(slowed(made(100)), made(100), "--fail-if-slower").status == 0
    assert said(made(100), slowed(made(100)), "--fail-if-slower", "--driver", "vkms").status == 0


def test_warnings(said):
    """Lost events and damage of either; fences that never signaled are no slower ones, but are told."""
    a, b = made(100), made(100)
    b.lost, a.damage = 5, ["cut off"]
    for fence in b.timelines[0].fences[:30]:
        fence.signal_ns = None
    done = said(a, b)
    assert done.status == 0
    assert "linuxsync: A: damaged: cut off\n" in done.err
    assert "linuxsync: B: 5 events lost: " in done.err
    assert "sw_sync frames: 30 more never signaled, and have no time" in done.out
    assert said(a, b, "--json").json["unseen"][0]["count"] == 5


def test_selection(said):
    """A name that one of them has is one; one that neither has is an error."""
    a, b = recording(line("a", "old", [1])), recording(line("a", "new", [1]))
    done = said(a, b, "--timeline", "new")
    assert (done.status, done.out.splitlines()[-1]) == (0, "nothing to compare")
    assert [one["in"] for one in said(a, b, "--json").json["timelines"]] == ["A", "B"]
    wrong = said(a, b, "--timeline", "nwe")
    assert (wrong.status, wrong.out) == (2, "")
    assert "in both recordings: no timeline is 'nwe'; there are 'a new'" in wrong.err


def test_nothing(said):
    """Recordings without a fence."""
    for options in ([], ["--json"], ["--csv"], ["-r"]):
        assert said(Trace(0, 0), Trace(0, 0), *options, "--fail-if-slower").status == 0
    assert said(Trace(0, 0), Trace(0, 0)).out == "nothing to compare\n"


def test_hostile_names(said):
    """Escaped for people, exact in JSON."""
    name = 'a,\n"\x1b[31m\udcff'
    a = recording(line(name, name, [1] * 9))
    b = recording(line(name, name, [5] * 8 + [None]))
    for options in ([], ["--csv"], ["-r"]):
        out = said(a, b, *options).out
        assert all(one.isprintable() for one in out.replace("\n", ""))
        out.encode()
    assert len(said(a, b, "--csv").out.splitlines()) == 2
    (one,) = said(a, b, "--json").json["comparisons"]
    assert (one["driver"], one["verdict"]) == (name, "slower")


def test_help():
    """It says what slower means."""
    out = " ".join(linuxsync("trace", "diff", "--help").out.split())
    assert "the median has grown by 5 % or more" in out
    assert "Mann-Whitney" in out
