"""Gaps, curated answers and the threshold in the admin API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from bot.access.roles import Actor
from bot.knowledge.grounding import DEFAULT_THRESHOLD
from bot.knowledge.knowledge_gaps import PLACE_FOR_THE_ANSWER
from bot.knowledge.search import search as search_module
from bot.learning.data.review_queue import Reviews
from storage import knowledge
from tests.builders.agents import model_of
from tests.builders.desk import Desk
from tests.builders.logins import Steerer, log_in
from tests.builders.shop import RETURNS, Person
from tests.builders.web import WebServer

pytestmark = pytest.mark.model

AGENT = Actor("web:bob", "agent")
QUESTION, ANSWER = "Do you sell gift cards?", "Yes: 25, 50 and 100 euros, at the till."


@dataclass
class Counter:
    """The admin page of an installation with one article, and a visitor who asks."""

    server: WebServer
    desk: Desk
    trainer: Steerer
    person: Person

    async def gaps(self) -> list[Any]:
        return list((await self.trainer.get("gaps"))["gaps"])

    async def refusal(self, path: str, **body: Any) -> tuple[int, str | None]:
        """Return the status of an action that must fail, and the field that it names."""
        status, found = await self.trainer.call("POST", path, body)
        return status, found["error"].get("field")

    async def corrected(self) -> str:
        """Ask, and have staff write the answer. Return the reply's id."""
        await self.person.ask(QUESTION)
        reply_id: str = (await self.person.history())[-1].id
        await Reviews(self.server.agent.scope).correct(AGENT, reply_id, ANSWER)
        return reply_id


@pytest.fixture
async def counter(server: WebServer, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Counter:
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: desk.docs)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: desk.embedder)
    monkeypatch.setattr(search_module, "LOOK_AGAIN_SECONDS", 0.0)
    desk.write("returns.md", RETURNS)
    await desk.add()
    return Counter(server, desk, await log_in(server, "trainer"), Person(server.agent))


# --- gaps ---


async def test_a_gap_becomes_an_article(counter: Counter) -> None:
    for asked in (QUESTION, "Can I buy a gift card?", "Do you repair bicycles?"):
        assert (await counter.person.ask(asked))[0].startswith("I don't know")
    first, second = await counter.gaps()
    assert (first["count"], second["count"], second["questions"]) == (2, 1, ["Do you repair bicycles?"])
    assert "replyIds" not in first
    assert first["lastAskedAt"] > 0
    written = first["draft"].replace(PLACE_FOR_THE_ANSWER, ANSWER)
    made = await counter.trainer.post(f"gaps/{first['id']}/approve", text=written, audience="public")
    assert made["source"]["location"].startswith("upload:")
    assert (made["source"]["audience"], made["job"]["kind"], made["job"]["state"]) == ("public", "sync", "queued")
    assert [one["id"] for one in await counter.gaps()] == [second["id"]]

    await counter.desk.work()
    model_of(counter.server.agent).enqueue("Yes: 25, 50 and 100 euros, at the till.")
    text, sources = await counter.person.ask(QUESTION)
    assert text.startswith("Yes: 25, 50 and 100 euros")
    assert len(sources) == 1


async def test_a_draft_without_an_answer_is_refused_at_its_field(counter: Counter) -> None:
    await counter.person.ask(QUESTION)
    (gap,) = await counter.gaps()
    path = f"gaps/{gap['id']}/approve"
    for text in (gap["draft"], " "):
        assert await counter.refusal(path, text=text, audience="public") == (400, "text")
    assert await counter.refusal(path, text="# A\n\nB.", audience="all") == (400, "audience")
    assert (await counter.refusal(path, text="x" * 100_001, audience="public"))[0] == 413
    assert (await counter.refusal("gaps/nothing/approve", text="# A\n\nB.", audience="public"))[0] == 404
    assert len(await counter.gaps()) == 1


async def test_answers_by_staff_are_in_the_draft(counter: Counter) -> None:
    await counter.corrected()
    (gap,) = await counter.gaps()
    assert ANSWER in gap["draft"]
    await counter.trainer.post(f"gaps/{gap['id']}/approve", text=gap["draft"], audience="staff")
    assert await counter.gaps() == []


async def test_a_closed_gap_is_no_longer_listed(counter: Counter) -> None:
    await counter.person.ask("Do you repair bicycles?")
    (gap,) = await counter.gaps()
    assert await counter.trainer.post(f"gaps/{gap['id']}/close") == {"closed": 1}
    assert await counter.gaps() == []
    assert await counter.trainer.refused(f"gaps/{gap['id']}/close") == (404, "not_found")
    actions = [one["action"] for one in (await counter.trainer.get("audit"))["rows"]]
    assert "gap.close" in actions


# --- answers word for word ---


async def test_an_answer_is_added_given_counted_and_removed(counter: Counter) -> None:
    added = await counter.trainer.post("answers", question=QUESTION, answer=f"{ANSWER}\nAsk us!", audience="public")
    assert (await counter.person.ask("do you sell gift cards"))[0] == f"{ANSWER}\nAsk us!"
    listed = await counter.trainer.get("answers")
    (one,) = listed["answers"]
    assert (one["id"], one["question"], one["given"], one["createdBy"]) == (added["id"], QUESTION, 1, "web:trainer")
    await counter.trainer.post(f"answers/{added['id']}/remove")
    assert await counter.trainer.get("answers") == {"answers": [], "count": 0, "most": 1000}
    assert (await counter.person.ask(QUESTION))[0].startswith("I don't know")
    assert await counter.trainer.refused(f"answers/{added['id']}/remove") == (404, "not_found")


async def test_bad_answers_are_refused_at_their_field(counter: Counter) -> None:
    good = {"question": "a", "answer": "b", "audience": "public"}
    for field, value, status in (
        ("question", " ", 400),
        ("answer", "", 400),
        ("audience", "all", 400),
        ("question", "x" * 1001, 413),
        ("answer", 3, 400),
    ):
        found = await counter.refusal("answers", **(good | {field: value}))
        assert found == (status, field if status == 400 else None)
    assert (await counter.trainer.get("answers"))["count"] == 0


@pytest.mark.both_databases("LIKE")
async def test_answers_are_filtered_by_the_server(counter: Counter) -> None:
    for question, answer in (("Wo ist Öffnung?", "Im Norden."), ("Gift cards?", ANSWER)):
        await counter.trainer.post("answers", question=question, answer=answer, audience="staff")
    for text, count in (("öffnung", 1), ("TILL", 1), ("", 2), ("parrot", 0)):
        assert (await counter.trainer.get(f"answers?text={text}"))["count"] == count
    first = await counter.trainer.get("answers?most=1")
    assert (len(first["answers"]), first["count"]) == (1, 2)


async def test_a_correction_becomes_an_answer_to_its_own_question(counter: Counter) -> None:
    reply_id = await counter.corrected()
    (found,) = (await counter.trainer.get("corrections"))["corrections"]
    assert (found["replyId"], found["question"], found["better"], found["reviewer"]) == (
        reply_id,
        QUESTION,
        ANSWER,
        "web:bob",
    )
    path = f"corrections/{reply_id}/approve"
    assert await counter.refusal(path, question=" ", audience="public") == (400, "question")
    await counter.trainer.post(path, question="Are there gift cards?", audience="public")
    assert (await counter.trainer.get("corrections"))["corrections"] == []
    assert (await counter.person.ask("Are there gift cards?"))[0] == ANSWER
    assert await counter.trainer.refused(path, question="Again?", audience="public") == (404, "not_found")


# --- the threshold ---


async def test_the_threshold_is_shown_and_reset(counter: Counter) -> None:
    assert await counter.trainer.get("threshold") == {"threshold": None, "default": DEFAULT_THRESHOLD}
    scope = counter.server.agent.scope
    report = {"questions": 40, "answered": 0.95, "answered_by_default": 0.8, "others": 0, "refused": None}
    await scope.write(knowledge.set_threshold, "shell:ada", 0.31, report)
    found = (await counter.trainer.get("threshold"))["threshold"]
    assert (found["value"], found["setBy"], found["report"]) == (0.31, "shell:ada", report)
    await counter.trainer.post("threshold/reset")
    assert (await counter.trainer.get("threshold"))["threshold"] is None
    assert (await counter.trainer.get("audit"))["rows"][0]["target"] == "default"


# --- who may do what ---


async def test_viewers_and_agents_read_and_change_nothing(counter: Counter) -> None:
    reply_id = await counter.corrected()
    added = await counter.trainer.post("answers", question="a", answer="b", audience="public")
    (gap,) = await counter.gaps()
    for role in ("viewer", "agent"):
        somebody = await log_in(counter.server, role)
        assert len((await somebody.get("gaps"))["gaps"]) == (await somebody.get("answers"))["count"] == 1
        assert (await somebody.get("threshold"))["default"] == DEFAULT_THRESHOLD
        assert (await somebody.call("GET", "corrections"))[0] == (200 if role == "agent" else 403)
        for path in (
            f"gaps/{gap['id']}/approve",
            f"gaps/{gap['id']}/close",
            "answers",
            f"answers/{added['id']}/remove",
            f"corrections/{reply_id}/approve",
            "threshold/reset",
        ):
            body = {"text": "# A\n\nB.", "question": "a", "answer": "b", "audience": "public"}
            assert await somebody.refused(path, **body) == (403, "not_allowed")
    assert len(await counter.gaps()) == 1
