"""Log of the traffic between the fake Slack and Myna: the newest lines, for the demo page."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Literal

from aiohttp import web

from tests.fakes.slack.deliveries import Answer
from tests.fakes.slack.records import Json
from tests.fakes.slack.state import State

MOST_LINES = 100
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Line:
    """A line of the log: `sender` spoke, `outcome` is the other side's answer."""

    number: int
    at: float
    sender: Literal["Myna", "Slack"]
    name: str
    outcome: str
    ok: bool


class Journal:
    def __init__(self, slack: State) -> None:
        self._slack = slack
        self._numbers = itertools.count(1)
        self._lines: deque[Line] = deque(maxlen=MOST_LINES)
        self._num_deliveries = 0

    def lines(self) -> list[Json]:
        self._note_deliveries()
        return [asdict(line) for line in self._lines]

    async def note_call(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a call of the Web API be answered, and log its outcome."""
        response = await handler(request)
        self._note_deliveries()
        outcome = _outcome_of(response)
        self._add("Myna", request.match_info.get("method", request.path), outcome, outcome == "ok")
        return response

    def note_form(self, name: str, answer: Answer) -> None:
        """Log a command, a click or a form, and Myna's answer."""
        self._note_deliveries()
        self._add("Slack", name, str(answer.status) if answer.status else answer.problem, answer.ok)

    def _note_deliveries(self) -> None:
        for one in self._slack.deliveries[self._num_deliveries :]:
            again = f", attempt {one.attempt + 1}" if one.attempt else ""
            outcome = f"{one.status or 'no answer'}, {one.seconds * 1000:.0f} ms{again}"
            self._add("Slack", one.event_type, outcome, 200 <= one.status < 300)
        self._num_deliveries = len(self._slack.deliveries)

    def _add(self, sender: Literal["Myna", "Slack"], name: str, outcome: str, ok: bool) -> None:
        self._lines.append(Line(next(self._numbers), self._slack.clock.now(), sender, name, outcome, ok))


def _outcome_of(response: web.StreamResponse) -> str:
    """Return the outcome of a call: Slack answers 200 to refused calls, too."""
    if not isinstance(response, web.Response) or response.content_type != "application/json":
        return str(response.status)
    body = json.loads(response.text or "{}")
    return "ok" if body.get("ok") else str(body.get("error"))
