"""The terminal chat, through a pipe with a scripted model and on a real terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.cli.chat_console import CHANNEL, PERSON, printable
from adapters.cli.wiring import Agent
from bot.chat.feedback import MOST_A_MINUTE
from storage import conversations, inbox
from storage.database import StorageUnavailable
from storage.values import Incoming, Sender, text_part
from storage.votes import Vote
from tests.builders.agents import StartAgent
from tests.builders.terminals import Terminal, at_terminal
from tests.fakes.generator import FakeGenerator


@pytest.fixture
async def here(start_agent: StartAgent, sqlite_url: str) -> AsyncIterator[Agent]:
    async with start_agent(sqlite_url) as agent:
        yield agent


def model(agent: Agent) -> FakeGenerator:
    assert isinstance(agent.generator, FakeGenerator)
    return agent.generator


async def test_a_reply_streams_piece_by_piece(here: Agent) -> None:
    hold = asyncio.Event()
    model(here).enqueue("It is ", "on its way.", hold=hold)
    async with at_terminal(here) as terminal:
        assert "/quit" in await terminal.shows("> ")
        terminal.type("Where is my parcel?\n")
        await terminal.shows("It is ")
        assert "on its way" not in terminal.text
        hold.set()
        await terminal.shows("on its way.\n> ")
    assert model(here).prompts[0].messages[-1].content == "Where is my parcel?"


async def votes_in(agent: Agent) -> list[Vote]:
    """Return the votes that count on the last reply of the newest conversation."""
    known = (await agent.conversations.history.list_of(agent.workspace_id, CHANNEL, PERSON))[0]
    reply = await agent.feedback.last_reply(CHANNEL, known.id)
    return await agent.feedback.votes_on(reply.id)


async def test_the_last_reply_is_rated_and_corrected(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        terminal.type("/good\n")
        await terminal.shows("There is no reply to rate yet.")
        terminal.type("Hello\n")
        await terminal.shows("Hello\n> ")
        terminal.type("/good\n")
        await terminal.shows("Thank you.")
        assert await votes_in(here) == [Vote(1)]
        terminal.type("/bad It was \x1b[31mrude.\n")
        await terminal.shows("Thank you.")
        terminal.type("/better\n")
        await terminal.shows("Add the better answer")
        terminal.type("/better Good morning!\n")
        await terminal.shows("Thank you.")
        assert await votes_in(here) == [Vote(-1, "It was rude.", "Good morning!")]
        terminal.type(f"/better {'x' * 3_001}\n")
        await terminal.shows("the limit is 3,000. Nothing was stored.")
        assert await votes_in(here) == [Vote(-1, "It was rude.", "Good morning!")]
        terminal.type("/badly\n")
        await terminal.shows("There is no command /badly.")


async def test_votes_over_the_rate_limit_are_refused(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        terminal.type("Hello\n")
        await terminal.shows("Hello\n> ")
        for number in range(MOST_A_MINUTE):
            terminal.type("/bad\n" if number % 2 else "/good\n")
            await terminal.shows("Thank you.")
        terminal.type("/good\n")
        await terminal.shows("Wait a little")
        terminal.type("And now?\n")
        await terminal.shows("And now?\n> ")


async def test_privacy_sets_the_learning_consent(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        for line, shown in (
            ("/privacy\n", "Myna may learn"),
            ("/privacy off\n", "Myna may not learn"),
            ("/privacy\n", "Myna may not learn"),
            ("/privacy maybe\n", "Type /privacy on or /privacy off."),
            ("/privacy on\n", "Myna may learn"),
            ("/help\n", "/better TEXT"),
        ):
            terminal.type(line)
            await terminal.shows(shown)
    assert (await here.consent.choices(CHANNEL, PERSON)).person is True


async def test_the_conversation_is_remembered_until_a_new_one_begins(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        for line, shown in (
            ("I am Ana\n", "I am Ana\n> "),
            ("/new\n", "A new conversation.\n> "),
            ("Who?\n", "Who?\n> "),
        ):
            terminal.type(line)
            await terminal.shows(shown)
        terminal.type("And?\n")
        await terminal.shows("And?\n> ")
    assert [one.content for one in model(here).prompts[1].messages[1:]] == ["Who?"]
    assert [one.content for one in model(here).prompts[2].messages[1:]] == ["Who?", "Who?", "And?"]


async def test_history_shows_who_said_what(here: Agent) -> None:
    model(here).enqueue("Good day.")
    async with at_terminal(here) as terminal:
        terminal.type("/history\n")
        await terminal.shows("Nothing has been said yet.\n> ")
        terminal.type("Hello\n")
        await terminal.shows("Good day.\n> ")
        terminal.type("/history\n")
        await terminal.shows("you: Hello\nbot: Good day.\n> ")
        terminal.type("/new\n/history\n")
        await terminal.shows("Nothing has been said yet.\n> ")


async def test_help_and_unknown_commands_list_the_commands(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        await terminal.shows("> ")
        terminal.type("/hepl\n")
        shown = await terminal.shows("> ")
        assert shown.startswith("There is no command /hepl. /new starts")
        terminal.type("/help\n")
        assert (await terminal.shows("> ")).startswith("/new starts")
    assert model(here).prompts == []


@pytest.mark.parametrize("command", ["/quit", "/exit"])
async def test_quit_ends_the_chat_and_reads_no_further(here: Agent, command: str) -> None:
    terminal = Terminal(here)
    terminal.type(f"{command}\nnot this\n")
    async with asyncio.timeout(20):
        await terminal.console.run()
    terminal.end()
    assert model(here).prompts == []


async def test_empty_lines_are_ignored(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        terminal.type("\n   \n\x1b[31m\n\x00\n")
        for _ in range(5):
            await terminal.shows("> ")
    assert model(here).prompts == []


async def test_lines_typed_during_a_reply_are_answered_after_it(here: Agent) -> None:
    model(here).enqueue("First answer.", delay=0.05)
    model(here).enqueue("Second answer.")
    async with at_terminal(here) as terminal:
        terminal.type("one\ntwo\n")
        await terminal.shows("First answer.\n")
        await terminal.shows("Second answer.\n")
    assert [one.messages[-1].content for one in model(here).prompts] == ["one", "two"]


async def test_the_last_conversation_continues_after_a_restart(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url) as first, at_terminal(first) as terminal:
        terminal.type("I am Ana\n")
        await terminal.shows("I am Ana\n> ")
    async with start_agent(sqlite_url) as second, at_terminal(second) as terminal:
        await terminal.shows("Continuing: I am Ana\n")
        terminal.type("Who am I?\n")
        await terminal.shows("Who am I?\n> ")
        assert [one.content for one in model(second).prompts[0].messages[1:]] == ["I am Ana", "I am Ana", "Who am I?"]


async def test_a_question_left_open_by_a_restart_is_answered_first(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url) as first:
        await here_asks(first, "Are you there?", wait=False)
        await first.conversations.drain(0.0)
    async with start_agent(sqlite_url) as second, at_terminal(second) as terminal:
        await terminal.shows("Continuing: Are you there?\nAre you there?\n> ")


async def here_asks(agent: Agent, text: str, *, wait: bool) -> None:
    """Ask on the console's channel without a console, and with a model that doesn't answer in time."""
    model(agent).enqueue("", hold=asyncio.Event())
    incoming = Incoming(CHANNEL, "earlier", Sender(PERSON), f"{CHANNEL}:1", (text_part(text),))
    await agent.conversations.accept(agent.workspace_id, incoming)


async def test_ctrl_c_stops_the_reply_and_not_the_chat(here: Agent) -> None:
    model(here).enqueue("Once upon ", "a time", hold=asyncio.Event())
    async with at_terminal(here) as terminal:
        terminal.type("A story\n")
        await terminal.shows("Once upon ")
        os.kill(os.getpid(), signal.SIGINT)
        await terminal.shows(" [stopped]\n> ")
        terminal.type("Thanks\n/history\n")
        await terminal.shows("Thanks\n> ")
        await terminal.shows("bot: Once upon  [stopped]\nyou: Thanks\n")
    assert model(here).aborted == 1


async def test_ctrl_c_between_replies_says_how_to_leave(here: Agent) -> None:
    async with at_terminal(here) as terminal:
        await terminal.shows("> ")
        os.kill(os.getpid(), signal.SIGINT)
        await terminal.shows("(Ctrl-D or /quit leaves)\n> ")
        terminal.type("Still here\n")
        await terminal.shows("Still here\n> ")


async def test_the_signal_handler_is_removed_with_the_chat(here: Agent) -> None:
    before = signal.getsignal(signal.SIGINT)
    async with at_terminal(here) as terminal:
        await terminal.shows("> ")
    assert signal.getsignal(signal.SIGINT) in (before, signal.default_int_handler)


async def test_a_reply_at_the_limit_is_marked_as_cut_off(start_agent: StartAgent, sqlite_url: str) -> None:
    async with start_agent(sqlite_url, max_reply_tokens=2) as agent, at_terminal(agent) as terminal:
        model(agent).enqueue("one ", "two ", "three")
        terminal.type("Count\n")
        await terminal.shows("one two  [cut off: the longest allowed reply]\n> ")


async def test_a_too_long_message_is_refused(start_agent: StartAgent, sqlite_url: str) -> None:
    small = FakeGenerator(context_tokens=128)
    async with start_agent(sqlite_url, small, context_tokens=128) as agent, at_terminal(agent) as terminal:
        terminal.type("word " * 200 + "\n")
        await terminal.shows("this message is too long for me")
        await terminal.shows("> ")


async def test_a_restarted_reply_is_marked(here: Agent) -> None:
    from bot.errors import GeneratorUnavailable

    model(here).enqueue("Half an ans", error=GeneratorUnavailable(retry_after=0.01))
    model(here).enqueue("A whole answer.")
    async with at_terminal(here) as terminal:
        terminal.type("Question\n")
        await terminal.shows("Half an ans\n[starting again]\nA whole answer.\n> ")


async def test_a_failed_write_is_reported_and_the_chat_continues(here: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise StorageUnavailable("database or disk is full")

    async with at_terminal(here) as terminal:
        await terminal.shows("> ")
        with monkeypatch.context() as patch:
            patch.setattr(inbox, "accept", no_room)
            terminal.type("Hello\n")
            await terminal.shows("nothing was stored.\n> ")
        with monkeypatch.context() as patch:
            patch.setattr(conversations, "find_conversation", no_room)
            terminal.type("/history\n")
            await terminal.shows("The database can't be used right now: database or disk is full\n> ")
        terminal.type("Hello again\n")
        await terminal.shows("Hello again\n> ")


async def test_undecodable_bytes_end_the_chat_without_hanging(here: Agent) -> None:
    """The stream is strict here; the program itself replaces such bytes."""
    terminal = Terminal(here)
    os.write(terminal._writing, b"\xff\xfe\n")
    async with asyncio.timeout(20):
        await terminal.console.run()
    terminal.end()


# --- what a terminal must not be sent ---

HOSTILE = "\x1b]0;title\x07a\x1b[31mb\x1b[2Jc\x1b[?1049hd\x1b[>4;1me\x9b5mf\x1b]8;;http://x\x1b\\g\x1bPq#1\x1b\\h\x07i\x08j\rk\x00l\x1b(0m\x7f"


def test_control_sequences_are_removed_whole() -> None:
    assert printable(HOSTILE).replace("5m", "") == "abcdefghijklm"


def test_newlines_tabs_and_all_languages_are_kept() -> None:
    text = "a\tb\nc ü 你好 🐦 \u00a0 שלום"
    assert printable(text) == text


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\x1b[]();:?mP\\^_\x07\x9b"), max_size=60))
def test_no_text_carries_a_control_character(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printable(text))


@given(st.lists(st.sampled_from(list("\x1b[]0;31m\x07ab")), max_size=12), st.integers(1, 3))
def test_a_split_control_sequence_is_harmless(characters: list[str], size: int) -> None:
    text = "".join(characters)
    shown = "".join(printable(text[start : start + size]) for start in range(0, len(text), size))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


async def test_model_and_person_can_not_send_control_sequences(here: Agent) -> None:
    model(here).enqueue("bad\x1b[31m", "\x1b]0;owned\x07 bot")
    async with at_terminal(here) as terminal:
        terminal.type("bad\x1b[2J person\n/history\n")
        await terminal.shows("you: bad person\nbot: bad bot\n")
    assert "\x1b" not in terminal.text
    assert model(here).prompts[0].messages[-1].content == "bad person"


# --- a real terminal ---


class RealTerminal:
    """`myna chat` on a pseudo-terminal, typed into as a person would."""

    def __init__(self, data: Path, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        own = {"MYNA_DATA": str(data), "MYNA_MAX_REPLY_TOKENS": "400", "MYNA_TEMPERATURE": "0", "TERM": "dumb"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "adapters.cli.main", "chat"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=inherited | own,
            start_new_session=True,
            preexec_fn=lambda: take_terminal(slave),
        )
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, found: Callable[[str], bool], seconds: float = 120) -> str:
        """Return the output since the last wait, as soon as `found` holds for it."""
        deadline = time.monotonic() + seconds
        while not found(self.shown[self._seen :]):
            assert time.monotonic() < deadline, f"still shows: {self.shown!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._master, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:  # the program has ended
                    assert found(self.shown[self._seen :]), f"the program ended: {self.shown!r}"
        text, self._seen = self.shown[self._seen :], len(self.shown)
        return text

    def end(self) -> int:
        """Wait for the program's end, reading its output so that it never blocks on a full pipe."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._master, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:
                    break
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def take_terminal(slave: int) -> None:
    """In the child: make the pseudo-terminal the controlling one, so that Ctrl-C becomes a signal."""
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


@pytest.mark.model
@pytest.mark.slow
def test_ask_stop_continue_and_leave_on_a_real_terminal(model_data: Callable[[], Path], tmp_path: Path) -> None:
    terminal = RealTerminal(model_data(), tmp_path)
    try:
        terminal.wait_for(lambda shown: shown.endswith("> "))
        terminal.type("What is the capital of France? One word.\n")
        answer = terminal.wait_for(lambda shown: shown.endswith("\n> ")).partition("One word.\n")[2]
        assert re.search(r"\w", answer), "a small model may be wrong, but not silent"
        terminal.type("Write a very long story about a river, with many chapters.\n")
        terminal.wait_for(lambda shown: len(shown.partition("chapters.\n")[2]) > 40)
        terminal.type("\x03")
        stopped = terminal.wait_for(lambda shown: shown.endswith("> "))
        assert "[stopped]" in stopped
        terminal.type("\x03")
        terminal.wait_for(lambda shown: "/quit leaves" in shown)
        terminal.type("/history\n")
        assert "you: Write a very long story" in terminal.wait_for(lambda shown: "[stopped]\n> " in shown)
        terminal.type("/quit\n")
        assert terminal.end() == 0
        assert "Traceback" not in terminal.shown
        assert "\x1b" not in terminal.shown
    finally:
        terminal.close()
