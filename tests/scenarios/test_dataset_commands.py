"""`myna dataset` and `myna review`: output and refusals."""

from __future__ import annotations

import asyncio

from storage import migrate
from tests.builders.cli import Cli
from tests.builders.facts import Facts


async def prepare(myna: Cli) -> Facts:
    myna.data.mkdir(parents=True)
    url = f"sqlite:///{myna.data / 'myna.db'}"
    await asyncio.to_thread(migrate.upgrade, url)
    return Facts(url)


async def test_a_complaint_becomes_a_dataset_and_a_diff(myna: Cli) -> None:
    facts = await prepare(myna)
    reply_id = await facts.rated(
        "Do you ship to Austria?", "No, never.", -1, channel="web", better="Yes, in three days."
    )
    await facts.close()
    (waiting,) = (await myna.beside("review", "list", "--json")).json
    assert (waiting["reply_id"], waiting["proposed"]) == (reply_id, "Yes, in three days.")
    first = (await myna.beside("dataset", "build", "--json")).json
    assert first["counts"]["kinds"] == {"thumb": 1}
    done = await myna.beside("review", "correct", reply_id, "--json")
    assert done.json == {"reply": reply_id, "decision": "correct", "better": "Yes, in three days."}
    assert (await myna.beside("review", "list")).out == "No reply waits for a decision.\n"
    second = (await myna.beside("dataset", "build", "--json")).json
    shown = await myna.beside("dataset", "show", second["sha256"][:12], "--examples", "9", "--rejected")
    for words in ("1 answers, 1 pairs", "2 correction", "-> Yes, in three days.", "not: No, never."):
        assert words in shown.out
    listed = (await myna.beside("dataset", "list", "--json")).json
    assert {one["id"] for one in listed} == {first["id"], second["id"]}
    changed = (await myna.beside("dataset", "diff", first["id"], second["id"], "--json")).json
    assert [one["kind"] for one in changed["went"]] == ["thumb"]
    assert sorted(one["kind"] for one in changed["came"]) == ["answer", "pair"]


async def test_a_missing_dataset_or_reply_is_named_with_a_hint(myna: Cli) -> None:
    await (await prepare(myna)).close()
    for arguments, words in (
        (("dataset", "show"), "`myna dataset build` builds one"),
        (("dataset", "build", "--rows", "0"), "--rows must be at least 1"),
        (("review", "approve", "nothing"), "There is no reply nothing"),
    ):
        done = await myna.beside(*arguments)
        assert (done.code, done.out) == (1, ""), arguments
        assert words in done.err
    assert (await myna.beside("dataset", "build", "--json")).json["counts"]["examples"] == 0
