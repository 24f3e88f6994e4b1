"""Knowledge gaps: clusters of unanswered questions, with article drafts.

A draft contains the reply that staff wrote to such a question, or else an empty place: no answer is ever invented.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.knowledge.grounding import Grounding
from bot.knowledge.library import Library
from bot.knowledge.search.embedder import Vectors
from storage import gaps
from storage.knowledge_values import Source, UnansweredQuestion
from storage.learning_values import Job
from storage.scope import Scope

DAYS, MOST_QUESTIONS, MOST_GAPS, MOST_EXAMPLES = 90, 2_000, 50, 5
# Least cosine of two questions about the same topic.
ALIKE = 0.6
EMBEDDED_AT_ONCE = 32
PLACE_FOR_THE_ANSWER, ALSO_ASKED = "(Write the answer here.)", "Also asked as:"

Hide = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Gap:
    """Cluster of similar questions, the most typical first. `id` is the reply id of that question and names the gap."""

    id: str
    questions: tuple[str, ...]
    count: int
    last_asked_at: int
    reply_ids: tuple[str, ...]
    draft: str


class Gaps:
    """Knowledge gaps of one workspace. `hide` redacts personal data in questions."""

    def __init__(self, scope: Scope, grounding: Grounding, library: Library, hide: Hide) -> None:
        self._scope = scope
        self._grounding = grounding
        self._library = library
        self._hide = hide

    async def list(self, actor: Actor, days: int = DAYS) -> list[Gap]:
        """Return the gaps of the last days, the most asked first, without gaps that articles have filled since."""
        actor.check("viewer")
        may_read_staff = actor.may("agent")
        asked = await self._scope.read(gaps.unanswered, days, MOST_QUESTIONS)
        asked = [question for question in asked if question.question.strip()]
        found: list[Gap] = []
        vectors = await self._vectors([question.question for question in asked])
        for group in await asyncio.to_thread(together, asked, vectors):
            if len(found) < MOST_GAPS and not await self._is_answered(group[0]):
                found.append(await asyncio.to_thread(self._gap, group, may_read_staff))
        return found

    async def find(self, actor: Actor, which: str) -> Gap:
        """Return the gap whose id begins with `which`, or that contains the reply `which`.

        The next question may become the most typical, which changes the gap's id; the ids of its replies stay. Raises
        `NotFound` and `InvalidInput`.
        """
        listed = await self.list(actor)
        found = [gap for gap in listed if which and (gap.id.startswith(which) or which in gap.reply_ids)]
        if len(found) > 1:
            raise InvalidInput(f'"{which}" is the beginning of {len(found)} ids; write more of it.', field="which")
        if not found:
            raise NotFound(f'There is no gap "{which}".', hint="list_gaps")
        return found[0]

    async def approve(
        self, actor: Actor, which: str, text: str | None = None, audience: str = "public"
    ) -> tuple[Source, Job]:
        """Publish a gap's draft, or the `text` written from it, as an article, and start the job that reads it.

        Raises `InvalidInput` while the draft has no answer.
        """
        actor.check("trainer")
        gap = await self.find(actor, which)
        text = gap.draft if text is None else text
        if PLACE_FOR_THE_ANSWER in text or not has_answer(text):
            raise InvalidInput("The draft has no answer yet. Write one in its place.", field="text")
        added = await self._library.upload(actor, file_name(text, gap), text.encode(), audience)
        await self._scope.write(gaps.close, actor.name, gap.reply_ids)
        return added

    async def close(self, actor: Actor, which: str) -> Gap:
        """Close a gap that needs no article; it is not listed again."""
        actor.check("trainer")
        gap = await self.find(actor, which)
        await self._scope.write(gaps.close, actor.name, gap.reply_ids)
        return gap

    async def _is_answered(self, question: UnansweredQuestion) -> bool:
        grounds = await self._grounding.find(question.channel, question.question)
        return grounds is not None and grounds.verdict != "unknown"

    async def _vectors(self, texts: Sequence[str]) -> Vectors:
        parts = [np.zeros((0, 1), np.float32)] if not texts else []
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            some = texts[start : start + EMBEDDED_AT_ONCE]
            parts.append(await self._grounding.embed(some))
        return np.concatenate(parts)

    def _gap(self, group: Sequence[UnansweredQuestion], may_read_staff: bool) -> Gap:
        said = dict.fromkeys(" ".join(question.question.split()) for question in group)
        questions = tuple(dict.fromkeys(map(self._hide, islice(said, MOST_EXAMPLES))))
        better = next((question.better for question in group if question.better and may_read_staff), None)
        return Gap(
            group[0].reply_id,
            questions,
            len(group),
            max(question.asked_at for question in group),
            tuple(question.reply_id for question in group),
            draft(questions, self._hide(better) if better else None),
        )


def together(asked: Sequence[UnansweredQuestion], vectors: Vectors) -> list[list[UnansweredQuestion]]:
    """Cluster similar questions, the largest group first; each group begins with its most typical question.

    Greedy: in the order of asking, each question joins the group whose first question is nearest, or begins a new one.
    """
    groups: list[list[int]] = []
    firsts: list[int] = []
    nearness = vectors @ vectors.T
    for place in range(len(asked)):
        best = int(np.argmax(nearness[place, firsts])) if firsts else -1
        if best >= 0 and nearness[place, firsts[best]] >= ALIKE:
            groups[best].append(place)
        else:
            groups.append([place])
            firsts.append(place)
    return [[asked[place] for place in _typical_first(group, vectors)] for group in sorted(groups, key=len)[::-1]]


def _typical_first(group: list[int], vectors: Vectors) -> list[int]:
    mean = vectors[group].mean(0)
    return sorted(group, key=lambda place: -float(vectors[place] @ mean))


def draft(questions: Sequence[str], answer: str | None) -> str:
    """Return an article in Markdown: the question as title, an answer or a place for it, and the other questions.

    The article is one section and so one passage: below a heading of their own, the other questions would be found
    instead of the answer.
    """
    others = "".join(f"- {question}\n" for question in questions[1:])
    asked = f"\n{ALSO_ASKED}\n\n{others}" if others else ""
    return f"# {questions[0]}\n\n{answer or PLACE_FOR_THE_ANSWER}\n{asked}"


def has_answer(text: str) -> bool:
    """Return True if an article from a draft has more text than its title and the other questions."""
    said = text.partition(ALSO_ASKED)[0]
    return any(line.strip() and not line.lstrip().startswith("#") for line in said.splitlines())


def file_name(text: str, gap: Gap) -> str:
    """Return a file name made from the title and the gap's id."""
    title = text.strip().splitlines()[0].lstrip("# ")
    words = re.findall(r"\w+", title.lower())[:8]
    return f"{'-'.join(words) or 'answer'}-{gap.id[:8]}.md"
