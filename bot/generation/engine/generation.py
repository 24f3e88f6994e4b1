"""Reply in the making: its tokens, how many are computed, its cache row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False, slots=True)
class Generation:
    """Tokens of a prompt and of the reply that grows behind it.

    token_ids: the prompt, then the generated tokens.
    version: LoRA version whose weights are added to the base's; opaque here.
    alone: computed in passes of its own, so that a seeded reply comes out the same whatever else runs: rounding
        differs with the number of rows.
    priority: of two that wait, the smaller goes first.
    num_computed: the first tokens, whose keys and values are in the cache.
    row: the cache row that holds them; None while waiting.
    draft: proposed next tokens, verified by the next step.
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
        """Number of tokens to compute before the next one can be chosen."""
        return len(self.token_ids) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Return True if only the newest token is left to compute, False during prefill."""
        return self.num_missing == 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of a generation that one step computes: `count` of them from `num_computed` on, then the draft."""

    generation: Generation
    count: int
    draft: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        return self.generation.num_computed

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def length(self) -> int:
        return self.count + len(self.draft)

    @property
    def token_ids(self) -> list[int]:
        return [*self.generation.token_ids[self.start : self.start + self.count], *self.draft]

    @property
    def num_scores(self) -> int:
        """Number of positions whose scores are wanted: the last token and those of the draft."""
        return 1 + len(self.draft)

    @property
    def completes(self) -> bool:
        """Return True if no token before the next one is left to compute after this chunk."""
        return self.count == self.generation.num_missing
