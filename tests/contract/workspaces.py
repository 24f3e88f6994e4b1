"""The parts of the contract of workspaces: a small world in each of two workspaces, and the form of a case.

Each area of storage has a module `workspaces_*.py` with its `CASES`, and with a `fill` that puts a row into each of its
tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from storage import api_keys, inbox
from storage.outbox import SendLease
from storage.shown_parts import ShownPart
from storage.slack_installs import StoredInstallation
from storage.transaction import Transaction
from storage.values import Conversation, Incoming, Lease, Message, Outgoing, Reply, SeenPassage, Sender, text_part
from storage.votes import RatedReply

MINE, THEIRS = "alpha", "beta"
DAY = 20_000
CHANNEL, KEY, PERSON = "web", "chat-1", "visitor-1"
# The worlds are filled once a session, whose end nothing in them may miss.
LEASE_MS = 86_400_000


def incoming(number: int, **values: Any) -> Incoming:
    return Incoming(
        **{
            "channel": CHANNEL,
            "conversation_key": KEY,
            "sender": Sender(PERSON),
            "dedupe_key": f"key-{number}",
            "parts": (text_part(f"question {number}"),),
            "external_id": f"m{number}",
            **values,
        }
    )


def usage(key_id: str) -> api_keys.Usage:
    return api_keys.Usage(key_id, "chat", "fake", None, 10, 5, 20, 90, "stop")


def installation(number: int, tenant: str = "T1") -> StoredInstallation:
    return StoredInstallation(f"{number:032x}", tenant, "Shop", "U0BOT", "chat:write", "sealed", "sealed, too", 7)


def answer(last_seq: int, state: Any = "answered") -> Reply:
    seen = SeenPassage(1, "an article", "roses", "Roses", ("Red ones",), None, "public", "A rose is a rose.", 1.5)
    return Reply(state, f"answer to {last_seq} [1]", last_seq, "fake", passages=(seen,), cited=frozenset({1}))


@dataclass
class World:
    """The rows of one workspace: an answered question with a post under way, and a second question being answered."""

    conversation: Conversation
    lease: Lease
    send_lease: SendLease
    post: Outgoing
    reply: Message
    key_id: str
    key_digest: str
    part: ShownPart
    rated: RatedReply
    installed: StoredInstallation
    state: str
    # Rows of the areas' `fill`, by names of their own.
    things: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`own` are calls with what belongs to the workspace; `foreign` is one with the other's, which gives `nothing`.

    `prepare` runs in the other workspace first, so that the foreign call would succeed there.
    """

    own: list[Callable[[Transaction, World], Any]]
    foreign: Callable[[Transaction, World], Any] | None = None
    nothing: Any = None
    prepare: Callable[[Transaction, World], Any] | None = None


def answer_second(tx: Transaction, world: World) -> None:
    inbox.complete(tx, world.lease, answer(2))


def name_of(function: Callable[..., Any]) -> str:
    return f"{function.__module__.removeprefix('storage.')}.{function.__name__}"
