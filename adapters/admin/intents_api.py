"""Admin routes for intents: train, try, download and clear."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, text_of
from adapters.http.requests import read_json
from adapters.http.uploads import file_in
from bot.access.roles import Actor
from bot.errors import Conflict, NotFound, TooLarge
from bot.knowledge.intents.intent_file import Phrases, read_phrases, write_phrases
from bot.knowledge.intents.intents import COUNTED_DAYS, Intents, counts_of
from storage.knowledge_values import IntentSet

# Training on more would slow down chats.
MAX_PHRASES = 5_000
MAX_FILE_BYTES = 8 * 2**20
MAX_MESSAGE_CHARS = 2_000


@dataclass(slots=True)
class TrainingProgress:
    """Progress of a running training: `done` of `of` phrases are read."""

    by: str
    done: int
    of: int

    def reach(self, done: int, of: int) -> None:
        self.done, self.of = done, of


class IntentsApi:
    """Handlers: viewers read and try messages, trainers change."""

    def __init__(self, intents: Intents) -> None:
        self._intents = intents
        self._training: TrainingProgress | None = None

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/intents", "viewer", self.intents),
            Route("GET", "/admin/api/intents/training", "viewer", self.training),
            Route("GET", "/admin/api/intents/phrases", "viewer", self.phrases),
            Route("GET", "/admin/api/intents/file", "viewer", self.file),
            Route("POST", "/admin/api/intents/train", "trainer", self.train),
            Route("POST", "/admin/api/intents/try", "viewer", self.try_out),
            Route("POST", "/admin/api/intents/clear", "trainer", self.clear),
        ]

    async def intents(self, _: web.Request, actor: Actor) -> web.Response:
        """Return the last training (null if there was none) and the running one."""
        try:
            found, counts = await self._intents.show(actor)
        except NotFound:
            trained = None
        else:
            trained = _shown(found, counts)
        limits = {"mostPhrases": MAX_PHRASES, "maxBytes": MAX_FILE_BYTES, "days": COUNTED_DAYS}
        return json_response({"trained": trained, "training": self._training} | limits)

    async def training(self, _request: web.Request, _actor: Actor) -> web.Response:
        """Return the progress of the running training; the page polls this route."""
        return json_response({"training": self._training})

    async def phrases(self, _: web.Request, actor: Actor) -> web.Response:
        """Return the phrases as CSV, to be edited and sent again."""
        return json_response({"csv": await self._csv(actor)})

    async def file(self, _: web.Request, actor: Actor) -> web.Response:
        """Return the phrases as a file to download."""
        headers = {"Content-Disposition": 'attachment; filename="intents.csv"'}
        return web.Response(text=await self._csv(actor), content_type="text/csv", charset="utf-8", headers=headers)

    async def train(self, request: web.Request, actor: Actor) -> web.Response:
        """Train on the CSV file in the body, in place of the earlier intents; answer when that is done.

        Training continues if the browser disconnects.
        """
        content = await file_in(request, MAX_FILE_BYTES)
        self._check_free()
        phrases = _checked(await asyncio.to_thread(read_phrases, content, "The file", to_learn=True))
        self._check_free()
        self._training = TrainingProgress(actor.name, 0, len(phrases.rows))
        try:
            made = await self._intents.train(actor, phrases, self._training.reach)
        finally:
            self._training = None
        return json_response({"intents": len(counts_of(made)), "phrases": len(made.phrases), "report": made.report})

    async def try_out(self, request: web.Request, actor: Actor) -> web.Response:
        """Classify a message. `intent` is null if none is certain; `nearest` is the best match in any case."""
        body = await read_json(request)
        told = await self._intents.try_out(actor, text_of(body, "message", MAX_MESSAGE_CHARS))
        return json_response(
            {
                "intent": told.intent or None,
                "nearest": told.guess.intent,
                "probability": told.guess.probability,
                "reply": told.reply,
            }
        )

    async def clear(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        await self._intents.clear(actor)
        return json_response({})

    def _check_free(self) -> None:
        if self._training is not None:
            raise Conflict(f"{self._training.by} is training intents just now. Try again when that is done.")

    async def _csv(self, actor: Actor) -> str:
        found, _ = await self._intents.show(actor)
        return write_phrases(found.phrases, found.replies)


def _checked(phrases: Phrases) -> Phrases:
    if len(phrases.rows) > MAX_PHRASES:
        raise TooLarge(
            f"There are {len(phrases.rows):,} phrases; {MAX_PHRASES:,} are the most here. `myna intents train` takes "
            "more.",
            limit=MAX_PHRASES,
        )
    return phrases


def _shown(found: IntentSet, counts: dict[str, int]) -> dict[str, object]:
    phrases = counts_of(found)
    rows = [
        {"name": name, "phrases": phrases[name], "messages": counts.get(name, 0), "reply": found.replies.get(name)}
        for name in sorted(phrases)
    ]
    return {
        "intents": rows,
        "numPhrases": len(found.phrases),
        "outOfScope": counts.get("", 0),
        "report": found.report,
        "trainedBy": found.trained_by,
        "trainedAt": found.trained_at,
    }
