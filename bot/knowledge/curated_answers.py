"""Answers that staff wrote or approved: given word for word where the same is asked, and nowhere else.

Knows: when two questions are the same, who may add answers, when what is in memory is too old. Does not know: how
replies are made. Precision comes first, as the answer is given without a look at the rest of the question: one question
may say more than the other, but neither may say something else. "Norway" is near "Denmark" to every embedder.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.search import Search
from bot.knowledge.search.tokens import is_mostly_unspaced, words
from storage import curated
from storage.knowledge_values import AUDIENCES, Audience, Correction, CuratedAnswer
from storage.scope import Scope

# How near a question must be with the same words, and with words that only one of both has.
SAME_WORDS, MORE_WORDS = 0.75, 0.85
MAX_QUESTION_CHARS, MAX_ANSWER_CHARS, MAX_ANSWERS = 1_000, 10_000, 5_000
EMBEDDED_AT_ONCE = 32
_NOT = re.compile(r"\b(?:not?|never|without|cannot|\w+n't|nicht|kein\w*|nie|ohne)\b|[不没无別别]")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# Words that a search leaves out, and that make two questions of one.
_OPPOSITES = (
    {"on", "off"},
    {"in", "out"},
    {"up", "down"},
    {"before", "after"},
    {"over", "under"},
    {"above", "below"},
    {"who", "when", "where", "why"},
)
_DIRECTIONS, MOST_BEHIND = ("from", "to"), 6


@dataclass(frozen=True, slots=True)
class _Known:
    version: int
    answers: list[CuratedAnswer]
    vectors: Vectors


class CuratedAnswers:
    """The answers of one workspace. Vectors are made by the embedder of `search`."""

    def __init__(self, scope: Scope, search: Search) -> None:
        self._scope = scope
        self._search = search
        self._known: _Known | None = None
        self._loading = asyncio.Lock()

    async def add(
        self, actor: Actor, question: str, answer: str, audience: str = "public", reply_id: str | None = None
    ) -> str:
        """Add an answer; its id. `reply_id` is of the correction that it comes from. Raises `InvalidInput`."""
        actor.check("trainer")
        chosen = next((one for one in AUDIENCES if one == audience), None)
        if chosen is None:
            raise InvalidInput(f"An audience is one of {', '.join(AUDIENCES)}.", field="audience")
        texts = {"question": (question.strip(), MAX_QUESTION_CHARS), "answer": (answer.strip(), MAX_ANSWER_CHARS)}
        for field, (text, most) in texts.items():
            if not text or len(text) > most:
                raise InvalidInput(f"The {field} must have 1 to {most:,} characters.", field=field)
        known = await self._scope.read(curated.all_answers)
        if len(known) >= MAX_ANSWERS:
            raise InvalidInput(f"There are {MAX_ANSWERS:,} answers already; remove some first.", field="question")
        return await self._scope.write(curated.add, actor.name, question.strip(), answer.strip(), chosen, reply_id)

    async def approve(self, actor: Actor, which: str, question: str | None = None, audience: str = "public") -> str:
        """Make an answer of the correction whose reply's id begins with `which`. Raises `NotFound`, `InvalidInput`."""
        found = [one for one in await self.candidates(actor, 1_000) if which and one.reply_id.startswith(which)]
        if len(found) > 1:
            raise InvalidInput(f'"{which}" is the beginning of {len(found)} ids; write more of it.', field="reply")
        if not found:
            raise NotFound(f'There is no correction of a reply "{which}".', hint="list_corrections")
        asked = found[0].question if question is None else question
        return await self.add(actor, asked, found[0].better, audience, found[0].reply_id)

    async def remove(self, actor: Actor, which: str) -> CuratedAnswer:
        """Give an answer no more; `which` is the beginning of its id. Raises `NotFound` and `InvalidInput`."""
        actor.check("trainer")
        known = await self._scope.read(curated.all_answers)
        found = [one for one in known if which and one.id.startswith(which)]
        if len(found) > 1:
            raise InvalidInput(f'"{which}" is the beginning of {len(found)} ids; write more of it.', field="which")
        if not found or not await self._scope.write(curated.remove, actor.name, found[0].id):
            raise NotFound(f'There is no curated answer "{which}".', hint="list_curated")
        return found[0]

    async def list(self, actor: Actor) -> list[tuple[CuratedAnswer, int]]:
        """All that are given, each with how often it was."""
        actor.check("viewer")
        given = await self._scope.read(curated.given)
        known = await self._scope.read(curated.all_answers)
        return [(one, given.get(one.id, 0)) for one in known]

    async def candidates(self, actor: Actor, most: int = 50) -> Sequence[Correction]:
        """Corrections by staff that are no curated answer yet, newest first."""
        actor.check("agent")
        return await self._scope.read(curated.corrections, most)

    async def match(
        self, version: int, question: str, audiences: Sequence[Audience], vector: Any = None
    ) -> CuratedAnswer | None:
        """The answer to the same question; None if there is none. `version` is the newest that is stored."""
        known = await self._load(version)
        if known is None or len(question) > MAX_QUESTION_CHARS:
            return None
        if vector is None:
            vector = (await self._search.embed([question]))[0]
        cosines = known.vectors @ vector
        for place in map(int, np.argsort(-cosines, kind="stable")):
            if cosines[place] < SAME_WORDS:
                return None
            one = known.answers[place]
            if one.audience in audiences and is_same_question(question, one.question, float(cosines[place])):
                return one
        return None

    async def _load(self, version: int) -> _Known | None:
        async with self._loading:
            if not version:
                self._known = None
            elif self._known is None or self._known.version != version:
                answers = await self._scope.read(curated.all_answers)
                self._known = _Known(version, answers, await self._vectors(answers)) if answers else None
            return self._known

    async def _vectors(self, answers: Sequence[CuratedAnswer]) -> Vectors:
        """Only what is new is computed."""
        before = self._known
        known = {} if before is None else {one.id: row for one, row in zip(before.answers, before.vectors, strict=True)}
        new = [one for one in answers if one.id not in known]
        for start in range(0, len(new), EMBEDDED_AT_ONCE):
            some = new[start : start + EMBEDDED_AT_ONCE]
            vectors = await self._search.embed([one.question for one in some])
            known |= {one.id: row for one, row in zip(some, vectors, strict=True)}
        return np.stack([known[one.id] for one in answers])


def is_same_question(one: str, other: str, cosine: float) -> bool:
    """Whether the answer to one is the answer to the other."""
    if any(sorted(sign.findall(one.lower())) != sorted(sign.findall(other.lower())) for sign in (_NOT, _NUMBER)):
        return False
    if _says_opposite(_WORD.findall(one.lower()), _WORD.findall(other.lower())):
        return False
    said, known = set(words(one)), set(words(other))
    if said == known:
        # "Who are you?" has no word that tells anything: only its very words are the same.
        has_same_words = bool(said) or _WORD.findall(one.lower()) == _WORD.findall(other.lower())
        return has_same_words and (cosine >= SAME_WORDS or is_mostly_unspaced(one))
    is_more_only = bool(said and known) and (said < known or known < said)
    return is_more_only and cosine >= MORE_WORDS and not is_mostly_unspaced(one)


def _says_opposite(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether one turns off what the other turns on, or goes to where the other comes from."""
    pairs = [(group & set(one), group & set(other)) for group in _OPPOSITES]
    pairs += [(_behind(sign, one), _behind(sign, other)) for sign in _DIRECTIONS]
    return any(mine and theirs and not mine & theirs for mine, theirs in pairs)


def _behind(sign: str, said: Sequence[str]) -> set[str]:
    """The first word that tells something behind each `sign`."""
    places = [place for place, word in enumerate(said) if word == sign]
    return {word for place in places for word in words(" ".join(said[place + 1 : place + 1 + MOST_BEHIND]))[:1]}
