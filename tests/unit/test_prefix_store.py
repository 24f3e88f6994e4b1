"""What is kept of earlier conversations: the longest beginning is found, the budget holds, versions never meet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.generation.engine.prefix_store import PrefixStore, common_length

tokens = st.lists(st.integers(0, 2), max_size=12)
versions = st.sampled_from([None, "a", "b"])


@given(tokens, tokens)
def test_common_length(one: list[int], other: list[int]) -> None:
    shorter = min(len(one), len(other))
    assert common_length(one, other) == max(n for n in range(shorter + 1) if one[:n] == other[:n])


@given(st.lists(st.tuples(versions, tokens), max_size=20), st.tuples(versions, tokens))
def test_the_longest_common_beginning_of_the_same_version_is_found(
    kept: list[tuple[str | None, list[int]]], wanted: tuple[str | None, list[int]]
) -> None:
    store: PrefixStore[str] = PrefixStore(max_tokens=10_000)
    for version, token_ids in kept:
        store.keep(version, token_ids, f"{version}{token_ids}")
    version, token_ids = wanted
    found, length = store.find(version, token_ids)
    assert length == max((common_length(one, token_ids) for own, one in kept if own == version), default=0)
    if length:
        assert found is not None
        assert found.version == version
        assert found.content == f"{version}{list(found.token_ids)}"
        assert list(found.token_ids[:length]) == token_ids[:length]


@given(st.lists(st.tuples(versions, tokens), max_size=30), st.integers(0, 30))
def test_the_budget_holds_and_the_count_is_right(kept: list[tuple[str | None, list[int]]], budget: int) -> None:
    store: PrefixStore[None] = PrefixStore(budget)
    for version, token_ids in kept:
        store.keep(version, token_ids, None)
        assert store.num_tokens == sum(len(one.token_ids) for one in store._kept) <= budget


def test_what_was_used_longest_ago_goes_first() -> None:
    store: PrefixStore[str] = PrefixStore(max_tokens=6)
    store.keep(None, [1, 1, 1], "one")
    store.keep(None, [2, 2, 2], "two")
    assert store.find(None, [1, 1, 5])[1] == 2
    store.keep(None, [3, 3, 3], "three")
    assert store.find(None, [2, 2, 2]) == (None, 0)
    assert store.find(None, [1, 1, 1])[1] == 3


def test_a_longer_conversation_replaces_its_beginning() -> None:
    store: PrefixStore[str] = PrefixStore(max_tokens=100)
    store.keep(None, [1, 2], "short")
    store.keep(None, [1, 2, 3], "long")
    store.keep(None, [1, 2], "short again")
    assert len(store) == 1
    found, _ = store.find(None, [1, 2])
    assert found is not None
    assert found.content == "long"


def test_forgetting_a_version_leaves_the_others() -> None:
    store: PrefixStore[str] = PrefixStore(max_tokens=100)
    for version in (None, "a", "b"):
        store.keep(version, [1, 2], "x")
    store.forget("a")
    assert store.find("a", [1, 2]) == (None, 0)
    assert store.find("b", [1, 2])[1] == store.find(None, [1, 2])[1] == 2
    assert store.num_tokens == 4
