"""Two customers with the very same data: nothing that storage does in one workspace reads or changes the other.

Every public function of storage that takes a transaction has a case here; a function without a case fails.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

import storage
from storage import api_keys, conversations, inbox, outbox, seen_events, shown_parts, slack_installs, votes
from storage.engines import postgresql_engine, sqlite_engine
from storage.knowledge_schema import article
from storage.outbox import SendLease
from storage.schema import workspace
from storage.transaction import Rollback, Transaction
from storage.values import Lease, Sender, text_part
from storage.votes import Vote
from tests.conftest import new_postgres_database
from tests.contract.workspaces import (
    CHANNEL,
    DAY,
    KEY,
    LEASE_MS,
    MINE,
    PERSON,
    THEIRS,
    Case,
    World,
    answer,
    answer_second,
    incoming,
    installation,
    name_of,
    usage,
)

AREAS = [
    importlib.import_module(f"tests.contract.{info.name}")
    for info in pkgutil.iter_modules([str(Path(__file__).parent)])
    if info.name.startswith("workspaces_")
]
metadata = article.metadata
NOT_FILLED = {"dead_letter"}

# Those without `foreign` take nothing but names that channels give, which both workspaces share here.
CASES: dict[str, Case] = {
    **{name: case for area in AREAS for name, case in area.CASES.items()},
    name_of(conversations.place): Case(
        [
            lambda tx, w: conversations.place(tx, incoming(1)),
            lambda tx, w: conversations.place(tx, incoming(1, conversation_key="chat-2")),
        ]
    ),
    name_of(conversations.find_conversation): Case([lambda tx, w: conversations.find_conversation(tx, CHANNEL, KEY)]),
    name_of(conversations.list_conversations): Case(
        [lambda tx, w: conversations.list_conversations(tx, CHANNEL, PERSON)]
    ),
    name_of(conversations.newest_messages): Case(
        [lambda tx, w: conversations.newest_messages(tx, w.conversation.id)],
        lambda tx, w: conversations.newest_messages(tx, w.conversation.id),
        [],
    ),
    name_of(conversations.context): Case(
        [lambda tx, w: conversations.context(tx, w.conversation.id, 9)],
        lambda tx, w: conversations.context(tx, w.conversation.id, 9),
        ([], 0),
    ),
    name_of(conversations.reply_to): Case(
        [lambda tx, w: conversations.reply_to(tx, w.conversation.id, 1)],
        lambda tx, w: conversations.reply_to(tx, w.conversation.id, 1),
        None,
    ),
    name_of(conversations.forget_context): Case(
        [lambda tx, w: conversations.forget_context(tx, w.conversation.id)],
        lambda tx, w: conversations.forget_context(tx, w.conversation.id),
        None,
    ),
    name_of(conversations.find_or_create_person): Case(
        [lambda tx, w: conversations.find_or_create_person(tx, CHANNEL, Sender("visitor-3"))]
    ),
    name_of(conversations.find_person): Case([lambda tx, w: conversations.find_person(tx, CHANNEL, PERSON)]),
    name_of(conversations.set_left): Case(
        [lambda tx, w: conversations.set_left(tx, w.conversation.id, left=True)],
        lambda tx, w: conversations.set_left(tx, w.conversation.id, left=True),
        None,
    ),
    name_of(inbox.fence): Case(
        [lambda tx, w: inbox.fence(tx, w.conversation.id)], lambda tx, w: inbox.fence(tx, w.conversation.id), False
    ),
    name_of(inbox.revise): Case(
        [
            lambda tx, w: inbox.revise(tx, w.conversation.id, "m2", (text_part("other words"),), 5),
            lambda tx, w: inbox.revise(tx, w.conversation.id, "m1", None, 6),
        ],
        lambda tx, w: inbox.revise(tx, w.conversation.id, "m2", (text_part("other words"),), 5),
        False,
    ),
    name_of(inbox.accept): Case(
        [
            lambda tx, w: inbox.accept(tx, incoming(3)),
            lambda tx, w: inbox.accept(tx, incoming(4, conversation_key="chat-2", sender=Sender("visitor-2"))),
            lambda tx, w: inbox.accept(tx, incoming(1)),
            lambda tx, w: inbox.accept(tx, incoming(5, replaces="m1")),
        ]
    ),
    name_of(inbox.accept_regenerate): Case(
        [lambda tx, w: (answer_second(tx, w), inbox.accept_regenerate(tx, w.conversation, w.lease.reply_id, "again"))],
        lambda tx, w: inbox.accept_regenerate(tx, w.conversation, w.lease.reply_id, "again"),
        inbox.NoSuchMessage,
        prepare=answer_second,
    ),
    name_of(inbox.complete): Case(
        [lambda tx, w: inbox.complete(tx, w.lease, answer(2, "failed"), CHANNEL)],
        lambda tx, w: inbox.complete(tx, w.lease, answer(2), CHANNEL),
        inbox.Fenced,
    ),
    name_of(inbox.release): Case(
        [lambda tx, w: inbox.release(tx, w.lease, 10, count_attempt=True)],
        lambda tx, w: inbox.release(tx, w.lease, 10, count_attempt=True),
        None,
    ),
    name_of(inbox.stop): Case(
        [lambda tx, w: inbox.stop(tx, w.conversation.id, None), lambda tx, w: inbox.stop(tx, w.conversation.id, 2)],
        lambda tx, w: inbox.stop(tx, w.conversation.id, None),
        False,
    ),
    name_of(inbox.progress): Case(
        [lambda tx, w: inbox.progress(tx, w.conversation.id)],
        lambda tx, w: inbox.progress(tx, w.conversation.id),
        (0, 0),
    ),
    # `complete` is the only caller, and has proved by then that the lease is its workspace's own.
    name_of(outbox.enqueue): Case(
        [lambda tx, w: (answer_second(tx, w), outbox.enqueue(tx, w.lease, answer(2), CHANNEL))]
    ),
    name_of(outbox.intend): Case(
        [lambda tx, w: outbox.intend(tx, w.send_lease, LEASE_MS)],
        lambda tx, w: outbox.intend(tx, w.send_lease, LEASE_MS),
        None,
    ),
    name_of(outbox.record): Case(
        [lambda tx, w: outbox.record(tx, w.post, "sent", provider_id="17")],
        lambda tx, w: outbox.record(tx, w.post, "sent", provider_id="17"),
        None,
    ),
    name_of(outbox.record_and_go_on): Case(
        [lambda tx, w: outbox.record_and_go_on(tx, w.post, "sent", w.send_lease, LEASE_MS, provider_id="17")],
        lambda tx, w: outbox.record_and_go_on(tx, w.post, "sent", w.send_lease, LEASE_MS, provider_id="17"),
        None,
    ),
    name_of(outbox.release): Case(
        [lambda tx, w: outbox.release(tx, w.send_lease, 10)], lambda tx, w: outbox.release(tx, w.send_lease, 10), None
    ),
}
CASES |= {
    name_of(api_keys.create_key): Case([lambda tx, w: api_keys.create_key(tx, "b", "another hash", "myna_b", 1, 2)]),
    name_of(api_keys.list_keys): Case([lambda tx, w: api_keys.list_keys(tx)]),
    name_of(api_keys.revoke_key): Case(
        [lambda tx, w: api_keys.revoke_key(tx, "a")], lambda tx, w: api_keys.revoke_key(tx, w.key_id), False
    ),
    name_of(api_keys.find_key): Case(
        [lambda tx, w: api_keys.find_key(tx, w.key_digest, DAY)],
        lambda tx, w: api_keys.find_key(tx, w.key_digest, DAY),
        None,
    ),
    name_of(api_keys.record_usage): Case(
        [lambda tx, w: api_keys.record_usage(tx, usage(w.key_id), DAY)],
        lambda tx, w: api_keys.record_usage(tx, usage(w.key_id), DAY),
        None,
    ),
    name_of(api_keys.usage_page): Case([lambda tx, w: api_keys.usage_page(tx, "", 0)]),
}
CASES |= {
    name_of(shown_parts.asker): Case(
        [lambda tx, w: shown_parts.asker(tx, w.conversation.id)],
        lambda tx, w: shown_parts.asker(tx, w.conversation.id),
        None,
    ),
    name_of(shown_parts.take_over): Case(
        [lambda tx, w: shown_parts.take_over(tx, w.conversation.id, "a newer reply")],
        lambda tx, w: shown_parts.take_over(tx, w.conversation.id, "a newer reply"),
        [],
    ),
    # Whoever shows a reply has its lease, or its post, and has these from there.
    name_of(shown_parts.begin): Case([lambda tx, w: shown_parts.begin(tx, w.conversation.id, w.part.reply_id, False)]),
    name_of(shown_parts.name): Case(
        [lambda tx, w: shown_parts.name(tx, w.part, "17.1")], lambda tx, w: shown_parts.name(tx, w.part, "17.1"), None
    ),
    name_of(shown_parts.is_clear): Case(
        [lambda tx, w: (outbox.record(tx, w.post, "sent"), shown_parts.is_clear(tx, w.conversation.id))]
    ),
    name_of(shown_parts.is_owned): Case(
        [lambda tx, w: shown_parts.is_owned(tx, w.part)], lambda tx, w: shown_parts.is_owned(tx, w.part), False
    ),
    name_of(shown_parts.withdraw): Case(
        [lambda tx, w: shown_parts.withdraw(tx, w.part)], lambda tx, w: shown_parts.withdraw(tx, w.part), False
    ),
    name_of(seen_events.note): Case([lambda tx, w: seen_events.note(tx, "something else")]),
    name_of(seen_events.is_known): Case([lambda tx, w: seen_events.is_known(tx, "an event")]),
    name_of(shown_parts.drop): Case(
        [lambda tx, w: shown_parts.drop(tx, w.part)], lambda tx, w: shown_parts.drop(tx, w.part), False
    ),
    name_of(shown_parts.settle): Case(
        [lambda tx, w: shown_parts.settle(tx, w.conversation.id, w.part.reply_id)],
        lambda tx, w: shown_parts.settle(tx, w.conversation.id, w.part.reply_id),
        None,
    ),
    name_of(votes.find_reply): Case(
        [lambda tx, w: votes.find_reply(tx, CHANNEL, w.reply.id)],
        lambda tx, w: votes.find_reply(tx, CHANNEL, w.reply.id),
        None,
    ),
    name_of(votes.last_reply): Case(
        [lambda tx, w: votes.last_reply(tx, CHANNEL, w.conversation.id)],
        lambda tx, w: votes.last_reply(tx, CHANNEL, w.conversation.id),
        None,
    ),
    name_of(votes.cast): Case(
        [lambda tx, w: votes.cast(tx, w.rated, CHANNEL, Sender(PERSON), Vote(-1, "no", "better"))],
        lambda tx, w: votes.cast(tx, w.rated, CHANNEL, Sender(PERSON), Vote(-1)),
        False,
    ),
    name_of(votes.withdraw): Case(
        [lambda tx, w: votes.withdraw(tx, w.rated, CHANNEL, PERSON)],
        lambda tx, w: votes.withdraw(tx, w.rated, CHANNEL, PERSON),
        False,
    ),
    name_of(votes.votes_of): Case(
        [lambda tx, w: votes.votes_of(tx, CHANNEL, PERSON, w.conversation.id)],
        lambda tx, w: votes.votes_of(tx, CHANNEL, PERSON, w.conversation.id),
        [],
    ),
    name_of(votes.votes_on): Case(
        [lambda tx, w: votes.votes_on(tx, w.reply.id)], lambda tx, w: votes.votes_on(tx, w.reply.id), []
    ),
    name_of(slack_installs.save): Case(
        [
            lambda tx, w: slack_installs.save(tx, installation(8, "T2")),
            lambda tx, w: slack_installs.save(tx, installation(9)),
        ]
    ),
    name_of(slack_installs.find): Case([lambda tx, w: slack_installs.find(tx, "T1")]),
    name_of(slack_installs.list_all): Case([lambda tx, w: slack_installs.list_all(tx)]),
    name_of(slack_installs.remove): Case([lambda tx, w: slack_installs.remove(tx, "T1", 2**60)]),
    name_of(slack_installs.claim_renewal): Case(
        [lambda tx, w: slack_installs.claim_renewal(tx, w.installed.id, LEASE_MS)],
        lambda tx, w: slack_installs.claim_renewal(tx, w.installed.id, LEASE_MS),
        None,
    ),
    name_of(slack_installs.renewed): Case(
        [lambda tx, w: slack_installs.renewed(tx, w.installed.id, "new", "new", LEASE_MS)],
        lambda tx, w: slack_installs.renewed(tx, w.installed.id, "new", "new", LEASE_MS),
        None,
    ),
    name_of(slack_installs.set_tokens): Case(
        [lambda tx, w: slack_installs.set_tokens(tx, w.installed, replace(w.installed, bot_token="new"))],
        lambda tx, w: slack_installs.set_tokens(tx, w.installed, replace(w.installed, bot_token="new")),
        None,
    ),
    name_of(slack_installs.begin_attempt): Case(
        [lambda tx, w: slack_installs.begin_attempt(tx, "hash of another state", LEASE_MS)]
    ),
    name_of(slack_installs.take_attempt): Case(
        [lambda tx, w: slack_installs.take_attempt(tx, w.state)],
        lambda tx, w: slack_installs.take_attempt(tx, w.state),
        False,
    ),
}
# These serve the installation: a worker claims and keeps work of all workspaces, and each piece of it names its own.
ACROSS = {
    "inbox.claim",
    "inbox.heartbeat",
    "inbox.free_all_leases",
    "outbox.claim",
    "outbox.free_all_leases",
    "migrate.revisions",
    "jobs.claim",
    "jobs.is_waiting",
    "jobs.ended",
}


def units_of_work() -> set[str]:
    """Every public function of storage whose first parameter is a transaction."""
    found = set()
    for info in pkgutil.iter_modules(storage.__path__):
        module = importlib.import_module(f"storage.{info.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            is_unit = first is not None and str(first.annotation).endswith("Transaction")
            if is_unit and function.__module__ == module.__name__ and not name.startswith("_"):
                found.add(name_of(function))
    return found


def test_every_function_of_storage_has_a_case_or_is_known_to_cross() -> None:
    assert units_of_work() == CASES.keys() | ACROSS
    assert not CASES.keys() & ACROSS


@dataclass
class Filled:
    """A database with both worlds in it, and an engine that opens copies of it.

    One engine serves all cases, so that each statement is compiled once a session.
    """

    engine: sa.Engine
    worlds: dict[str, World]
    database: str
    """The file, or PostgreSQL's name of the database, that the next connection opens."""


def fill(url: str) -> Filled:
    """Fill both worlds, and close all connections: only then is a file whole and may PostgreSQL copy a database."""
    parsed = sa.make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = (sqlite_engine if is_sqlite else postgresql_engine)(parsed)
    if not is_sqlite:
        sa.event.listen(engine, "connect", _wait_for_slow_cases)
    filled = Filled(engine, fill_worlds(engine), str(parsed.database))
    engine.dispose()

    @sa.event.listens_for(engine, "do_connect")
    def open_copy(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
        if is_sqlite:
            arguments[0] = filled.database
        else:
            options["dbname"] = filled.database

    return filled


def _wait_for_slow_cases(connection: Any, _record: Any) -> None:
    """Allow long pauses: a case looks at every table within its transaction, which takes long on a busy machine."""
    connection.execute("SET idle_in_transaction_session_timeout = 0")
    connection.commit()


@pytest.fixture(scope="session")
def filled_sqlite(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Filled, str]:
    """The filled file, and its path."""
    path = tmp_path_factory.mktemp("worlds") / "worlds.db"
    shutil.copy(migrated_sqlite, path)
    return fill(f"sqlite:///{path}"), str(path)


@pytest.fixture(scope="session")
def filled_postgres(postgres: Any, migrated_postgres: str) -> tuple[Filled, str]:
    """The filled database, and its name."""
    filled = fill(new_postgres_database(postgres, migrated_postgres))
    return filled, filled.database


@pytest.fixture(params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filled]:
    """A copy of the filled database of each kind. A case may change all of it."""
    if request.param == "sqlite":
        filled, template = request.getfixturevalue("filled_sqlite")
        filled.database = str(shutil.copy(template, tmp_path / "worlds.db"))
    else:
        filled, template = request.getfixturevalue("filled_postgres")
        copied = new_postgres_database(request.getfixturevalue("postgres"), template)
        filled.database = str(sa.make_url(copied).database)
    yield filled
    filled.engine.dispose()


@pytest.fixture
def engine(filled: Filled) -> sa.Engine:
    return filled.engine


@pytest.fixture
def worlds(filled: Filled) -> dict[str, World]:
    """Two workspaces that differ in nothing but their ids. A case may change its copy of what they hold."""
    return copy.deepcopy(filled.worlds)


def run(engine: sa.Engine, workspace_id: str | None, unit: Callable[..., Any], *args: Any) -> Any:
    """As `Database.write` does: one transaction, and a wanted rollback has a value."""
    try:
        with engine.begin() as connection:
            return unit(Transaction(connection, workspace_id), *args)
    except Rollback as rollback:
        return rollback.value


def fill_worlds(engine: sa.Engine) -> dict[str, World]:
    """Put the same into two workspaces."""
    with engine.begin() as connection:
        for name in (MINE, THEIRS):
            connection.execute(workspace.insert().values(id=name, name=name, created_at=0))
    for name in (MINE, THEIRS):
        run(engine, name, inbox.accept, incoming(1))
    for lease in run(engine, None, inbox.claim, "worker", 10, LEASE_MS):
        run(engine, lease.workspace_id, inbox.complete, lease, answer(1), CHANNEL)
    for name in (MINE, THEIRS):
        run(engine, name, inbox.accept, incoming(2))
    leases = {one.workspace_id: one for one in run(engine, None, inbox.claim, "worker", 10, LEASE_MS)}
    send_leases = {one.workspace_id: one for one in run(engine, None, outbox.claim, "worker", 10, LEASE_MS)}
    for name in (MINE, THEIRS):
        key_id = run(engine, name, api_keys.create_key, "a", f"hash of {name}", "myna_a", None, None)
        run(engine, name, api_keys.record_usage, usage(key_id), DAY)
        run(engine, name, slack_installs.begin_attempt, f"hash of a state of {name}", LEASE_MS)
        run(engine, name, seen_events.note, "an event")
    for number, name in enumerate((MINE, THEIRS), 1):
        run(engine, name, slack_installs.save, installation(number))
    built = {name: build_world(engine, name, leases[name], send_leases[name]) for name in (MINE, THEIRS)}
    for area in AREAS:
        for name, world in built.items():
            run(engine, name, area.fill, world)
    return built


def build_world(engine: sa.Engine, name: str, lease: Lease, send_lease: SendLease) -> World:
    rated = run(engine, name, votes.last_reply, CHANNEL, lease.conversation_id)
    run(engine, name, votes.cast, rated, CHANNEL, Sender(PERSON), Vote(1))
    return World(
        part=run(engine, name, shown_parts.begin, lease.conversation_id, lease.reply_id, True),
        rated=rated,
        installed=run(engine, name, slack_installs.find, "T1"),
        state=f"hash of a state of {name}",
        conversation=run(engine, name, conversations.find_conversation, CHANNEL, KEY),
        lease=lease,
        send_lease=send_lease,
        post=run(engine, name, outbox.intend, send_lease, LEASE_MS),
        reply=run(engine, name, conversations.reply_to, lease.conversation_id, 1),
        key_id=run(engine, name, api_keys.list_keys)[0].id,
        key_digest=f"hash of {name}",
    )


def rows_of(engine: sa.Engine, workspace_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything a workspace holds, read without the code under test."""
    owners = {table: table.c.id if table is workspace else table.c.workspace_id for table in metadata.sorted_tables}
    with engine.connect() as connection:
        found = {
            table.name: connection.execute(table.select().where(owner == workspace_id)).all()
            for table, owner in owners.items()
        }
    return {name: sorted((tuple(map(_plain, row)) for row in rows), key=repr) for name, rows in found.items()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def ids_of(rows: dict[str, list[tuple[Any, ...]]]) -> set[str]:
    """Ids that name one row of one workspace: our own are 32 hex digits, with an epoch behind them or not."""
    values = {value for table in rows.values() for row in table for value in row if isinstance(value, str)}
    return {value for value in values if len(value) >= 32} | {THEIRS}


def test_the_two_workspaces_hold_the_same(engine: sa.Engine, worlds: dict[str, World]) -> None:
    mine, theirs = rows_of(engine, MINE), rows_of(engine, THEIRS)
    assert {name: len(rows) for name, rows in mine.items()} == {name: len(rows) for name, rows in theirs.items()}
    filled = {name for name, rows in mine.items() if rows}
    assert filled == set(metadata.tables) - NOT_FILLED


@pytest.mark.parametrize("name", CASES)
def test_a_call_with_own_things_leaves_the_other_workspace_alone(
    engine: sa.Engine, worlds: dict[str, World], name: str
) -> None:
    theirs = rows_of(engine, THEIRS)
    for call in CASES[name].own:
        mine = rows_of(engine, MINE)
        result = run(engine, MINE, call, worlds[MINE])
        assert result or rows_of(engine, MINE) != mine, "the call must do something, or it proves nothing"
        assert not [one for one in ids_of(theirs) if one in repr(result)]
        assert rows_of(engine, THEIRS) == theirs


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.foreign is not None])
def test_a_call_with_things_of_the_other_workspace_finds_nothing(
    engine: sa.Engine, worlds: dict[str, World], name: str
) -> None:
    case = CASES[name]
    if case.prepare is not None:
        run(engine, THEIRS, case.prepare, worlds[THEIRS])
    mine, theirs = rows_of(engine, MINE), rows_of(engine, THEIRS)
    assert case.foreign is not None
    if isinstance(case.nothing, type):
        with pytest.raises(case.nothing):
            run(engine, MINE, case.foreign, worlds[THEIRS])
    else:
        assert run(engine, MINE, case.foreign, worlds[THEIRS]) == case.nothing
    assert rows_of(engine, THEIRS) == theirs
    assert rows_of(engine, MINE) == mine


def test_work_that_crosses_workspaces_names_the_one_it_belongs_to(engine: sa.Engine, worlds: dict[str, World]) -> None:
    for lease in run(engine, None, inbox.heartbeat, "worker", LEASE_MS):
        owner = next(name for name, world in worlds.items() if world.conversation.id == lease.conversation_id)
        assert lease.workspace_id == owner
    assert {world.send_lease.workspace_id for world in worlds.values()} == {MINE, THEIRS}
    assert worlds[MINE].post.workspace_id == MINE


def test_both_workspaces_number_their_messages_apart(engine: sa.Engine, worlds: dict[str, World]) -> None:
    for name in (MINE, THEIRS, MINE):
        run(engine, name, inbox.accept, incoming(3))
    assert run(engine, MINE, inbox.progress, worlds[MINE].conversation.id) == (1, 3)
    assert run(engine, THEIRS, inbox.progress, worlds[THEIRS].conversation.id) == (1, 3)


def test_removing_a_workspace_removes_all_of_it_and_nothing_else(engine: sa.Engine, worlds: dict[str, World]) -> None:
    theirs = rows_of(engine, THEIRS)
    with engine.begin() as connection:
        connection.execute(workspace.delete().where(workspace.c.id == MINE))
    assert not any(rows_of(engine, MINE).values())
    assert rows_of(engine, THEIRS) == theirs
