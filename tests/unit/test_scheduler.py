"""Laws of the scheduler, held by random runs: rows have one owner and no gap, limits hold, and everybody ends once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.scheduler import Move, Scheduler, StepLimits

LIMITS = StepLimits(rows=4, step_tokens=16, cache_tokens=100)


def rounded_up(rows: int, tokens: int) -> int:
    """As rows are laid out: an even number of them, and each longer than its tokens."""
    return -(-rows // 2) * 2 * -(-tokens // 8) * 8


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine. `contents` stands for the cache: what each row holds, moved and written as the real one is."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS, rounded_up)
        self.contents: dict[int, list[int]] = {}
        self.left: dict[Generation, int] = {}
        self.ended: list[Generation] = []
        self.serial = 0

    @rule(length=st.integers(1, 60), replies=st.integers(1, 40), priority=st.integers(0, 2), alone=st.booleans())
    def submit(self, length: int, replies: int, priority: int, alone: bool) -> None:
        self.serial += 1
        generation = Generation([1000 * self.serial + i for i in range(length)], priority=priority, alone=alone)
        self.left[generation] = replies
        self.scheduler.add(generation)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(list(self.left))))

    @rule(times=st.integers(1, 8))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.one_step()

    def one_step(self) -> None:
        scheduler = self.scheduler
        while (last := scheduler.overflowing()) is not None:
            assert all(one.priority <= last.priority for one in scheduler.running)
            self.move(scheduler.preempt(last))
        before = list(scheduler.running)
        admit_all(scheduler)
        new = [one for one in scheduler.running if one not in before]
        self.contents |= {one.row: [] for one in new if one.row is not None}
        for one in scheduler.running:
            drafts = scheduler.has_room_for_drafts(3) and one.num_missing == 1 and not one.alone
            one.draft = (7,) * (len(one.token_ids) % 4) if drafts else ()
        assert scheduler.longest == max((len(one.token_ids) + len(one.draft) for one in scheduler.running), default=0)
        size = rounded_up(len(scheduler.running), scheduler.longest)
        assert len(scheduler.running) <= 1 or size <= LIMITS.cache_tokens
        assert scheduler.overflowing() is None, "nobody is let in and sent away in one step"
        chunks = scheduler.schedule()
        assert bool(chunks) == bool(scheduler.running)
        assert len({chunk.generation for chunk in chunks}) == len(chunks)
        assert {chunk.generation for chunk in chunks} >= {one for one in scheduler.running if one.num_missing == 1}
        singles = sum(1 + len(one.draft) for one in scheduler.running if one.num_missing == 1)
        alone = any(chunk.generation.alone and chunk.count > 1 for chunk in chunks)
        budget = LIMITS.step_tokens + (singles if alone else 0)
        assert sum(chunk.length for chunk in chunks) <= max(budget, singles + 1)
        for chunk in chunks:
            if chunk.generation.alone:
                self.check_alone(chunk)
        counts = [chunk.count == 1 and chunk.generation.num_missing == 1 for chunk in chunks]
        assert counts == sorted(counts, reverse=True), "single tokens come first"
        for chunk in chunks:
            self.compute(chunk)

    def check_alone(self, chunk: Chunk) -> None:
        """The same pieces however often it was preempted, or it would not be computed the same."""
        prompt_left = chunk.generation.num_prompt - chunk.generation.num_computed
        assert chunk.count == (min(prompt_left, LIMITS.step_tokens) if prompt_left > 0 else 1)
        assert chunk.generation.num_computed % LIMITS.step_tokens == 0 or prompt_left <= 0

    def compute(self, chunk: Chunk) -> None:
        generation = chunk.generation
        assert generation.row is not None
        row = self.contents[generation.row]
        assert row == generation.token_ids[: generation.num_computed], "the row holds what this generation computed"
        row.extend(chunk.token_ids)
        completes, accepted = chunk.completes, len(chunk.draft) // 2
        generation.num_computed += chunk.count
        if not completes:
            return
        generation.token_ids.extend(chunk.draft[:accepted])
        generation.num_computed += accepted
        generation.token_ids.append(1000 * self.serial + 500)
        del row[generation.num_computed :]
        self.left[generation] = max(self.left[generation] - 1 - accepted, 0)
        if not self.left[generation]:
            self.end(generation)

    def end(self, generation: Generation) -> None:
        del self.left[generation]
        self.ended.append(generation)
        self.move(self.scheduler.remove(generation))
        assert self.scheduler.remove(generation) is None

    def move(self, move: Move | None) -> None:
        if move is not None:
            self.contents[move.target] = self.contents.pop(move.source)

    @invariant()
    def rows_have_one_owner_and_no_gap(self) -> None:
        assert [one.row for one in self.scheduler.running] == list(range(len(self.scheduler.running)))
        assert all(one.row is None for one in self.scheduler.waiting)
        assert len(self.scheduler.running) <= LIMITS.rows

    @invariant()
    def nobody_is_lost(self) -> None:
        here = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(map(id, here)) == sorted(map(id, self.left))
        assert len(self.scheduler) == len(here)
        assert len(set(self.ended)) == len(self.ended)

    def teardown(self) -> None:
        for _ in range(20_000):
            if not self.left:
                return
            self.one_step()
        raise AssertionError("Somebody never ends.")


def admit_all(scheduler: Scheduler) -> None:
    """As the engine does, but for shared prefixes."""
    for one in list(scheduler.waiting):
        if not scheduler.has_room_for(one):
            return
        scheduler.admit(one)


TestScheduler = SchedulerMachine.TestCase


def run_to_end(scheduler: Scheduler, generation: Generation) -> int:
    """Steps until a prompt is computed."""
    steps = 0
    while generation.num_missing > 1 or generation.row is None:
        admit_all(scheduler)
        for chunk in scheduler.schedule():
            completes = chunk.completes
            chunk.generation.num_computed += chunk.count
            if completes:
                chunk.generation.token_ids.append(7)
        steps += 1
    return steps


def test_a_long_prompt_does_not_stall_the_others() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=16, cache_tokens=1000))
    talking, reading = Generation([1, 2, 3]), Generation(list(range(200)))
    scheduler.add(talking)
    run_to_end(scheduler, talking)
    scheduler.add(reading)
    before = len(talking.token_ids)
    steps = run_to_end(scheduler, reading)
    assert steps == -(-200 // 15)
    assert len(talking.token_ids) - before == steps


def test_a_sequence_longer_than_the_cache_runs_alone() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=64, cache_tokens=50))
    first, long, last = Generation([1] * 10), Generation([1] * 80), Generation([1] * 10)
    for one in (first, long, last):
        scheduler.add(one)
    scheduler.admit(first)
    assert not scheduler.has_room_for(long), "there is no room beside the first"
    scheduler.remove(first)
    assert scheduler.has_room_for(long)
    scheduler.admit(long)
    assert scheduler.overflowing() is None, "alone it may go on"
    assert not scheduler.has_room_for(last)


def test_one_long_row_makes_all_rows_long() -> None:
    """They are one block of memory, so that a sum of lengths would promise too much."""
    scheduler = Scheduler(StepLimits(rows=8, step_tokens=64, cache_tokens=400))
    long, short = Generation([1] * 180), [Generation([1] * 5) for _ in range(3)]
    for one in (long, *short):
        scheduler.add(one)
    admit_all(scheduler)
    assert scheduler.running == [long, short[0]]


def test_who_came_last_is_preempted_and_comes_back_first() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=64, cache_tokens=44))
    early, late, waiting = Generation([1] * 15), Generation([1] * 15), Generation([1] * 15)
    for one in (early, late, waiting):
        scheduler.add(one)
    scheduler.admit(early)
    scheduler.admit(late)
    early.token_ids.extend([1] * 9)
    assert scheduler.overflowing() is late
    late.num_computed = 15
    scheduler.preempt(late)
    assert (late.row, late.num_computed) == (None, 0)
    assert scheduler.waiting == [late, waiting]
    assert scheduler.overflowing() is None


@given(st.permutations([0, 0, 1, 1, 2]))
def test_priority_then_arrival(priorities: list[int]) -> None:
    scheduler = Scheduler(LIMITS)
    arrived = [Generation([1], priority=priority) for priority in priorities]
    for one in arrived:
        scheduler.add(one)
    assert scheduler.waiting == sorted(arrived, key=lambda one: one.priority)
