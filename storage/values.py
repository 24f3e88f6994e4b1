"""Value classes of messages, leases and replies; ids in UUIDv7."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Author = Literal["person", "bot", "agent"]
ReplyState = Literal["answered", "stopped", "refused", "failed"]
# The source of a reply's words; see the column `reply.origin`.
Origin = Literal["model", "unknown", "passage", "curated", "intent"]
Part = Mapping[str, Any]


def new_id() -> str:
    """Return a UUIDv7 in hex, which sorts by age: milliseconds, 4096ths of these, 62 random bits.

    The 4096ths are method 3 of RFC 9562, 6.2.
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    value = milliseconds << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def made_at_ms(id: str) -> int:
    """Return the time when an id was made, by the clock of its machine: milliseconds since 1970 (UTC)."""
    return int(id, 16) >> 80


# Neither database accepts U+0000 everywhere, and half a surrogate pair has no form in UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Replace the characters that a database refuses by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def text_part(text: str) -> Part:
    """Return a text as a part of a message."""
    return {"type": "text", "text": text}


@dataclass(frozen=True, slots=True)
class Quotation:
    """A passage as the model reads it: title, headings and text."""

    title: str
    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class SeenPassage:
    """A passage that a reply was made from, as it was then. `number` is the citation's number, from 1 on."""

    number: int
    article_id: str
    name: str
    title: str
    headings: tuple[str, ...]
    url: str | None
    audience: str
    text: str
    score: float

    @property
    def quotation(self) -> Quotation:
        """The passage as the model reads it."""
        return Quotation(self.title, self.headings, self.text)

    @property
    def as_part(self) -> Part:
        """The source part of a message that cites the passage. The title has the headings, to tell passages apart."""
        title = " > ".join((self.title, *self.headings))
        return {
            "type": "source",
            "number": self.number,
            "article": self.article_id,
            "name": self.name,
            "title": title,
            "url": self.url,
            "audience": self.audience,
        }


def text_of(parts: tuple[Part, ...]) -> str:
    """Return all text of a message, its parts joined by blank lines."""
    return "\n\n".join(part["text"] for part in parts if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class Sender:
    """A person, as identified by one channel."""

    external_id: str
    display_name: str | None = None
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message from a channel, ready to be accepted.

    `dedupe_key` (idempotency key) is the same for every delivery of the same message; a second delivery changes
    nothing. `replaces` is the external id of an earlier message to edit: it and all after it are set aside.
    `burst_wait_ms` is the time to wait for more messages before the reply starts. `may_learn` is the sender's consent
    to learning from the conversation, which they began.
    """

    channel: str
    conversation_key: str
    sender: Sender
    dedupe_key: str
    parts: tuple[Part, ...]
    external_id: str | None = None
    event_id: str | None = None
    replaces: str | None = None
    burst_wait_ms: int = 0
    may_learn: bool | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The place of an accepted message; `duplicate` is True if it had been accepted before."""

    conversation_id: str
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to answer one conversation. `epoch` is its fencing token: an older epoch can change nothing."""

    conversation_id: str
    workspace_id: str
    channel: str
    owner: str
    epoch: int
    attempts: int
    done_seq: int
    enq_seq: int
    stop_seq: int

    @property
    def reply_id(self) -> str:
        """The id of the reply to come, which its live stream has already."""
        return f"{self.conversation_id}-{self.epoch}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a conversation. `seq` is its number there, `created_at` in milliseconds since 1970 (UTC)."""

    id: str
    seq: int
    author: Author
    parts: tuple[Part, ...]
    created_at: int
    external_id: str | None = None
    reply_state: ReplyState | None = None
    origin: Origin | None = None

    @property
    def text(self) -> str:
        return text_of(self.parts)

    @property
    def sources(self) -> tuple[Part, ...]:
        """The sources that a reply cites by number in its text."""
        return tuple(part for part in self.parts if part["type"] == "source")


@dataclass(frozen=True, slots=True)
class Conversation:
    """One thread on one channel."""

    id: str
    channel: str
    external_id: str
    title: str
    updated_at: int
    left_at: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The bot's reply to the messages up to `last_seq`, with its origin. Times are milliseconds.

    `passages` are the passages it was made from, `cited` the numbers of those that its text cites. `intent` is the
    recognised intent, empty if none; `curated_id` is the id of a curated answer given word for word.
    """

    state: ReplyState
    text: str
    last_seq: int
    model: str
    version: str | None = None
    prompt_sha256: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    waited_ms: int | None = None
    first_piece_ms: int | None = None
    total_ms: int | None = None
    error: str | None = None
    origin: Origin = "model"
    passages: tuple[SeenPassage, ...] = ()
    cited: frozenset[int] = frozenset()
    intent: str | None = None
    curated_id: str | None = None

    @property
    def sources(self) -> tuple[Part, ...]:
        """The cited passages as parts, in the order of their numbers."""
        return tuple(passage.as_part for passage in self.passages if passage.number in self.cited)

    @property
    def parts(self) -> tuple[Part, ...]:
        return text_part(self.text), *self.sources


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A post of the outbox. `attempts` includes this attempt; `age_ms` counts from the time the reply was stored."""

    id: str
    workspace_id: str
    conversation_id: str
    conversation_key: str
    channel: str
    reply_id: str
    part: int
    body: Mapping[str, Any]
    state: Literal["pending", "sending"]
    attempts: int
    epoch: int
    age_ms: int = 0
