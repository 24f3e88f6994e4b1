"""Calibration of the search's confidence, and recall on questions that depend on the conversation.

Part of `python -m benchmarks.knowledge DATA`, on questions about kb_en, messages about other topics, and conversations
about hotels (dstc11). The regression was fitted on the development half of the questions against part of the messages;
the weight of the conversation was chosen on the conversations that are asked here.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from benchmarks.grounded import write_articles
from benchmarks.knowledge_installation import Knowledge, read_rows
from benchmarks.knowledge_search import is_development
from bot.knowledge.grounding import CONTEXT_MESSAGES, DEFAULT_THRESHOLD
from bot.knowledge.search.ranking import best_of_articles

ASKED, TALKS, CHANGED = 200, 250, 200


async def measure(data: Path, work: Path) -> None:
    """Print all figures."""
    knowledge = Knowledge(work / "confidence")
    await knowledge.read(data / "kb_en" / "articles")
    rows = read_rows(data / "kb_en" / "questions.jsonl")
    other_half = [one["question"] for one in rows if not is_development(one)]
    answered = await _share_above(knowledge, other_half)
    print(f"questions of the other half that are answered: {answered:.3f} of {len(other_half)}")
    for name in ("clinc150", "banking77", "hint3"):
        messages = [one["text"] for one in read_rows(data / name / "intents.jsonl")]
        some = random.Random(2).sample(messages, ASKED)
        print(f'messages of {name} that get "I don\'t know": {1 - await _share_above(knowledge, some):.3f} of {ASKED}')
    await knowledge.close()
    await _follow_ups(data, work)


async def _share_above(knowledge: Knowledge, questions: list[str]) -> float:
    found = [await knowledge.search.find(one, ("public",)) for one in questions]
    return sum(one is not None and one.confidence >= DEFAULT_THRESHOLD for one in found) / len(questions)


async def _follow_ups(data: Path, work: Path) -> None:
    knowledge = Knowledge(work / "talks")
    write_articles(read_rows(data / "dstc11_grounded" / "articles.jsonl"), work / "hotels")
    await knowledge.read(work / "hotels")
    talks = random.Random(3).sample(read_rows(data / "dstc11_grounded" / "questions.jsonl"), TALKS)
    alone = [await _is_right(knowledge, one, "") for one in talks]
    before = [await _is_right(knowledge, one, _said_before(one)) for one in talks]
    print(
        f"talks whose last question finds the right article first: alone {sum(alone) / TALKS:.3f}, "
        f"with what was said before {sum(before) / TALKS:.3f} of {TALKS}"
    )
    await knowledge.close()


def _said_before(talk: dict[str, Any]) -> str:
    said = [one["content"] for one in talk["messages"] if one["role"] != "system"][:-2]
    return "\n".join(said[-CONTEXT_MESSAGES:])


async def _is_right(knowledge: Knowledge, talk: dict[str, Any], before: str) -> bool:
    found = await knowledge.search.find(talk["question"], ("public",), before)
    return bool(found and found.hits) and best_of_articles(found.hits)[0].passage.name in talk["gold_articles"]
