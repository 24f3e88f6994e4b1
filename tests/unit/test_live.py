"""Readers of a live turn: each sees the whole reply, and none delays it."""

from __future__ import annotations

import asyncio

import pytest

from bot.chat.live import Ended, Interruption, Live, LiveTurn, Started, Text, Waiting


def new_turn() -> LiveTurn:
    return LiveTurn("r", "c", 1, 1)


async def read_all(turn: LiveTurn) -> list[object]:
    return [event async for batch in turn.read(1, 5.0) for event in batch]


async def test_a_reader_who_comes_late_gets_everything_in_one_step() -> None:
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


async def test_what_comes_while_a_slow_reader_takes_its_time_is_not_lost() -> None:
    turn = new_turn()
    reader = turn.read(1, 5.0)
    assert await anext(reader) == (Started("r"),)
    turn.add("most")
    assert await anext(reader) == (Text("most"),)
    turn.add(" and the rest")
    turn.end(Ended("answered", "stop"))
    assert await anext(reader) == (Text(" and the rest"), Ended("answered", "stop"))


async def test_a_reader_leaves_a_turn_that_turns_out_not_to_answer_its_message() -> None:
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


async def test_silence_is_told_so_that_connections_stay_open() -> None:
    turn = new_turn()
    reader = turn.read(1, 0.01)
    assert await anext(reader) == (Started("r"),)
    assert await anext(reader) == (Waiting(),)


async def test_more_words_only_interrupt_before_the_first_piece() -> None:
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


async def test_a_lost_lease_outweighs_a_stop_and_a_stop_outweighs_more_words() -> None:
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


async def test_whoever_watches_a_conversation_is_woken_by_its_next_turn() -> None:
    live, turn = Live(), new_turn()
    with live.watch("c") as one, live.watch("c") as two, live.watch("d") as other:
        live.open(turn)
        assert (one.is_set(), two.is_set(), other.is_set()) == (True, True, False)
    assert live._arrivals == {}


async def test_a_closed_turn_does_not_take_away_its_successor() -> None:
    live, old, new = Live(), new_turn(), LiveTurn("r2", "c", 2, 2)
    live.open(old)
    live.open(new)
    live.close(old)
    assert live.get("c") is new
    assert old.ended == "abandoned"
    live.close(new)
    assert len(live) == 0


async def test_a_turn_that_opens_over_another_knows_that_the_others_lease_is_lost() -> None:
    live, old, new = Live(), new_turn(), LiveTurn("r2", "c", 1, 1)
    live.open(old)
    live.open(new)
    assert (old.interruption, new.interruption) == ("lost", None)


@pytest.mark.parametrize("why", ["stop", "lost"])
async def test_beginning_again_forgets_no_stop_that_came_meanwhile(why: Interruption) -> None:
    turn = new_turn()
    turn.interrupt("more")
    turn.interrupt(why)
    turn.restart(2, takes_more=True)
    assert turn.interruption == why


async def test_a_reader_who_comes_just_after_the_end_still_finds_the_turn_of_their_message() -> None:
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
