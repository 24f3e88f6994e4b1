"""What a reply may stand on: the passages for what is asked, or that there are none, or that none are needed.

Knows: how a conversation becomes a question, who sees which articles, when nothing good was found. Does not know:
prompts, how passages are found.
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
# To somebody who tries a question, what came behind tells why.
MOST_TRIED = 10
# Behind the best by more than this share, a passage only distracts.
LEAST_OF_BEST = 0.75
# For related titles: so sure at least, or they would be any.
LEAST_RELATED = 0.04
# What was said last, which a question may depend on: a question and its reply.
CONTEXT_MESSAGES = 2
# Whoever speaks there could read all that is stored.
OWN_CHANNELS = ("console",)
WARM_QUESTION = "Is anybody there?"

Verdict = Literal["found", "unknown", "not_needed", "told"]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What there is to stand on. With "unknown", the passages are of articles that may be related; with "told", `words`
    are the reply: a curated answer's, or what is to be said to an `intent` (empty for none that is known)."""

    verdict: Verdict
    passages: tuple[SeenPassage, ...] = ()
    confidence: float = 0.0
    intent: str | None = None
    words: str = ""
    curated_id: str | None = None


@dataclass(frozen=True, slots=True)
class TriedOut:
    """What came of a question that somebody tries: the passages found, best first, and what a reply would do with them.

    The model would read the first `num_read`. An answer needs a `confidence` of `threshold` at least. `words` are
    what is said word for word to it, or to its `intent`.
    """

    verdict: Verdict
    words: str
    intent: str | None
    confidence: float
    threshold: float
    passages: tuple[SeenPassage, ...]
    num_read: int


class Grounding:
    """Looks things up for replies. `audiences` says by channel for whom; others get what is public.

    `max_words` is how much of the articles a model is to read for a reply: each time anew, and it costs its time.
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
        """What a reply to `asked` may stand on; None if there are no articles for anybody on this channel."""
        question = "\n".join(one.text for one in asked)
        before = "\n".join(one.text for one in history[-CONTEXT_MESSAGES:])
        return await self.find(channel, question, before)

    async def find(self, channel: str, question: str, before: str = "") -> Grounds | None:
        """As `look_up`, for a question and what was said just before it."""
        try:
            grounds, _ = await self._find(audiences_of(self._audiences.get(channel, "public")), question, before)
        except (Conflict, ModelError) as error:
            # Better to know nothing than to let the model make something up.
            log.error("no article can be found: %s", error.message)
            return Grounds("unknown")
        return grounds

    async def try_out(self, audience: Audience, question: str) -> TriedOut | None:
        """What a reply to somebody of that audience would stand on; None if the model would be asked without a look.

        Raises `Conflict` if the index was made with another embedder, and `ModelError` if that can't be loaded.
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
        """People's own answers first, then those of intents, then the articles."""
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
        """What messages are about, by the same embedder."""
        return self._intents

    @property
    def curated(self) -> CuratedAnswers:
        """People's own answers, by the same embedder."""
        return self._curated

    @property
    def for_everybody(self) -> tuple[Audience, ...]:
        """The audiences whose articles each channel answers from, and which any reply may tell of."""
        widest = [audiences_of(one) for channel, one in self._audiences.items() if channel not in OWN_CHANNELS]
        return min(widest, key=len, default=audiences_of("public"))

    def is_for_everybody(self, channel: str) -> bool:
        """Whether whatever is told on this channel may be told on every other one."""
        return set(audiences_of(self._audiences.get(channel, "public"))) <= set(self.for_everybody)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of texts, as questions are compared by."""
        return await self._search.embed(texts)

    async def close(self) -> None:
        """Let go of the embedder."""
        await self._search.close()

    async def warm(self) -> None:
        """Load what is needed before somebody waits for it."""
        rules = await self._scope.read(knowledge.answering_rules)
        if await self._search.warm() or rules.intents_version or rules.curated_version:
            await self._prepared()
            await self._curated.match(rules.curated_version, WARM_QUESTION, ("public",))
            await self._intents.tell(rules.intents_version, WARM_QUESTION)

    async def _judge_without_articles(self, question: str, told: Recognised) -> Grounds:
        """The model may speak about what it is here for, and to be polite."""
        if told.intent:
            return Grounds("not_needed")
        (vector,) = await self._search.embed([question])
        small_talk = (await self._prepared()).likeness(question, vector)
        return Grounds("not_needed" if small_talk >= PERHAPS else "unknown")

    async def _judge(self, found: Found, threshold: float) -> Grounds:
        small_talk = (await self._prepared()).likeness(found.question.text, found.question.vector)
        if small_talk >= SURELY:
            return Grounds("not_needed")
        if found.confidence >= threshold:
            return Grounds("found", _numbered(worth_reading(found, self._max_words)), found.confidence)
        if small_talk >= PERHAPS:
            return Grounds("not_needed")
        related = best_of_articles(found.hits)[:MOST_RELATED] if found.confidence >= LEAST_RELATED else []
        articles = (replace(one, headings=()) for one in _numbered(related))
        return Grounds("unknown", tuple(articles), found.confidence)

    async def _prepared(self) -> SmallTalk:
        async with self._preparing:
            if self._small_talk is None:
                self._small_talk = await self._search.with_embedder(lambda embedder: SmallTalk(embedder.embed))
            return self._small_talk


def _threshold(rules: AnsweringRules) -> float:
    return DEFAULT_THRESHOLD if rules.threshold is None else rules.threshold


def worth_reading(found: Found, max_words: int) -> list[Hit]:
    """The best passages, as far as they are nearly as good as the first and fit together; the first is cut to fit."""
    first = found.hits[0]
    text = excerpt(first.passage.text, found.question.words, max_words)
    chosen = [replace(first, passage=replace(first.passage, text=text))]
    room = max_words - count_words(text)
    for one in found.hits[1:MOST_PASSAGES]:
        room -= count_words(one.passage.text)
        if room < 0 or one.score < LEAST_OF_BEST * first.score:
            break
        chosen.append(one)
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
