"""Rows to learn from in a real database: chats with votes, and imported conversations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from storage import inbox, votes
from storage.database import Database
from storage.engines import postgresql_engine, sqlite_engine
from storage.schema import DEFAULT_WORKSPACE, conversation, message, person
from storage.scope import Scope
from storage.values import Incoming, Reply, Sender, new_id, text_part
from storage.votes import RatedReply, Vote

LEASE_MS = 60_000
IMPORTED_AT = 1_700_000_000_000


class Facts:
    """Writes rows as serving and importing do; a reply is named by its id."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.scope = Scope(self.database, DEFAULT_WORKSPACE)
        made = sa.make_url(url)
        self.engine = (sqlite_engine if made.get_backend_name() == "sqlite" else postgresql_engine)(made)
        self._numbers = itertools.count()

    async def close(self) -> None:
        await self.database.close()
        await asyncio.to_thread(self.engine.dispose)

    async def chat(
        self,
        question: str,
        answer: str,
        *,
        channel: str = "console",
        key: str | None = None,
        sender: str = "ada",
        name: str | None = None,
        state: Any = "answered",
    ) -> str:
        """Add a question with the bot's reply, and return the reply's id."""
        number = next(self._numbers)
        incoming = Incoming(
            channel,
            key or f"chat-{number}",
            Sender(sender, name),
            f"{channel}-{number}",
            (text_part(question),),
            external_id=f"m{number}",
        )
        accepted = await self.database.write(inbox.accept, DEFAULT_WORKSPACE, incoming)
        (lease,) = await self.database.write(inbox.claim, None, "tests", 1, LEASE_MS)
        await self.database.write(
            inbox.complete, DEFAULT_WORKSPACE, lease, Reply(state, answer, accepted.seq, "fake"), None
        )
        return lease.reply_id

    async def vote(
        self,
        reply_id: str,
        value: Any,
        *,
        channel: str = "console",
        voter: str = "ada",
        better: str | None = None,
        reason: str | None = None,
    ) -> None:
        found = await self.database.read(votes.find_reply, DEFAULT_WORKSPACE, channel, reply_id)
        assert isinstance(found, RatedReply)
        await self.database.write(
            votes.cast, DEFAULT_WORKSPACE, found, channel, Sender(voter), Vote(value, reason, better)
        )

    async def rated(self, question: str, answer: str, value: Any, **options: Any) -> str:
        """Add a reply with a vote on it."""
        better = options.pop("better", None)
        channel, sender = options.get("channel", "console"), options.get("sender", "ada")
        reply_id = await self.chat(question, answer, **options)
        await self.vote(reply_id, value, channel=channel, voter=sender, better=better)
        return reply_id

    async def add_import(
        self, turns: Sequence[Sequence[tuple[str, str]]], *, person_id: str | None = None, **columns: Any
    ) -> list[str]:
        """Add imported conversations of `(author, text)`, and return their ids."""
        ids = [new_id() for _ in turns]
        talks, said = [], []
        for conversation_id, lines in zip(ids, turns, strict=True):
            talks.append(
                {
                    "id": conversation_id,
                    "workspace_id": DEFAULT_WORKSPACE,
                    "channel": "import",
                    "external_id": conversation_id,
                    "title": "",
                    "created_at": IMPORTED_AT,
                    "context_from_seq": 0,
                    "import_id": "batch",
                    "person_id": person_id,
                    **columns,
                }
            )
            said += self._lines(conversation_id, lines, person_id)
        await self.run(conversation.insert(), talks)
        await self.run(message.insert(), said)
        return ids

    def _lines(
        self, conversation_id: str, lines: Sequence[tuple[str, str]], person_id: str | None
    ) -> list[dict[str, Any]]:
        made, seq = [], 0
        for author, text in lines:
            seq += author == "person"
            rank = 0 if author == "person" else 1 + sum(one["seq"] == seq and one["rank"] > 0 for one in made)
            made.append(
                {
                    "id": new_id(),
                    "workspace_id": DEFAULT_WORKSPACE,
                    "conversation_id": conversation_id,
                    "seq": seq,
                    "rank": rank,
                    "author": author,
                    "parts": [text_part(text)],
                    "created_at": IMPORTED_AT,
                    "person_id": person_id if author == "person" else None,
                    "draft": None,
                }
            )
        return made

    async def add_agent(self, conversation_id: str, seq: int, text: str, draft: str | None = None) -> None:
        """Add a human agent's message to a live conversation, in place of the bot's draft."""
        await self.run(
            message.insert().values(
                id=new_id(),
                workspace_id=DEFAULT_WORKSPACE,
                conversation_id=conversation_id,
                seq=seq,
                rank=2,
                author="agent",
                parts=[text_part(text)],
                created_at=IMPORTED_AT,
                draft=draft,
            )
        )

    async def add_person(self, **columns: Any) -> str:
        person_id = new_id()
        await self.run(person.insert().values(id=person_id, workspace_id=DEFAULT_WORKSPACE, created_at=0, **columns))
        return person_id

    async def run(self, statement: sa.Executable, rows: list[dict[str, Any]] | None = None) -> None:
        """Execute a statement."""
        await asyncio.to_thread(self._run, statement, rows)

    async def rows(self, statement: sa.Executable) -> list[Any]:
        """Return the rows of a statement."""
        return await asyncio.to_thread(self._rows, statement)

    def _run(self, statement: sa.Executable, rows: list[dict[str, Any]] | None) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement, rows)

    def _rows(self, statement: sa.Executable) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(statement).all())
