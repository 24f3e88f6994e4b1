"""Intents in the admin API: trained, tried, downloaded and cleared."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from adapters.admin import intents_api
from bot.knowledge.intents.intent_file import read_phrases
from bot.knowledge.search import search as search_module
from tests.builders.agents import model_of
from tests.builders.desk import Desk
from tests.builders.logins import COOKIE, Steerer, log_in
from tests.builders.shop import INTENTS_CSV, Person
from tests.builders.web import WebServer

pytestmark = pytest.mark.model

HUMAN = "Our team answers at +49 30 1234, Monday to Friday."


@dataclass
class Classroom:
    """The admin page of an installation without articles."""

    server: WebServer
    trainer: Steerer

    async def train(self, csv: str | bytes, who: Steerer | None = None, **headers: str) -> tuple[int, Any]:
        """Send a file. Return status and JSON of the answer."""
        own = {
            "Sec-Fetch-Site": "same-origin",
            "X-Myna-Admin": "1",
            "Origin": self.server.url,
            "Content-Type": "application/octet-stream",
            "Cookie": f"{COOKIE}={(who or self.trainer).secret}",
        }
        content = csv if isinstance(csv, bytes) else csv.encode()
        url = f"{self.server.url}/admin/api/intents/train"
        async with self.server.session.post(url, data=content, headers=own | headers) as response:
            return response.status, await response.json()

    async def tried(self, message: str) -> Any:
        return await self.trainer.post("intents/try", message=message)


@pytest.fixture
async def classroom(server: WebServer, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Classroom:
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: desk.docs)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: desk.embedder)
    return Classroom(server, await log_in(server, "trainer"))


async def test_intents_are_trained_shown_tried_and_used(classroom: Classroom) -> None:
    before = await classroom.trainer.get("intents")
    assert (before["trained"], before["training"], before["mostPhrases"]) == (None, None, 5000)
    assert await classroom.trainer.refused("intents/try", message="Where is my order?") == (404, "not_found")
    status, made = await classroom.train(INTENTS_CSV)
    assert (status, made["intents"], made["phrases"]) == (200, 3, 12)

    person = Person(classroom.server.agent)
    assert (await person.ask("can I speak with a real person"))[0] == HUMAN
    assert (await person.ask("Who won the world cup?"))[0].startswith("I don't know")
    trained = (await classroom.trainer.get("intents"))["trained"]
    assert [(one["name"], one["phrases"], one["messages"], one["reply"]) for one in trained["intents"]] == [
        ("human", 4, 1, HUMAN),
        ("order status", 4, 0, None),
        ("refund", 4, 0, None),
    ]
    assert (trained["numPhrases"], trained["outOfScope"], trained["trainedBy"]) == (12, 1, "web:trainer")
    assert 0.5 < trained["report"]["macro_f1"] <= 1
    assert trained["trainedAt"] > 0

    told = await classroom.tried("wheres my ordr")
    assert (told["intent"], told["nearest"], told["reply"]) == ("order status", "order status", None)
    assert 0 < told["probability"] <= 1
    assert (await classroom.tried("give me an agent to speak with"))["reply"] == HUMAN
    assert (await classroom.tried("What is the capital of France?"))["intent"] is None
    assert await classroom.trainer.refused("intents/try", message=" ") == (400, "invalid_input")


async def test_downloaded_phrases_can_be_sent_again(classroom: Classroom) -> None:
    for path in ("intents/phrases", "intents/file"):
        assert (await classroom.trainer.call("GET", path))[0] == 404
    await classroom.train(INTENTS_CSV)
    csv = (await classroom.trainer.get("intents/phrases"))["csv"]
    assert read_phrases(csv.encode()) == read_phrases(INTENTS_CSV.encode())
    url, cookie = classroom.server.url, {"Cookie": f"{COOKIE}={classroom.trainer.secret}"}
    async with classroom.server.session.get(f"{url}/admin/api/intents/file", headers=cookie) as response:
        assert (response.content_type, response.headers["Content-Disposition"]) == (
            "text/csv",
            'attachment; filename="intents.csv"',
        )
        assert await response.text() == csv
    status, made = await classroom.train(csv.replace("refund\n", "money back\n"))
    assert (status, made["phrases"]) == (200, 12)


async def test_intents_are_cleared_and_replaced(classroom: Classroom) -> None:
    assert await classroom.trainer.refused("intents/clear") == (404, "not_found")
    await classroom.train(INTENTS_CSV)
    assert (await classroom.tried("Where is my order?"))["intent"] == "order status"
    await classroom.trainer.post("intents/clear")
    assert (await classroom.trainer.get("intents"))["trained"] is None
    model_of(classroom.server.agent).enqueue("I am asked.")
    assert (await Person(classroom.server.agent).ask("Who won the world cup?"))[0] == "I am asked."
    await classroom.train(INTENTS_CSV.replace("order status", "parcel"))
    assert (await classroom.tried("Where is my order?"))["intent"] == "parcel"


async def test_every_bad_line_is_reported_and_the_old_intents_stay(classroom: Classroom) -> None:
    await classroom.train(INTENTS_CSV)
    status, found = await classroom.train("text,intent\n,a\nx,a\nx,b\ny,b\n")
    assert (status, found["error"]["field"]) == (400, "file")
    assert found["error"]["message"].splitlines() == [
        "The file, line 2: the text is missing",
        'The file, line 4: "x" has the intent "a" on another line',
    ]
    for wrong, told in (
        ("question,answer\na,b\n", "header text,intent"),
        ("text,intent\n", "contains no phrases"),
        ("text,intent\na,one\nb,one\n", "at least 2 intents"),
        (b"\xff\xfe", "UTF-8"),
        ("", "header"),
    ):
        status, found = await classroom.train(wrong)
        assert (status, told in found["error"]["message"]) == (400, True), found
    assert (await classroom.train(INTENTS_CSV, **{"Content-Type": "text/csv"}))[0] == 400
    assert (await classroom.trainer.get("intents"))["trained"]["numPhrases"] == 12


async def test_larger_files_are_for_the_command_line(classroom: Classroom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intents_api, "MAX_PHRASES", 11)
    status, found = await classroom.train(INTENTS_CSV)
    assert (status, found["error"]["code"], found["error"]["limit"]) == (413, "too_large", 11)
    assert "myna intents train" in found["error"]["message"]
    monkeypatch.setattr(intents_api, "MAX_FILE_BYTES", 100)
    assert (await classroom.train(INTENTS_CSV))[0] == 413
    assert (await classroom.trainer.get("intents"))["trained"] is None


async def test_everybody_sees_the_training_and_only_one_runs(
    classroom: Classroom, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = await log_in(classroom.server, "viewer")
    intents = classroom.server.agent.grounding.intents
    goes_on, embed = asyncio.Event(), intents._search.embed

    async def slow(texts: Any) -> Any:
        await goes_on.wait()
        return await embed(texts)

    monkeypatch.setattr(intents._search, "embed", slow)
    first = asyncio.create_task(classroom.train(INTENTS_CSV))
    async with asyncio.timeout(30):
        while (found := await others.get("intents/training"))["training"] is None:
            await asyncio.sleep(0.05)
    assert found["training"] == {"by": "web:trainer", "done": 0, "of": 12}
    assert (await others.get("intents"))["training"] == found["training"]
    status, refused = await classroom.train(INTENTS_CSV)
    assert (status, refused["error"]["code"]) == (409, "conflict")
    goes_on.set()
    assert (await first)[0] == 200
    assert (await others.get("intents/training"))["training"] is None


async def test_a_viewer_reads_and_tries_and_changes_nothing(classroom: Classroom) -> None:
    await classroom.train(INTENTS_CSV)
    for role in ("viewer", "agent"):
        somebody = await log_in(classroom.server, role)
        assert (await somebody.get("intents"))["trained"]
        assert (await somebody.get("intents/phrases"))["csv"]
        assert (await somebody.post("intents/try", message="refund please"))["intent"] == "refund"
        assert (await classroom.train(INTENTS_CSV, who=somebody))[0] == 403
        assert await somebody.refused("intents/clear") == (403, "not_allowed")
    rows = [one["action"] for one in (await classroom.trainer.get("audit"))["rows"] if "intents" in one["action"]]
    assert rows == ["intents.train"]
