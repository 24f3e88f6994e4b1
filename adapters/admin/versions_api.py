"""Admin routes for versions, releases and canaries.

A change of the release names the release that the person saw (`at`), and fails if another one answers by now.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, number_of, text_of, to_json
from adapters.http.markdown import render_markdown
from adapters.http.requests import read_json
from bot.access.roles import Actor
from bot.errors import Fault, InvalidInput
from bot.jobs.control import Jobs
from bot.learning.judge.evaluation_report import report_from_json
from bot.learning.judge.gate import GateVerdict
from bot.learning.judge.model_card import ModelCard, card_lines
from bot.learning.release import canary_watch
from bot.learning.release.plan import RollBack
from bot.learning.release.releases import Releases
from bot.learning.versions import Versions
from storage import datasets, releases, versions
from storage.learning_values import Dataset, Evaluation, Version
from storage.scope import Scope

MOST_WORDS = 2_000


class VersionsApi:
    """Handlers that promote, start canaries, roll back, retire and evaluate.

    `at` of a request is the number of the release that was shown, so that two people do not undo each other's change.
    """

    def __init__(self, scope: Scope, versions: Versions, released: Releases, jobs: Jobs) -> None:
        self._scope = scope
        self._versions = versions
        self._released = released
        self._jobs = jobs

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/versions", "viewer", self.versions),
            Route("GET", "/admin/api/versions/{which}", "viewer", self.version),
            Route("POST", "/admin/api/versions/{which}/promote", "admin", self.promote),
            Route("POST", "/admin/api/versions/{which}/canary", "admin", self.start_canary),
            Route("POST", "/admin/api/versions/{which}/retire", "trainer", self.retire),
            Route("POST", "/admin/api/versions/{which}/evaluate", "trainer", self.evaluate),
            Route("POST", "/admin/api/release/rollback", "trainer", self.rollback),
            Route("POST", "/admin/api/release/stop-canary", "trainer", self.stop_canary),
        ]

    async def versions(self, _: web.Request, __: Actor) -> web.Response:
        """List all versions, newest first, each with its last verdict and the fault of promoting it now.

        Also returns the current release, the effect of a rollback, and earlier canaries.
        """
        # The release is read first: a fault of a later release can then not be acted upon.
        rollback, found = await self._released.preview(RollBack()), await self._released.standings()
        release = rollback.before
        trial = await canary_watch.look_at(self._scope, release)
        past = await self._scope.read(releases.canaries)
        return json_response(
            {
                "versions": [
                    {"version": standing.version, "passed": standing.passed, "fault": _shown(standing.fault)}
                    for standing in reversed(found)
                ],
                "release": release,
                "rollback": {"to": rollback.after.champion, "fault": _shown(rollback.fault)},
                "trial": trial and trial.report(),
                "canaries": past,
            }
        )

    async def version(self, request: web.Request, _: Actor) -> web.Response:
        """Return a version with its model card and its newest evaluation, without the answers."""
        release = await self._released.current()  # first, as above
        standing = await self._released.standing(request.match_info["which"])
        version = standing.version
        learnt = await self._scope.read(versions.count_learnt_from, version.id)
        evaluation = await self._versions.newest_evaluation(version.name)
        shown = None
        if evaluation is not None:
            report = {name: value for name, value in evaluation.report.items() if name != "answers"}
            shown = {
                "id": evaluation.id,
                "passed": evaluation.passed,
                "reasons": evaluation.reasons,
                "report": report,
                "createdAt": evaluation.created_at,
                "createdBy": evaluation.created_by,
            }
        made_of = await self._scope.read(datasets.list_all)
        dataset = next((dataset for dataset in made_of if dataset.id == version.dataset_id), None)
        card = model_card(version, dataset, evaluation)
        return json_response(
            {
                "version": version,
                "fault": _shown(standing.fault),
                "release": release,
                "evaluation": shown,
                "examples": learnt.examples,
                "conversations": learnt.conversations,
                "card": card,
                "cardHtml": render_markdown(card),
            }
        )

    async def promote(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        reason, at = text_of(body, "reason", MOST_WORDS, optional=True), number_of(body, "at")
        release = await self._released.promote(
            actor, request.match_info["which"], override_reason=reason or None, at=at
        )
        return json_response({"release": release})

    async def start_canary(self, request: web.Request, actor: Actor) -> web.Response:
        """Start a canary; `share` is the part of all conversations, from 0 to 1."""
        body = await read_json(request)
        share, reason = body.get("share"), text_of(body, "reason", MOST_WORDS, optional=True)
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise InvalidInput("`share` must be a number, as 0.05 for 5 %.", field="share")
        release = await self._released.start_canary(
            actor, request.match_info["which"], float(share), override_reason=reason or None, at=number_of(body, "at")
        )
        return json_response({"release": release})

    async def retire(self, request: web.Request, actor: Actor) -> web.Response:
        why = text_of(await read_json(request), "reason", MOST_WORDS)
        return json_response({"version": await self._versions.retire(actor, request.match_info["which"], why)})

    async def evaluate(self, request: web.Request, actor: Actor) -> web.Response:
        await read_json(request)
        version = await self._versions.find(request.match_info["which"])
        return json_response({"job": await self._jobs.create(actor, "evaluate", {"version": version.name})}, status=201)

    async def rollback(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        why, at = text_of(body, "reason", MOST_WORDS), number_of(body, "at")
        return json_response({"release": await self._released.rollback(actor, why, at=at)})

    async def stop_canary(self, request: web.Request, actor: Actor) -> web.Response:
        body = await read_json(request)
        why, at = text_of(body, "reason", MOST_WORDS, optional=True), number_of(body, "at")
        return json_response({"release": await self._released.stop_canary(actor, why, at=at)})


def _shown(fault: Fault | None) -> dict[str, Any] | None:
    """Return a fault as JSON, with `needsReason` if a reason overrides it; the page words it."""
    return None if fault is None else {**to_json(fault), "needsReason": fault.is_of_gate}


def model_card(version: Version, dataset: Dataset | None, evaluation: Evaluation | None) -> str:
    """Return the model card in Markdown, from the database: the version's folder may be on another machine."""
    report = verdict = None
    if evaluation is not None:
        report, verdict = report_from_json(evaluation.report), GateVerdict(evaluation.passed, evaluation.reasons)
    return "\n".join(card_lines(ModelCard(version, dataset, report, verdict)))
