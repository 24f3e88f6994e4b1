"""Grounding of candidates in articles: versions learn to answer from passages."""

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
    """Return each candidate with the passages that support it, or as rejected if it must not be learnt with them.

    Answers of people have no passages: they get those that the bot would find for the question now.
    """
    found: list[Offered] = []
    for offer in offered:
        if isinstance(offer, Candidate):
            if _may_tell_more(offer, grounding):
                found.append(offer.left_out(NOT_FOR_ALL))
                continue
            passages = await _look_up(offer, grounding) if offer.seen is None else offer.seen
            found.append(_standing_on(offer, passages, grounding.for_everybody) if passages else offer)
        else:
            found.append(offer)
    return found


def _may_tell_more(candidate: Candidate, grounding: Grounding) -> bool:
    """Return True if the candidate may repeat restricted articles or curated answers from earlier in its chat."""
    if candidate.tells_curated and not grounding.is_for_everybody(candidate.channel):
        return True
    return any(passage.audience not in grounding.for_everybody for passage in candidate.told_of)


async def _look_up(candidate: Candidate, grounding: Grounding) -> Sequence[SeenPassage]:
    *before, asked = candidate.messages
    said = "\n".join(message.content for message in before[-CONTEXT_MESSAGES:] if message.role != "system")
    grounds = await grounding.find(candidate.channel, asked.content, said)
    return grounds.passages if grounds is not None and grounds.verdict == "found" else ()


def _standing_on(candidate: Candidate, passages: Sequence[SeenPassage], for_everybody: Sequence[str]) -> Offered:
    if any(passage.audience not in for_everybody for passage in passages):
        return candidate.left_out(NOT_FOR_ALL)
    quoted = tuple(passage.quotation for passage in passages)
    told = [message.content for message in with_passages(candidate.messages, quoted)]
    if candidate.kind != "thumb" and FactCheck(told).invented(candidate.chosen):
        return candidate.left_out(BEYOND_THE_ARTICLES)
    return replace(candidate, passages=quoted)
