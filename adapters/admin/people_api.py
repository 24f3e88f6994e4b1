"""Admin routes to find a person's data and to erase it.

Erasing needs the person's id typed a second time.
"""

from __future__ import annotations

from aiohttp import web

from adapters.admin.guard import Route
from adapters.admin.json_values import json_response, text_of
from adapters.http.requests import clean_text, read_json
from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.learning.versions import Versions
from bot.privacy.erasure.erase_person import Erasure
from bot.privacy.learning_consent import Consent

MOST_CHARS = 300


class PeopleApi:
    """Handlers that find and erase a person."""

    def __init__(self, erasure: Erasure, consent: Consent, versions: Versions) -> None:
        self._erasure = erasure
        self._consent = consent
        self._versions = versions

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/admin/api/people", "admin", self.find),
            Route("POST", "/admin/api/people/erase", "admin", self.erase),
        ]

    async def find(self, request: web.Request, _: Actor) -> web.Response:
        """Return a summary of a person's data; `?who=` is an id, or `CHANNEL:ID`."""
        who = clean_text(request.query.get("who", ""))
        if not who or len(who) > MOST_CHARS:
            raise InvalidInput("Write CHANNEL:ID, like web:... or slack:T1/U2, or a person's id.", field="who")
        traces = await self._erasure.preview(who)
        if traces is None:
            raise NotFound(f'Nobody is known as "{who}". Write CHANNEL:ID, like web:... or slack:T1/U2, or an id.')
        first = traces.names[0].split(":", 1) if traces.names else ["", ""]
        said = await self._consent.choices(*first)
        learnt = {version.id: version.name for version in await self._versions.list_all()}
        return json_response(
            {
                "personId": traces.person_id,
                "names": traces.names,
                "own": len(traces.own),
                "shared": len(traces.shared),
                "versions": [learnt[version_id] for version_id in traces.versions if version_id in learnt],
                "choice": said.person,
                "mayLearn": self._consent.allows(said),
                "policy": self._consent.policy,
            }
        )

    async def erase(self, request: web.Request, actor: Actor) -> web.Response:
        """Erase a person for good. `typed` must repeat the person's id."""
        body = await read_json(request)
        person, typed = text_of(body, "person", MOST_CHARS), text_of(body, "typed", MOST_CHARS)
        if person != typed:
            raise InvalidInput("The id that was typed is not that of the person to erase.", field="typed")
        return json_response({"erased": await self._erasure.erase(actor, person)})
