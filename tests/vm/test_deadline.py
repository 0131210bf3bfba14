"""Deadlines of fences (63ee44540205, 70e67aaec2f4). Where the kernel has none every call must say ENOTTY."""

import errno

import pytest
from kernel_words import GET_DEADLINE, GetDeadline, answer, has_deadlines, refused

from linuxsync import Timeline


def earliest(timeline, fence):
    """The deadline as the kernel tells it to a call of our own."""
    data = GetDeadline(fence_fd=fence.fileno())
    result = answer(timeline.fileno(), GET_DEADLINE, data)
    return data.deadline_ns if result == 0 else result


def set_all(fence, *deadlines):
    """Set each, or see that the kernel has no deadlines; says whether it has."""
    known = has_deadlines(fence.fileno())
    for deadline in deadlines:
        if known:
            fence.set_deadline(deadline)
        else:
            with refused(errno.ENOTTY):
                fence.set_deadline(deadline)
    return known


@pytest.mark.parametrize(
    ("deadlines", "kept"),
    [
        ([5], 5),
        ([0], 0),
        ([7, 5], 5),
        ([5, 7], 5),
        ([2**63 - 1], 2**63 - 1),
        ([5, 0, 9], 0),
        ([2**64 - 1, 5], 2**64 - 1),
        ([5, 2**64 - 1], 2**64 - 1),
        ([2**64 - 1, 2**63], 2**63),
        ([2**63, 2**64 - 1, 0], 2**63),
    ],
)
def test_the_earliest_deadline_stays(deadlines, kept, timeline, keep):
    """By signed comparison: 2**63 and more are before all others."""
    fence = keep(timeline.create_fence(1))
    if set_all(fence, *deadlines):
        assert timeline.deadline_ns(fence) == earliest(timeline, fence) == kept
    else:
        with refused(errno.ENOTTY):
            timeline.deadline_ns(fence)


def test_no_deadline_was_set(timeline, keep):
    """ENOENT while nobody has set one, and for a fence that had signaled before."""
    fence = keep(timeline.create_fence(1))
    number = errno.ENOENT if has_deadlines(fence.fileno()) else errno.ENOTTY
    with refused(number):
        timeline.deadline_ns(fence)
    timeline.inc()
    set_all(fence, 5)
    with refused(number):
        timeline.deadline_ns(fence)


def test_a_deadline_stays_after_the_signal(timeline, keep):
    """What was set in time can be read later, through any timeline, and does not signal anything."""
    fence, other = keep(timeline.create_fence(1)), keep(Timeline())
    known = set_all(fence, 123)
    assert fence.status == 0
    timeline.inc()
    assert [earliest(t, fence) for t in (timeline, other)] == [123 if known else -errno.ENOTTY] * 2
    assert (not known) or other.deadline_ns(fence) == 123


def test_a_deadline_reaches_every_member(keep):
    """Setting it on a merge sets it on each fence in it; the merge itself has none to read."""
    timelines = [keep(Timeline()) for _ in range(3)]
    fences = [keep(t.create_fence(1)) for t in timelines]
    whole = keep(fences[0].merge(*fences[1:]))
    timelines[2].inc()
    known = set_all(whole, 77)
    expected = [77, 77, -errno.ENOENT] if known else [-errno.ENOTTY] * 3
    assert [earliest(t, f) for t, f in zip(timelines, fences, strict=True)] == expected
    with refused(errno.EINVAL if known else errno.ENOTTY):
        timelines[0].deadline_ns(whole)


def test_equal_pending_values_share_the_deadline(timeline, keep):
    """One kernel fence behind two descriptors has one deadline."""
    one, two = keep(timeline.create_fence(3)), keep(timeline.create_fence(3))
    known = set_all(one, 9)
    assert earliest(timeline, two) == (9 if known else -errno.ENOTTY)


def test_a_stub_has_no_deadline(timeline, keep):
    """The fence that stands for "all done" is not sw_sync's: setting passes, reading is EINVAL."""
    done = keep(timeline.create_fence(0))
    stub = keep(done | done)
    known = set_all(stub, 5)
    with refused(errno.EINVAL if known else errno.ENOTTY):
        timeline.deadline_ns(stub)
