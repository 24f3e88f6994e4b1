"""Prompt lookup: drafts copied from earlier tokens, and their length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.generation.engine.drafts import MAX_DRAFT, MAX_INDEXED, PromptLookup


def test_the_last_continuation_of_the_same_tokens_is_proposed() -> None:
    token_ids = [1, 2, 3, 4, 5, 6, 7, 8, 2, 3, 9, 1, 2, 3]
    assert PromptLookup(token_ids).propose(3) == (4, 5, 6), "a match of three tokens beats a later one of two"
    token_ids[-3] = 0
    assert PromptLookup(token_ids).propose(3) == (9, 0, 2)


def test_new_tokens_give_no_draft() -> None:
    assert PromptLookup([]).propose(4) == ()
    assert PromptLookup([1]).propose(4) == ()
    assert PromptLookup([1, 2, 3, 4]).propose(4) == ()
    assert PromptLookup([1, 2, 1, 2]).propose(0) == ()


def test_generated_tokens_are_indexed_too() -> None:
    token_ids = [1, 2, 3]
    lookup = PromptLookup(token_ids)
    assert lookup.propose(4) == ()
    token_ids += [4, 1, 2]
    assert lookup.propose(4) == (3, 4, 1, 2)


def test_drafts_shrink_after_failures_and_recover_after_success() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    for expected in (MAX_DRAFT, MAX_DRAFT // 2, 1, 1):
        assert len(lookup.propose(MAX_DRAFT)) == expected
        lookup.learn(expected, 0)
    lookup.learn(0, 0)
    assert len(lookup.propose(MAX_DRAFT)) == 1, "a step without a draft proves nothing"
    lookup.learn(1, 1)
    assert len(lookup.propose(MAX_DRAFT)) == MAX_DRAFT


def test_only_the_end_of_a_long_conversation_is_indexed() -> None:
    middle = list(range(10, MAX_INDEXED + 10))
    assert PromptLookup([1, 2, 3, *middle[:-10], 1, 2]).propose(1) == (3,)
    assert PromptLookup([1, 2, 3, *middle, 1, 2]).propose(1) == ()


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 6), st.integers(0, 60))
def test_a_draft_copies_the_continuation_of_a_match(token_ids: list[int], most: int, first_look: int) -> None:
    """The index may have been built when the list was shorter."""
    growing = token_ids[:first_look]
    lookup = PromptLookup(growing)
    lookup.propose(most)
    growing += token_ids[first_look:]
    draft = lookup.propose(most)
    assert draft == PromptLookup(token_ids).propose(most)
    assert len(draft) <= min(most, MAX_DRAFT)
    if draft:
        text, match = "".join(map(str, token_ids)), "".join(map(str, token_ids[-2:]))
        assert match + "".join(map(str, draft)) in text
