"""Two thousand random steps, and small ones that hypothesis thinks of, against a model of fences in plain Python."""

import errno
import random
from contextlib import ExitStack
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_words import debugfs_timelines, raw_info, raw_merge

from linuxsync import SyncFile, Timeline, merge

SEED = 20160428
STEPS = 2000


def signed(number):
    """The C int with the same low 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


@dataclass(eq=False)
class Point:
    """A dma_fence of a timeline."""

    context: int
    value: int
    status: int = 0


@dataclass(eq=False)
class Stub:
    """The fence of no driver that stands for "all done"."""

    timestamp_ns: int
    status: int = 1


@dataclass
class Model:
    """A sw_sync timeline: the value and the points ahead, by value."""

    context: int
    value: int = 0
    ahead: dict = field(default_factory=dict)

    def create(self, value):
        if signed(value - self.value) <= 0:
            return Point(self.context, value, 1)
        return self.ahead.setdefault(value, Point(self.context, value))

    def inc(self, count):
        while count:
            step = min(count, 2**31 - 1)
            self.value = signed(self.value + step)
            count -= step
            for value in [value for value in self.ahead if signed(value - self.value) <= 0]:
                self.ahead.pop(value).status = 1

    def close(self):
        for point in self.ahead.values():
            point.status = -errno.ENOENT
        self.ahead = {}

    def forget(self, alive):
        """Points that no sync_file holds any more do not exist: a later one of the same value is another."""
        self.ahead = {value: point for value, point in self.ahead.items() if point in alive}


def merged(*inputs):
    """What a merge holds: the latest active point of every context, by context; a Stub if nothing is active."""
    latest = {}
    for point in (point for members, _ in inputs for point in members if point.status == 0):
        other = latest.setdefault(point.context, point)
        if signed(point.value - other.value) > 0:
            latest[point.context] = point
    if latest:
        return [latest[context] for context in sorted(latest)]
    return [Stub(max(member.timestamp_ns for _, fence in inputs for member in fence.fences))]


def status_of(members):
    """FILE_INFO's summary: the first that is not 1."""
    return next((member.status for member in members if member.status != 1), 1)


def agree(members, fence):
    """Assert that the kernel and linuxsync see what the model sees."""
    info, (raw, raw_members) = fence.info(), raw_info(fence.fileno())
    assert info.status == fence.status == raw.status == status_of(members)
    assert [m.status for m in info.fences] == [m.status for m in raw_members] == [m.status for m in members]
    for member, seen in zip(members, info.fences, strict=True):
        assert (seen.timestamp_ns == 0) == (member.status == 0)
        if isinstance(member, Stub):
            assert seen.timestamp_ns == member.timestamp_ns
        elif member.status == 0:  # from Linux 6.17 on a signaled fence has lost its name
            assert (seen.driver_name, seen.obj_name) == ("sw_sync", f"t{member.context}")
            if len(members) == 1:
                assert info.name.endswith(f"-{member.value}")
    assert fence.poll() == all(member.status != 0 for member in members)


def test_two_thousand_random_steps():
    """Create, step, merge two or many, duplicate and close at random: every sync_file is what the model says."""
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    timelines, files, opened = [], [], 0
    with ExitStack() as stack:
        stack.callback(lambda: [owner.close() for _, owner in timelines + files])
        for step in range(STEPS):
            action = dice.choices(
                ["open", "fence", "inc", "merge", "many", "dup", "close file", "close timeline"],
                [2, 25, 15, 20, 4, 3, 20, 1],
            )[0]
            if action == "open" or not timelines:
                if len(timelines) < 12:
                    timelines.append((Model(opened), Timeline(name=f"t{opened}")))
                    opened += 1
                    first = dice.choice([0, 0, 5, 2**31 - 3, 2**31, 2**32 - 3])
                    timelines[-1][0].inc(first)
                    timelines[-1][1].inc(first)
            elif action == "fence" or len(files) < 3:
                model, timeline = dice.choice(timelines)
                value = (model.value + dice.choice([-1, 0, 1, 1, 2, 3, 4, 5, 8, 2**31 - 1, 2**31])) % 2**32
                files.append(([model.create(value)], timeline.create_fence(value)))
            elif action == "inc":
                model, timeline = dice.choice(timelines)
                count = dice.choice(
                    [0, 1, 1, 2, 3, 2**31 - 1, 2**31 + 2, 2**32 - 1] if step % 20 == 0 else [0, 1, 1, 2]
                )
                model.inc(count)
                timeline.inc(count)
                assert timeline.value == model.value
            elif action == "merge":
                one, two = dice.choice(files), dice.choice(files)
                files.append((merged(one, two), one[1] | two[1]))
            elif action == "many":
                inputs = dice.choices(files, k=dice.randint(1, 20))
                files.append((merged(*inputs), merge([fence for _, fence in inputs], name=f"step {step}")))
                assert files[-1][1].name == f"step {step}"
                files[-1][1].close()
                files[-1] = (merged(*inputs), merge([fence for _, fence in inputs]))
            elif action == "dup":
                members, fence = dice.choice(files)
                files.append((members, fence.dup()))
            elif action == "close file" and len(files) > 3:
                files.pop(dice.randrange(len(files)))[1].close()
            elif action == "close timeline" and len(timelines) > 3:
                model, timeline = timelines.pop(dice.randrange(len(timelines)))
                model.close()
                timeline.close()
            alive = {member for members, _ in files for member in members}
            for model, _ in timelines:
                model.forget(alive)
            for members, fence in files if step % 100 == 0 else dice.sample(files, min(2, len(files))):
                agree(members, fence)
            if step % 50 == 0:
                listed = {one.name: one for one in debugfs_timelines()}
                for model, _ in timelines:
                    seen = listed[f"t{model.context}"]
                    assert seen.value == model.value
                    assert sorted(value for _, value in seen.fences) == sorted(model.ahead)
        for members, fence in files:
            agree(members, fence)
        assert opened > 12
    assert debugfs_timelines() == []


CALM = settings(deadline=None, derandomize=True, database=None, max_examples=30)
points = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=12)


def facts(fence):
    """What does not depend on how a merge came about: not the name of an array, which counts contexts."""
    return [(member.obj_name, member.status) for member in fence.fences]


@given(points, st.randoms(use_true_random=False))
@CALM
def test_the_order_of_merging_does_not_matter(wanted, dice):
    """Any shuffle, one by one or balanced, gives the same fences, which become ready by the same steps."""
    with ExitStack() as stack:
        keep = stack.enter_context
        timelines = [keep(Timeline(name=f"t{index}")) for index in range(5)]
        fences = [keep(timelines[index].create_fence(value)) for index, value in wanted]
        shuffled = dice.sample(fences, len(fences))
        chain = shuffled[0]
        for fence in shuffled[1:]:
            chain = keep(SyncFile(raw_merge(fence.fileno(), chain.fileno())))
        balanced = keep(merge(fences))
        ends = [max((value for at, value in wanted if at == index), default=0) for index in range(5)]
        for index in dice.sample(range(5), 5):
            for _ in range(ends[index]):
                assert not balanced.poll()
                assert facts(chain) == facts(balanced) or len(fences) == 1
                timelines[index].inc()
        assert balanced.status == chain.status == 1


@given(st.lists(st.integers(0, 2**32 - 1), max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
@CALM
def test_any_values_and_any_steps(values, first, second):
    """Over all of u32 the timeline does what the model does."""
    model = Model(0)
    with ExitStack() as stack:
        timeline = stack.enter_context(Timeline(name="t0"))
        pairs = []
        for count in (first, second):
            pairs += [(model.create(value), stack.enter_context(timeline.create_fence(value))) for value in values]
            model.inc(count)
            timeline.inc(count)
            assert timeline.value == model.value
            for point, fence in pairs:
                agree([point], fence)
