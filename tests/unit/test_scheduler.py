"""Scheduler invariants by random runs: rows without gaps, limits, no loss."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bot.generation.engine.generation import Chunk, Generation
from bot.generation.engine.scheduler import Move, Scheduler, StepLimits

LIMITS = StepLimits(rows=4, step_tokens=16, cache_tokens=100)


def rounded_up(rows: int, tokens: int) -> int:
    """Return the cache size of an even number of rows, each rounded up to 8 tokens."""
    return -(-rows // 2) * 2 * -(-tokens // 8) * 8


class SchedulerMachine(RuleBasedStateMachine):
    """Random engine runs. `contents` models the cache: the tokens of each row, moved and written as by the engine."""

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
            assert all(running.priority <= last.priority for running in scheduler.running)
            self.move(scheduler.preempt(last))
        before = list(scheduler.running)
        admit_all(scheduler)
        admitted = [running for running in scheduler.running if running not in before]
        self.contents |= {running.row: [] for running in admitted if running.row is not None}
        for running in scheduler.running:
            drafts = scheduler.has_room_for_drafts(3) and running.num_missing == 1 and not running.alone
            running.draft = (7,) * (len(running.token_ids) % 4) if drafts else ()
        lengths = [len(running.token_ids) + len(running.draft) for running in scheduler.running]
        assert scheduler.longest == max(lengths, default=0)
        size = rounded_up(len(scheduler.running), scheduler.longest)
        assert len(scheduler.running) <= 1 or size <= LIMITS.cache_tokens
        assert scheduler.overflowing() is None, "no generation is admitted and preempted in one step"
        chunks = scheduler.schedule()
        assert bool(chunks) == bool(scheduler.running)
        assert len({chunk.generation for chunk in chunks}) == len(chunks)
        decoding = [running for running in scheduler.running if running.num_missing == 1]
        assert {chunk.generation for chunk in chunks} >= set(decoding)
        decoded = sum(1 + len(running.draft) for running in decoding)
        alone = any(chunk.generation.alone and chunk.count > 1 for chunk in chunks)
        budget = LIMITS.step_tokens + (decoded if alone else 0)
        assert sum(chunk.length for chunk in chunks) <= max(budget, decoded + 1)
        for chunk in chunks:
            if chunk.generation.alone:
                self.check_alone(chunk)
        counts = [chunk.count == 1 and chunk.generation.num_missing == 1 for chunk in chunks]
        assert counts == sorted(counts, reverse=True), "decode comes before prefill"
        for chunk in chunks:
            self.compute(chunk)

    def check_alone(self, chunk: Chunk) -> None:
        """Check that the pieces are the same however often it was preempted; otherwise the results would differ."""
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
        assert [running.row for running in self.scheduler.running] == list(range(len(self.scheduler.running)))
        assert all(waiting.row is None for waiting in self.scheduler.waiting)
        assert len(self.scheduler.running) <= LIMITS.rows

    @invariant()
    def no_generation_is_lost(self) -> None:
        present = [*self.scheduler.running, *self.scheduler.waiting]
        assert sorted(map(id, present)) == sorted(map(id, self.left))
        assert len(self.scheduler) == len(present)
        assert len(set(self.ended)) == len(self.ended)

    def teardown(self) -> None:
        for _ in range(20_000):
            if not self.left:
                return
            self.one_step()
        raise AssertionError("A generation never ends.")


def admit_all(scheduler: Scheduler) -> None:
    """Admit as the engine does, without shared prefixes."""
    for generation in list(scheduler.waiting):
        if not scheduler.has_room_for(generation):
            return
        scheduler.admit(generation)


TestScheduler = SchedulerMachine.TestCase


def run_to_end(scheduler: Scheduler, generation: Generation) -> int:
    """Step until a prompt is computed; return the number of steps."""
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


def test_a_long_prefill_does_not_stall_decoding() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=16, cache_tokens=1000))
    talking, reading = Generation([1, 2, 3]), Generation(list(range(200)))
    scheduler.add(talking)
    run_to_end(scheduler, talking)
    scheduler.add(reading)
    before = len(talking.token_ids)
    steps = run_to_end(scheduler, reading)
    assert steps == -(-200 // 15)
    assert len(talking.token_ids) - before == steps


def test_a_generation_longer_than_the_cache_runs_alone() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=64, cache_tokens=50))
    first, long, last = Generation([1] * 10), Generation([1] * 80), Generation([1] * 10)
    for generation in (first, long, last):
        scheduler.add(generation)
    scheduler.admit(first)
    assert not scheduler.has_room_for(long), "there is no room beside the first"
    scheduler.remove(first)
    assert scheduler.has_room_for(long)
    scheduler.admit(long)
    assert scheduler.overflowing() is None, "alone it may go on"
    assert not scheduler.has_room_for(last)


def test_one_long_row_makes_all_rows_long() -> None:
    """Rows are one block of memory, so that the sum of their lengths is less than they take."""
    scheduler = Scheduler(StepLimits(rows=8, step_tokens=64, cache_tokens=400))
    long, short = Generation([1] * 180), [Generation([1] * 5) for _ in range(3)]
    for generation in (long, *short):
        scheduler.add(generation)
    admit_all(scheduler)
    assert scheduler.running == [long, short[0]]


def test_the_last_admitted_is_preempted_and_returns_first() -> None:
    scheduler = Scheduler(StepLimits(rows=4, step_tokens=64, cache_tokens=44))
    early, late, waiting = Generation([1] * 15), Generation([1] * 15), Generation([1] * 15)
    for generation in (early, late, waiting):
        scheduler.add(generation)
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
def test_the_queue_is_by_priority_then_arrival(priorities: list[int]) -> None:
    scheduler = Scheduler(LIMITS)
    arrived = [Generation([1], priority=priority) for priority in priorities]
    for generation in arrived:
        scheduler.add(generation)
    assert scheduler.waiting == sorted(arrived, key=lambda generation: generation.priority)
