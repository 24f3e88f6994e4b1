"""Admin routes for curated answers, corrections and the threshold."""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import choice_of, json_response, number_in_query, text_of, to_json
from adapters.http.requests import read_json
from bot.access.roles import Actor
from bot.knowledge.calibration import Thresholds
from bot.knowledge.curated_answers import MAX_ANSWER_CHARS, MAX_QUESTION_CHARS, CuratedAnswers
from bot.knowledge.grounding import DEFAULT_THRESHOLD
from storage.knowledge_values import AUDIENCES, CuratedAnswer

PAGE, MOST = 50, 1000
MAX_FILTER_CHARS = 200


class AnswersApi:
    """Handlers: viewers read, agents see corrections, trainers change."""

    def __init__(self, curated: CuratedAnswers, thresholds: Thresholds) -> None:
        self._curated = curated
        self._thresholds = thresholds

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/answers", "viewer", self.answers),
            Route("POST", "/admin/api/answers", "trainer", self.add),
            Route("POST", "/admin/api/answers/{id}/remove", "trainer", self.remove),
            Route("GET", "/admin/api/corrections", "agent", self.corrections),
            Route("POST", "/admin/api/corrections/{id}/approve", "trainer", self.approve),
            Route("GET", "/admin/api/threshold", "viewer", self.threshold),
            Route("POST", "/admin/api/threshold/reset", "trainer", self.reset_threshold),
        ]

    async def answers(self, request: web.Request, actor: Actor) -> web.Response:
        """List the first answers with the number of times each was given, and count all; `text` filters them."""
        text = text_of(request.query, "text", MAX_FILTER_CHARS, optional=True).casefold()
        most = min(number_in_query(request, "most") or PAGE, MOST)
        found = [(answer, given) for answer, given in await self._curated.list(actor) if _holds(answer, text)]
        shown = [to_json(answer) | {"given": given} for answer, given in found[:most]]
        return json_response({"answers": shown, "count": len(found), "most": MOST})

    async def add(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        question, answer = text_of(body, "question", MAX_QUESTION_CHARS), text_of(body, "answer", MAX_ANSWER_CHARS)
        added = await self._curated.add(actor, question, answer, choice_of(body, "audience", AUDIENCES))
        return json_response({"id": added}, status=201)

    async def remove(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        return json_response({"removed": await self._curated.remove(actor, request.match_info["id"])})

    async def corrections(self, _: web.Request, actor: Actor) -> web.Response:
        """List corrections by staff that are not answers yet, newest first."""
        return json_response({"corrections": await self._curated.candidates(actor, PAGE)})

    async def approve(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        question, audience = text_of(body, "question", MAX_QUESTION_CHARS), choice_of(body, "audience", AUDIENCES)
        added = await self._curated.approve(actor, request.match_info["id"], question, audience)
        return json_response({"id": added}, status=201)

    async def threshold(self, _: web.Request, actor: Actor) -> web.Response:
        """Return the calibrated threshold, None where the default holds."""
        return json_response({"threshold": await self._thresholds.current(actor), "default": DEFAULT_THRESHOLD})

    async def reset_threshold(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        await self._thresholds.reset(actor)
        return json_response({"threshold": None, "default": DEFAULT_THRESHOLD})


def _holds(answer: CuratedAnswer, text: str) -> bool:
    return text in answer.question.casefold() or text in answer.answer.casefold()
