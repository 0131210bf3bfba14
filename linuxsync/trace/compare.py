"""What is slower in one recording than in another, and what merely looks so by chance."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import erfc, sqrt
from typing import Literal

from .choice import Chosen
from .model import Trace
from .statistics import Since, lasted, nearest_rank

__all__ = ["FEWEST", "Change", "Comparison", "Spread", "changes", "compare", "mann_whitney"]

Verdict = Literal["slower", "faster", "same", "too few"]

FEWEST = 8  # times of each, from which on the normal distribution is near enough
CHANCE = 0.01
NOTABLE_PERCENT = 5


@dataclass(frozen=True, slots=True)
class Spread:
    """Where times lie.

    Attributes:
        count: how many.
        p50_ns: the median, by nearest rank; None if there are none.
        spread_ns: half the distance of the quartiles: a half of all are about that near to the median.
    """

    count: int
    p50_ns: int | None = None
    spread_ns: int | None = None

    @classmethod
    def of(cls, times: Sequence[int]) -> Spread:
        """Return where these sorted times (ns) lie."""
        if not times:
            return cls(0)
        return cls(len(times), nearest_rank(times, 50), (nearest_rank(times, 75) - nearest_rank(times, 25)) // 2)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How long the same took in two recordings.

    Attributes:
        driver, timeline: of which fences; all timelines of a driver that have one name are taken together.
        since: what: "init" or "enable" until the signal, or each "wait".
        a, b: how long in each.
        ratio: b's median in a's; None if a's is 0 or one of them has none.
        probability: how likely such a difference is by chance, by the Mann-Whitney U test; None with too few times.
        verdict: "slower": b's median is at least 5 % above a's, and that is less than 1 % likely by chance; "faster"
            likewise; "too few" times in one of them, less than 8; else "same", which also is what can't be told.
    """

    driver: str
    timeline: str
    since: Since
    a: Spread
    b: Spread
    ratio: float | None
    probability: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Change:
    """How many fences two recordings have of a driver and a name of timelines; None: the recording has no such.

    Attributes:
        driver, timeline: of which fences.
        count: how many there are, in each recording.
        never: how many of them have not signaled.
        errors: how many signaled with an error.
    """

    driver: str
    timeline: str
    count: tuple[int | None, int | None]
    never: tuple[int | None, int | None]
    errors: tuple[int | None, int | None]


@dataclass(slots=True)
class Pool:
    """What all timelines of one driver and name have, in one recording."""

    count: int = 0
    never: int = 0
    errors: int = 0
    times: dict[Since, list[int]] = field(default_factory=lambda: {"init": [], "enable": [], "wait": []})


Pools = dict[tuple[str, str], Pool]


def compare(a: Trace | Chosen, b: Trace | Chosen) -> list[Comparison]:
    """Return what took how long in ``a`` and in ``b``, for each driver and name of timelines that both have."""
    first, second = pools(a), pools(b)
    return [
        compared(*key, since, sorted(pool.times[since]), sorted(second[key].times[since]))
        for key, pool in first.items()
        if key in second
        for since in pool.times
        if pool.times[since] or second[key].times[since]
    ]


def changes(a: Trace | Chosen, b: Trace | Chosen) -> list[Change]:
    """Return how many fences ``a`` and ``b`` have, for each driver and name of timelines that one of them has."""
    first, second = pools(a), pools(b)
    return [
        Change(
            *key,
            both(first, second, key, lambda pool: pool.count),
            both(first, second, key, lambda pool: pool.never),
            both(first, second, key, lambda pool: pool.errors),
        )
        for key in dict.fromkeys([*first, *second])
    ]


def both(
    first: Pools, second: Pools, key: tuple[str, str], count: Callable[[Pool], int]
) -> tuple[int | None, int | None]:
    """A number of each recording; None where it has no such timeline."""
    return (count(first[key]) if key in first else None, count(second[key]) if key in second else None)


def pools(one: Trace | Chosen) -> Pools:
    """The times of each driver and name."""
    chosen = one if isinstance(one, Chosen) else Chosen(one)
    found: Pools = {}
    for timeline in chosen.timelines:
        pool = found.setdefault((timeline.driver, timeline.name), Pool())
        for fence in chosen.fences_of(timeline):
            pool.count += 1
            pool.never += fence.signal_ns is None
            pool.errors += fence.error is not None
            if fence.latency_ns is not None:
                pool.times["init"].append(fence.latency_ns)
            if fence.enabled_latency_ns is not None:
                pool.times["enable"].append(fence.enabled_latency_ns)
    for wait, timelines in chosen.waits:
        for key in {(timeline.driver, timeline.name) for timeline in timelines}:
            found[key].times["wait"].append(lasted(wait, chosen.trace))
    return {key: pool for key, pool in found.items() if pool.count or pool.times["wait"]}


def compared(driver: str, timeline: str, since: Since, a: Sequence[int], b: Sequence[int]) -> Comparison:
    """What sorted times come to."""
    before, after = Spread.of(a), Spread.of(b)
    ratio = after.p50_ns / before.p50_ns if before.p50_ns and after.p50_ns is not None else None
    if len(a) < FEWEST or len(b) < FEWEST or before.p50_ns is None or after.p50_ns is None:
        return Comparison(driver, timeline, since, before, after, ratio, None, "too few")
    u, probability = mann_whitney(a, b)
    verdict: Verdict = "same"
    if probability < CHANCE:
        if above(after.p50_ns, before.p50_ns) and 2 * u > len(a) * len(b):
            verdict = "slower"
        elif above(before.p50_ns, after.p50_ns) and 2 * u < len(a) * len(b):
            verdict = "faster"
    return Comparison(driver, timeline, since, before, after, ratio, probability, verdict)


def above(one: int, other: int) -> bool:
    """Whether a time is notably longer than another."""
    return one > other and 100 * (one - other) >= NOTABLE_PERCENT * abs(other)


def mann_whitney(a: Sequence[int], b: Sequence[int]) -> tuple[float, float]:
    """Return U, and how likely it is to be that far from its mean, if ``a`` and ``b`` are of one distribution.

    U is how many pairs of one of ``a`` and one of ``b`` there are in which b's is the greater, equal ones counted half.
    It is taken as normally distributed, with its variance less for ties, and a correction of a half for its steps.

    Args:
        a, b: sorted, neither empty.
    """
    n, m = len(a), len(b)
    twice = sum(bisect_left(a, value) + bisect_right(a, value) for value in b)
    ties = sum(size**3 - size for size in sizes(sorted([*a, *b])))
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    away = max(0.0, abs(twice - n * m) / 2 - 0.5)
    # Where all are equal there is no variance, and nothing to tell.
    return twice / 2, erfc(away / sqrt(2 * variance)) if variance > 0 else 1.0


def sizes(values: Iterable[int]) -> Iterator[int]:
    """How many equal ones there are of each, in sorted values."""
    return (sum(1 for _ in group) for _, group in groupby(values))
