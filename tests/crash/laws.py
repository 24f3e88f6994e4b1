"""Laws that must hold in a database after any crash, each as a check."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from storage import schema
from storage.engines import postgresql_engine, sqlite_engine


def broken_laws(url: str, acknowledged: dict[str, tuple[str, str]], posts: dict[str, int] | None = None) -> list[str]:
    """Return all violations of the laws.

    `acknowledged` maps the idempotency key of each acknowledged message to `(conversation, text)`; `posts` maps the
    outbox id to the number of posts.
    """
    parsed = sa.make_url(url)
    engine = (sqlite_engine if parsed.get_backend_name() == "sqlite" else postgresql_engine)(parsed, read_only=True)
    with engine.begin() as connection:
        history = {name: _rows(connection, table) for name, table in schema.metadata.tables.items()}
    engine.dispose()
    problems = _drained(history)
    history = _without_imported(history)
    problems += _nothing_lost(history, acknowledged)
    for conversation in history["conversation_work"]:
        problems += _order_of(conversation, history)
    return problems + _posts_once(history, posts)


def _rows(connection: sa.Connection, table: sa.Table) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in connection.execute(sa.select(table))]


def _without_imported(history: dict[str, Any]) -> dict[str, Any]:
    """Leave out imported conversations, which have no inbox and no turns. (They must still not be pending.)"""
    imported = {row["id"] for row in history["conversation"] if row["import_id"] is not None}
    return {name: [row for row in rows if row.get("conversation_id") not in imported] for name, rows in history.items()}


def _nothing_lost(history: dict[str, Any], acknowledged: dict[str, tuple[str, str]]) -> list[str]:
    stored = {row["dedupe_key"] for row in history["inbox"]}
    lost = [f"acknowledged and lost: {key}" for key in acknowledged if key not in stored]
    texts = defaultdict(int)
    for row in history["message"]:
        if row["author"] == "person":
            texts[row["parts"][0]["text"]] += 1
    return lost + [f"stored {count} times: {text}" for text, count in texts.items() if count != 1]


def _drained(history: dict[str, Any]) -> list[str]:
    return [
        f"not answered: {row['conversation_id']} {row['done_seq']} of {row['enq_seq']}"
        for row in history["conversation_work"]
        if row["done_seq"] != row["enq_seq"] or row["owner"] is not None
    ]


def _order_of(work: dict[str, Any], history: dict[str, Any]) -> list[str]:
    def own(table: str, key: str) -> list[dict[str, Any]]:
        mine = [row for row in history[table] if row["conversation_id"] == work["conversation_id"]]
        return sorted(mine, key=lambda row: row[key])

    name, problems = work["conversation_id"], []
    seqs = [row["seq"] for row in own("inbox", "seq")]
    if seqs != list(range(1, work["enq_seq"] + 1)):
        problems.append(f"gap in {name}: {seqs}, counted {work['enq_seq']}")
    replies = own("reply", "last_seq")
    covered = [seq for row in replies for seq in range(row["first_seq"], row["last_seq"] + 1)]
    if covered != list(range(1, work["done_seq"] + 1)):
        problems.append(f"answered ranges of {name} are {covered}, done is {work['done_seq']}")
    epochs = [row["epoch"] for row in replies]
    if epochs != sorted(set(epochs)):
        problems.append(f"an older epoch after a newer one in {name}: {epochs}")
    received = {row["seq"]: row["received_at"] for row in own("inbox", "seq")}
    problems += [
        f"reply before its question in {name}" for row in replies if row["created_at"] < received[row["last_seq"]]
    ]
    return problems + _memory_of(name, replies, history)


def _memory_of(name: str, replies: list[dict[str, Any]], history: dict[str, Any]) -> list[str]:
    """Check that each answered prompt held every message up to the last one it answers, and none after."""
    said = {
        row["seq"]: row["parts"][0]["text"]
        for row in history["message"]
        if row["conversation_id"] == name and row["author"] == "person"
    }
    answers = {row["id"]: row["parts"][0]["text"].split()[1:] for row in history["message"] if row["author"] == "bot"}
    problems = []
    for reply in replies:
        if reply["state"] != "answered":
            continue
        expected = [said[seq] for seq in sorted(said) if seq <= reply["last_seq"]]
        if answers[reply["message_id"]] != expected:
            problems.append(f"{reply['message_id']} saw {answers[reply['message_id']]}, should have seen {expected}")
    return problems


def _posts_once(history: dict[str, Any], posts: dict[str, int] | None) -> list[str]:
    if posts is None:
        return []
    problems = [f"posted {count} times: {post}" for post, count in posts.items() if count > 1]
    for row in history["outbox"]:
        if row["state"] not in ("sent", "ambiguous", "failed"):
            problems.append(f"post {row['id']} is still {row['state']}")
        if row["state"] == "sent" and posts.get(row["id"]) != 1:
            problems.append(f"post {row['id']} is marked sent, was posted {posts.get(row['id'], 0)} times")
    return problems
