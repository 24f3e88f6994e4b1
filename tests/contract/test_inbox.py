"""Inbox and lease on both databases: order, one worker, one end for each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from storage import conversations, inbox
from storage.database import Database
from storage.engines import postgresql_engine
from storage.schema import DEFAULT_WORKSPACE as W
from storage.transaction import Transaction
from storage.values import Accepted, Incoming, Lease, Reply, Sender, text_part

LEASE_MS = 60_000


def incoming(number: int, conversation: str = "c", **changes: Any) -> Incoming:
    text = (text_part(f"{conversation} {number}"),)
    made = Incoming("web", conversation, Sender("v"), f"{conversation}:{number}", text, external_id=f"m{number}")
    return replace(made, **changes)


async def accept(database: Database, *args: Any, **changes: Any) -> Accepted:
    return await database.write(inbox.accept, W, incoming(*args, **changes))


async def claim(database: Database, worker: str = "w", most: int = 100, lease_ms: int = LEASE_MS) -> list[Lease]:
    return await database.write(inbox.claim, None, worker, most, lease_ms)


async def claim_one(database: Database, worker: str = "w", lease_ms: int = LEASE_MS) -> Lease:
    [lease] = await claim(database, worker, lease_ms=lease_ms)
    return lease


def answer(lease: Lease, text: str = "yes", last_seq: int | None = None, **changes: Any) -> Reply:
    return Reply(**{"state": "answered", "text": text, "last_seq": last_seq or lease.enq_seq, "model": "m", **changes})


async def complete(database: Database, lease: Lease, reply: Reply) -> bool:
    return await database.write(inbox.complete, W, lease, reply)


async def said(database: Database, conversation_id: str) -> list[str]:
    return [message.text for message in await database.read(conversations.newest_messages, W, conversation_id)]


async def test_messages_are_numbered_without_a_gap(database: Database) -> None:
    accepted = [await accept(database, number) for number in (1, 2, 3)]
    assert [each.seq for each in accepted] == [1, 2, 3]


async def test_a_second_delivery_changes_nothing(database: Database) -> None:
    first = await accept(database, 1)
    again = await accept(database, 1, parts=(text_part("other words"),))
    assert again == replace(first, duplicate=True)
    assert (await accept(database, 2)).seq == 2
    assert await said(database, first.conversation_id) == ["c 1", "c 2"]


async def test_concurrent_duplicates_leave_one_message_each(database: Database) -> None:
    deliveries = [accept(database, number) for number in range(20) for _ in range(5)]
    accepted = await asyncio.gather(*deliveries)
    assert sorted(each.seq for each in accepted if not each.duplicate) == list(range(1, 21))
    assert len(await said(database, accepted[0].conversation_id)) == 20


async def test_a_conversation_has_one_worker_at_a_time(database: Database) -> None:
    for number in range(30):
        await accept(database, 1, f"c{number}")
    taken = await asyncio.gather(*(claim(database, f"w{worker}", 7) for worker in range(6)))
    ids = [lease.conversation_id for leases in taken for lease in leases]
    assert len(ids) == len(set(ids)) == 30


async def test_an_expired_lease_is_claimed_again(database: Database) -> None:
    await accept(database, 1)
    first = await claim_one(database, "dead", lease_ms=1)
    await asyncio.sleep(0.02)
    second = await claim_one(database, "alive")
    assert (second.epoch, second.attempts) == (first.epoch + 1, first.attempts + 1)


async def test_a_worker_with_a_lost_lease_changes_nothing(database: Database) -> None:
    accepted = await accept(database, 1)
    zombie = await claim_one(database, "dead", lease_ms=1)
    await asyncio.sleep(0.02)
    owner = await claim_one(database, "alive")
    with pytest.raises(inbox.Fenced):
        await complete(database, zombie, answer(zombie, "from the dead"))
    await database.write(inbox.release, W, zombie, 0, count_attempt=True)
    assert await complete(database, owner, answer(owner)) is False
    assert await said(database, accepted.conversation_id) == ["c 1", "yes"]


async def test_complete_is_idempotent(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease))
    assert await complete(database, lease, answer(lease, "again")) is False
    assert await said(database, accepted.conversation_id) == ["c 1", "yes"]


async def test_a_message_during_a_turn_waits_for_the_next_turn(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    await accept(database, 2)
    assert await complete(database, lease, answer(lease)) is True
    following = await claim_one(database)
    assert (following.done_seq, following.enq_seq) == (1, 2)
    assert await said(database, accepted.conversation_id) == ["c 1", "yes", "c 2"]


async def test_a_heartbeat_renews_the_lease_and_returns_its_state(database: Database) -> None:
    accepted = await accept(database, 1)
    await claim_one(database, "w", lease_ms=200)
    await accept(database, 2)
    assert await database.write(inbox.stop, W, accepted.conversation_id, None)
    [lease] = await database.write(inbox.heartbeat, None, "w", LEASE_MS)
    assert (lease.enq_seq, lease.stop_seq) == (2, 2)
    await asyncio.sleep(0.25)
    assert await claim(database, "other") == []


async def test_release_delays_the_turn_and_can_undo_its_attempt(database: Database) -> None:
    await accept(database, 1)
    lease = await claim_one(database)
    await database.write(inbox.release, W, lease, 60_000, count_attempt=False)
    assert await claim(database) == []
    await accept(database, 1, "other")
    other = await claim_one(database)
    await database.write(inbox.release, W, other, 0, count_attempt=False)
    assert (await claim_one(database)).attempts == 1


async def test_a_burst_waits_until_a_message_without_a_wait(database: Database) -> None:
    await accept(database, 1, burst_wait_ms=60_000)
    assert await claim(database) == []
    await accept(database, 1, "now", burst_wait_ms=0)
    assert [lease.enq_seq for lease in await claim(database)] == [1]
    await accept(database, 2, burst_wait_ms=0)
    assert [lease.enq_seq for lease in await claim(database)] == [2]


async def test_an_edit_sets_the_rest_aside_and_fences_the_running_turn(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    edited = await accept(database, 2, replaces="m1")
    with pytest.raises(inbox.Fenced):
        await complete(database, lease, answer(lease, "to the old words"))
    following = await claim_one(database)
    assert (following.done_seq, following.enq_seq, edited.seq) == (0, 2, 2)
    await complete(database, following, answer(following, "to the new words"))
    assert await said(database, accepted.conversation_id) == ["c 2", "to the new words"]


async def test_an_edit_replaces_an_answered_question_and_its_reply(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease))
    await accept(database, 2, replaces="m1")
    assert await said(database, accepted.conversation_id) == ["c 2"]


async def test_an_edit_sent_twice_counts_once(database: Database) -> None:
    accepted = await accept(database, 1)
    first = await accept(database, 2, replaces="m1")
    assert await accept(database, 2, replaces="m1") == replace(first, duplicate=True)
    assert await said(database, accepted.conversation_id) == ["c 2"]


async def test_an_edit_of_an_unknown_message_is_refused(database: Database) -> None:
    accepted = await accept(database, 1)
    with pytest.raises(inbox.NoSuchMessage):
        await accept(database, 2, replaces="unknown")
    assert await said(database, accepted.conversation_id) == ["c 1"]
    assert (await accept(database, 3)).seq == 2


async def test_only_the_last_reply_can_be_regenerated(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease))
    known = await database.read(conversations.find_conversation, W, "web", "c")
    assert known is not None
    with pytest.raises(inbox.NoSuchMessage):
        await database.write(inbox.accept_regenerate, W, known, "another reply", "k1")
    again = await database.write(inbox.accept_regenerate, W, known, lease.reply_id, "k2")
    assert await database.write(inbox.accept_regenerate, W, known, lease.reply_id, "k2") == replace(
        again, duplicate=True
    )
    second = await claim_one(database)
    await complete(database, second, answer(second, "better"))
    assert await said(database, accepted.conversation_id) == ["c 1", "better"]


async def test_stop_with_an_epoch_stops_only_that_turn(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    assert not await database.write(inbox.stop, W, accepted.conversation_id, lease.epoch - 1)
    assert await database.write(inbox.stop, W, accepted.conversation_id, lease.epoch)
    await complete(database, lease, answer(lease))
    assert not await database.write(inbox.stop, W, accepted.conversation_id, lease.epoch)


async def test_forgotten_context_is_stored_but_hidden_from_the_model(database: Database) -> None:
    accepted = await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease))
    await database.write(conversations.forget_context, W, accepted.conversation_id)
    await accept(database, 2)
    context, _ = await database.read(conversations.context, W, accepted.conversation_id, 2)
    assert [message.text for message in context] == ["c 2"]
    assert await said(database, accepted.conversation_id) == ["c 1", "yes", "c 2"]


async def test_a_failed_turn_leaves_a_dead_letter(database: Database) -> None:
    await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease, "sorry", state="failed", error="why"))
    [letter] = await database.read(_dead_letters, W)
    assert (letter.first_seq, letter.last_seq, letter.error) == (1, 1, "why")


def _dead_letters(tx: Any) -> list[Any]:
    import sqlalchemy as sa

    from storage.schema import dead_letter

    return list(tx.connection.execute(sa.select(dead_letter)))


async def test_concurrent_first_messages_create_one_person(database: Database) -> None:
    await asyncio.gather(*(accept(database, 1, f"chat{number}") for number in range(20)))
    assert len(await database.read(conversations.list_conversations, W, "web", "v")) == 20


@asynccontextmanager
async def in_another_process(url: str, unit: Callable[..., Any], *args: Any) -> AsyncIterator[None]:
    """Run a unit of work on another connection, and commit it at the end of the block."""
    engine = postgresql_engine(sa.make_url(url))
    connection = await asyncio.to_thread(engine.connect)
    await asyncio.to_thread(unit, Transaction(connection, W), *args)
    yield
    await asyncio.to_thread(connection.commit)
    await asyncio.to_thread(engine.dispose)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_an_edit_sets_aside_a_reply_stored_by_another_process(database: Database, database_url: str) -> None:
    first = await accept(database, 1)
    lease = await claim_one(database)
    async with in_another_process(database_url, inbox.complete, lease, answer(lease)):
        edit = asyncio.create_task(accept(database, 2, replaces="m1"))
        await asyncio.sleep(0.2)
        assert not edit.done()
    await edit
    assert await said(database, first.conversation_id) == ["c 2"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_regenerate_is_refused_after_a_message_elsewhere(database: Database, database_url: str) -> None:
    first = await accept(database, 1)
    lease = await claim_one(database)
    await complete(database, lease, answer(lease))
    known = await database.read(conversations.find_conversation, W, "web", "c")
    async with in_another_process(database_url, inbox.accept, incoming(2)):
        again = asyncio.create_task(database.write(inbox.accept_regenerate, W, known, lease.reply_id, "k"))
        await asyncio.sleep(0.2)
    with pytest.raises(inbox.NoSuchMessage):
        await again
    assert await said(database, first.conversation_id) == ["c 1", "yes", "c 2"]


async def test_failing_units_leave_others_in_their_commit_alone(database: Database) -> None:
    """Duplicates and edits of unknown messages, among new messages."""
    await accept(database, 0)
    wanted = [incoming(number) for number in range(1, 30)]
    duplicates = [incoming(0)] * 10
    edits = [incoming(number, replaces="nothing") for number in range(100, 110)]
    done = await asyncio.gather(
        *(
            database.write(inbox.accept, W, delivery)
            for deliveries in zip(wanted, duplicates * 3, edits * 3, strict=False)
            for delivery in deliveries
        ),
        return_exceptions=True,
    )
    accepted = [each for each in done if isinstance(each, Accepted)]
    assert [each.duplicate for each in accepted].count(False) == 29
    assert sum(isinstance(each, inbox.NoSuchMessage) for each in done) == 29
    assert sorted(each.seq for each in accepted if not each.duplicate) == list(range(2, 31))


async def test_postponed_inserts_are_visible_within_their_unit(database: Database) -> None:
    def say_and_look(tx: Transaction, number: int) -> list[str]:
        accepted = inbox.accept(tx, incoming(number))
        return [message.text for message in conversations.newest_messages(tx, accepted.conversation_id)]

    assert await database.write(say_and_look, W, 1) == ["c 1"]
    assert await database.write(say_and_look, W, 2) == ["c 1", "c 2"]
