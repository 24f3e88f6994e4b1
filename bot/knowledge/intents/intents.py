"""Intents of one workspace: trained by staff, told for each message, kept in memory while they are the newest.

Knows: who may train, when what is in memory is too old. Does not know: how messages are told apart, what is done then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.access.roles import Actor
from bot.errors import Conflict, NotFound
from bot.knowledge.intents.classifier import Guess, IntentModel, macro_f1, train
from bot.knowledge.intents.intent_file import Phrases, check_enough
from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.search import Search
from storage import intents
from storage.knowledge_values import IntentSet
from storage.scope import Scope
from storage.transaction import Transaction

log = logging.getLogger("myna.knowledge")

# So few that a question waits no longer for the embedder than for another question.
EMBEDDED_AT_ONCE = 64
# So sure of one intent that what its builders want to be said is said.
SURE_ENOUGH = 0.5
COUNTED_DAYS = 30

Report = Callable[[int, int], None]


def ignore_progress(_done: int, _of: int) -> None:
    """For callers who do not show any."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a message is about; `intent` is empty if it is about none of them. `reply` is to be said to it."""

    intent: str
    reply: str | None
    guess: Guess


@dataclass(frozen=True, slots=True)
class Measured:
    """How well labelled messages are told. Shares are of the messages with, and without, an intent; None of none."""

    messages: int
    macro_f1: float | None
    answered: float | None
    out_of_scope_found: float | None
    threshold: float

    @property
    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class _Loaded:
    version: int
    replies: dict[str, str]
    model: IntentModel


class Intents:
    """Trains and tells intents. Vectors are made by the embedder of `search`."""

    def __init__(self, scope: Scope, search: Search) -> None:
        self._scope = scope
        self._search = search
        self._loaded: _Loaded | None = None
        self._loading = asyncio.Lock()

    async def train(self, actor: Actor, phrases: Phrases, report: Report = ignore_progress) -> IntentSet:
        """Learn these phrases in place of all that were there; takes seconds. `report(done, of)` counts phrases.

        Raises `NotAllowed` below the role trainer, `InvalidInput` if there are too few.
        """
        actor.check("trainer")
        check_enough(phrases)
        texts, labels = [phrase for phrase, _ in phrases.rows], [intent for _, intent in phrases.rows]
        vectors = await self._embed(texts, report)
        trained = await asyncio.to_thread(train, texts, labels, vectors)
        await self._scope.write(
            _put,
            actor.name,
            await self._embedder_name(),
            phrases,
            trained.model,
            {"macro_f1": round(trained.macro_f1, 4)},
        )
        return await self._current()

    async def show(self, actor: Actor) -> tuple[IntentSet, dict[str, int]]:
        """What was trained last, and how many messages of the last 30 days were about each. Raises `NotFound`."""
        actor.check("viewer")
        counts = await self._scope.read(intents.counts, COUNTED_DAYS)
        return await self._current(), counts

    async def clear(self, actor: Actor) -> None:
        """Forget all intents. Raises `NotFound`."""
        actor.check("trainer")
        if not await self._scope.write(intents.forget, actor.name):
            raise _nothing()

    async def tell(self, version: int, text: str, vector: Any = None) -> Recognised | None:
        """What a message is about; None where nothing was trained, or with another embedder.

        `version` is when the newest that is stored was trained; `vector` is the message's, if it is known already.
        """
        loaded = await self._load(version)
        if loaded is None:
            return None
        if vector is None:
            vector = (await self._search.embed([text]))[0]
        guess = await asyncio.to_thread(loaded.model.guess, text, vector)
        if not loaded.model.fits(guess):
            return Recognised("", None, guess)
        reply = loaded.replies.get(guess.intent) if guess.probability >= SURE_ENOUGH else None
        return Recognised(guess.intent, reply, guess)

    async def try_out(self, actor: Actor, text: str) -> Recognised:
        """What a message would be taken for. Raises `NotFound` where nothing was trained."""
        actor.check("viewer")
        current = await self._current()
        told = await self.tell(current.trained_at, text)
        if told is None:
            raise self._other_embedder(current)
        return told

    def _other_embedder(self, current: IntentSet) -> NotFound:
        return NotFound(
            f"The intents were trained with {current.embedder}, which is no longer set. They must be trained again.",
            hint="train_intents",
        )

    async def measure(
        self, actor: Actor, phrases: Phrases, report: Report = ignore_progress, *, keep: float | None = None
    ) -> Measured:
        """How well messages with their intents are told. With `keep`, and so much of those with an intent to be kept,
        the threshold is set to do that. Raises `NotFound` where nothing was trained, `Conflict` if that was just now.
        """
        actor.check("viewer" if keep is None else "trainer")
        current = await self._current()
        loaded = await self._load(current.trained_at)
        if loaded is None:
            raise self._other_embedder(current)
        texts = [text for text, _ in phrases.rows]
        vectors = await self._embed(texts, report)
        measured, threshold = await asyncio.to_thread(_measure, loaded.model, phrases.rows, vectors, keep)
        if keep is not None:
            report_now = {**current.report, "calibrated": measured.as_json}
            model = copy(loaded.model)
            model.threshold = threshold
            await self._scope.write(_recalibrate, actor.name, current, model, report_now)
        return measured

    async def _current(self) -> IntentSet:
        found = await self._scope.read(intents.current)
        if found is None:
            raise _nothing()
        return found

    async def _embed(self, texts: Sequence[str], report: Report) -> Vectors:
        # Texts of one length go together, as the shorter ones are filled up.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        parts = []
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            some = [texts[place] for place in order[start : start + EMBEDDED_AT_ONCE]]
            parts.append(await self._search.embed(some))
            report(start + len(some), len(texts))
        vectors = np.concatenate(parts)
        return vectors[np.argsort(order)]

    async def _embedder_name(self) -> str:
        return await self._search.with_embedder(lambda embedder: embedder.name)

    async def _load(self, version: int) -> _Loaded | None:
        async with self._loading:
            if not version:
                self._loaded = None
            elif self._loaded is None or self._loaded.version != version:
                self._loaded = await self._read()
            return self._loaded

    async def _read(self) -> _Loaded | None:
        found = await self._scope.read(intents.current)
        if found is None:
            return None
        if found.embedder != await self._embedder_name():
            log.error("intents were trained with the embedder %s: `myna intents train` does it again", found.embedder)
            return None
        return _Loaded(found.trained_at, dict(found.replies), await asyncio.to_thread(_model_of, found))


def _nothing() -> NotFound:
    return NotFound("There are no intents.", hint="train_intents")


def _put(
    tx: Transaction, actor: str, embedder: str, phrases: Phrases, model: IntentModel, report: dict[str, Any]
) -> None:
    intents.put(
        tx,
        actor,
        embedder=embedder,
        phrases=phrases.rows,
        replies=phrases.replies,
        computed=model.to_bytes(),
        threshold=model.threshold,
        report=report,
    )


def _recalibrate(tx: Transaction, actor: str, current: IntentSet, model: IntentModel, report: dict[str, Any]) -> None:
    newest = intents.current(tx)
    if newest is None or newest.trained_at != current.trained_at:
        raise Conflict("The intents were trained or cleared meanwhile. Evaluate again.")
    _put(tx, actor, current.embedder, Phrases(current.phrases, current.replies), model, report)


def _model_of(found: IntentSet) -> IntentModel:
    names = sorted({intent for _, intent in found.phrases})
    numbers = {name: number for number, name in enumerate(names)}
    texts, places = [text for text, _ in found.phrases], [numbers[intent] for _, intent in found.phrases]
    return IntentModel.from_bytes(found.computed, names, texts, places, found.threshold)


def _measure(
    model: IntentModel, rows: Sequence[tuple[str, str]], vectors: Vectors, keep: float | None
) -> tuple[Measured, float]:
    guesses = [model.guess(text, vector) for (text, _), vector in zip(rows, vectors, strict=True)]
    fits = np.array([one.fit for one in guesses])
    has_intent = np.array([bool(intent) for _, intent in rows])
    threshold = model.threshold
    if keep is not None and has_intent.any():
        threshold = float(np.quantile(fits[has_intent], 1 - keep))
    numbers = {name: number for number, name in enumerate(sorted({intent for _, intent in rows} | set(model.intents)))}
    right = np.array([numbers[intent] for _, intent in rows])
    told = np.array([numbers[one.intent] for one in guesses])
    passed = fits >= threshold
    return Measured(
        messages=len(rows),
        macro_f1=round(macro_f1(right[has_intent], told[has_intent]), 4) if has_intent.any() else None,
        answered=round(float(passed[has_intent].mean()), 4) if has_intent.any() else None,
        out_of_scope_found=round(float((~passed[~has_intent]).mean()), 4) if not has_intent.all() else None,
        threshold=round(threshold, 4),
    ), threshold


def counts_of(found: IntentSet) -> Counter[str]:
    """How many phrases each intent has."""
    return Counter(intent for _, intent in found.phrases)
