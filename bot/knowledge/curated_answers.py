"""Curated answers: given verbatim to questions that mean the same.

Precision comes before recall, as the answer ignores every other part of the question: one question may say more than
the other, but neither may say something different. "Norway" is near "Denmark" to every embedder.
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

# Least cosine of two questions with the same words, and of questions where one has additional words.
SAME_WORDS, MORE_WORDS = 0.75, 0.85
MAX_QUESTION_CHARS, MAX_ANSWER_CHARS, MAX_ANSWERS = 1_000, 10_000, 5_000
EMBEDDED_AT_ONCE = 32
_NOT = re.compile(r"\b(?:not?|never|without|cannot|\w+n't|nicht|kein\w*|nie|ohne)\b|[不没无別别]")
_WORD = re.compile(r"\w+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
# Stop words of a search that nevertheless change the meaning of a question.
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
    """Curated answers of one workspace, compared by the embedder of `search`."""

    def __init__(self, scope: Scope, search: Search) -> None:
        self._scope = scope
        self._search = search
        self._known: _Known | None = None
        self._loading = asyncio.Lock()

    async def add(
        self, actor: Actor, question: str, answer: str, audience: str = "public", reply_id: str | None = None
    ) -> str:
        """Add an answer and return its id. Raises `InvalidInput`.

        `reply_id` names the corrected reply that the answer comes from.
        """
        actor.check("trainer")
        chosen = next((known for known in AUDIENCES if known == audience), None)
        if chosen is None:
            raise InvalidInput(f"The audience must be one of {', '.join(AUDIENCES)}.", field="audience")
        texts = {"question": (question.strip(), MAX_QUESTION_CHARS), "answer": (answer.strip(), MAX_ANSWER_CHARS)}
        for field, (text, most) in texts.items():
            if not text or len(text) > most:
                raise InvalidInput(f"The {field} must have 1 to {most:,} characters.", field=field)
        known = await self._scope.read(curated.all_answers)
        if len(known) >= MAX_ANSWERS:
            raise InvalidInput(f"There are already {MAX_ANSWERS:,} answers; remove some first.", field="question")
        return await self._scope.write(curated.add, actor.name, question.strip(), answer.strip(), chosen, reply_id)

    async def approve(self, actor: Actor, which: str, question: str | None = None, audience: str = "public") -> str:
        """Make an answer from the correction whose reply id begins with `which`. Raises `NotFound`, `InvalidInput`."""
        candidates = await self.candidates(actor, 1_000)
        found = [correction for correction in candidates if which and correction.reply_id.startswith(which)]
        if len(found) > 1:
            raise InvalidInput(f'"{which}" is the beginning of {len(found)} ids; write more of it.', field="reply")
        if not found:
            raise NotFound(f'There is no correction of the reply "{which}".', hint="list_corrections")
        asked = found[0].question if question is None else question
        return await self.add(actor, asked, found[0].better, audience, found[0].reply_id)

    async def remove(self, actor: Actor, which: str) -> CuratedAnswer:
        """Remove and return the answer whose id begins with `which`. Raises `NotFound` and `InvalidInput`."""
        actor.check("trainer")
        known = await self._scope.read(curated.all_answers)
        found = [answer for answer in known if which and answer.id.startswith(which)]
        if len(found) > 1:
            raise InvalidInput(f'"{which}" is the beginning of {len(found)} ids; write more of it.', field="which")
        if not found or not await self._scope.write(curated.remove, actor.name, found[0].id):
            raise NotFound(f'There is no curated answer "{which}".', hint="list_curated")
        return found[0]

    async def list(self, actor: Actor) -> list[tuple[CuratedAnswer, int]]:
        """Return all answers, each with the number of times it was given."""
        actor.check("viewer")
        given = await self._scope.read(curated.given)
        known = await self._scope.read(curated.all_answers)
        return [(answer, given.get(answer.id, 0)) for answer in known]

    async def candidates(self, actor: Actor, most: int = 50) -> Sequence[Correction]:
        """Return corrections by staff that are not curated answers yet, newest first."""
        actor.check("agent")
        return await self._scope.read(curated.corrections, most)

    async def match(
        self, version: int, question: str, audiences: Sequence[Audience], vector: Any = None
    ) -> CuratedAnswer | None:
        """Return the answer to the same question; None if there is none.

        `version` is that of the stored answers: older ones in memory are read again. `vector` saves embedding the
        question again.
        """
        known = await self._load(version)
        if known is None or len(question) > MAX_QUESTION_CHARS:
            return None
        if vector is None:
            vector = (await self._search.embed([question]))[0]
        cosines = known.vectors @ vector
        for place in map(int, np.argsort(-cosines, kind="stable")):
            if cosines[place] < SAME_WORDS:
                return None
            answer = known.answers[place]
            if answer.audience in audiences and is_same_question(question, answer.question, float(cosines[place])):
                return answer
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
        """Return the vectors of the questions; only those of new answers are computed."""
        known: dict[str, Any] = {}
        if (before := self._known) is not None:
            known = {answer.id: row for answer, row in zip(before.answers, before.vectors, strict=True)}
        new = [answer for answer in answers if answer.id not in known]
        for start in range(0, len(new), EMBEDDED_AT_ONCE):
            some = new[start : start + EMBEDDED_AT_ONCE]
            vectors = await self._search.embed([answer.question for answer in some])
            known |= {answer.id: row for answer, row in zip(some, vectors, strict=True)}
        return np.stack([known[answer.id] for answer in answers])


def is_same_question(one: str, other: str, cosine: float) -> bool:
    """Return True if the answer to one question also answers the other."""
    if any(sorted(sign.findall(one.lower())) != sorted(sign.findall(other.lower())) for sign in (_NOT, _NUMBER)):
        return False
    if _says_opposite(_WORD.findall(one.lower()), _WORD.findall(other.lower())):
        return False
    said, known = set(words(one)), set(words(other))
    if said == known:
        # "Who are you?" consists of stop words: only exactly the same words are the same question.
        has_same_words = bool(said) or _WORD.findall(one.lower()) == _WORD.findall(other.lower())
        return has_same_words and (cosine >= SAME_WORDS or is_mostly_unspaced(one))
    is_more_only = bool(said and known) and (said < known or known < said)
    return is_more_only and cosine >= MORE_WORDS and not is_mostly_unspaced(one)


def _says_opposite(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return True for opposite words ("on" and "off"), or for other words behind the same direction ("to Norway")."""
    pairs = [(group & set(one), group & set(other)) for group in _OPPOSITES]
    pairs += [(_behind(sign, one), _behind(sign, other)) for sign in _DIRECTIONS]
    return any(mine and theirs and not mine & theirs for mine, theirs in pairs)


def _behind(sign: str, said: Sequence[str]) -> set[str]:
    """Return the first word behind each `sign` that is not a stop word."""
    places = [place for place, word in enumerate(said) if word == sign]
    return {word for place in places for word in words(" ".join(said[place + 1 : place + 1 + MOST_BEHIND]))[:1]}
