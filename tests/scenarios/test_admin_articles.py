"""Articles in the admin API: listed, added, removed and tried."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from bot.errors import ModelError
from bot.knowledge.library import MAX_UPLOAD_BYTES
from bot.knowledge.search import search as search_module
from storage import jobs, knowledge
from storage.values import new_id
from tests.builders.desk import Desk
from tests.builders.logins import COOKIE, Steerer, log_in
from tests.builders.web import WebServer

RETURNS = (
    "# Returns\n\nYou can send anything back within 30 days of delivery.\n\n## Refunds\n\nThe refund takes five days.\n"
)
SALARIES = "# Salaries\n\nSalaries are paid on the 25th of each month.\n"


@dataclass
class Shelf:
    """The admin page of an installation with articles."""

    server: WebServer
    desk: Desk
    trainer: Steerer

    async def send(
        self,
        name: str,
        content: bytes | AsyncIterator[bytes],
        audience: str = "public",
        who: Steerer | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        """Upload a file. Return status and JSON of the answer."""
        somebody = who or self.trainer
        own = {
            "Sec-Fetch-Site": "same-origin",
            "X-Myna-Admin": "1",
            "Origin": self.server.url,
            "Content-Type": "application/octet-stream",
            "Cookie": f"{COOKIE}={somebody.secret}",
        }
        async with self.server.session.post(
            f"{self.server.url}/admin/api/sources/upload",
            params={"name": name, "audience": audience},
            data=content,
            headers=own | headers,
        ) as response:
            return response.status, await response.json()

    async def filled(self) -> None:
        """Upload two articles and read them."""
        assert (await self.send("returns.md", RETURNS.encode()))[0] == 201
        assert (await self.send("salaries.md", SALARIES.encode(), "staff"))[0] == 201
        await self.desk.work()

    async def titles(self, **query: str) -> list[str]:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return [one["title"] for one in (await self.trainer.get(f"articles?{asked}"))["articles"]]

    async def tried(self, question: str, audience: str = "public") -> Any:
        return (await self.trainer.post("articles/try", question=question, audience=audience))["tried"]


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    """Yield the content in pieces, so that it is sent without a length."""
    for start in range(0, len(content), 2**20):
        yield content[start : start + 2**20]


@pytest.fixture
async def shelf(server: WebServer, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: desk.docs)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: desk.embedder)
    yield Shelf(server, desk, await log_in(server, "trainer"))


@pytest.mark.both_databases
async def test_an_upload_is_read_listed_shown_and_removed(shelf: Shelf) -> None:
    status, made = await shelf.send("returns.md", RETURNS.encode())
    assert (status, made["source"]["location"], made["job"]["state"]) == (201, "upload:returns.md", "queued")
    waiting = await shelf.trainer.get("sources")
    assert [one["state"] for one in waiting["underWay"]] == ["queued"]
    assert (waiting["sources"][0]["addedBy"], waiting["sources"][0]["readAt"]) == ("web:trainer", None)
    await shelf.desk.work()

    read = await shelf.trainer.get("sources")
    assert read["count"] == 1
    assert (read["underWay"], read["ended"]["state"], read["numUnreadable"]) == ([], "done", 0)
    assert read["sources"][0]["readAt"]
    listed = await shelf.trainer.get("articles")
    assert (listed["count"], listed["articles"][0]["name"]) == (1, "returns")
    shown = await shelf.trainer.get(f"articles/{listed['articles'][0]['id']}")
    assert [one["headings"] for one in shown["passages"]] == [[], ["Refunds"]]
    assert shown["passages"][1]["text"] == "The refund takes five days."
    assert shown["source"]["id"] == read["sources"][0]["id"]

    await shelf.trainer.post(f"sources/{read['sources'][0]['id']}/remove")
    assert (await shelf.trainer.get("sources"))["sources"] == []
    await shelf.desk.work()
    assert await shelf.titles() == []
    assert await shelf.trainer.refused(f"sources/{read['sources'][0]['id']}/remove") == (404, "not_found")
    assert (await shelf.trainer.call("GET", f"articles/{listed['articles'][0]['id']}"))[0] == 404


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1/",
        "http://192.168.1.1/a",
        "http://[::1]/",
        "https://user:word@shop.example/",
        "/etc/passwd",
        "docs",
        "file:///etc/passwd",
        "ftp://shop.example/a.md",
        "upload:returns.md",
        "http://",
    ],
)
async def test_only_public_urls_are_added(shelf: Shelf, target: str) -> None:
    status, found = await shelf.trainer.call("POST", "sources", {"target": target, "audience": "public"})
    assert (status, found["error"]["field"]) == (400, "target")
    assert f"{target} is not added" in found["error"]["message"]
    assert (await shelf.trainer.get("sources"))["sources"] == []


async def test_a_path_of_this_machine_is_never_added(shelf: Shelf) -> None:
    """Not even a path that the command line takes."""
    file = shelf.desk.write("secret.md", "# Secret\n\nNobody may read this.\n")
    for target in (str(file), str(file.parent), f"  {file}", f"file://{file}"):
        assert await shelf.trainer.refused("sources", target=target, audience="public") == (400, "invalid_input")


async def test_an_unreadable_page_is_added_and_reported(shelf: Shelf) -> None:
    made = await shelf.trainer.post("sources", target=" http://localhost:1/returns ", audience="staff")
    assert (made["source"]["kind"], made["source"]["location"]) == ("url", "http://localhost:1/returns")
    await shelf.desk.work()
    shown = await shelf.trainer.get("sources")
    assert shown["numUnreadable"] == 1
    assert shown["unreadable"][0]["file"] == "http://localhost:1/returns"
    assert "not public" in shown["unreadable"][0]["why"]


async def test_a_failed_sync_is_reported_and_keeps_the_unreadable_list(shelf: Shelf) -> None:
    await shelf.send("broken.pdf", b"%PDF-1.4")
    await shelf.desk.work()

    def fails(*_: Any) -> Mapping[str, Any]:
        raise ModelError("The embedder is gone.")

    await shelf.trainer.post("sources/sync")
    await shelf.desk.work({"sync": fails})
    shown = await shelf.trainer.get("sources")
    assert (shown["ended"]["state"], shown["numUnreadable"]) == ("failed", 1)
    assert "The embedder is gone." in shown["ended"]["error"]


BAD_UPLOADS: dict[str, tuple[Mapping[str, Any], int, str]] = {
    "a name without an ending": ({"name": "returns"}, 400, "name"),
    "a program": ({"name": "returns.exe"}, 400, "name"),
    "no name": ({"name": ""}, 400, "name"),
    "dots": ({"name": ".."}, 400, "name"),
    "another audience": ({"name": "a.md", "audience": "all"}, 400, "audience"),
    "a form": ({"name": "a.md", "Content-Type": "multipart/form-data; boundary=x"}, 400, "content-type"),
}


@pytest.mark.parametrize("wrong", BAD_UPLOADS)
async def test_a_bad_upload_is_refused(shelf: Shelf, wrong: str) -> None:
    options, status, field = BAD_UPLOADS[wrong]
    found = await shelf.send(**{"content": b"# A\n\nText.", **options})
    assert (found[0], found[1]["error"]["field"]) == (status, field)
    assert (await shelf.trainer.get("sources"))["sources"] == []


async def test_a_path_in_an_upload_name_is_dropped(shelf: Shelf) -> None:
    _, made = await shelf.send("../../etc/passwd.md", RETURNS.encode())
    assert made["source"]["location"] == "upload:passwd.md"


@pytest.mark.both_databases("large values")
async def test_an_upload_has_the_size_limit_of_a_local_file(shelf: Shelf) -> None:
    largest = b"a line of text\n" * (MAX_UPLOAD_BYTES // 15)
    status, _ = await shelf.send("large.txt", largest.ljust(MAX_UPLOAD_BYTES))
    assert status == 201
    too_large = b" " * (MAX_UPLOAD_BYTES + 1)
    packed = gzip.compress(too_large)
    for content, headers in ((too_large, {}), (in_pieces(too_large), {}), (packed, {"Content-Encoding": "gzip"})):
        status, found = await shelf.send("larger.txt", content, **headers)
        assert (status, found["error"]["code"], found["error"]["limit"]) == (413, "too_large", MAX_UPLOAD_BYTES)
    assert [one["location"] for one in (await shelf.trainer.get("sources"))["sources"]] == ["upload:large.txt"]
    assert (await shelf.trainer.call("POST", "sources", {"target": "x" * 3_000_000}))[0] == 413, "others take no more"


@pytest.mark.both_databases("LIKE, and letters of either case")
async def test_thousands_of_articles_are_filtered_by_the_server(shelf: Shelf) -> None:
    await shelf.filled()
    await shelf.send("oeffnung.md", "# Öffnungszeiten\n\nWir öffnen um neun.\n".encode())
    await shelf.send("offer.md", b"# 100% wool_blankets\n\nThey are warm.\n", "customers")
    await shelf.desk.work()
    assert sorted(await shelf.titles()) == ["100% wool_blankets", "Returns", "Salaries", "Öffnungszeiten"]
    assert await shelf.titles(text="RETURN") == ["Returns"]
    assert await shelf.titles(text="öffnung") == await shelf.titles(text="Öffnung") == ["Öffnungszeiten"]
    assert await shelf.titles(text="0%25 w") == await shelf.titles(text="l_b") == ["100% wool_blankets"]
    assert await shelf.titles(text="%25%25") == await shelf.titles(text="r_t") == []
    assert await shelf.titles(audience="staff") == ["Salaries"]
    assert await shelf.titles(audience="staff", text="return") == []
    first = await shelf.trainer.get("articles?most=1")
    assert (len(first["articles"]), first["count"]) == (1, 4)
    for wrong in ("audience=all", "most=-1", "most=x"):
        assert (await shelf.trainer.call("GET", f"articles?{wrong}"))[0] == 400
    assert len((await shelf.trainer.get(f"articles/{first['articles'][0]['id']}?most=1"))["passages"]) == 1


async def test_a_question_is_tried_as_each_audience(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "LOOK_AGAIN_SECONDS", 0.0)
    assert await shelf.tried("When are salaries paid?", "staff") is None
    await shelf.filled()
    found = await shelf.tried("How long does the refund take?")
    assert (found["verdict"], found["passages"][0]["title"]) == ("found", "Returns")
    assert found["confidence"] >= found["threshold"] == 0.5
    assert 1 <= found["numRead"] <= len(found["passages"])
    assert found["passages"][0]["score"] > 0
    assert (await shelf.tried("When are salaries paid?", "staff"))["verdict"] == "found"
    outside = await shelf.tried("When are salaries paid?")
    assert {one["audience"] for one in outside["passages"]} == {"public"}
    unknown = await shelf.tried("What is the capital of Mongolia?")
    assert (unknown["verdict"], unknown["numRead"]) == ("unknown", 0)
    assert unknown["confidence"] < unknown["threshold"]
    assert (await shelf.tried("Hello!"))["verdict"] == "not_needed"
    for wrong in ({"question": " "}, {"question": "x" * 2001}, {"question": "a", "audience": "all"}, {}):
        assert (await shelf.trainer.refused("articles/try", **({"audience": "public"} | wrong)))[0] in (400, 413)


async def test_the_current_threshold_is_shown_and_applied(shelf: Shelf) -> None:
    await shelf.filled()
    scope = shelf.server.agent.scope
    await scope.write(knowledge.set_threshold, "test", 0.999, {})
    tried = await shelf.tried("Can I send something back?")
    assert (tried["verdict"], tried["threshold"], tried["numRead"]) == ("unknown", 0.999, 0)


async def test_articles_of_another_embedder_are_reported(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.filled()
    other = type("Other", (), {"name": "another", "embed": shelf.desk.embedder.embed})()
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: other)
    status, found = await shelf.trainer.call("POST", "articles/try", {"question": "Refunds?", "audience": "public"})
    assert (status, found["error"]["code"]) == (409, "conflict")
    assert found["error"]["hint"] == "sync_articles"


async def test_a_viewer_reads_and_changes_nothing(shelf: Shelf) -> None:
    await shelf.filled()
    for role in ("viewer", "agent"):
        somebody = await log_in(shelf.server, role)
        source = (await somebody.get("sources"))["sources"][0]
        article = (await somebody.get("articles"))["articles"][0]
        assert (await somebody.get(f"articles/{article['id']}"))["passages"]
        assert (await somebody.post("articles/try", question="Refunds?", audience="staff"))["tried"]
        for path in ("sources", "sources/sync", f"sources/{source['id']}/remove"):
            assert await somebody.refused(path, target="https://shop.example/", audience="public") == (
                403,
                "not_allowed",
            )
        assert (await shelf.send("a.md", b"# A\n\nText.", who=somebody))[0] == 403
    assert len((await shelf.trainer.get("sources"))["sources"]) == 2


async def test_changes_are_in_the_audit_log(shelf: Shelf) -> None:
    await shelf.filled()
    rows = [one for one in (await shelf.trainer.get("audit"))["rows"] if one["action"].startswith("knowledge.")]
    assert [(one["actor"], one["action"], one["target"]) for one in rows] == [
        ("web:trainer", "knowledge.add", "upload:salaries.md"),
        ("web:trainer", "knowledge.add", "upload:returns.md"),
    ]


@pytest.mark.both_databases("a unique index")
async def test_several_changes_share_one_sync(shelf: Shelf) -> None:
    for number in range(3):
        await shelf.send(f"{number}.md", RETURNS.encode())
    first = (await shelf.trainer.post("sources/sync"))["job"]
    assert [one["id"] for one in (await shelf.trainer.get("sources"))["underWay"]] == [first["id"]]
    scope = shelf.server.agent.scope
    assert len(await scope.read(jobs.newest_of_kind, "sync", 10)) == 1
    assert await scope.read(knowledge.content, new_id(), "public") is None
