"""Admin routes for blind comparison of answers in pairs.

No response tells which version gave an answer before the person has judged it.
"""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import choice_of, json_response, number_of
from adapters.http.requests import read_json
from bot.access.roles import Actor
from bot.learning.judge.blind_judging import BlindJudging
from bot.learning.judge.evaluation_report import Judgements
from bot.learning.versions import Versions
from storage import evaluations
from storage.scope import Scope


class CompareApi:
    """Handlers for evaluations, and for pairs of answers to judge."""

    def __init__(self, scope: Scope, judging: BlindJudging, versions: Versions) -> None:
        self._scope = scope
        self._judging = judging
        self._versions = versions

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/evaluations", "viewer", self.evaluations),
            Route("GET", "/admin/api/evaluations/{id}/pair", "agent", self.pair),
            Route("POST", "/admin/api/evaluations/{id}/judgements", "agent", self.judge),
        ]

    async def evaluations(self, _: web.Request, __: Actor) -> web.Response:
        names = {version.id: version.name for version in await self._versions.list_all()}
        found = await self._scope.read(evaluations.verdicts)
        tallies = await self._judging.tallies()
        shown = [
            {
                "id": verdict.id,
                "version": names.get(verdict.version_id),
                "champion": names.get(verdict.champion_id or ""),
                "passed": verdict.passed,
                "createdAt": verdict.created_at,
                "judgements": tallies.get((verdict.version_id, verdict.champion_id), Judgements()),
            }
            for verdict in found
        ]
        return json_response({"evaluations": shown})

    async def pair(self, request: web.Request, actor: Actor) -> web.Response:
        """Return a pair that this person has not judged; null if none is left."""
        return json_response({"pair": await self._judging.next_pair(actor, request.match_info["id"])})

    async def judge(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        number, choice = number_of(body, "number"), choice_of(body, "choice", ("left", "right", "same"))
        evaluation_id = request.match_info["id"]
        await self._judging.vote(actor, evaluation_id, number, choice)  # type: ignore[arg-type]
        return json_response({"pair": await self._judging.next_pair(actor, evaluation_id)})
