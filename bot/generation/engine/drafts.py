"""Tokens that a reply may go on with, copied from where the same tokens stood before.

Replies repeat what was said: a passage, the question, themselves. What is proposed is computed in the same step as the
next token, and taken as far as the model chooses the same: a step may then give several tokens, and, but for rounding,
never other ones.
Prompt lookup: Saxena, "Prompt Lookup Decoding" (2023); Yang et al., "Inference with Reference" (arXiv 2304.04487).

Knows: token ids, how well the last proposal did. Does not know: torch, models, steps.
"""

from __future__ import annotations

MAX_DRAFT = 4
# What follows a longer match is right more often.
MATCH_LENGTHS = (3, 2)
# A longer conversation is looked through from here on only, as looking takes time and memory.
MAX_INDEXED = 8192


class PromptLookup:
    """Proposes for `token_ids`, which grows outside."""

    def __init__(self, token_ids: list[int]) -> None:
        self._token_ids = token_ids
        self._followers: dict[tuple[int, ...], int] = {}  # some tokens: the place of what followed them last
        self._num_indexed = max(len(token_ids) - MAX_INDEXED, 0)
        self._most = MAX_DRAFT

    def propose(self, most: int) -> tuple[int, ...]:
        """At most `most` tokens, or none if the last ones never stood there before."""
        self._index()
        most = min(most, self._most)
        for length in MATCH_LENGTHS:
            place = self._followers.get(tuple(self._token_ids[-length:]))
            if place is not None and most > 0:
                return tuple(self._token_ids[place : place + most])
        return ()

    def learn(self, proposed: int, accepted: int) -> None:
        """Propose less after a failure, and all again after a success."""
        if proposed and accepted == proposed:
            self._most = MAX_DRAFT
        elif proposed and accepted == 0:
            self._most = max(self._most // 2, 1)

    def _index(self) -> None:
        for place in range(self._num_indexed, len(self._token_ids)):
            for length in MATCH_LENGTHS:
                if place >= length:
                    self._followers[tuple(self._token_ids[place - length : place])] = place
        self._num_indexed = len(self._token_ids)
