"""Accuracy of the intent classifier, by `Intents.train` on phrases and `Intents.measure` on messages.

Part of `python -m benchmarks.knowledge DATA`, on the labelled messages of BANKING77, CLINC150 and HINT3. The constants
of the out-of-scope score were chosen on one half of the messages of HINT3 and CLINC150 ("development", by a hash of the
text), and on nothing else.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.knowledge_installation import ADMIN, Knowledge, read_rows
from bot.knowledge.intents.intent_file import Phrases
from bot.knowledge.intents.intents import Intents

KEPT = 0.95
NO_INTENT = {"oos", "NO_NODES_DETECTED"}
Row = Mapping[str, Any]


def phrases_of(rows: Iterable[Row]) -> Phrases:
    found = {row["text"]: "" if row["label"] in NO_INTENT else row["label"] for row in rows}
    return Phrases(tuple(found.items()), {})


def is_development(text: str) -> bool:
    return hashlib.sha256(text.lower().encode()).digest()[0] % 2 == 0


async def out_of_scope(intents: Intents, name: str, learnt: Sequence[Row], asked: Sequence[Row]) -> dict[str, float]:
    """Return the share of out-of-scope messages found where 95 % of the others are kept."""
    phrases = phrases_of(learnt)
    counts: dict[str, int] = {}
    for _, intent in phrases.rows:
        counts[intent] = counts.get(intent, 0) + 1
    enough = tuple(row for row in phrases.rows if row[1] and counts[row[1]] > 1)
    await intents.train(ADMIN, Phrases(enough, {}))
    as_trained = await intents.measure(ADMIN, phrases_of(asked))
    found = {}
    for half, rows in (
        ("all", asked),
        ("development", [row for row in asked if is_development(row["text"])]),
        ("other half", [row for row in asked if not is_development(row["text"])]),
    ):
        measured = await intents.measure(ADMIN, phrases_of(rows), keep=KEPT)
        found[half] = measured.out_of_scope_found or 0.0
    print(
        f"{name:12} out of scope found at {KEPT:.0%} kept: {found['all']:.3f} "
        f"(development {found['development']:.3f}, other half {found['other half']:.3f}); "
        f"as trained: {as_trained.out_of_scope_found:.3f} found, {as_trained.answered:.3f} kept"
    )
    return found


async def measure(data: Path, work: Path) -> None:
    """Print all figures."""
    knowledge = Knowledge(work / "intents")
    intents = Intents(knowledge.scope, knowledge.search)
    await knowledge.search.embed(["warm"])
    banking = read_rows(data / "banking77" / "intents.jsonl")
    learnt = phrases_of(row for row in banking if row["split"] == "train")
    started = time.perf_counter()
    await intents.train(ADMIN, learnt)
    seconds = time.perf_counter() - started
    measured = await intents.measure(ADMIN, phrases_of(row for row in banking if row["split"] != "train"))
    print(
        f"banking77: {len(learnt.rows)} phrases in {seconds:.1f} s, macro-F1 {measured.macro_f1:.3f} "
        f"on {measured.messages} others"
    )
    bots: dict[str, list[float]] = {"all": [], "development": [], "other half": []}
    hint3 = read_rows(data / "hint3" / "intents.jsonl")
    for bot in sorted({row["domain"] for row in hint3}):
        rows = [row for row in hint3 if row["domain"] == bot]
        found = await out_of_scope(
            intents,
            bot,
            [row for row in rows if row["split"] == "train"],
            [row for row in rows if row["split"] == "test"],
        )
        for half, share in found.items():
            bots[half].append(share)
    clinc = read_rows(data / "clinc150" / "intents.jsonl")
    found = await out_of_scope(
        intents,
        "clinc150",
        [row for row in clinc if row["split"] == "train"],
        [row for row in clinc if row["split"] not in ("train", "val")],
    )
    for half, shares in bots.items():
        of_bots = statistics.mean(shares)
        print(
            f"{half:12} hint3 (mean of its bots) {of_bots:.3f}, clinc150 {found[half]:.3f}, "
            f"mean {(of_bots + found[half]) / 2:.3f}"
        )
    await knowledge.close()
