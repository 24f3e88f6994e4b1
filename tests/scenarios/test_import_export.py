"""Import and export of conversations by the command line: atomic, idempotent, lossless."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.learning.data.conversation_form import read_row
from bot.learning.data.export import export_rows, pair_rows
from bot.privacy.learning_consent import may_learn
from storage import conversations, imports, inbox
from storage.database import Database
from storage.engines import postgresql_engine, sqlite_engine, sqlite_file
from storage.imports import ImportedFile
from storage.learning_schema import audit, import_batch, metadata, review
from storage.schema import DEFAULT_WORKSPACE, conversation, identity, message, person, vote
from storage.scope import Scope
from storage.transaction import now_ms
from storage.values import Sender, new_id
from tests.builders.agents import StartAgent
from tests.builders.cli import MYNA, Cli
from tests.conftest import new_postgres_database
from tests.crash.laws import broken_laws

pytestmark = pytest.mark.both_databases("one transaction, killed in the middle; order of rows")

USER = {"role": "user", "content": "Where is my parcel?"}
ANSWER = {"role": "assistant", "content": "On its way."}
SYSTEM = {"role": "system", "content": "You are kind."}
DRAFTED = {**ANSWER, "draft": "I do not know."}
RATED = {**ANSWER, "rating": -1, "reason": "late", "better": "It left on Monday."}
UNLESS_REFUSED = partial(may_learn, "opt-out")
FILE = ImportedFile("f.jsonl", "hash", "shell:test")
ROWS = [
    {"id": "plain", "group": "g1", "title": "Parcel", "messages": [USER, ANSWER]},
    {"id": "agent", "person": "ada", "messages": [SYSTEM, USER, DRAFTED, USER, ANSWER]},
    {"id": "bot", "person": "ada", "may_learn": True, "messages": [USER, RATED]},
    {"id": "nobody", "may_learn": False, "messages": [USER, {**ANSWER, "rating": 1}]},
]


@pytest.fixture
def on_both(tmp_path: Path, empty_database_url: str) -> Cli:
    """Return `myna` with an empty database of each kind."""
    cli = Cli(tmp_path)
    cli.settings["MYNA_DATABASE_URL"] = empty_database_url
    return cli


def write(cli: Cli, rows: list[Any], name: str = "chats.jsonl") -> str:
    file = cli.folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def engine_of(url: str) -> sa.Engine:
    return (sqlite_engine if sqlite_file(url) else postgresql_engine)(sa.make_url(url))


def stored(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return all rows of a database but the workspace."""
    engine = engine_of(url)
    with engine.begin() as connection:
        found = {
            table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
            for table in metadata.sorted_tables
            if table.name != "workspace"
        }
    engine.dispose()
    return {name: rows for name, rows in found.items() if rows}


def url_of(cli: Cli) -> str:
    return cli.settings.get("MYNA_DATABASE_URL", f"sqlite:///{cli.data / 'myna.db'}")


# --- import ---


def test_an_import_stores_all_fields_of_a_file(on_both: Cli) -> None:
    done = on_both("import", write(on_both, ROWS))
    assert (done.code, done.out) == (0, "4 conversations with 10 messages imported, 0 already known.\n")
    found = stored(url_of(on_both))
    assert set(found) == {
        "person",
        "identity",
        "conversation",
        "conversation_work",
        "message",
        "reply",
        "vote",
        "import_batch",
        "audit",
    }
    (batch,), (row,) = found["import_batch"], found["audit"]
    assert (batch["file_name"], batch["conversations"]) == ("chats.jsonl", 4)
    assert batch["created_by"].startswith("shell:")
    assert (row["action"], row["target"], row["actor"]) == ("conversations.import", batch["id"], batch["created_by"])
    assert row["details"] == {"conversations": 4, "messages": 10, "known": 0}
    by_key = {one["external_id"]: one for one in found["conversation"]}
    assert {one["import_id"] for one in found["conversation"]} == {batch["id"]}
    assert (by_key["plain"]["title"], by_key["plain"]["split_group"], by_key["plain"]["person_id"]) == (
        "Parcel",
        "g1",
        None,
    )
    assert by_key["agent"]["instructions"] == "You are kind."
    assert by_key["agent"]["title"] == "Where is my parcel?"
    assert by_key["agent"]["person_id"] == by_key["bot"]["person_id"] is not None
    assert [by_key[key]["may_learn"] for key in ("plain", "bot", "nobody")] == [None, True, False]
    turns = sorted(
        (one["seq"], one["rank"], one["author"], one["draft"])
        for one in found["message"]
        if one["conversation_id"] == by_key["agent"]["id"]
    )
    assert turns == [
        (1, 0, "person", None),
        (1, 1, "agent", DRAFTED["draft"]),
        (2, 0, "person", None),
        (2, 1, "agent", None),
    ]
    assert sorted((one["value"], one["reason"], one["better"]) for one in found["vote"]) == [
        (-1, "late", "It left on Monday."),
        (1, None, None),
    ]
    assert {(one["state"], one["model"]) for one in found["reply"]} == {("answered", "import")}
    assert sorted(one["external_id"] for one in found["identity"]) == ["ada", "conversation:nobody"]


def test_a_repeated_import_changes_nothing(on_both: Cli) -> None:
    file = write(on_both, ROWS)
    assert on_both("import", file, "--json").json["conversations"] == 4
    before = stored(url_of(on_both))
    again = on_both("import", file, "--json").json
    assert (again["conversations"], again["known"], again["import_id"]) == (0, 4, None)
    assert on_both("import", write(on_both, [ROWS[0], ROWS[0]], "two.jsonl"), "--json").json["known"] == 2
    assert stored(url_of(on_both)) == before
    more = write(on_both, [*ROWS, {"messages": [USER, ANSWER]}, {"messages": [USER, ANSWER]}])
    done = on_both("import", more)
    assert done.out == "1 conversation with 2 messages imported, 5 already known.\n"


def test_nothing_is_imported_while_a_row_is_wrong(on_both: Cli) -> None:
    on_both("migrate")
    file = write(on_both, [ROWS[0], *[{"messages": [USER]}] * 25, ROWS[1]])
    done = on_both("import", file)
    assert (done.code, done.out) == (1, "")
    lines = done.err.splitlines()
    assert lines[0] == 'line 2 must end with a message from "assistant"'
    assert lines[19].startswith("line 21 ")
    assert lines[20:] == [
        "and 5 more",
        "myna: Nothing was imported: 25 rows are invalid, 2 valid. Correct the file, or skip them with --skip-bad.",
    ]
    assert stored(url_of(on_both)) == {}
    report = on_both("import", file, "--json")
    assert report.code == 1
    assert (report.json["wrong"], report.json["conversations"], len(report.json["problems"])) == (25, 0, 20)
    skipped = on_both("import", file, "--skip-bad")
    assert skipped.out == "2 conversations with 6 messages imported, 0 already known. 25 left out.\n"
    assert "line 2 must end" in skipped.err
    assert len(stored(url_of(on_both))["conversation"]) == 2


def test_a_dry_run_reports_without_a_change(myna: Cli) -> None:
    myna("import", write(myna, ROWS[:1]))
    before = stored(url_of(myna))
    done = myna("import", write(myna, ROWS), "--dry-run")
    assert (done.code, done.out) == (0, "3 conversations would be imported, 1 already known.\n")
    assert myna("import", write(myna, ROWS), "--dry-run", "--json").json["dry_run"] is True
    assert myna("import", write(myna, [*ROWS, 7]), "--dry-run").code == 1
    assert stored(url_of(myna)) == before


def test_standard_input_and_csv_are_read(myna: Cli) -> None:
    done = myna("import", "-", stdin="question,answer\nHi?,Ho\n")
    assert done.out == "1 conversation with 2 messages imported, 0 already known.\n"
    assert stored(url_of(myna))["import_batch"][0]["file_name"] == "standard input"
    assert myna("import", "-", stdin=json.dumps(ROWS[0])).code == 0


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("missing.jsonl", None, "missing.jsonl: No such file or directory"),
        (".", None, "is a folder"),
        ("empty.jsonl", b"", "The file is empty"),
        ("model.gguf", bytes(range(256)), "not a text file"),
        ("utf16.csv", "question,answer\n".encode("utf-16"), "in UTF-16"),
        ("notes.txt", b"Dear diary,\n", "or conversation,role,content"),
        ("broken.jsonl", b"Dear diary,\n", "line 1 is not JSON"),
        ("all-wrong.csv", b"question,answer\nx\n", "There is no valid row"),
    ],
)
def test_an_unreadable_file_is_refused(myna: Cli, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        (myna.folder / name).write_bytes(data)
    done = myna("import", name, "--skip-bad")
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert not myna.data.exists(), "a file is checked before anything is made"


def test_progress_is_shown_on_a_terminal_only(myna: Cli) -> None:
    file = write(myna, ROWS)
    assert "Importing" not in myna("import", file).err
    screen, terminal = pty.openpty()
    try:
        command = [*MYNA, "import", write(myna, [{"messages": [USER, ANSWER], "id": "new"}])]
        environment = {**myna.environment, "TERM": "xterm"}
        done = subprocess.run(command, env=environment, stderr=terminal, stdout=subprocess.PIPE, cwd=myna.folder)
        assert done.stdout == b"1 conversation with 2 messages imported, 0 already known.\n"
        assert b"Importing" in os.read(screen, 65_536)
    finally:
        os.close(screen)
        os.close(terminal)


BATCH = 40
DIES = f"""
import os, signal, sys
import storage.audit, storage.imports
from adapters.cli.main import main

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

storage.imports.BATCH = {BATCH}
if sys.argv[1] == "last":
    storage.audit.record = die
else:
    batches, known_keys = iter(range(3)), storage.imports.known_keys
    storage.imports.known_keys = lambda *args: die() if next(batches) == 2 else known_keys(*args)
main(["import", sys.argv[2]])
"""


@pytest.mark.parametrize("where", ["middle", "last"])
def test_a_kill_in_the_middle_leaves_nothing_behind(on_both: Cli, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "BATCH", BATCH)
    on_both("migrate")
    rows = [{**ROWS[number % 4], "id": f"row {number}"} for number in range(3 * BATCH)]
    file = write(on_both, rows)
    killed = subprocess.run(
        [sys.executable, "-c", DIES, where, file],
        env=on_both.environment,
        cwd=on_both.folder,
        capture_output=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert stored(url_of(on_both)) == {}
    assert on_both("import", file, "--json").json["conversations"] == len(rows)
    assert broken_laws(url_of(on_both), {}) == []
    keys = [row["id"] for row in on_both("export").rows]
    assert keys == [row["id"] for row in rows], "in the order of the file"


# --- beside a running agent ---


async def test_a_running_agent_leaves_imported_conversations_alone(start_agent: StartAgent, database_url: str) -> None:
    async with start_agent(database_url) as agent:
        rows = [read_row(row) for row in ROWS]
        done = await agent.database.write(imports.take_in, agent.workspace_id, rows, FILE)
        assert done.conversations == 4
        assert await agent.database.write(inbox.claim, None, "worker", 10, 60_000) == []
        for key in ("ada", "conversation:nobody"):
            for channel in ("web", "console", "slack"):
                listed = await agent.database.read(
                    conversations.list_conversations, agent.workspace_id, channel, Sender(key).external_id
                )
                assert listed == []
    assert agent.generator.prompts == []  # type: ignore[attr-defined]
    assert await asyncio.to_thread(broken_laws, database_url, {}) == []


# --- export, and import of that ---


def reduced(row: dict[str, Any], people: dict[str, str]) -> dict[str, Any]:
    """Return a row without the database's own ids and times; people are numbered in the order of appearance."""
    turns = [{key: value for key, value in turn.items() if key not in ("id", "created_at")} for turn in row["messages"]]
    kept = {key: value for key, value in row.items() if key not in ("messages", "person")}
    who = row.get("person")
    return kept | {"messages": turns, "person": who and people.setdefault(who, f"person {len(people)}")}


def test_an_export_can_be_imported_again(on_both: Cli, tmp_path: Path) -> None:
    on_both("import", write(on_both, ROWS))
    out = on_both.folder / "out.jsonl"
    assert on_both("export", "--channel", "import", "--out", str(out)).err == "4 conversations exported.\n"
    first = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert not re.search(r"\bada\b", out.read_text()), "whose conversations they are is told by a pseudonym"
    assert first[2]["messages"][1]["rating"] == -1
    assert first[1]["messages"][0] == SYSTEM
    assert on_both("import", str(out), "--json").json["known"] == 4
    elsewhere = Cli(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    assert elsewhere("import", str(out), "--json").json["conversations"] == 4
    second, people = elsewhere("export").rows, dict[str, str]()
    others: dict[str, str] = {}
    assert [reduced(row, people) for row in first] == [reduced(row, others) for row in second]


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> Callable[[], str]:
    """Return a function that makes another migrated database of one kind."""
    numbers = iter(range(10_000))

    def make() -> str:
        if request.param == "sqlite":
            path = tmp_path / f"{next(numbers)}.db"
            path.write_bytes(migrated_sqlite.read_bytes())
            return f"sqlite:///{path}"
        template = request.getfixturevalue("migrated_postgres")
        return new_postgres_database(request.getfixturevalue("postgres"), template)

    return make


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
opinions = st.fixed_dictionaries({"rating": st.sampled_from([1, -1])}, optional={"reason": words, "better": words})
of_bots = st.fixed_dictionaries(
    {"author": st.just("bot")}, optional={"state": st.sampled_from(["answered", "stopped"])}
)
extras = st.just({}) | opinions | of_bots | st.fixed_dictionaries({"draft": words})
exchanges = st.tuples(words, words, extras).map(
    lambda three: [{"role": "user", "content": three[0]}, {"role": "assistant", "content": three[1], **three[2]}]
)
systems = st.just([]) | words.map(lambda text: [{"role": "system", "content": text}])
written = st.fixed_dictionaries(
    {
        "messages": st.tuples(systems, st.lists(exchanges, min_size=1, max_size=3)).map(
            lambda both: [*both[0], *(turn for exchange in both[1] for turn in exchange)]
        )
    },
    optional={
        "id": words,
        "group": words,
        "title": words,
        "may_learn": st.booleans(),
        "person": st.sampled_from(["ada", "bob"]),
    },
)


def said(row: dict[str, Any]) -> dict[str, Any]:
    """Return the exported form of a file's row: all fields, with the characters that databases store."""
    one = read_row(row)
    turns: list[dict[str, Any]] = [{"role": "system", "content": one.instructions}] if one.instructions else []
    for each in one.messages:
        turn: dict[str, Any] = {"role": "user" if each.author == "person" else "assistant", "content": each.text}
        if each.author != "person":
            turn["author"] = each.author
        if each.author == "bot":
            turn["state"] = each.state
        opinion = each.vote and {"rating": each.vote.value, "reason": each.vote.reason, "better": each.vote.better}
        turn |= {key: value for key, value in {"draft": each.draft, **(opinion or {})}.items() if value is not None}
        turns.append(turn)
    title = conversations.shorten_title(one.title or "") or conversations.shorten_title(
        next(each.text for each in one.messages)
    )
    kept = {"group": one.group, "may_learn": one.may_learn}
    return {key: value for key, value in kept.items() if value is not None} | {
        "id": one.key,
        "channel": "import",
        "title": title,
        "messages": turns,
        "person": one.person,
    }


async def export_all(url: str) -> list[dict[str, Any]]:
    database = Database(url)
    rows = [row async for row in export_rows(Scope(database, DEFAULT_WORKSPACE))]
    await database.close()
    return rows


async def take(url: str, rows: list[dict[str, Any]]) -> None:
    database, known = Database(url), {one.key: one for one in map(read_row, rows)}
    await database.write(imports.take_in, DEFAULT_WORKSPACE, list(known.values()), FILE)
    await database.close()


@pytest.mark.slow
@pytest.mark.parametrize("fresh_database", ["sqlite", "postgresql"], indirect=True)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(written, min_size=1, max_size=3, unique_by=lambda row: row.get("id", id(row))))
def test_exports_of_both_databases_equal_the_import(
    fresh_database: Callable[[], str], rows: list[dict[str, Any]]
) -> None:
    here, there = fresh_database(), fresh_database()
    asyncio.run(take(here, rows))
    first = asyncio.run(export_all(here))
    unique = list({read_row(row).key: row for row in rows}.values())
    people: tuple[dict[str, str], ...] = ({}, {}, {})
    assert [reduced(row, people[0]) for row in first] == [reduced(said(row), people[1]) for row in unique]
    asyncio.run(take(there, first))
    assert [reduced(row, people[2]) for row in asyncio.run(export_all(there))] == [
        reduced(said(row), people[1]) for row in unique
    ]


# --- pairs, and who may be learnt from ---


def execute(url: str, *statements: sa.Executable) -> None:
    engine = engine_of(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)
    engine.dispose()


async def pairs_of(url: str) -> list[tuple[str, str, list[str]]]:
    database = Database(url)
    rows = [row async for row in pair_rows(Scope(database, DEFAULT_WORKSPACE), may_learn=UNLESS_REFUSED)]
    await database.close()
    assert all(set(row) == {"prompt", "chosen", "rejected"} for row in rows)
    return [
        (row["chosen"][0]["content"], row["rejected"][0]["content"], [turn["role"] for turn in row["prompt"]])
        for row in rows
    ]


async def learnable(url: str) -> list[dict[str, Any]]:
    database = Database(url)
    rows = [row async for row in export_rows(Scope(database, DEFAULT_WORKSPACE), may_learn=UNLESS_REFUSED)]
    await database.close()
    return rows


def test_pairs_come_from_drafts_and_better_answers(database_url: str) -> None:
    follow_up = {"id": "later", "messages": [USER, ANSWER, USER, RATED]}
    same = {"id": "same", "messages": [USER, {**ANSWER, "draft": ANSWER["content"]}]}
    asyncio.run(take(database_url, [*ROWS, follow_up, same]))
    assert asyncio.run(pairs_of(database_url)) == [
        (ANSWER["content"], DRAFTED["draft"], ["system", "user"]),
        (RATED["better"], ANSWER["content"], ["user"]),
        (RATED["better"], ANSWER["content"], ["user", "assistant", "user"]),
    ]


def test_decisions_of_staff_replace_votes(database_url: str) -> None:
    asyncio.run(take(database_url, [{"id": "a", "messages": [USER, RATED]}, {"id": "b", "messages": [USER, RATED]}]))
    replies = stored(database_url)["vote"]
    first, second = sorted(replies, key=lambda one: one["reply_id"])

    def decide(one: dict[str, Any], decision: str, better: str | None) -> sa.Executable:
        values = {"reply_id": one["reply_id"], "conversation_id": one["conversation_id"], "reviewer": "web:ada"}
        return sa.insert(review).values(
            id=new_id(), workspace_id=DEFAULT_WORKSPACE, decision=decision, better=better, created_at=now_ms(), **values
        )

    execute(database_url, decide(first, "correct", "By Friday."), decide(second, "exclude", None))
    assert asyncio.run(pairs_of(database_url)) == [("By Friday.", ANSWER["content"], ["user"])]


def test_words_without_consent_are_not_exported(database_url: str) -> None:
    asyncio.run(take(database_url, ROWS))
    assert [row["id"] for row in asyncio.run(learnable(database_url))] == ["plain", "agent", "bot"], (
        "one said no for itself"
    )
    assert len(asyncio.run(pairs_of(database_url))) == 2
    owners = sa.select(identity.c.person_id).where(identity.c.external_id == "ada").scalar_subquery()
    execute(database_url, sa.update(person).where(person.c.id == owners).values(may_learn=False))
    assert [row["id"] for row in asyncio.run(learnable(database_url))] == ["plain"]
    assert asyncio.run(pairs_of(database_url)) == []
    rows = {row["id"]: row for row in asyncio.run(export_all(database_url))}
    assert (rows["agent"]["may_learn"], rows["bot"]["may_learn"]) == (False, False), "the no goes with the words"


def test_a_thread_needs_the_consent_of_every_author(database_url: str) -> None:
    asyncio.run(take(database_url, [{"id": "a", "messages": [USER, RATED]}, {"id": "b", "messages": [USER, RATED]}]))
    stranger = new_id()
    found = stored(database_url)
    ids = {one["external_id"]: one["id"] for one in found["conversation"]}
    execute(
        database_url,
        sa.insert(person).values(id=stranger, workspace_id=DEFAULT_WORKSPACE, may_learn=False, created_at=now_ms()),
        sa.update(message).where(message.c.conversation_id == ids["a"], message.c.rank == 0).values(person_id=stranger),
        sa.update(vote).where(vote.c.conversation_id == ids["b"]).values(person_id=stranger),
    )
    (row,) = asyncio.run(learnable(database_url))
    assert row["id"] == "b"
    assert "better" not in row["messages"][1], "who voted said no"
    assert asyncio.run(pairs_of(database_url)) == []


def test_pairs_and_learnable_rows_are_printed(myna: Cli) -> None:
    myna("import", write(myna, ROWS))
    done = myna("export", "--pairs")
    assert (len(done.rows), done.err) == (2, "2 pairs exported.\n")
    assert done.rows[0]["prompt"] == [SYSTEM, USER]
    assert done.rows[0]["rejected"] == [{"role": "assistant", "content": DRAFTED["draft"]}]
    assert myna("export", "--learnable").err == "3 conversations exported.\n"
    only_asked = {"MYNA_LEARNING_CONSENT": "opt-in"}
    assert myna("export", "--learnable", **only_asked).err == "1 conversation exported.\n", "one said yes"
    assert myna("export", "--pairs", **only_asked).err == "1 pair exported.\n"
    told = list(map(json.loads, myna("audit", "--json").out.splitlines()))
    taken_out = [row["details"] for row in told if row["action"] == "conversations.export"]
    assert [(one["pairs"], one["learnable"]) for one in taken_out] == [
        (True, False),
        (False, True),
        (False, True),
        (True, False),
    ], "newest first"
    target = myna.folder / "pairs.jsonl"
    assert myna("export", "--pairs", "--out", str(target), "--json").json == {"pairs": 2, "file": str(target)}


def test_an_import_is_told_apart_by_its_batch(on_both: Cli) -> None:
    """Two files make two batches, each with its own conversations and its own row in the audit log."""
    on_both("import", write(on_both, ROWS[:2], "one.jsonl"))
    on_both("import", write(on_both, ROWS[1:], "two.jsonl"))
    engine = engine_of(url_of(on_both))
    with engine.begin() as connection:
        batches = {row.file_name: row for row in connection.execute(sa.select(import_batch))}
        by_batch = sa.select(conversation.c.import_id, sa.func.count()).group_by(conversation.c.import_id)
        counts = {row[0]: row[1] for row in connection.execute(by_batch)}
        told = {row.target: row.details["known"] for row in connection.execute(sa.select(audit))}
    engine.dispose()
    one, two = batches["one.jsonl"], batches["two.jsonl"]
    assert (one.conversations, two.conversations) == (2, 2)
    assert counts == {one.id: 2, two.id: 2}
    assert told == {one.id: 0, two.id: 1}
    assert one.sha256 != two.sha256
