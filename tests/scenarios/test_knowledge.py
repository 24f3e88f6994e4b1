"""Indexing and search on both databases, with the real job and embedder."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.access.roles import Actor
from bot.errors import Conflict, InvalidInput, NotAllowed, NotFound
from bot.jobs.contract import JobContext, Services
from bot.jobs.control import Jobs
from bot.knowledge.reading import sync_job
from bot.knowledge.reading.formats import Unreadable
from bot.knowledge.search import search as search_module
from bot.knowledge.search.embedder import Embedder
from bot.knowledge.search.search import Search
from bot.settings import Settings
from storage import jobs, knowledge
from storage.database import StorageUnavailable
from storage.knowledge_values import Source
from storage.learning_values import Job
from storage.schema import DEFAULT_WORKSPACE
from tests.builders.desk import ADMIN, Desk

pytestmark = [pytest.mark.both_databases("the vector index: pgvector or our own"), pytest.mark.model]

VIEWER = Actor("test", "viewer")
RETURNS = "# Returns\n\nYou can send anything back within 30 days.\n\n## How long does a refund take?\n\nFive days.\n"
SHIPPING = "# Shipping\n\nParcels travel for two days. To Norway it costs 9 euros.\n"
SALARIES = "# Salaries\n\nOn the first of a month salaries are paid.\n"


async def test_a_folder_is_indexed_and_kept_up_to_date(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    desk.write("sub/shipping.md", SHIPPING)
    first = await desk.add()
    assert (first["articles"], first["added"], first["num_unreadable"]) == (2, 2, 0)
    hits = await desk.search.search("How long do refunds take?", ["public"])
    assert (hits[0].passage.name, hits[0].passage.headings) == ("returns", ("How long does a refund take?",))
    assert (await desk.found("norway price"))[0] == "shipping"

    again = await desk.sync()
    assert (again["unchanged"], again["added"], again["changed"], again["removed"]) == (2, 0, 0, 0)

    desk.write("returns.md", RETURNS.replace("30 days", "60 days, and roses never"))
    desk.write("roses.md", "# Roses\n\nRoses need water.\n")
    (desk.docs / "sub/shipping.md").unlink()
    third = await desk.sync()
    assert (third["added"], third["changed"], third["removed"], third["articles"]) == (1, 1, 1, 2)
    assert await desk.names() == ["returns", "roses"]
    assert set(await desk.found("norway price shipping")) <= {"returns", "roses"}
    shown = await desk.library.show(VIEWER, "returns")
    assert "60 days" in shown.passages[0][1]


async def test_a_search_without_articles_finds_nothing(desk: Desk) -> None:
    assert await desk.found("anything") == []
    empty = await desk.add()
    assert (empty["articles"], empty["passages"]) == (0, 0)
    assert await desk.found("anything") == []
    assert await desk.found("   ") == []


async def test_staff_see_more_than_customers(desk: Desk) -> None:
    desk.write("public/shipping.md", SHIPPING)
    desk.write("inside/salaries.md", SALARIES)
    await desk.add(desk.docs / "public")
    await desk.add(desk.docs / "inside", "staff")
    question = "When are salaries paid?"
    assert await desk.found(question) == ["shipping"]
    assert await desk.found(question, ("public", "customers")) == ["shipping"]
    assert (await desk.found(question, ("public", "customers", "staff")))[0] == "salaries"
    assert await desk.found(question, ()) == []
    moved = await desk.add(desk.docs / "inside", "customers")
    assert moved["changed"] == 1
    assert (await desk.found(question, ("public", "customers")))[0] == "salaries"


async def test_an_unreadable_file_is_reported_and_costs_nothing_else(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    await desk.add()
    desk.write("returns.md", b"\0\1\2")
    desk.write("locked.pdf", b"%PDF-1.4")
    desk.write("shipping.md", SHIPPING)
    result = await desk.sync()
    assert {one["file"] for one in result["unreadable"]} == {"returns.md", "locked.pdf"}
    assert await desk.names() == ["returns", "shipping"]
    desk.docs.rename(desk.docs.parent / "elsewhere")
    gone = await desk.sync()
    assert "no such folder" in gone["unreadable"][0]["why"]
    assert await desk.names() == ["returns", "shipping"], "a folder that is not mounted is not an empty one"


async def test_a_narrowed_article_that_fails_to_read_is_hidden(desk: Desk) -> None:
    desk.write("salaries.md", SALARIES)
    await desk.add()
    assert await desk.found("When are salaries paid?") == ["salaries"]
    desk.write("salaries.md", b"\0\1\2")
    result = await desk.add(desk.docs, "staff")
    assert (result["num_unreadable"], result["articles"]) == (1, 0)
    assert await desk.found("When are salaries paid?", ("public", "customers", "staff")) == []


async def test_an_upload_narrowed_during_a_sync_is_not_leaked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, job = await desk.library.upload(ADMIN, "salaries.md", RETURNS.encode())
    read_source = sync_job._Sync._read_source

    def upload_again_then_read(self: Any, source: Source) -> None:
        if source.audience == "public":
            self._context.run(desk.library.upload(ADMIN, "salaries.md", SALARIES.encode(), "staff"))
        read_source(self, source)

    monkeypatch.setattr(sync_job._Sync, "_read_source", upload_again_then_read)
    await desk.work()  # both jobs; the first may not read the file that is for staff by now
    first = await Jobs(desk.scope).find(ADMIN, job.id)
    assert "its audience has just changed" in (first.result or {})["unreadable"][0]["why"]
    assert await desk.found("When are salaries paid?") == []
    assert await desk.found("When are salaries paid?", ("public", "customers", "staff")) == ["salaries"]


async def test_odd_names_and_links_out_do_not_stop_a_sync(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    desk.write("caf\udce9.md", SHIPPING)
    desk.write("odd.html", "<meta charset=undefined><h1>Odd</h1><p>Tulips bloom in May.</p>")
    desk.write("numbers.md", "---\ntitle: !!int ''\n---\n\nRoses bloom in June.\n")
    outside = desk.docs.parent / "secret.md"
    outside.write_text(SALARIES)
    (desk.docs / "out.md").symlink_to(outside)
    result = await desk.add()
    assert result["unreadable"] == [{"file": "out.md", "why": "it is a link that leads out of the folder"}]
    assert await desk.names() == ["caf\ufffd", "numbers", "odd", "returns"]
    assert (await desk.sync())["unchanged"] == 4


async def test_a_failed_index_read_does_not_mean_no_articles(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("returns.md", RETURNS)
    await desk.add()
    search = Search(desk.scope, lambda: desk.embedder)
    read, fails = desk.database.read, [True]

    async def fail_once(*args: Any) -> Any:
        if fails and fails.pop():
            raise StorageUnavailable("the database does not answer")
        return await read(*args)

    monkeypatch.setattr(desk.database, "read", fail_once)
    found = await asyncio.gather(*(search.find("refund", ["public"]) for _ in range(3)), return_exceptions=True)
    await search.close()
    assert [type(one).__name__ for one in found] == ["StorageUnavailable", "Found", "Found"]


async def test_uploads_and_sources_can_be_removed(desk: Desk) -> None:
    _, job = await desk.library.upload(ADMIN, "../../returns.md", RETURNS.encode())
    await desk.done(job)
    assert [one.location for one in await desk.library.sources(VIEWER)] == ["upload:returns.md"]
    desk.write("shipping.md", SHIPPING)
    await desk.add()
    with pytest.raises(Conflict, match="one file of a folder"):
        await desk.library.remove(ADMIN, "shipping")
    with pytest.raises(NotFound):
        await desk.library.remove(ADMIN, "nothing")
    _, job = await desk.library.remove(ADMIN, "returns")
    await desk.done(job)
    assert await desk.names() == ["shipping"]
    _, job = await desk.library.remove(ADMIN, str(desk.docs))
    await desk.done(job)
    assert await desk.names() == []
    await desk.sync()
    await desk.sync()
    assert await desk.library.sources(VIEWER) == []
    assert await desk.database.read(knowledge.sources, DEFAULT_WORKSPACE) == [], "the next syncs clear what went"


async def test_two_articles_may_share_a_name(desk: Desk) -> None:
    desk.write("a/index.md", RETURNS)
    desk.write("b/index.md", SHIPPING)
    await desk.add()
    with pytest.raises(Conflict, match="Several") as told:
        await desk.library.show(VIEWER, "index")
    one = (await desk.library.articles(VIEWER))[0]
    assert one.id in told.value.message
    assert (await desk.library.show(VIEWER, one.id)).article == one


async def test_a_web_page_is_indexed_and_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"https://shop.example/help": ("help.html", b"<h1>Help</h1><p>Call us on Mondays.</p>")}

    async def fetch(url: str) -> tuple[str, bytes]:
        if url not in pages:
            raise Unreadable("it answers with 404 Not Found")
        return pages[url]

    monkeypatch.setattr(sync_job, "fetch", fetch)
    _, job = await desk.library.add(ADMIN, "https://shop.example/help")
    await desk.done(job)
    hits = await desk.search.search("When can I call?", ["public"])
    assert (hits[0].passage.title, hits[0].passage.url) == ("Help", "https://shop.example/help")
    pages.clear()
    assert (await desk.sync())["num_unreadable"] == 1
    assert await desk.names() == ["help"]


async def test_bad_targets_and_roles_are_refused(desk: Desk) -> None:
    for target in ("", " ", "http://127.0.0.1/", str(desk.docs / "gone.md"), str(desk.write("a.exe", "MZ"))):
        with pytest.raises(InvalidInput):
            await desk.library.add(ADMIN, target)
    with pytest.raises(InvalidInput):
        await desk.library.add(ADMIN, str(desk.docs), "everybody")
    with pytest.raises(NotAllowed):
        await desk.library.add(VIEWER, str(desk.docs))
    with pytest.raises(InvalidInput):
        await desk.library.upload(ADMIN, "a.exe", b"MZ")
    assert await desk.library.sources(VIEWER) == []


async def test_a_waiting_sync_is_not_queued_twice(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    first, second = await desk.library.sync(ADMIN), await desk.library.sync(ADMIN)
    assert first.id == second.id


async def test_a_source_added_during_a_sync_is_read_by_the_next(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    first = await desk.library.sync(ADMIN)
    added: list[Job] = []

    def sync(context: JobContext, services: Services) -> Any:
        result = sync_job.sync(context, services)
        if not added:
            added.append(context.run(desk.library.add(ADMIN, str(desk.docs)))[1])
        return result

    await desk.work({"sync": sync})
    assert added[0].id != first.id
    assert await desk.names() == ["returns"]


async def test_another_embedder_needs_a_sync(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("returns.md", RETURNS)
    desk.write("shipping.md", SHIPPING)
    await desk.add()
    desk.settings = Settings(data=desk.settings.data, embedder="another")
    (desk.docs / "shipping.md").write_bytes(b"\0")
    result = await desk.sync()
    assert (result["changed"], result["removed"], result["num_unreadable"]) == (1, 1, 1)
    assert await desk.names() == ["returns"], "vectors of another model can't be compared"
    with pytest.raises(Conflict, match="embedder another"):
        await desk.found("refund")


def search_with(desk: Desk, embedder: Embedder) -> Search:
    return Search(desk.scope, lambda: embedder)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_vectors_of_bf16_and_float32_cpus_are_compatible(
    desk: Desk, embedder_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One database may serve several machines: passages are read in bf16 on one, questions in float32 on another."""
    coarse, exact = [
        await asyncio.to_thread(Embedder, embedder_path, name=desk.embedder.name, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    ]
    texts = [RETURNS, SHIPPING, SALARIES, "norway price", "When does my money come back?", "Who won the cup?"]
    alike = coarse.embed(texts) @ exact.embed(texts).T
    assert np.diag(alike).min() > 0.999
    assert not np.array_equal(coarse.embed(texts), exact.embed(texts)), "the same format twice would prove nothing"

    monkeypatch.setattr(sync_job, "Embedder", lambda *_, **__: coarse)
    for name, text in (("returns", RETURNS), ("shipping", SHIPPING), ("salaries", SALARIES)):
        desk.write(f"{name}.md", text)
    await desk.add()
    searches = [search_with(desk, embedder) for embedder in (coarse, exact)]
    for question in texts[3:]:
        same, other = [await search.find(question, ["public"]) for search in searches]
        assert same is not None
        assert other is not None
        assert [hit.passage.id for hit in same.hits] == [hit.passage.id for hit in other.hits]
        assert other.confidence == pytest.approx(same.confidence, abs=0.01)
    for search in searches:
        await search.close()


async def test_a_killed_sync_stays_invisible_and_is_cleaned_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("returns.md", RETURNS)
    await desk.add()
    desk.write("shipping.md", SHIPPING)
    job = await desk.library.sync(ADMIN)
    lease = await desk.database.write(jobs.claim, None, "a worker that dies", 1, jobs.KNOWLEDGE_DEVICE)
    assert lease is not None

    class Dies(sync_job._Sync):
        def _publish(self, ended: list[str]) -> None:
            raise SystemExit("killed")

    class Context:
        """Context of a job that is killed once everything is stored and nothing is published."""

        def __init__(self) -> None:
            self.job, self.lease, self.workspace_id = job, lease, DEFAULT_WORKSPACE
            self.loop = asyncio.get_running_loop()

        def run(self, coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

        def progress(self, **_: Any) -> None: ...

        def check(self) -> None: ...

    context: Any = Context()
    with pytest.raises(SystemExit):
        await asyncio.to_thread(Dies(context, Services(desk.settings, desk.database, 1)).run)
    assert await desk.names() == ["returns"]
    assert await desk.found("norway price shipping") == ["returns"] * 2
    await asyncio.sleep(0.01)
    result = await desk.done(job)
    assert (result["added"], result["unchanged"]) == (1, 1)
    assert await desk.names() == ["returns", "shipping"]


async def test_a_search_during_a_sync_sees_a_single_version(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """All articles contain the same number and change together: no search may see two numbers."""

    def rewrite(number: int) -> None:
        for name in range(6):
            desk.write(f"article-{name}.md", f"# Plant {name}\n\nThe gardener counts to {number} before watering.\n")

    rewrite(0)
    await desk.add()
    seen: set[str] = set()
    ended = asyncio.Event()

    async def ask() -> None:
        while not ended.is_set():
            hits = await desk.search.search("What does the gardener count to?", ["public"])
            texts = {hit.passage.text for hit in hits}
            assert len(texts) == 1, texts
            assert len(hits) == 6
            seen.update(texts)

    asking = asyncio.create_task(ask())
    for number in range(1, 6):
        await asyncio.to_thread(rewrite, number)
        await desk.sync()
    ended.set()
    await asking
    assert len(seen) >= 2


async def test_a_search_gives_up_on_a_constantly_changing_index(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("returns.md", RETURNS)
    await desk.add()
    asked: list[int] = []

    def never(*_: Any) -> None:
        asked.append(1)

    monkeypatch.setattr(search_module.knowledge_search, "candidates", never)
    with pytest.raises(Conflict, match="change too often"):
        await desk.found("refund")
    assert len(asked) == search_module.MAX_TRIES


async def test_a_running_training_does_not_delay_a_sync(desk: Desk) -> None:
    desk.write("returns.md", RETURNS)
    await Jobs(desk.scope).create(ADMIN, "train", {})
    running = await desk.database.write(jobs.claim, None, "a training", 60_000, jobs.TRAINING_DEVICE)
    assert running is not None
    assert (await desk.add())["articles"] == 1


@pytest.mark.parametrize(
    "question", ["refund", "Wie lange dauert eine Rückzahlung?", "退款需要多久？", "'\"; DROP TABLE", "*" * 5000]
)
async def test_any_question_is_searched_without_an_error(desk: Desk, question: str) -> None:
    desk.write("returns.md", RETURNS)
    desk.write("chinese.md", "# 退货\n\n退款需要五到七天。\n")
    await desk.add()
    names = await desk.found(question)
    assert set(names) <= {"returns", "chinese"}
    if question.startswith("退"):
        assert names[0] == "chinese"


async def test_a_cancelled_sync_leaves_the_index_unchanged(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write("returns.md", RETURNS)
    await desk.add()
    desk.write("shipping.md", SHIPPING)
    job = await desk.library.sync(ADMIN)

    publish = sync_job._Sync._publish

    def cancelled_before(self: Any, ended: list[str]) -> None:
        """Cancel once everything is stored, just before it is published."""
        self._context.run(Jobs(desk.scope).cancel(ADMIN, job.id))
        for _ in range(200):
            self._context.check()
            time.sleep(0.05)
        publish(self, ended)

    monkeypatch.setattr(sync_job._Sync, "_publish", cancelled_before)
    await desk.work()
    ended = await Jobs(desk.scope).find(ADMIN, job.id)
    assert ended.state == "cancelled"
    assert await desk.names() == ["returns"]
