"""Intents of a workspace: training, classification and calibration.

The newest trained version is kept in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from bot.access.roles import Actor
from bot.errors import Conflict, NotFound
from bot.knowledge.intents.classifier import Guess, IntentModel, macro_f1, train
from bot.knowledge.intents.intent_file import Phrases, check_enough
from bot.knowledge.search.embedder import Vectors
from bot.knowledge.search.search import OnProgress, Search
from storage import intents
from storage.knowledge_values import IntentSet
from storage.scope import Scope
from storage.transaction import Transaction

log = logging.getLogger("myna.knowledge")

# A small batch, so that a question of a chat does not wait long for the embedder.
EMBEDDED_AT_ONCE = 64
# Least probability of an intent for its verbatim reply.
SURE_ENOUGH = 0.5
COUNTED_DAYS = 30


def ignore_progress(_done: int, _of: int) -> None:
    """Do nothing; the default `report`."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """Intent of a message, empty if it is out of scope, with the verbatim `reply` if there is one."""

    intent: str
    reply: str | None
    guess: Guess


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy on labelled messages, as shares of in-scope and out-of-scope messages; None if there were none.

    `answered` is the share of in-scope messages that pass the threshold.
    """

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
    """Intents of one workspace, on the embedder of `search`."""

    def __init__(self, scope: Scope, search: Search) -> None:
        self._scope = scope
        self._search = search
        self._loaded: _Loaded | None = None
        self._loading = asyncio.Lock()

    async def train(self, actor: Actor, phrases: Phrases, report: OnProgress = ignore_progress) -> IntentSet:
        """Train on these phrases in place of all earlier ones; takes seconds. `report(done, of)` counts phrases.

        Raises `NotAllowed` below the role trainer, `InvalidInput` as `check_enough` does.
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
        """Return the trained intents and the messages of the last 30 days by intent. Raises `NotFound`."""
        actor.check("viewer")
        counts = await self._scope.read(intents.counts, COUNTED_DAYS)
        return await self._current(), counts

    async def clear(self, actor: Actor) -> None:
        """Delete all intents. Raises `NotFound`."""
        actor.check("trainer")
        if not await self._scope.write(intents.forget, actor.name):
            raise _nothing()

    async def tell(self, version: int, text: str, vector: Any = None) -> Recognised | None:
        """Classify a message; None if no intents are trained, or only with another embedder.

        `version` is the training time of the stored intents, 0 for none: older ones in memory are read again. `vector`
        saves embedding the message again.
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
        """Classify a message for staff. Raises `NotFound` if no intents are trained for this embedder."""
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
        self, actor: Actor, phrases: Phrases, report: OnProgress = ignore_progress, *, keep: float | None = None
    ) -> Measured:
        """Measure the accuracy on labelled messages; with `keep`, calibrate the threshold first.

        The calibrated threshold keeps a share of `keep` of the in-scope messages. Raises `NotFound` if no intents are
        trained, `Conflict` if they were trained or cleared in the meantime.
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

    async def _embed(self, texts: Sequence[str], report: OnProgress) -> Vectors:
        # Texts of similar length share a batch, as shorter ones are padded.
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
            log.error("intents were trained with %s; train them again: `myna intents train`", found.embedder)
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
        raise Conflict("The intents were trained or cleared in the meantime. Evaluate again.")
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
    fits = np.array([guess.fit for guess in guesses])
    has_intent = np.array([bool(intent) for _, intent in rows])
    threshold = model.threshold
    if keep is not None and has_intent.any():
        threshold = float(np.quantile(fits[has_intent], 1 - keep))
    numbers = {name: number for number, name in enumerate(sorted({intent for _, intent in rows} | set(model.intents)))}
    right = np.array([numbers[intent] for _, intent in rows])
    told = np.array([numbers[guess.intent] for guess in guesses])
    passed = fits >= threshold
    return Measured(
        messages=len(rows),
        macro_f1=round(macro_f1(right[has_intent], told[has_intent]), 4) if has_intent.any() else None,
        answered=round(float(passed[has_intent].mean()), 4) if has_intent.any() else None,
        out_of_scope_found=round(float((~passed[~has_intent]).mean()), 4) if not has_intent.all() else None,
        threshold=round(threshold, 4),
    ), threshold


def counts_of(found: IntentSet) -> Counter[str]:
    """Return the number of phrases of each intent."""
    return Counter(intent for _, intent in found.phrases)
