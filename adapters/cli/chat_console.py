"""Chat in the terminal: lines, slash commands and Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
import secrets
import signal
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TextIO

from bot.access.roles import Actor
from bot.chat.feedback import MAX_WORDS, Feedback
from bot.chat.live import Ended, LiveEvent, Started, Text
from bot.chat.turns import Conversations
from bot.errors import MynaError, NotFound
from bot.privacy.learning_consent import Consent
from bot.steering.line_grammar import begins_with_verb, is_steering
from bot.steering.steering import Steering
from storage.database import StorageUnavailable
from storage.values import Accepted, Conversation, Incoming, Sender, text_part

CHANNEL = "console"
PERSON = "console"
HELP = (
    "/new starts a new conversation, /history shows this one, /help shows this help, /quit or Ctrl-D leaves. "
    "Ctrl-C stops a reply.\n"
    "About the last reply: /good, /bad or /bad WHY, /better TEXT for a better answer. "
    "/privacy shows whether Myna may learn from you, /privacy on or off changes it.\n"
    "Training and releases: /status, /versions, /compare, /train, /stop, /evaluate, /promote, /canary, "
    "/rollback; /myna explains them."
)
# A model, or the author of its prompt, must not change colours, move the cursor or set the title.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # cursor and colours
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles, links and other strings, with their content
    r"|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


def printable(text: str) -> str:
    """Return the text without terminal control sequences."""
    return _ESCAPES.sub("", text)


class Console:
    """A chat with one person at one terminal."""

    def __init__(
        self,
        conversations: Conversations,
        feedback: Feedback,
        consent: Consent,
        steering: Steering,
        operator: Actor,
        workspace_id: str,
        *,
        source: TextIO,
        out: TextIO,
    ) -> None:
        self._conversations = conversations
        self._feedback = feedback
        self._consent = consent
        self._steering = steering
        self._operator = operator
        self._asked_back: str | None = None
        self._workspace_id = workspace_id
        self._source = source
        self._out = out
        self._key = ""
        self._replying: Accepted | None = None

    async def run(self) -> None:
        """Read lines and answer them until the end of input or /quit."""
        with self._interrupts():
            await self._or_say_error(self._resume())
            async for line in self._lines():
                if line in ("/quit", "/exit"):
                    return
                await self._or_say_error(self._handle(line))

    async def _or_say_error(self, action: Coroutine[Any, Any, None]) -> None:
        try:
            await action
        except MynaError as error:
            self._say(f"{error.message}\n")
        except StorageUnavailable as error:
            self._say(f"The database can't be used right now: {error}\n")

    async def _resume(self) -> None:
        """Continue the last conversation, and print its pending reply, so that a restart loses nothing."""
        self._say(f"{HELP}\n")
        self._key = _new_key()
        earlier = await self._conversations.history.list_of(self._workspace_id, CHANNEL, PERSON)
        if earlier:
            self._key = earlier[0].external_id
            self._say(f"Continuing: {printable(earlier[0].title)}\n")
            if seq := await self._conversations.history.pending_seq(self._workspace_id, earlier[0].id):
                await self._print_reply(Accepted(earlier[0].id, seq, duplicate=True))

    async def _handle(self, line: str) -> None:
        asked_back, self._asked_back = self._asked_back, None
        if asked_back is not None:
            await self._confirmed(asked_back, line)
        elif is_steering(line) or (line.startswith("/") and begins_with_verb(line[1:])):
            await self._steer(line if is_steering(line) else line[1:])
        elif line == "/new":
            self._key = _new_key()
            self._say("A new conversation.\n")
        elif line == "/history":
            await self._print_history()
        elif line == "/privacy" or line.startswith("/privacy "):
            await self._privacy(line.removeprefix("/privacy").strip())
        elif line.partition(" ")[0] in ("/good", "/bad", "/better"):
            command, _, words = line.partition(" ")
            await self._vote(command, printable(words).strip())
        elif line.startswith("/"):
            self._say(f"{'' if line == '/help' else f'There is no command {printable(line)}. '}{HELP}\n")
        elif text := printable(line).strip():
            await self._print_reply(await self._conversations.accept(self._workspace_id, self._incoming(text)))

    async def _steer(self, line: str) -> None:
        answer = await self._steering.run(self._operator, printable(line))
        self._say(f"{printable(answer.text)}\n")
        if answer.confirm is not None:
            self._asked_back = answer.confirm
            self._say("Do it? Type yes; anything else cancels.\n")

    async def _confirmed(self, asked: str, said: str) -> None:
        if said.lower() in ("yes", "y"):
            await self._steer(asked)
        else:
            self._say("Nothing was changed.\n")

    def _incoming(self, text: str) -> Incoming:
        message_id = secrets.token_hex(8)
        dedupe_key = f"{CHANNEL}:{self._key}:{message_id}"
        return Incoming(CHANNEL, self._key, Sender(PERSON), dedupe_key, (text_part(text),), external_id=message_id)

    async def _print_reply(self, accepted: Accepted) -> None:
        self._replying, shown, ended = accepted, False, False
        try:
            async for event in self._events(accepted):
                if isinstance(event, Text):
                    self._say(printable(event.text))
                    shown = True
                elif isinstance(event, Started) and shown:
                    self._say("\n[starting again]\n")
                    shown = False
                elif isinstance(event, Ended):
                    self._say(_ending(event))
                    ended = True
            if not ended:
                self._say("\n[Myna is stopping; the reply comes when it runs again.]\n")
        finally:
            self._replying = None

    async def _events(self, accepted: Accepted) -> AsyncIterator[LiveEvent]:
        async for batch in self._conversations.history.follow(self._workspace_id, accepted):
            for event in batch:
                yield event

    async def _print_history(self) -> None:
        try:
            known: Conversation = await self._conversations.history.find(self._workspace_id, CHANNEL, self._key)
        except NotFound:
            self._say("Nothing has been said yet.\n")
            return
        for message in await self._conversations.history.messages(self._workspace_id, known.id):
            who = "you" if message.author == "person" else "bot"
            self._say(f"{who}: {printable(message.text)}{' [stopped]' if message.reply_state == 'stopped' else ''}\n")

    async def _vote(self, command: str, words: str) -> None:
        if command == "/better" and not words:
            self._say("Add the better answer: /better We open at nine.\n")
            return
        if len(words) > MAX_WORDS:
            self._say(f"This text has {len(words):,} characters; the limit is {MAX_WORDS:,}. Nothing was stored.\n")
            return
        try:
            known = await self._conversations.history.find(self._workspace_id, CHANNEL, self._key)
            reply = await self._feedback.last_reply(CHANNEL, known.id)
        except NotFound:
            self._say("There is no reply to rate yet.\n")
            return
        reason, better = (None, words) if command == "/better" else (words or None, None)
        await self._feedback.vote(reply, CHANNEL, Sender(PERSON), 1 if command == "/good" else -1, reason, better)
        self._say("Thank you.\n")

    async def _privacy(self, wanted: str) -> None:
        if wanted not in ("", "on", "off"):
            self._say("Type /privacy on or /privacy off.\n")
            return
        if wanted:
            await self._consent.set_person(CHANNEL, Sender(PERSON), wanted == "on")
        allowed = self._consent.allows(await self._consent.choices(CHANNEL, PERSON))
        self._say(f"Myna {'may' if allowed else 'may not'} learn from what is said here.\n")

    async def _lines(self) -> AsyncIterator[str]:
        while True:
            self._say("> ")
            line = await _read_line(self._source)
            if line is None:
                self._say("\n")
                return
            yield line.strip()

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        stops: set[asyncio.Task[None]] = set()

        def interrupt() -> None:
            task = loop.create_task(self._interrupt())
            stops.add(task)
            task.add_done_callback(stops.discard)

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _interrupt(self) -> None:
        if self._replying is None:
            self._say("\n(Ctrl-D or /quit leaves)\n> ")
            return
        try:
            await self._conversations.stop(self._workspace_id, self._replying.conversation_id, None)
        except (MynaError, StorageUnavailable) as error:
            self._say(f"\n[The reply can't be stopped right now: {error}]\n")

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def _ending(event: Ended) -> str:
    if event.state == "stopped":
        return " [stopped]\n"
    return " [cut off: the longest allowed reply]\n" if event.reason == "length" else "\n"


def _new_key() -> str:
    return secrets.token_hex(8)


async def _read_line(source: TextIO) -> str | None:
    """Return the next line, or None at the end of input.

    A daemon thread reads it: a blocking read can't be interrupted, and must not keep the program from ending.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[str | None] = loop.create_future()

    def deliver(line: str | None) -> None:
        if not result.done():
            result.set_result(line)

    def read() -> None:
        try:
            line = source.readline()
        except (OSError, ValueError):  # the terminal has gone, or the input was closed
            line = ""
        with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(deliver, line or None)

    threading.Thread(target=read, daemon=True, name="console-input").start()
    return await result


async def chat(
    conversations: Conversations,
    feedback: Feedback,
    consent: Consent,
    steering: Steering,
    operator: Actor,
    workspace_id: str,
) -> None:
    """Chat on this terminal; `operator` is the actor of the steering commands given there."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a stray byte must not end the chat
    console = Console(
        conversations, feedback, consent, steering, operator, workspace_id, source=sys.stdin, out=sys.stdout
    )
    await console.run()
