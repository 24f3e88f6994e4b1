"""Train/held-out split by a stable hash, with people and conversations kept whole.

An example that was held out once stays so as far as possible as more come in.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from bot.generation.prompt import quote
from bot.learning.data.candidates import Candidate, DatasetPolicy

# A person with more than this share of all candidates (an only user, say) may be on both sides.
MAX_SHARE_TOGETHER = 0.25
# At most this share is held out to reach the policy's least number.
MAX_SHARE_HELD_OUT = 0.25


def split(found: Sequence[Candidate], policy: DatasetPolicy) -> tuple[list[Candidate], list[Candidate]]:
    """Return `(train, held out)`. Groups are taken in the order of their hashes, so that few ever change sides."""
    groups = _groups(found)
    ordered = sorted(groups, key=_position)
    # Only answers count, because a version is judged by answers.
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
    chosen = {id(candidate) for candidate in held_out}
    return [candidate for candidate in found if id(candidate) not in chosen], held_out


def _num_answers(found: Iterable[Candidate]) -> int:
    return sum(candidate.kind == "answer" for candidate in found)


def take_rows(
    train: list[Candidate], held_out: list[Candidate], policy: DatasetPolicy
) -> tuple[list[Candidate], list[Candidate], list[Candidate]]:
    """Return at most `rows` to train on, a fifth of that (or the least number) held out, and the candidates beyond."""
    if policy.rows is None:
        return train, held_out, []
    most_held_out = max(policy.min_held_out, policy.rows // 5)
    kept, beyond = _first(train, policy.rows, newest=policy.newest)
    tested, beyond_tested = _first(held_out, most_held_out, newest=False)
    return kept, tested, beyond + beyond_tested


def in_order(found: Iterable[Candidate]) -> list[Candidate]:
    """Sort by content, so that equal conversations have the same order in every database."""
    return sorted(
        found, key=lambda candidate: (content_key(candidate), candidate.conversation_id, candidate.message_id)
    )


def content_key(candidate: Candidate) -> str:
    """Hash the kind and the texts of a candidate."""
    words = [candidate.kind, str(candidate.good), candidate.chosen, candidate.rejected or ""]
    words += [message.content for message in candidate.messages]
    words += map(quote, candidate.passages)
    return hashlib.sha256("\n\n".join(words).encode()).hexdigest()


def _first(found: list[Candidate], most: int, *, newest: bool) -> tuple[list[Candidate], list[Candidate]]:
    ordered = sorted(found, key=lambda candidate: ((-candidate.at if newest else 0), content_key(candidate)))
    return ordered[:most], ordered[most:]


def _groups(found: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Group candidates that share a conversation, a person or a split group, directly or transitively (union-find)."""
    counted = Counter(candidate.person_id for candidate in found)
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        leader.setdefault(key, key)
        while leader[key] != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    for each in found:
        # A split group's name comes first, because it is the same wherever the same file was imported.
        keys = [f"group {each.split_group}"] if each.split_group else [f"conversation {each.conversation_id}"]
        keys.append(f"conversation {each.conversation_id}")
        if each.person_id and counted[each.person_id] <= len(found) * MAX_SHARE_TOGETHER:
            keys.append(f"person {each.person_id}")
        for key in keys[1:]:
            # The smaller name leads, so that the order of reading makes no difference.
            first, second = sorted((find(keys[0]), find(key)), key=_seniority)
            leader[second] = first
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for each in found:
        groups[find(f"conversation {each.conversation_id}")].append(each)
    return groups


def _seniority(key: str) -> tuple[int, str]:
    """Rank groups before people before conversations: the more stable name leads."""
    return (("group", "person", "conversation").index(key.split(" ", 1)[0]), key)


def _position(key: str) -> float:
    """Map a group's name to a stable position from 0 to 1."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
