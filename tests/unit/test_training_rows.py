"""Token rows, batches, step plans and losses, without a model."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bot.learning.train import objectives
from bot.learning.train.material import TokenRow, by_length, epochs_of, join_turns, make_batch

tokens = st.lists(st.integers(0, 3), min_size=2, max_size=6).map(tuple)


def row(token_ids: tuple[int, ...], learnt: int = 1) -> TokenRow:
    return TokenRow(token_ids, tuple(range(len(token_ids) - learnt, len(token_ids))))


@given(st.lists(tokens.map(row), max_size=8))
def test_joined_rows_learn_every_answer(rows: list[TokenRow]) -> None:
    joined = join_turns(rows)
    learnt = {one.token_ids[: place + 1] for one in joined for place in one.learnt}
    assert learnt == {one.token_ids[: place + 1] for one in rows for place in one.learnt}
    assert not any(a is not b and b.token_ids[: len(a)] == a.token_ids for a, b in itertools.permutations(joined, 2)), (
        "no row is the beginning of another one"
    )


def test_turns_of_a_conversation_become_one_row() -> None:
    first, other, second = row((1, 2)), row((7, 8, 9)), row((1, 2, 3, 4))
    assert join_turns([first, other, second]) == [other, TokenRow((1, 2, 3, 4), (1, 3))]


def test_a_batch_names_the_position_before_each_target() -> None:
    batch = make_batch([TokenRow((5, 6, 7), (1, 2)), TokenRow((8, 9), (1,))])
    assert batch.token_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert list(zip(batch.rows.tolist(), batch.places.tolist(), batch.targets.tolist(), strict=True)) == [
        (0, 0, 6),
        (0, 1, 7),
        (1, 0, 9),
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 80))
def test_groups_hold_every_row_once_within_the_limit(lengths: list[int], most: int) -> None:
    rows = [row(tuple([1] * length), 0) for length in lengths]
    groups = list(by_length(rows, most))
    assert sorted(itertools.chain(*groups)) == list(range(len(rows)))
    assert all(len(group) == 1 or max(lengths[one] for one in group) * len(group) <= most for group in groups)


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 20))
def test_examples_are_used_equally_often_give_or_take_one(count: int, at_once: int, steps: int) -> None:
    plan = epochs_of(count, at_once, steps, seed=3)
    assert [len(step) for step in plan] == [at_once] * steps
    times = [sum(step.count(number) for step in plan) for number in range(count)]
    assert max(times) - min(times) <= 1
    assert plan == epochs_of(count, at_once, steps, seed=3)


def test_orders_differ_by_epoch_and_seed() -> None:
    first, second = epochs_of(50, 50, 2, seed=1)
    assert first != second
    assert first != epochs_of(50, 50, 1, seed=2)[0]


def test_sums_by_row_keep_rows_apart() -> None:
    sums = objectives.sums_by_row(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2]), 3)
    assert sums.tolist() == [1.0, 0.0, 6.0]


@pytest.mark.parametrize(("good", "expected"), [(True, 0.5), (False, 0.5)])
def test_the_thumb_loss_of_an_unchanged_answer_is_a_half(good: bool, expected: float) -> None:
    here = torch.tensor([-3.0])
    loss = objectives.thumb_loss(here, here, torch.tensor([good]), torch.tensor(0.0), beta=0.1)
    assert loss.item() == pytest.approx(expected)


def test_the_divergence_is_never_negative_and_has_no_gradient() -> None:
    moved = torch.tensor([-1.0, -2.0], requires_grad=True)
    apart = objectives.divergence(moved, torch.tensor([-3.0, -3.0]))
    assert apart.item() == pytest.approx(1.5)
    assert not apart.requires_grad
    assert objectives.divergence(torch.tensor([-9.0]), torch.tensor([-3.0])).item() == 0.0
