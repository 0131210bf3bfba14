"""What merging keeps, drops, forgets and names."""

import errno
import random
import re
import resource

import pytest
from kernel_words import debugfs_timeline, free_descriptors, raw_info, raw_merge, refused

from linuxsync import FenceError, SyncFile, Timeline, merge


def members(fence):
    """(timeline, status) of every fence in it, by a FILE_INFO of our own."""
    return [(member.obj_name.decode(), member.status) for member in raw_info(fence.fileno())[1]]


@pytest.fixture
def three(keep):
    """Three timelines, the oldest first."""
    return [keep(Timeline(name=name)) for name in ("a", "b", "c")]


@pytest.mark.parametrize("swapped", [False, True])
def test_of_one_timeline_the_latest_stays(swapped, timeline, keep):
    """Two points of one timeline merge to the later fence itself, whatever the order."""
    early, late = keep(timeline.create_fence(1)), keep(timeline.create_fence(2))
    merged = keep(late.merge(early) if swapped else early.merge(late))
    assert merged.info() == late.info()
    timeline.inc()
    assert not merged.poll()
    timeline.inc()
    assert merged.poll()


def test_latest_is_by_signed_difference(timeline, keep):
    """Across the wrap of the 32-bit value the larger number may be the earlier fence."""
    timeline.inc(2**31 - 1)
    timeline.inc(2**31 - 1)
    before, after = keep(timeline.create_fence(2**32 - 1)), keep(timeline.create_fence(5))
    assert (before.status, after.status) == (0, 0)
    merged = keep(before | after)
    assert merged.name == after.name
    assert merged.name.endswith("-5")


def test_signaled_members_are_left_out(three, keep):
    """What has signaled at the moment of the merge is not in the result; what signals later stays in it."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    three[0].inc()
    merged = keep(a.merge(b, c))
    assert members(merged) == [("b", 0), ("c", 0)]
    three[1].inc()
    assert [status for _, status in members(merged)] == [1, 0]
    again = keep(merged | a)
    assert again.info() == c.info()


@pytest.mark.parametrize("polled", [False, True])
def test_what_was_polled_keeps_its_members(polled, three):
    """A merged fence that is closed goes at once, or, if somebody had polled it, when the last member has signaled."""
    a, b, _ = three

    def left():
        return [bool(debugfs_timeline(name).fences) for name in ("a", "b")]

    with a.create_fence(1) as one, b.create_fence(1) as other, one | other as merged:
        assert not polled or not merged.poll()
        assert left() == [True, True]
    assert left() == [polled, polled]
    b.inc()
    assert left() == [polled, False]
    a.inc()
    assert left() == [False, False]


def test_all_signaled_gives_a_stub(three, keep):
    """Merging what is done gives a fence of no driver, with the latest time stamp of all."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    for timeline in three:
        timeline.inc()
    merged = keep(a.merge(c, b))
    (stub,) = merged.fences
    # Linux 6.17 and later hide the names of signaled fences.
    assert stub.driver_name in ("stub", "detached-driver")
    assert (merged.status, stub.status) == (1, 1)
    assert merged.timestamp_ns == max(fence.timestamp_ns for fence in (a, b, c)) == c.timestamp_ns
    assert merged.poll()


def test_errors_are_forgotten(three, keep):
    """Failed and failed gives signaled; failed and active gives the active one alone."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    three[0].close()
    three[1].close()
    assert (a.status, b.status) == (-errno.ENOENT, -errno.ENOENT)
    both = keep(a | b)
    assert (both.status, both.error, len(both.fences)) == (1, None, 1)
    assert both.timestamp_ns == b.timestamp_ns
    assert keep(a | c).info() == c.info()


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_strict_refuses_to_forget(failed, three, keep, open_files):
    """strict raises the failed input's error, wherever it stands, and leaves no descriptor."""
    fences = [keep(t.create_fence(1)) for t in three]
    three[failed].close()
    before = open_files()
    with refused(errno.ENOENT, FenceError) as caught:
        fences[0].merge(*fences[1:], strict=True)
    assert caught.value.info == fences[failed].info()
    with refused(errno.ENOENT, FenceError):
        merge(fences, strict=True)
    assert open_files() == before
    assert len(keep(merge(fences)).fences) == 2


def test_strict_sees_a_failed_member(three, keep):
    """An input with one failed fence behind an active one counts as failed, though its status is 0."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    pair = keep(a | b)
    three[1].close()
    assert pair.status == 0
    with refused(errno.ENOENT, FenceError):
        c.merge(pair, strict=True)


def test_strict_lets_the_rest_through(three, keep):
    """Active and signaled inputs merge under strict as without it."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    three[0].inc()
    assert members(keep(a.merge(b, c, strict=True))) == [("b", 0), ("c", 0)]
    assert keep(a.merge(a, strict=True)).status == 1


def test_order_is_by_age_of_the_timeline(three, keep):
    """Members come in the order in which their timelines were opened, not in the order of the arguments."""
    fences = [keep(t.create_fence(1)) for t in three]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        first, *rest = (fences[index] for index in order)
        assert [name for name, _ in members(keep(first.merge(*rest)))] == ["a", "b", "c"]


def test_nested_merges_are_flattened(three, keep):
    """A merge of merges has the fences themselves, each context once."""
    a, b, c = (keep(t.create_fence(1)) for t in three)
    later = keep(three[1].create_fence(5))
    nested = keep(keep(a | b) | keep(keep(b | c) | keep(later | a)))
    assert members(nested) == [("a", 0), ("b", 0), ("c", 0)]
    three[0].inc()
    three[1].inc()
    three[2].inc()
    assert [status for _, status in members(nested)] == [1, 0, 1]
    three[1].inc(4)
    assert nested.status == 1


def test_with_itself(timeline, keep):
    """a | a is a, behind a second descriptor that outlives the first."""
    fence = keep(timeline.create_fence(1))
    twice = keep(fence | fence)
    assert twice.info() == fence.info()
    assert twice.fileno() != fence.fileno()
    fence.close()
    timeline.inc()
    assert twice.status == 1


def test_inputs_stay_open_and_unchanged(three, keep):
    """Merging neither closes nor alters what it merges, and the result needs none of it."""
    a, b = (keep(t.create_fence(1)) for t in three[:2])
    before = a.info(), b.info()
    merged = keep(a.merge(b, name="both"))
    assert (a.info(), b.info()) == before
    a.close()
    b.close()
    three[0].inc()
    assert not merged.poll()
    three[1].inc()
    assert merged.poll()


@pytest.mark.parametrize("name", ["x", "frame 12", "n" * 31, "ä" * 15, "ä" * 15 + "x", "\udcff"])
def test_names_reach_the_kernel(name, timeline, keep):
    """Up to 31 bytes of UTF-8, or of anything that came out of os.fsdecode, arrive as they are and come back."""
    fence = keep(timeline.create_fence(1))
    merged = keep(fence.merge(fence, name=name))
    assert raw_info(merged.fileno())[0].name == name.encode("utf-8", "surrogateescape")
    assert merged.name == name
    assert keep(merge([fence], name=name)).name == name
    assert keep(merge([fence, fence, fence], name=name)).name == name


@pytest.mark.parametrize("name", ["n" * 32, "ä" * 16, "a\0b", "\0", "n" * 100_000])
def test_names_that_the_kernel_would_cut(name, timeline, keep, open_files):
    """Longer names and NULs are refused before anything is merged."""
    fence = keep(timeline.create_fence(1))
    before = open_files()
    for attempt in (
        lambda: fence.merge(fence, name=name),
        lambda: fence.merge(fence, fence, name=name),
        lambda: merge([fence], name=name),
        lambda: fence.merge(fence, name=name, strict=True),
    ):
        with pytest.raises(ValueError, match="name"):
            attempt()
    assert open_files() == before


def test_names_are_utf8_or_refused(timeline, keep):
    """A lone surrogate that stands for no byte can't be a name."""
    fence = keep(timeline.create_fence(1))
    with pytest.raises(UnicodeEncodeError):
        fence.merge(fence, name="\ud800")


def test_the_kernel_cuts_at_31_bytes(timeline, keep):
    """Why 32 bytes are refused: the kernel would take them, and cut."""
    fence = keep(timeline.create_fence(1))
    merged = keep(SyncFile(raw_merge(fence.fileno(), fence.fileno(), b"n" * 32)))
    assert merged.name == "n" * 31


def test_generated_names(keep):
    """Without a name the kernel says driver, timeline, context and sequence number, cut to 31 bytes."""
    long, other = keep(Timeline(name="n" * 15)), keep(Timeline(name="b"))
    one, two = keep(long.create_fence(2**31 - 1)), keep(other.create_fence(3))
    full = re.fullmatch(r"sw_sync-n{15}(\d+-\d*)", one.name)
    assert len(one.name) == 31
    assert full[1].split("-")[1] == "2147483647"[: len(full[1].split("-")[1])]
    assert re.fullmatch(r"sw_sync-b\d+-3", two.name)
    assert re.fullmatch(r"dma_fence_array-unbound\d+-1", keep(one | two).name)


def test_sequence_numbers_are_printed_unsigned(timeline, keep):
    """A point beyond 2**31 keeps its 32-bit number in the name."""
    timeline.inc(2**31 - 1)
    assert keep(timeline.create_fence(2**31 + 1)).name.endswith("-2147483649")


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31])
def test_balanced_is_pairwise(count, keep):
    """merge() of many has the same members as merging one after the other, in any order."""
    random.seed(count)
    timelines = [keep(Timeline(name=f"t{index}")) for index in range((count + 1) // 2)]
    fences = [keep(random.choice(timelines).create_fence(random.randint(0, 3))) for _ in range(count)]
    fences[0] = keep(timelines[0].create_fence(2))
    pairwise = fences[0]
    for fence in random.sample(fences, count):
        pairwise = keep(SyncFile(raw_merge(pairwise.fileno(), fence.fileno())))
    balanced, method = keep(merge(iter(fences))), keep(fences[0].merge(*fences[:1], *fences[1:]))
    assert members(balanced) == members(pairwise) == members(method)
    assert balanced.status == 0
    for timeline in timelines:
        timeline.inc(3)
        assert members(balanced) == members(pairwise)
    assert balanced.status == 1


@pytest.mark.parametrize(("count", "needed"), [(1, 1), (2, 1), (3, 2), (4, 3), (16, 5), (100, 7), (1023, 10)])
def test_no_descriptors_left_when_they_run_out(count, needed, three, keep, open_files, many_descriptors):
    """EMFILE in whatever step of a merge leaves everything as it was, and a few descriptors do for very many fences."""
    fences = [keep(three[index % 3].create_fence(1 + index)) for index in range(count)]
    before, limit = open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)
    for free in range(12):
        try:
            with free_descriptors(free):
                merged = merge(fences)
        except OSError as error:
            assert error.errno == errno.EMFILE
            assert open_files() == before
        else:
            assert len(keep(merged).fences) == min(count, 3)
            break
    assert free == needed
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
    merged.close()
    assert open_files() == before


def test_emfile_with_two_inputs(timeline, keep, open_files):
    """The plain merge of two says EMFILE, and works again afterwards."""
    fence = keep(timeline.create_fence(1))
    before = open_files()
    with free_descriptors(0):
        for attempt in (lambda: fence | fence, lambda: fence.merge(fence), fence.dup, lambda: SyncFile.from_fd(fence)):
            with refused(errno.EMFILE):
                attempt()
    assert open_files() == before
    assert keep(fence | fence).status == 0


def test_nothing_to_merge():
    """merge() of nothing is refused: a fence that no fence stands behind does not exist."""
    with pytest.raises(ValueError, match="at least one"):
        merge([])


def test_other_things_than_fences(timeline, keep, open_files):
    """Only SyncFiles can be merged; whatever stands among them is named, before anything is merged."""
    fence = keep(timeline.create_fence(1))
    before = open_files()
    for thing in (None, 1, "fence", fence.fileno(), timeline, object()):
        for attempt in (
            lambda thing=thing: fence.merge(thing),
            lambda thing=thing: fence.merge(fence, thing),
            lambda thing=thing: merge([fence, fence, fence, thing]),
            lambda thing=thing: merge([thing]),
            lambda thing=thing: fence | thing,
            lambda thing=thing: thing | fence,
        ):
            with pytest.raises(TypeError):
                attempt()
    assert open_files() == before


def test_closed_inputs(timeline, keep, open_files):
    """A closed input is a ValueError, in any place."""
    fence, closed = keep(timeline.create_fence(1)), keep(timeline.create_fence(1))
    closed.close()
    before = open_files()
    for attempt in (
        lambda: fence | closed,
        lambda: closed | fence,
        lambda: fence.merge(fence, closed),
        lambda: merge([fence, fence, fence, fence, closed]),
        lambda: merge([closed]),
        lambda: merge([closed, fence], strict=True),
    ):
        with pytest.raises(ValueError, match="closed"):
            attempt()
    assert open_files() == before


def test_subclasses_stay_subclasses(timeline, keep):
    """Merging, duplicating and taking over give objects of the caller's class."""

    class Named(SyncFile):
        pass

    fence = keep(Named(timeline.create_fence(1).detach()))
    made = [fence | fence, fence.merge(fence, fence), merge([fence, fence, fence]), fence.dup(), Named.from_fd(fence)]
    assert [type(keep(one)) for one in made] == [Named] * 5
