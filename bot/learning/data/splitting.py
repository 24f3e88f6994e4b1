"""Which examples are held out: whole people, conversations and groups, by a stable hash.

Knows: who belongs together, and that what was held out once should stay so as more comes in. Does not know: texts.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bot.generation.prompt import quote
from bot.learning.data.candidates import Candidate, DatasetPolicy

# Somebody who gave more than this share of all (an only user, say) can't be on one side as a whole.
MAX_SHARE_TOGETHER = 0.25
# However few there are, at most this share is held out to reach the wanted least number.
MAX_SHARE_HELD_OUT = 0.25


def split(found: Sequence[Candidate], policy: DatasetPolicy) -> tuple[list[Candidate], list[Candidate]]:
    """`(train, held out)`. Groups come in the order of their hashes, so that a side changes as little as can be."""
    groups = _groups(found)
    ordered = sorted(groups, key=_position)
    # Answers count: they are what a version is judged by.
    wanted = min(policy.min_held_out, int(_num_answers(found) * MAX_SHARE_HELD_OUT))
    held_out: list[Candidate] = []
    for key in ordered:
        is_chosen = _position(key) < policy.held_out_share
        if not is_chosen and _num_answers(held_out) >= wanted:
            break
        fits = len(held_out) + len(groups[key]) <= max(policy.max_held_out, wanted)
        leaves_most = len(held_out) + len(groups[key]) <= len(found) * 2 * MAX_SHARE_HELD_OUT
        if fits and leaves_most:
            held_out += groups[key]
    chosen = {id(one) for one in held_out}
    return [one for one in found if id(one) not in chosen], held_out


def _num_answers(found: Iterable[Candidate]) -> int:
    return sum(one.kind == "answer" for one in found)


def take_rows(
    train: list[Candidate], held_out: list[Candidate], policy: DatasetPolicy
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """At most the wanted number to train on, a fifth of it (or the least number) held out, and what is beyond."""
    if policy.rows is None:
        return train, held_out, []
    most_held_out = max(policy.min_held_out, policy.rows // 5)
    kept, beyond = _first(train, policy.rows, newest=policy.newest)
    tested, beyond_tested = _first(held_out, most_held_out, newest=False)
    return kept, tested, beyond + beyond_tested


def in_order(found: Iterable[Candidate]) -> list[Candidate]:
    """By content, so that the same facts have the same order wherever they are stored."""
    return sorted(found, key=lambda one: (content_key(one), one.conversation_id, one.message_id))


def content_key(one: Candidate) -> str:
    """The same for the same words of the same kind."""
    words = [one.kind, str(one.good), one.chosen, one.rejected or "", *(each.content for each in one.messages)]
    words += map(quote, one.passages)
    return hashlib.sha256("\n\n".join(words).encode()).hexdigest()


def _first(found: list[Candidate], most: int, *, newest: bool) -> tuple[list[Candidate], list[Candidate]]:
    ordered = sorted(found, key=lambda one: ((-one.at if newest else 0), content_key(one)))
    return ordered[:most], ordered[most:]


def _groups(found: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Candidates by group: what shares a conversation, a person or a split group, at once or through others."""
    counted = Counter(one.person_id for one in found)
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        leader.setdefault(key, key)
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for one in found:
        # A group's own name comes first: it is the same wherever the same file was imported.
        keys = [f"group {one.split_group}"] if one.split_group else [f"conversation {one.conversation_id}"]
        keys.append(f"conversation {one.conversation_id}")
        if one.person_id and counted[one.person_id] <= len(found) * MAX_SHARE_TOGETHER:
            keys.append(f"person {one.person_id}")
        for key in keys[1:]:
            # The smaller name leads, so that the order of reading makes no difference.
            first, second = sorted((find(keys[0]), find(key)), key=_seniority)
            leader[second] = first
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for one in found:
        groups[find(f"conversation {one.conversation_id}")].append(one)
    return groups


def _seniority(key: str) -> tuple[int, str]:
    """Names of groups, then people, then conversations: in the order in which they stay the same."""
    return (("group", "person", "conversation").index(key.split(" ", 1)[0]), key)


def _position(key: str) -> float:
    """Where a group stands between 0 and 1, for ever."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
