"""Readers of a live turn: each sees the whole reply, and none delays it."""

from __future__ import annotations

import asyncio

import pytest

from bot.chat.live import Ended, Interruption, Live, LiveTurn, Started, Text, Waiting


def new_turn() -> LiveTurn:
    return LiveTurn("r", "c", 1, 1)


async def read_all(turn: LiveTurn) -> list[object]:
    return [event async for batch in turn.read(1, 5.0) for event in batch]


async def test_a_late_reader_gets_everything_in_one_batch() -> None:
    turn = new_turn()
    turn.add("a")
    turn.add("b")
    turn.end(Ended("answered", "stop"))
    assert await read_all(turn) == [Started("r"), Text("ab"), Ended("answered", "stop")]


async def test_a_reader_sees_pieces_as_they_come() -> None:
    turn = new_turn()
    reader = turn.read(1, 5.0)
    assert await anext(reader) == (Started("r"),)
    turn.add("a")
    assert await anext(reader) == (Text("a"),)
    turn.add("b")
    turn.add("c")
    assert await anext(reader) == (Text("bc"),)


async def test_a_restart_voids_what_was_read() -> None:
    turn = new_turn()
    reader = turn.read(1, 5.0)
    turn.add("old")
    assert await anext(reader) == (Started("r"), Text("old"))
    turn.restart(2, takes_more=True)
    turn.add("new")
    assert await anext(reader) == (Started("r"), Text("new"))


async def test_a_slow_reader_loses_nothing() -> None:
    turn = new_turn()
    reader = turn.read(1, 5.0)
    assert await anext(reader) == (Started("r"),)
    turn.add("most")
    assert await anext(reader) == (Text("most"),)
    turn.add(" and the rest")
    turn.end(Ended("answered", "stop"))
    assert await anext(reader) == (Text(" and the rest"), Ended("answered", "stop"))


async def test_a_reader_leaves_a_turn_that_drops_its_message() -> None:
    turn = LiveTurn("r", "c", 1, 2)
    reader = turn.read(2, 5.0)
    assert await anext(reader) == (Started("r"),)
    turn.last_seq = 1
    turn.add("an answer to the first")
    assert await anext(reader, None) is None


async def test_an_abandoned_turn_ends_without_an_end() -> None:
    turn = new_turn()
    turn.add("half")
    turn.end("abandoned")
    assert await read_all(turn) == [Started("r"), Text("half")]


async def test_silence_yields_waiting_for_keep_alives() -> None:
    turn = new_turn()
    reader = turn.read(1, 0.01)
    assert await anext(reader) == (Started("r"),)
    assert await anext(reader) == (Waiting(),)


async def test_more_messages_only_interrupt_before_the_first_piece() -> None:
    turn = new_turn()
    turn.interrupt("more")
    assert turn.interruption == "more"
    turn.restart(2, takes_more=False)
    turn.interrupt("more")
    assert turn.interruption is None, "it is full"
    other = new_turn()
    other.add("a")
    other.interrupt("more")
    assert other.interruption is None


async def test_a_lost_lease_outweighs_a_stop_outweighs_more() -> None:
    turn = new_turn()
    turn.interrupt("stop")
    turn.interrupt("more")
    assert turn.interruption == "stop"
    turn.interrupt("lost")
    turn.interrupt("stop")
    assert turn.interruption == "lost"


async def test_an_interruption_ends_the_generation() -> None:
    turn = new_turn()
    turn.pump = asyncio.ensure_future(asyncio.sleep(60))
    turn.interrupt("stop")
    await asyncio.wait({turn.pump})
    assert turn.pump.cancelled()


async def test_a_watcher_is_woken_by_the_next_turn() -> None:
    live, turn = Live(), new_turn()
    with live.watch("c") as one, live.watch("c") as two, live.watch("d") as other:
        live.open(turn)
        assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)
    assert live._arrivals == {}


async def test_closing_a_turn_keeps_its_successor() -> None:
    live, old, new = Live(), new_turn(), LiveTurn("r2", "c", 2, 2)
    live.open(old)
    live.open(new)
    live.close(old)
    assert live.get("c") is new
    assert old.ended == "abandoned"
    live.close(new)
    assert len(live) == 0


async def test_opening_a_turn_interrupts_the_older_one() -> None:
    live, old, new = Live(), new_turn(), LiveTurn("r2", "c", 1, 1)
    live.open(old)
    live.open(new)
    assert (old.interruption, new.interruption) == ("lost", None)


@pytest.mark.parametrize("why", ["stop", "lost"])
async def test_a_restart_keeps_a_stop_that_came_meanwhile(why: Interruption) -> None:
    turn = new_turn()
    turn.interrupt("more")
    turn.interrupt(why)
    turn.restart(2, takes_more=True)
    assert turn.interruption == why


async def test_a_reader_just_after_the_end_still_finds_the_turn() -> None:
    live, old, new = Live(), new_turn(), LiveTurn("r2", "c", 2, 3)
    live.open(old)
    old.end(Ended("answered", "stop"))
    live.close(old)
    live.open(new)
    assert [live.find("c", seq) for seq in (1, 2, 3, 4)] == [old, new, new, None]
    assert live.find("d", 1) is None


async def test_only_the_last_few_ended_turns_are_kept() -> None:
    live = Live()
    for number in range(300):
        turn = LiveTurn("r", f"c{number}", 1, 1)
        live.open(turn)
        turn.end(Ended("answered", "stop"))
        live.close(turn)
    assert [live.find(f"c{number}", 1) is not None for number in (0, 43, 44, 299)] == [False, False, True, True]
