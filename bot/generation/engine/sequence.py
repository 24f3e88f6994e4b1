"""One reply in the making, as the scheduler sees it.

Knows: its tokens, how far they are computed, where they lie. Does not know: torch, text, who asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Sequence:
    """`token_ids` begins with the prompt and grows by what is generated.

    The keys and values of the first `num_computed` tokens are in cache row `row`; None while it waits. Of two that
    wait, the one with the smaller `priority` goes first. `version` is opaque here: whose weights are added to the
    base's. One that is computed `alone`, in passes of its own, comes out the same whatever else runs: rounding differs
    with the number of rows. `draft` is what may follow; the next step finds out.
    """

    token_ids: list[int]
    version: Any = None
    alone: bool = False
    priority: int = 0
    num_prompt: int = field(init=False)
    num_computed: int = 0
    row: int | None = None
    draft: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.num_prompt = len(self.token_ids)

    @property
    def num_missing(self) -> int:
        """Tokens that must be computed before the next one can be chosen. One while it generates."""
        return len(self.token_ids) - self.num_computed


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens of a sequence that are computed in one step: from `num_computed` on `count` of them, and a draft."""

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        return self.sequence.num_computed

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def length(self) -> int:
        return self.count + len(self.draft)

    @property
    def token_ids(self) -> list[int]:
        return [*self.sequence.token_ids[self.start : self.start + self.count], *self.draft]

    @property
    def num_scores(self) -> int:
        """After its last token, and those of the draft."""
        return 1 + len(self.draft)

    @property
    def completes(self) -> bool:
        """Whether the next token can be chosen from this chunk's scores."""
        return self.count == self.sequence.num_missing
