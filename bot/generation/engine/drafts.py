"""Speculative decoding by prompt lookup: drafts copied from earlier tokens.

Replies repeat passages, the question and themselves. A draft is computed in the same step as the next token, and
accepted as far as the model chooses the same tokens: a step may give several tokens, and, but for rounding, the same
ones as without drafts.
Sources: Saxena, "Prompt Lookup Decoding" (2023); Yang et al., "Inference with Reference" (arXiv 2304.04487).
"""

from __future__ import annotations

MAX_DRAFT = 4
# The longest match comes first: its continuation is right more often.
MATCH_LENGTHS = (3, 2)
# Only this many tokens at the end of a prompt are indexed, as the index takes time and memory.
MAX_INDEXED = 8192


class PromptLookup:
    """Draft proposals for `token_ids`, a list that the caller extends."""

    def __init__(self, token_ids: list[int]) -> None:
        self._token_ids = token_ids
        self._followers: dict[tuple[int, ...], int] = {}  # n-gram: index of the token after its last occurrence
        self._num_indexed = max(len(token_ids) - MAX_INDEXED, 0)
        self._most = MAX_DRAFT

    def propose(self, most: int) -> tuple[int, ...]:
        """Return at most `most` tokens; none if the last tokens did not occur before."""
        self._index()
        most = min(most, self._most)
        for length in MATCH_LENGTHS:
            index = self._followers.get(tuple(self._token_ids[-length:]))
            if index is not None and most > 0:
                return tuple(self._token_ids[index : index + most])
        return ()

    def learn(self, proposed: int, accepted: int) -> None:
        """Halve the draft length after a draft that failed whole; restore it after one accepted whole."""
        if proposed and accepted == proposed:
            self._most = MAX_DRAFT
        elif proposed and accepted == 0:
            self._most = max(self._most // 2, 1)

    def _index(self) -> None:
        for index in range(self._num_indexed, len(self._token_ids)):
            for length in MATCH_LENGTHS:
                if index >= length:
                    self._followers[tuple(self._token_ids[index - length : index])] = index
        self._num_indexed = len(self._token_ids)
