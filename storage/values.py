"""What storage takes and gives: frozen values, apart from the rows they are kept in, and ids.

Knows: shapes. Does not know: SQL, channels' protocols, the model.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Author = Literal["person", "bot", "agent"]
ReplyState = Literal["answered", "stopped", "refused", "failed"]
# Whose words a reply is: the model's, or Myna's own where nothing was found, or an article's.
Origin = Literal["model", "unknown", "passage", "curated", "intent"]
Part = Mapping[str, Any]


def new_id() -> str:
    """A UUIDv7 in hex that sorts by age: milliseconds, 4096ths of one (RFC 9562, 6.2, method 3), 62 random bits."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    value = milliseconds << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | secrets.randbits(62)
    return f"{value:032x}"


def made_at_ms(id: str) -> int:
    """When an id was made, by this machine's clock: milliseconds since 1970."""
    return int(id, 16) >> 80


# Neither database takes U+0000 everywhere, and half a surrogate pair has no form in UTF-8.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """`text` with U+FFFD for what no database takes."""
    return _UNSTORABLE.sub("\ufffd", text)


def text_part(text: str) -> Part:
    """What was said."""
    return {"type": "text", "text": text}


@dataclass(frozen=True, slots=True)
class Quotation:
    """What the model reads of an article: the titles above a passage, and its text."""

    title: str
    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class SeenPassage:
    """A passage that a reply was made from, as it was then. `number` is what the reply calls it, from 1 on."""

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
        """What of it the model reads."""
        return Quotation(self.title, self.headings, self.text)

    @property
    def as_part(self) -> Part:
        """What goes with the text that cites it. Passages of one article are told apart by their headings."""
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
    """All text of a message, its parts joined by blank lines."""
    return "\n\n".join(part["text"] for part in parts if part["type"] == "text")


@dataclass(frozen=True, slots=True)
class Sender:
    """A person as one channel knows them."""

    external_id: str
    display_name: str | None = None
    locale: str | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message from a channel, ready to be accepted.

    `dedupe_key` is the same for every delivery of the same message; a second one changes nothing. `replaces` names an
    earlier message of the conversation by its external id: that one and all after it are set aside.
    `burst_wait_ms` lets a channel wait a little for more messages before the reply starts. `may_learn` is what the
    sender says, with this message, of learning from the conversation, which they began.
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
    """Where a message stands: its conversation, its number there, and whether it had been accepted before."""

    conversation_id: str
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to answer one conversation. `epoch` fences it: whoever holds an older one can change nothing."""

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
        """The id that the reply will have, and that its stream already has."""
        return f"{self.conversation_id}-{self.epoch}"


@dataclass(frozen=True, slots=True)
class Message:
    """One thing said."""

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
        """What a reply cites, by the numbers in its text."""
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
    """What the bot answered to the messages up to `last_seq`, and how it came about. Times are milliseconds.

    `passages` are what it was made from, `cited` the numbers of those that the text refers to. `intent` is what was
    asked about, empty if nothing known; `curated_id` names the answer that was given word for word.
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
        """What the text cites, in the order of the numbers."""
        return tuple(one.as_part for one in self.passages if one.number in self.cited)

    @property
    def parts(self) -> tuple[Part, ...]:
        return text_part(self.text), *self.sources


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One post to a channel that must be called. `attempts` counts this one, `age_ms` is since the reply was stored."""

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
