"""What candidates stand on in the articles, so that versions learn to answer from them and to say nothing else.

Knows: whose reply has passages already, which are still to be looked up, which facts an answer may state. Does not
know: how passages are found, how they are shown to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.generation.prompt import with_passages
from bot.knowledge.fact_check import FactCheck
from bot.knowledge.grounding import CONTEXT_MESSAGES, Grounding
from bot.learning.data.candidates import Candidate, Offered
from storage.values import SeenPassage

NOT_FOR_ALL = "stands on articles that not everybody may read"
BEYOND_THE_ARTICLES = "says what its articles do not"


async def stand_on_articles(offered: Sequence[Offered], grounding: Grounding) -> list[Offered]:
    """Each candidate with the passages it stands on, or why it teaches nothing good with them.

    People answer without having been shown any: they get those that a bot would have been shown now.
    """
    found: list[Offered] = []
    for one in offered:
        if isinstance(one, Candidate):
            if _may_tell_more(one, grounding):
                found.append(one.left_out(NOT_FOR_ALL))
                continue
            passages = await _look_up(one, grounding) if one.seen is None else one.seen
            found.append(_standing_on(one, passages, grounding.for_everybody) if passages else one)
        else:
            found.append(one)
    return found


def _may_tell_more(one: Candidate, grounding: Grounding) -> bool:
    """Whether it may repeat what was said before from articles, or by people, that is not for everybody."""
    if one.tells_curated and not grounding.is_for_everybody(one.channel):
        return True
    return any(each.audience not in grounding.for_everybody for each in one.told_of)


async def _look_up(one: Candidate, grounding: Grounding) -> Sequence[SeenPassage]:
    *before, asked = one.messages
    said = "\n".join(each.content for each in before[-CONTEXT_MESSAGES:] if each.role != "system")
    grounds = await grounding.find(one.channel, asked.content, said)
    return grounds.passages if grounds is not None and grounds.verdict == "found" else ()


def _standing_on(one: Candidate, passages: Sequence[SeenPassage], for_everybody: Sequence[str]) -> Offered:
    if any(each.audience not in for_everybody for each in passages):
        return one.left_out(NOT_FOR_ALL)
    quoted = tuple(each.quotation for each in passages)
    told = [each.content for each in with_passages(one.messages, quoted)]
    if one.kind != "thumb" and FactCheck(told).invented(one.chosen):
        return one.left_out(BEYOND_THE_ARTICLES)
    return replace(one, passages=quoted)
