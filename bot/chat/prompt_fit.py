"""Choice of passages and messages that fit into one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.errors import TooLarge
from bot.generation.port import Prompt
from bot.generation.prompt import Encode, PromptBudget, build_prompt
from storage.values import Message, SeenPassage


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits, with the passages left in it.

    `last_seq` is the last message that the prompt asks about, None if all of them fit.
    """

    prompt: Prompt
    passages: tuple[SeenPassage, ...]
    last_seq: int | None = None


class NothingFits(TooLarge):
    """The first messages alone, without any passage, are too long. `last_seq` as in `Fitted`."""

    def __init__(self, message: str, *, limit: int | None, last_seq: int | None) -> None:
        super().__init__(message, limit=limit)
        self.last_seq = last_seq


async def fit_prompt(
    system: str,
    history: Sequence[Message],
    asked: Sequence[Message],
    passages: tuple[SeenPassage, ...],
    budget: PromptBudget,
    encode: Encode,
    *,
    done_seq: int,
) -> Fitted:
    """Build the prompt for all of `asked`, or for the first messages that fit; the rest waits for the next turn.

    Passages are dropped, the last first, before messages are. Messages up to `done_seq` were answered before, so that
    at least one later message must fit. Raises `NothingFits`.
    """
    last_seq: int | None = None
    while True:
        try:
            quoted = [passage.quotation for passage in passages]
            prompt = await build_prompt(system, history, asked, budget, encode, quoted)
            return Fitted(prompt, passages, last_seq)
        except TooLarge as error:
            if passages:
                passages = passages[:-1]
                continue
            asked = asked[: len(asked) // 2]
            if not asked or asked[-1].seq <= done_seq:
                raise NothingFits(error.message, limit=error.limit, last_seq=last_seq) from error
            last_seq = asked[-1].seq
