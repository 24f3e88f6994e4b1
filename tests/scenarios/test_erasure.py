"""Erasure of a person: no words and no identity are left in any row or file.

The tests plant a word of this person alone in every possible place, and search for it afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from filelock import FileLock

from adapters.cli.wiring import Agent
from bot.access.roles import Actor
from bot.errors import NotAllowed, NotFound
from bot.jobs.contract import JobRefused
from bot.jobs.job_files import lock_file, remove_ended_jobs
from bot.knowledge.search import search as search_module
from bot.knowledge.search.embedder import Embedder
from bot.learning.data.candidates import DatasetPolicy
from bot.learning.data.dataset import Builder, build_dataset
from bot.learning.judge.evaluation_report import EvaluationReport, JudgedAnswer
from bot.learning.judge.judging import Subject, _save
from bot.learning.train.publishing import publish
from bot.learning.versions import folder_of
from bot.privacy.erasure.erase_person import Erasure, ErasurePolicy
from bot.steering.needs_attention import needs_attention
from storage import audit, curated, datasets, evaluations, golden, jobs, releases, versions, votes
from storage import erasure as stored_erasure
from storage.database import Database
from storage.engines import sqlite_file
from storage.jobs import JobLease
from storage.learning_schema import dataset_example, metadata, review
from storage.learning_values import Version
from storage.schema import conversation_work, message
from storage.transaction import Transaction, now_ms, scoped
from storage.values import Incoming, Sender, new_id, text_part
from storage.votes import Vote
from tests.builders.agents import StartAgent
from tests.builders.versions import (
    add_evaluation,
    add_example,
    add_job_and_dataset,
    new_version,
    weights_of,
    write_weights,
)

pytestmark = pytest.mark.both_databases("cascades, locks between two processes")

SECRET = "xylophone-7391"
ADMIN = Actor("shell:root", "admin")
WHO = f"user-{SECRET}"
_INSERT_REVIEW = scoped(sa.insert(review).values(created_at=now_ms()))
_SET_DRAFT = scoped(
    sa.update(message).where(message.c.id == sa.bindparam("which")).values(draft=sa.bindparam("new_draft"))
)
_EXAMPLES_OF = scoped(
    sa.select(dataset_example.c.content, dataset_example.c.rejected_because).where(
        dataset_example.c.conversation_id == sa.bindparam("which")
    )
)
_PERSON_OF = scoped(sa.select(message.c.person_id).where(message.c.conversation_id == sa.bindparam("conversation")))


async def say(agent: Agent, who: str, chat: str, text: str, number: int) -> tuple[str, str]:
    """Send a message and wait for its reply; return `(conversation id, reply id)`."""
    key = f"{chat}-{who}-{number}"
    incoming = Incoming("web", chat, Sender(who, f"name of {who}"), key, (text_part(text),), external_id=key)
    accepted = await agent.conversations.accept(agent.workspace_id, incoming)
    async with asyncio.timeout(20):
        async for _ in agent.conversations.history.follow(agent.workspace_id, accepted):
            pass
    said = await agent.conversations.history.messages(agent.workspace_id, accepted.conversation_id)
    return accepted.conversation_id, said[-1].id


def plant(tx: Transaction, own: tuple[str, str], shared: tuple[str, str], others: str) -> Version:
    """Add votes, reviews, drafts, examples and a report, all with the secret word."""
    person_id = str(tx.execute(_PERSON_OF, conversation=own[0]).scalars().first())
    for conversation_id, reply_id in (own, shared):
        rated = votes.find_reply(tx, "web", reply_id)
        assert rated is not None
        votes.cast(tx, rated, "web", Sender(WHO), Vote(-1, SECRET, SECRET))
        votes.cast(tx, rated, "web", Sender("somebody else"), Vote(-1, f"they said {SECRET}", SECRET))
        tx.execute(
            _INSERT_REVIEW,
            id=new_id(),
            conversation_id=conversation_id,
            reply_id=reply_id,
            decision="correct",
            better=f"Dear {SECRET}",
            reviewer="shell:root",
            replaced_at=None,
        )
        tx.execute(_SET_DRAFT, which=reply_id, new_draft=f"draft for {SECRET}")
    apart = votes.find_reply(tx, "web", others)
    assert apart is not None
    votes.cast(tx, apart, "web", Sender(WHO), Vote(-1, None, f"{SECRET} in words that staff took over "))
    tx.execute(
        _INSERT_REVIEW,
        id=new_id(),
        conversation_id=apart.conversation_id,
        reply_id=others,
        decision="correct",
        better=f"{SECRET} in words that staff took over",
        reviewer="shell:root",
        replaced_at=None,
    )
    for reply_id in (own[1], shared[1]):
        curated.add(tx, "shell:root", f"Is my word {SECRET}?", "Yes.", "public", reply_id)
    curated.add(tx, "shell:root", "Tell me more", f"{SECRET} in words that staff took over", "public", others)
    curated.add(tx, "shell:root", "Tell me all", "No.", "public", others)
    dataset_id, job_id = add_job_and_dataset(tx)
    add_example(tx, dataset_id, person_id, own[0], own[1], text=SECRET)
    add_example(tx, dataset_id, "somebody", shared[0], shared[1], text=f"{SECRET} in the context", number=2)
    add_example(tx, dataset_id, "somebody", "elsewhere", "m", text="something else", number=3)
    version = versions.register(tx, new_version(dataset_id, job_id, hashlib.sha256(weights_of(1)).hexdigest()))
    add_evaluation(tx, version.id, person_id=person_id, text=SECRET)
    return version


def plant_files(data: Path, version: Version) -> list[Path]:
    """Write a version's folder, and a failed job's; return the files that an erasure must remove."""
    write_weights(data, version.name, SECRET.encode())
    folder = folder_of(data, version.name)
    for name in ("README.md", "myna-version.json"):
        (folder / name).write_text(version.name, encoding="utf-8")
    job = data / "jobs" / version.job_id
    (job / "checkpoints").mkdir(parents=True)
    (job / "checkpoints" / "answers-000001.checkpoint").write_text(SECRET, encoding="utf-8")
    (job / "task.json").write_text(json.dumps({"dataset_id": version.dataset_id}), encoding="utf-8")
    return [folder / "adapter_model.safetensors", job]


async def begin_training(agent: Agent, dataset_id: str) -> JobLease:
    """Start a training on a dataset, and return its lease."""
    await agent.database.write(jobs.create, agent.workspace_id, "shell:root", "train", {"rows": 70})
    lease = await agent.database.write(jobs.claim, None, "a worker", 60_000)
    assert lease is not None

    def write_state() -> None:
        folder = agent.settings.data / "jobs" / lease.job.id
        folder.mkdir(parents=True)
        (folder / "task.json").write_text(json.dumps({"dataset_id": dataset_id}), encoding="utf-8")

    await asyncio.to_thread(write_state)
    return lease


def rows_with(url: str, word: str) -> list[str]:
    """Return the tables that contain a word."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg") if "postgres" in url else url)
    found = []
    with engine.connect() as connection:
        for name, table in metadata.tables.items():
            if any(word in repr(tuple(row)) for row in connection.execute(sa.select(table))):
                found.append(name)
    engine.dispose()
    return found


def files_with(folder: Path, word: str) -> Iterator[str]:
    return (path.name for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes())


def erasure(agent: Agent, policy: ErasurePolicy = "retire", keys: tuple[str, ...] = ("key",)) -> Erasure:
    return Erasure(agent.scope, agent.settings.data, keys, policy, agent.released.note_change)


async def fill(agent: Agent) -> tuple[tuple[str, str], tuple[str, str], Version]:
    own = await say(agent, WHO, "own", f"my word is {SECRET}", 1)
    await say(agent, "somebody else", "shared", "good morning", 1)
    shared = await say(agent, WHO, "shared", f"and mine is {SECRET}", 2)
    await say(agent, "somebody else", "shared", "what a nice day", 3)
    _, others = await say(agent, "somebody else", "apart", "tell me more", 4)
    version = await agent.database.write(plant, agent.workspace_id, own, shared, others)
    return own, shared, version


async def fill_again(agent: Agent) -> None:
    """Add another person, and a version that learnt only from them."""
    own = await say(agent, "another", "another", "other words", 1)

    def register(tx: Transaction) -> None:
        person_id = str(tx.execute(_PERSON_OF, conversation=own[0]).scalars().first())
        dataset_id, job_id = add_job_and_dataset(tx)
        add_example(tx, dataset_id, person_id, own[0], own[1], text="other words")
        versions.register(tx, new_version(dataset_id, job_id, hashlib.sha256(weights_of(9)).hexdigest()))

    await agent.database.write(register, agent.workspace_id)


def add_golden(tx: Transaction) -> None:
    for text in (f"Is {WHO} there?", "Who is somebody else?"):
        golden.add(tx, [{"role": "user", "content": text}], {"must_contain": ["yes"]}, "shell:root")


@pytest.mark.model
async def test_nothing_of_an_erased_person_is_left(
    start_agent: StartAgent, database_url: str, tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Curated answers are matched by the embedder, which this installation would fetch first.
    monkeypatch.setattr(search_module, "resolve_embedder", lambda *_: None)
    monkeypatch.setattr(search_module, "Embedder", lambda *_, **__: embedder)
    async with start_agent(database_url) as agent:
        own, shared, version = await fill(agent)
        assert {
            "message",
            "person",
            "identity",
            "vote",
            "review",
            "dataset_example",
            "evaluation",
            "inbox",
            "curated_answer",
        } <= set(await asyncio.to_thread(rows_with, database_url, SECRET))
        files = await asyncio.to_thread(plant_files, agent.settings.data, version)
        await agent.releases.promote(ADMIN, version.name)
        erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
        assert erased.release.champion is None
        assert [path.exists() for path in files] == [False] * len(files)
        assert sorted(path.name for path in folder_of(agent.settings.data, version.name).iterdir()) == [
            "README.md",
            "myna-version.json",
        ]
        assert (erased.proof.counts["version_weights"], erased.proof.counts["job_folder"]) == (1, 1)
        assert (await erasure(agent).erase(ADMIN, f"web:{WHO}")).proof == erased.proof
        assert erased.proof.versions == (version.name,)
        assert erased.proof.counts["conversation"] == 1
        assert (erased.proof.counts["dataset_example"], erased.proof.counts["curated_answer"]) == (2, 3)
        assert [row.answer for row in await agent.database.read(curated.all_answers, agent.workspace_id)] == ["No."]
        assert await asyncio.to_thread(rows_with, database_url, SECRET) == []
        assert await agent.conversations.history.messages(agent.workspace_id, own[0]) == []
        rest = await agent.conversations.history.messages(agent.workspace_id, shared[0])
        assert [said.text for said in rest] == ["good morning"] * 2 + ["what a nice day"] * 2
        (learnt,) = await agent.database.read(versions.list_all, agent.workspace_id)
        assert learnt.tainted_at
        assert learnt.retired_at
        assert await agent.database.read(audit.first_broken, agent.workspace_id) is None
        assert (await say(agent, "somebody else", "shared", "still there?", 4))[0] == shared[0]
    if (file := sqlite_file(database_url)) is not None:
        assert list(files_with(file.parent, SECRET)) == []
    assert list(files_with(tmp_path, SECRET)) == []


async def test_a_new_training_is_queued_once_and_announced(agent: Agent) -> None:
    *_, learnt = await fill(agent)
    await agent.releases.promote(ADMIN, learnt.name)
    await agent.database.write(add_golden, agent.workspace_id)
    erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    (job,) = await agent.database.read(jobs.list_open, agent.workspace_id)
    assert (job.id, job.kind, job.state, job.settings) == (erased.job_id, "train", "queued", {"because": "erasure"})
    told = await needs_attention(agent.scope, erased.release, None)
    assert any(job.id[:12] in line and "queued" in line for line in told)
    assert len(erased.golden) == 1
    await fill_again(agent)
    again = await erasure(agent).erase(ADMIN, "web:another")
    assert again.proof.versions
    assert again.job_id == job.id
    assert len(await agent.database.read(jobs.list_open, agent.workspace_id)) == 1


async def test_a_running_training_is_cancelled_and_can_not_publish(agent: Agent) -> None:
    *_, learnt = await fill(agent)
    lease = await begin_training(agent, learnt.dataset_id)
    with FileLock(lock_file(agent.settings.data / "jobs" / lease.job.id)):
        erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    stopped, queued = await agent.database.read(jobs.list_open, agent.workspace_id)
    assert (stopped.id, stopped.wanted, stopped.state) == (lease.job.id, "cancel", "running")
    assert (queued.id, queued.state) == (erased.job_id, "queued")
    data = agent.settings.data
    assert (data / "jobs" / lease.job.id).is_dir(), "its worker removes it"
    draft = data / "draft"
    await asyncio.to_thread(draft.mkdir)
    new = new_version(learnt.dataset_id, lease.job.id, "f" * 64)
    with pytest.raises(JobRefused, match="erased meanwhile"):
        await publish(agent.database, lease, data, draft, new)
    assert [version.id for version in await agent.database.read(versions.list_all, agent.workspace_id)] == [learnt.id]
    await agent.database.write(jobs.release, agent.workspace_id, lease, count_attempt=True)
    assert await remove_ended_jobs(agent.database, data) == 1
    assert list((data / "jobs").iterdir()) == []


async def test_erasure_is_idempotent(agent: Agent) -> None:
    await fill(agent)
    once = await erasure(agent, keys=("old key",)).erase(ADMIN, f"web:{WHO}")
    again = await erasure(agent, keys=("new key", "old key")).erase(ADMIN, f"web:{WHO}")
    assert (once.was_done_before, again.was_done_before) == (False, True)
    assert again.proof == once.proof
    with pytest.raises(NotFound, match="Nobody is known"):
        await erasure(agent).erase(ADMIN, "web:nobody")
    with pytest.raises(NotAllowed):
        await erasure(agent).erase(Actor("web:ada", "trainer"), f"web:{WHO}")


async def test_the_newest_untainted_version_replaces_a_tainted_champion(agent: Agent) -> None:
    *_, learnt = await fill(agent)

    def register(tx: Transaction, number: int) -> Version:
        weights = hashlib.sha256(weights_of(number)).hexdigest()
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights))
        add_evaluation(tx, made.id, passed=number != 4)
        return made

    made = [await agent.database.write(register, agent.workspace_id, number) for number in (2, 3, 4)]
    await agent.releases.promote(ADMIN, learnt.name)
    await agent.releases.start_canary(ADMIN, made[0].name, 0.2, override_reason="a test")
    erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    assert erased.release.champion is not None
    assert (erased.release.champion.name, erased.release.previous, erased.release.canary) == (made[1].name, None, None)


async def test_an_erasure_does_not_bring_back_harmful_versions(agent: Agent) -> None:
    *_, learnt = await fill(agent)

    def register(tx: Transaction, number: int) -> Version:
        weights = hashlib.sha256(weights_of(number)).hexdigest()
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights))
        add_evaluation(tx, made.id)
        return made

    good, bad, tried = [await agent.database.write(register, agent.workspace_id, number) for number in (2, 3, 4)]
    await agent.releases.promote(ADMIN, bad.name)
    await agent.releases.rollback(ADMIN, "worse")
    await agent.releases.promote(ADMIN, learnt.name, override_reason="a test")
    started = await agent.releases.start_canary(ADMIN, tried.name, 0.2, override_reason="a test")
    assert started.canary is not None
    await agent.releases.end_for_harm(started.canary.id, {"because": "more errors"})
    number = (await agent.releases.current()).number
    assert not await agent.releases.end_for_harm(started.canary.id, {"because": "more errors"})
    assert (await agent.releases.current()).number == number, "a late report of harm changes nothing"
    erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    assert erased.release.champion is not None
    assert erased.release.champion.name == good.name


async def test_the_previous_champion_is_preferred_to_newer_versions(agent: Agent) -> None:
    *_, learnt = await fill(agent)

    def register(tx: Transaction, number: int) -> Version:
        weights = hashlib.sha256(weights_of(number)).hexdigest()
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights))
        add_evaluation(tx, made.id)
        return made

    known, _ = [await agent.database.write(register, agent.workspace_id, number) for number in (2, 3)]
    await agent.releases.promote(ADMIN, known.name)
    await agent.releases.promote(ADMIN, learnt.name, override_reason="judged beside the base")
    erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    assert erased.release.champion is not None
    assert (erased.release.champion.name, erased.release.previous) == (known.name, None)


async def test_a_dataset_build_restarts_without_the_person(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    own, *_ = await fill(agent)
    finish, builds = Builder.finish, 0

    def finish_slowly(builder: Builder) -> Any:
        nonlocal builds
        builds += 1
        if builds == 1:  # the words are read and redacted by now
            doing = asyncio.run_coroutine_threadsafe(erasure(agent).erase(ADMIN, f"web:{WHO}"), loop)
            doing.result(20)
        return finish(builder)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Builder, "finish", finish_slowly)
    await build_dataset(agent.scope, DatasetPolicy(trusted_channels=("web",)), ADMIN)
    assert builds == 2
    examples = await agent.database.read(lambda tx: tx.execute(_EXAMPLES_OF, which=own[0]).all(), agent.workspace_id)
    assert [row.rejected_because for row in examples if row.content is not None] == []


async def test_an_open_dataset_draft_is_gone_and_says_so(agent: Agent) -> None:
    await fill(agent)
    before = await agent.database.read(stored_erasure.how_many, agent.workspace_id)
    draft_id = await agent.database.write(datasets.begin, agent.workspace_id, {}, "shell:root", before)
    await erasure(agent).erase(ADMIN, f"web:{WHO}")
    for late in (
        agent.database.write(datasets.add, agent.workspace_id, draft_id, 0, []),
        agent.database.write(datasets.finish, agent.workspace_id, draft_id, "f" * 64, {}),
        agent.database.write(datasets.begin, agent.workspace_id, {}, "shell:root", before),
    ):
        with pytest.raises(datasets.NoSuchDraft):
            await late
    assert not await agent.database.write(datasets.abandon, agent.workspace_id, draft_id)


async def test_a_dataset_begun_elsewhere_waits_for_the_erasure_and_fails(agent: Agent) -> None:
    """Two processes: neither sees the other's uncommitted rows."""
    own, *_ = await fill(agent)
    before = await agent.database.read(stored_erasure.how_many, agent.workspace_id)
    erases, may_end = threading.Event(), threading.Event()

    def erase_slowly(tx: Transaction) -> None:
        person_id = str(tx.execute(_PERSON_OF, conversation=own[0]).scalars().first())
        stored_erasure.begin(tx, person_id)
        erases.set()
        may_end.wait(20)
        stored_erasure.erase(tx, stored_erasure.traces(tx, person_id))
        stored_erasure.prove(tx, ["f" * 64], {}, [], "shell:root")

    elsewhere = Database(agent.settings.resolved_database_url)
    try:
        erasing = asyncio.create_task(elsewhere.write(erase_slowly, agent.workspace_id))
        await asyncio.to_thread(erases.wait, 20)
        beginning = asyncio.create_task(
            agent.database.write(datasets.begin, agent.workspace_id, {}, "shell:root", before)
        )
        await asyncio.sleep(0.2)
        assert not beginning.done(), "it waits for the erasure"
        may_end.set()
        await erasing
        with pytest.raises(datasets.NoSuchDraft):
            await beginning
    finally:
        may_end.set()
        await elsewhere.close()


async def test_an_evaluation_that_ends_after_an_erasure_keeps_no_words(agent: Agent) -> None:
    *_, learnt = await fill(agent)
    before = await agent.database.read(stored_erasure.how_many, agent.workspace_id)
    names = dict.fromkeys(("base", "champion", "candidate"), "m")
    answer = JudgedAnswer(
        "held_out", "1", ({"role": "user", "content": SECRET},), SECRET, dict.fromkeys(names, SECRET), {}, "p"
    )
    report = EvaluationReport(names, {}, (), None, (answer,), 1.0)  # type: ignore[arg-type]
    await erasure(agent).erase(ADMIN, f"web:{WHO}")
    subject = Subject(learnt, None)
    _, evaluation_id = await agent.database.write(_save, agent.workspace_id, subject, report, ADMIN, before)
    assert evaluation_id is not None
    kept = await agent.database.read(evaluations.find, agent.workspace_id, evaluation_id)
    assert kept is not None
    assert SECRET not in repr(kept.report)
    assert len(kept.report["answers"]) == 1


async def test_a_reply_under_way_in_a_shared_chat_begins_anew(agent: Agent) -> None:
    _, shared, _ = await fill(agent)
    work = sa.select(conversation_work.c.epoch).where(conversation_work.c.conversation_id == shared[0])
    before = await agent.database.read(lambda tx: tx.connection.execute(work).scalar_one(), agent.workspace_id)
    await erasure(agent).erase(ADMIN, f"web:{WHO}")
    after = await agent.database.read(lambda tx: tx.connection.execute(work).scalar_one(), agent.workspace_id)
    assert after > before, "an older lease can't store a reply"


async def test_many_conversations_are_erased_in_pages(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.erasure.PAGE", 1)
    *_, learnt = await fill(agent)
    erased = await erasure(agent).erase(ADMIN, f"web:{WHO}")
    assert erased.proof.versions == (learnt.name,)
    assert erased.proof.counts["dataset_example"] == 2


async def test_marked_versions_go_on_until_another_is_promoted(agent: Agent) -> None:
    *_, learnt = await fill(agent)
    await agent.releases.promote(ADMIN, learnt.name)
    erased = await erasure(agent, "mark").erase(ADMIN, f"web:{WHO}")
    assert erased.release.champion is not None
    assert erased.release.champion.tainted_at
    assert not erased.release.champion.retired_at
    released = await agent.database.read(releases.current, agent.workspace_id)
    assert released.champion == erased.release.champion
    assert set(agent.released._kept()) == {learnt.name}
