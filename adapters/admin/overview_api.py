"""Admin route for the overview, the page's first view."""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response
from bot.access.accounts import Accounts
from bot.access.roles import Actor
from bot.jobs.control import Jobs
from bot.learning.data.review_queue import Reviews
from bot.learning.release import canary_watch
from bot.learning.release.releases import Releases
from storage import votes
from storage.learning_values import OPEN_STATES
from storage.scope import Scope

NEWEST_ROWS = 6
MOST_WAITING = 100
VOTE_DAYS = 90


class OverviewApi:
    """Handler that returns release, canary, open jobs, waiting reviews, votes and newest audit rows at once."""

    def __init__(
        self, scope: Scope, base: str, accounts: Accounts, releases: Releases, jobs: Jobs, reviews: Reviews
    ) -> None:
        self._scope = scope
        self._base = base
        self._accounts = accounts
        self._releases = releases
        self._jobs = jobs
        self._reviews = reviews

    def routes(self) -> list[Route]:
        return [Route("GET", "/admin/api/overview", "viewer", self.overview)]

    async def overview(self, _: web.Request, actor: Actor) -> web.Response:
        release = await self._releases.current()
        trial = await canary_watch.look_at(self._scope, release)
        jobs = await self._jobs.list(actor, 50)
        waiting = await self._reviews.count(actor, MOST_WAITING) if actor.may("agent") else None
        days = await self._scope.read(votes.by_day, VOTE_DAYS)
        return json_response(
            {
                "base": self._base,
                "release": release,
                "trial": trial and trial.report(),
                "jobs": [job for job in jobs if job.state in OPEN_STATES],
                "waiting": waiting,
                "votes": sum(day.up + day.down for day in days),
                "rows": await self._accounts.audit_page(actor, most=NEWEST_ROWS),
            }
        )
