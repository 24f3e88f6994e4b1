"""Prefix cache: longest shared prefix, token budget, separation of versions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.generation.engine.prefix_cache import PrefixCache, common_length

tokens = st.lists(st.integers(0, 2), max_size=12)
versions = st.sampled_from([None, "a", "b"])


@given(tokens, tokens)
def test_common_length_matches_a_comparison_by_token(first: list[int], second: list[int]) -> None:
    shorter = min(len(first), len(second))
    assert common_length(first, second) == max(n for n in range(shorter + 1) if first[:n] == second[:n])


@given(st.lists(st.tuples(versions, tokens), max_size=20), st.tuples(versions, tokens))
def test_the_longest_shared_prefix_of_a_version_is_found(
    kept: list[tuple[str | None, list[int]]], wanted: tuple[str | None, list[int]]
) -> None:
    cache: PrefixCache[str] = PrefixCache(max_tokens=10_000)
    for version, token_ids in kept:
        cache.keep(version, token_ids, f"{version}{token_ids}")
    version, token_ids = wanted
    found, length = cache.find(version, token_ids)
    assert length == max((common_length(ids, token_ids) for owner, ids in kept if owner == version), default=0)
    if length:
        assert found is not None
        assert found.version == version
        assert found.content == f"{version}{list(found.token_ids)}"
        assert list(found.token_ids[:length]) == token_ids[:length]


@given(st.lists(st.tuples(versions, tokens), max_size=30), st.integers(0, 30))
def test_the_token_budget_holds(kept: list[tuple[str | None, list[int]]], budget: int) -> None:
    cache: PrefixCache[None] = PrefixCache(budget)
    for version, token_ids in kept:
        cache.keep(version, token_ids, None)
        assert cache.num_tokens == sum(len(prefix.token_ids) for prefix in cache._prefixes) <= budget


def test_the_least_recently_used_prefix_goes_first() -> None:
    cache: PrefixCache[str] = PrefixCache(max_tokens=6)
    cache.keep(None, [1, 1, 1], "one")
    cache.keep(None, [2, 2, 2], "two")
    assert cache.find(None, [1, 1, 5])[1] == 2
    cache.keep(None, [3, 3, 3], "three")
    assert cache.find(None, [2, 2, 2]) == (None, 0)
    assert cache.find(None, [1, 1, 1])[1] == 3


def test_a_longer_conversation_replaces_its_prefix() -> None:
    cache: PrefixCache[str] = PrefixCache(max_tokens=100)
    cache.keep(None, [1, 2], "short")
    cache.keep(None, [1, 2, 3], "long")
    cache.keep(None, [1, 2], "short again")
    assert len(cache) == 1
    found, _ = cache.find(None, [1, 2])
    assert found is not None
    assert found.content == "long"


def test_forgetting_a_version_leaves_the_others() -> None:
    cache: PrefixCache[str] = PrefixCache(max_tokens=100)
    for version in (None, "a", "b"):
        cache.keep(version, [1, 2], "x")
    cache.forget("a")
    assert cache.find("a", [1, 2]) == (None, 0)
    assert cache.find("b", [1, 2])[1] == cache.find(None, [1, 2])[1] == 2
    assert cache.num_tokens == 4
