"""Grounding: find the passages, or the verbatim answer, for a reply.

The order is curated answers, replies of intents, then the articles that the channel's audience may read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bot.errors import Conflict, ModelError
from bot.knowledge.curated_answers import CuratedAnswers
from bot.knowledge.intents.intents import Intents, Recognised
from bot.knowledge.reading.passages import count_words, excerpt
from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.ranking import Hit, best_of_articles
from bot.knowledge.search.search import Found, Search
from bot.knowledge.small_talk import PERHAPS, SURELY, SmallTalk
from storage import knowledge
from storage.knowledge_values import AnsweringRules, Audience, audiences_of
from storage.scope import Scope
from storage.values import Message, SeenPassage

log = logging.getLogger("myna.knowledge")

DEFAULT_THRESHOLD = 0.5
MOST_PASSAGES, MOST_RELATED = 4, 3
# Staff who try a question also see the passages behind the best, which explain the order.
MOST_TRIED = 10
# A passage with less than this share of the best score only distracts the model.
LEAST_OF_BEST = 0.75
# With less confidence, related titles would be random.
LEAST_RELATED = 0.04
# A question may depend on the last question and its reply.
CONTEXT_MESSAGES = 2
# Users of these channels have access to everything that is stored.
OWN_CHANNELS = ("console",)
WARM_QUESTION = "Is anybody there?"

Verdict = Literal["found", "unknown", "not_needed", "told"]


@dataclass(frozen=True, slots=True)
class Grounds:
    """Result of a look-up. With "unknown", the passages are of articles that may be related.

    With "told", `words` are the verbatim reply of a curated answer or an intent. `intent` is empty if the message fits
    none, and None if none are trained.
    """

    verdict: Verdict
    passages: tuple[SeenPassage, ...] = ()
    confidence: float = 0.0
    intent: str | None = None
    words: str = ""
    curated_id: str | None = None


@dataclass(frozen=True, slots=True)
class TriedOut:
    """Result of a question that staff try out: the passages found, best first, and their use in a reply.

    The model would read the first `num_read`. An answer needs a `confidence` of at least `threshold`. `words` are the
    verbatim reply of a curated answer or of the `intent`.
    """

    verdict: Verdict
    words: str
    intent: str | None
    confidence: float
    threshold: float
    passages: tuple[SeenPassage, ...]
    num_read: int


class Grounding:
    """Look-up of passages and verbatim answers for replies.

    `audiences` maps channels to their audience, "public" by default. `max_words` limits the words of articles in a
    prompt: the model reads them anew for each reply, which takes time.
    """

    def __init__(self, scope: Scope, search: Search, audiences: Mapping[str, Audience], max_words: int) -> None:
        self._scope = scope
        self._search = search
        self._audiences = audiences
        self._max_words = max_words
        self._intents = Intents(scope, search)
        self._curated = CuratedAnswers(scope, search)
        self._small_talk: SmallTalk | None = None
        self._preparing = asyncio.Lock()

    async def look_up(self, channel: str, history: Sequence[Message], asked: Sequence[Message]) -> Grounds | None:
        """Return the grounds of a reply to `asked`; None if there are no articles for this channel."""
        question = "\n".join(message.text for message in asked)
        before = "\n".join(message.text for message in history[-CONTEXT_MESSAGES:])
        return await self.find(channel, question, before)

    async def find(self, channel: str, question: str, before: str = "") -> Grounds | None:
        """Do the same as `look_up` for a question and the text `before` it."""
        try:
            grounds, _ = await self._find(audiences_of(self._audiences.get(channel, "public")), question, before)
        except (Conflict, ModelError) as error:
            # An "I don't know" is better than an invented answer.
            log.error("no article can be found: %s", error.message)
            return Grounds("unknown")
        return grounds

    async def try_out(self, audience: Audience, question: str) -> TriedOut | None:
        """Return the grounds of a reply to that audience; None if the model would answer without a look-up.

        Raises `Conflict` if the index was made with another embedder, and `ModelError` if the embedder can't be loaded.
        """
        grounds, found = await self._find(audiences_of(audience), question)
        if grounds is None:
            return None
        hits, confidence = (found.hits, found.confidence) if found else ([], 0.0)
        num_read = len(grounds.passages) if grounds.verdict == "found" else 0
        rules = await self._scope.read(knowledge.answering_rules)
        return TriedOut(
            grounds.verdict,
            grounds.words,
            grounds.intent,
            confidence,
            _threshold(rules),
            _numbered(hits[:MOST_TRIED]),
            num_read,
        )

    async def _find(
        self, audiences: Sequence[Audience], question: str, before: str = ""
    ) -> tuple[Grounds | None, Found | None]:
        """Try curated answers first, then replies of intents, then the articles."""
        rules = await self._scope.read(knowledge.answering_rules)
        found = await self._search.find(question, audiences, before)
        vector = None if found is None else found.question.vector
        if answer := await self._curated.match(rules.curated_version, question, audiences, vector):
            return Grounds("told", words=answer.answer, curated_id=answer.id), found
        told = await self._intents.tell(rules.intents_version, question, vector)
        if told is not None and told.reply:
            return Grounds("told", words=told.reply, intent=told.intent), found
        if found is not None and found.hits:
            grounds = await self._judge(found, _threshold(rules))
        elif told is not None:
            grounds = await self._judge_without_articles(question, told)
        else:
            return None, found
        return grounds if told is None else replace(grounds, intent=told.intent), found

    @property
    def intents(self) -> Intents:
        """Intents of the workspace, on the same embedder."""
        return self._intents

    @property
    def curated(self) -> CuratedAnswers:
        """Curated answers of the workspace, on the same embedder."""
        return self._curated

    @property
    def for_everybody(self) -> tuple[Audience, ...]:
        """Audiences whose articles may be quoted on every channel."""
        audiences = [audience for channel, audience in self._audiences.items() if channel not in OWN_CHANNELS]
        return min(map(audiences_of, audiences), key=len, default=audiences_of("public"))

    def is_for_everybody(self, channel: str) -> bool:
        """Return True if replies of this channel may be shown on every other channel."""
        return set(audiences_of(self._audiences.get(channel, "public"))) <= set(self.for_everybody)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, in the space where questions are compared."""
        return await self._search.embed(texts)

    async def close(self) -> None:
        """Release the embedder."""
        await self._search.close()

    async def warm(self) -> None:
        """Load the embedder, the index and the answers before the first question needs them."""
        rules = await self._scope.read(knowledge.answering_rules)
        if await self._search.warm() or rules.intents_version or rules.curated_version:
            await self._load_small_talk()
            await self._curated.match(rules.curated_version, WARM_QUESTION, ("public",))
            await self._intents.tell(rules.intents_version, WARM_QUESTION)

    async def _judge_without_articles(self, question: str, told: Recognised) -> Grounds:
        """Let the model speak about known intents and small talk only."""
        if told.intent:
            return Grounds("not_needed")
        (vector,) = await self._search.embed([question])
        small_talk = (await self._load_small_talk()).likeness(question, vector)
        return Grounds("not_needed" if small_talk >= PERHAPS else "unknown")

    async def _judge(self, found: Found, threshold: float) -> Grounds:
        small_talk = (await self._load_small_talk()).likeness(found.question.text, found.question.vector)
        if small_talk >= SURELY:
            return Grounds("not_needed")
        if found.confidence >= threshold:
            return Grounds("found", _numbered(worth_reading(found, self._max_words)), found.confidence)
        if small_talk >= PERHAPS:
            return Grounds("not_needed")
        related = best_of_articles(found.hits)[:MOST_RELATED] if found.confidence >= LEAST_RELATED else []
        articles = (replace(passage, headings=()) for passage in _numbered(related))
        return Grounds("unknown", tuple(articles), found.confidence)

    async def _load_small_talk(self) -> SmallTalk:
        async with self._preparing:
            if self._small_talk is None:
                self._small_talk = await self._search.with_embedder(lambda embedder: SmallTalk(embedder.embed))
            return self._small_talk


def _threshold(rules: AnsweringRules) -> float:
    return DEFAULT_THRESHOLD if rules.threshold is None else rules.threshold


def worth_reading(found: Found, max_words: int) -> list[Hit]:
    """Return the first passage, cut to `max_words`, and the next ones that score nearly as well and still fit."""
    first = found.hits[0]
    text = excerpt(first.passage.text, found.question.words, max_words)
    chosen = [replace(first, passage=replace(first.passage, text=text))]
    room = max_words - count_words(text)
    for hit in found.hits[1:MOST_PASSAGES]:
        room -= count_words(hit.passage.text)
        if room < 0 or hit.score < LEAST_OF_BEST * first.score:
            break
        chosen.append(hit)
    return chosen


def _numbered(hits: Sequence[Hit]) -> tuple[SeenPassage, ...]:
    return tuple(
        SeenPassage(
            number=number,
            article_id=hit.passage.article_id,
            name=hit.passage.name,
            title=hit.passage.title,
            headings=hit.passage.headings,
            url=hit.passage.url,
            audience=hit.passage.audience,
            text=hit.passage.text,
            score=round(hit.score, 4),
        )
        for number, hit in enumerate(hits, 1)
    )
