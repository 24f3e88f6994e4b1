"""An evaluation: base, champion and candidate answer the same prompts, and say how likely they find the references.

Knows: how rows become prompts, exactly as chats do, and who is asked when. Does not know: what a figure means, where
rows come from, which versions are released.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from bot.errors import GeneratorBusy, InvalidInput, TooLarge
from bot.generation.port import Finish, Generator, Piece, Prompt, Sampling
from bot.generation.prompt import PromptBudget, build_prompt, split_at_last_reply
from bot.learning.judge.answer_loss import AnsweredPrompt, AnswerLoss, LossScorer
from bot.learning.judge.evaluation_report import LABELS, MAX_ANSWERS, JudgedAnswer, Label, Leakage, Report, SuiteReport
from bot.learning.judge.measures import Answer, EvaluationRow, Taken, measure_suite
from bot.learning.judge.planted_secrets import BY_HEART_BITS, Canary, exposures
from bot.settings import Settings
from storage.values import Author, Message, text_part

# People who chat on the same generator go first.
PRIORITY = 10
AT_ONCE = 32
# Between such parts somebody may stop the work.
SCORED_AT_ONCE = 32
# A reference may be long, and the prompt must still leave room for it.
MAX_ANSWER_TOKENS = 256

# What is measured, how many steps are done, and of how many.
Progress = Callable[[str, int, int], None]


def ignore_progress(_what: str, _done: int, _of: int) -> None:
    """For callers who do not show any."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who is evaluated: `folder` holds LoRA weights in PEFT's files, None is the base."""

    name: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Rows that are measured together; the first `answered` of them are answered, too, in `max_tokens` if that is less
    than the policy's."""

    name: str
    rows: Sequence[EvaluationRow]
    answered: int = MAX_ANSWERS
    max_tokens: int = MAX_ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """How answers are made: as in chats, but for the likeliest word each time, and not longer than `max_tokens`."""

    system_prompt: str
    context_tokens: int
    sampling: Sampling
    quoting_penalty: float = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> AnswerPolicy:
        return cls(
            settings.system_prompt,
            settings.context_tokens,
            Sampling(
                max_tokens=min(settings.max_reply_tokens, MAX_ANSWER_TOKENS, max(settings.context_tokens // 2, 1)),
                temperature=0.0,
                repetition_penalty=settings.chat_repetition_penalty,
            ),
            settings.chat_quoting_penalty,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The rows of a suite that fit the model's window, with their prompts."""

    rows: list[EvaluationRow]
    prompts: list[Prompt]
    left_out: int


class Evaluation:
    """One evaluation, with a generator that has been started. Nothing of it is loaded any more once it is over."""

    def __init__(
        self,
        generator: Generator,
        scorer: LossScorer,
        policy: AnswerPolicy,
        contestants: Mapping[Label, Contestant],
        progress: Progress = ignore_progress,
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._policy = policy
        self._contestants = contestants
        self._progress = progress
        self._done = 0
        self._of = 0

    async def run(self, suites: Sequence[Suite], canaries: Sequence[Canary] = ()) -> Report:
        """Raises `InvalidInput` if a suite has no row that fits, `VersionError` for a version that can't be loaded."""
        started = time.monotonic()
        before = set(self._generator.versions)
        try:
            for one in self._different():
                if one.folder is not None:
                    await self._generator.load_version(one.name, one.folder)
            prepared = {suite.name: await self._prepare(suite) for suite in suites}
            self._of = sum(self._amount(suite, prepared[suite.name]) for suite in suites) * len(self._different())
            taken = {suite.name: await self._take(suite, prepared[suite.name]) for suite in suites}
            leakage = await self._measure_leakage(canaries)
        finally:
            for name in {one.name for one in self._different()} - before:
                await self._generator.unload_version(name)
        reports = await asyncio.to_thread(_measure_all, prepared, taken)
        answers = [one for suite in suites for one in _judged(suite, prepared[suite.name], taken[suite.name])]
        return Report(
            names={label: self._contestants[label].name for label in LABELS},
            suites=reports,
            golden_broken=_golden_broken(answers),
            leakage=leakage,
            answers=tuple(_shown(answers)),
            seconds=round(time.monotonic() - started, 1),
        )

    def _different(self) -> list[Contestant]:
        """Each contestant once: the champion often is the base."""
        return list({self._contestants[label].folder: self._contestants[label] for label in LABELS}.values())

    async def _prepare(self, suite: Suite) -> _Prepared:
        prepared = _Prepared([], [], 0)
        left_out = 0
        for row in suite.rows:
            try:
                prompt = await self._prompt(row)
            except TooLarge:
                left_out += 1
                continue
            prepared.rows.append(row)
            prepared.prompts.append(prompt)
        if not prepared.rows:
            raise InvalidInput(
                f"None of the {len(suite.rows)} rows of {suite.name} fits the model: shorten them, or raise "
                "MYNA_CONTEXT_TOKENS."
            )
        return replace(prepared, left_out=left_out)

    async def _prompt(self, row: EvaluationRow) -> Prompt:
        messages = list(row.messages)
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else self._policy.system_prompt
        history, asked = split_at_last_reply([_stored(number, one) for number, one in enumerate(messages, 1)])
        window = min(self._policy.context_tokens, self._generator.context_tokens)
        budget = PromptBudget(window, self._policy.sampling.max_tokens)
        passages = row.passages
        while True:
            try:
                return await build_prompt(system, history, asked, budget, self._generator.encode, passages)
            except TooLarge:
                if not passages:
                    raise
                passages = passages[:-1]

    def _amount(self, suite: Suite, prepared: _Prepared) -> int:
        rows, answered = len(prepared.rows), min(len(prepared.rows), suite.answered)
        has_references = all(row.reference is not None for row in prepared.rows)
        return answered + has_references * (rows + (answered if answered > 1 else 0))

    async def _take(self, suite: Suite, prepared: _Prepared) -> dict[Label, Taken]:
        by_folder: dict[Path | None, Taken] = {}
        for one in self._different():
            by_folder[one.folder] = Taken()
            taken = by_folder[one.folder]
            # One after the other: a step in which all tokens have the same weights is quicker than a mixed one.
            asked = list(zip(prepared.rows, prepared.prompts, strict=True))[: suite.answered]
            taken.answers = await self._answer_all(suite, asked, one)
            if all(row.reference is not None for row in prepared.rows):
                await self._take_losses(suite, prepared, one, taken)
        return {label: by_folder[self._contestants[label].folder] for label in LABELS}

    async def _take_losses(self, suite: Suite, prepared: _Prepared, one: Contestant, taken: Taken) -> None:
        own = [
            AnsweredPrompt(prompt.messages, row.reference or "")
            for row, prompt in zip(prepared.rows, prepared.prompts, strict=True)
        ]
        taken.losses = await self._losses(suite.name, own, one)
        first = own[: suite.answered]
        if len(first) > 1:
            half = len(first) // 2
            foreign = [
                AnsweredPrompt(other.messages, mine.answer)
                for mine, other in zip(first, first[half:] + first[:half], strict=True)
            ]
            taken.foreign_losses = await self._losses(suite.name, foreign, one)

    async def _losses(self, what: str, rows: Sequence[AnsweredPrompt], one: Contestant) -> list[AnswerLoss]:
        found: list[AnswerLoss] = []
        for begin in range(0, len(rows), SCORED_AT_ONCE):
            some = rows[begin : begin + SCORED_AT_ONCE]
            found += await asyncio.to_thread(self._scorer.answer_losses, some, one.folder)
            self._report(what, len(some))
        return found

    async def _answer_all(
        self, suite: Suite, asked: Sequence[tuple[EvaluationRow, Prompt]], one: Contestant
    ) -> list[Answer]:
        version = None if one.folder is None else one.name
        places = asyncio.Semaphore(AT_ONCE)
        sampling = self._policy.sampling
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, suite.max_tokens))

        async def answer(row: EvaluationRow, prompt: Prompt) -> Answer:
            penalty = self._policy.quoting_penalty if row.passages else sampling.repetition_penalty
            async with places:
                found = await self._answer(prompt, version, replace(sampling, repetition_penalty=penalty))
            self._report(suite.name, 1)
            return found

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(row, prompt)) for row, prompt in asked]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        return [task.result() for task in tasks]

    async def _answer(self, prompt: Prompt, version: str | None, sampling: Sampling) -> Answer:
        while True:
            pieces: list[str] = []
            try:
                stream = self._generator.stream(prompt, sampling, version, priority=PRIORITY)
                async with aclosing(stream):
                    async for event in stream:
                        if isinstance(event, Piece):
                            pieces.append(event.text)
                        elif isinstance(event, Finish):
                            return Answer("".join(pieces), event.reason == "stop")
            except GeneratorBusy as busy:
                await asyncio.sleep(busy.retry_after)

    async def _measure_leakage(self, canaries: Sequence[Canary]) -> Leakage | None:
        if not canaries:
            return None
        by_folder = {
            one.folder: await asyncio.to_thread(
                exposures, self._scorer, self._policy.system_prompt, canaries, one.folder
            )
            for one in self._different()
        }
        bits = {label: by_folder[self._contestants[label].folder] for label in LABELS}
        return Leakage(
            len(canaries),
            {label: sum(found) / len(found) for label, found in bits.items()},
            {label: sum(one >= BY_HEART_BITS for one in found) for label, found in bits.items()},
        )

    def _report(self, what: str, count: int) -> None:
        self._done += count
        self._progress(what, self._done, self._of)


def _stored(number: int, message: Mapping[str, str]) -> Message:
    """A message of a row as if it had been said here, so that the prompt is made by the same code as in chats."""
    author: Author = "person" if message["role"] == "user" else "bot"
    return Message(str(number), number, author, (text_part(message["content"]),), 0)


def _measure_all(
    prepared: Mapping[str, _Prepared], taken: Mapping[str, Mapping[Label, Taken]]
) -> dict[str, SuiteReport]:
    return {name: measure_suite(one.rows, taken[name], one.left_out) for name, one in prepared.items()}


def _judged(suite: Suite, prepared: _Prepared, taken: Mapping[Label, Taken]) -> list[JudgedAnswer]:
    found = []
    for place, row in enumerate(prepared.rows[: suite.answered]):
        answers = {label: taken[label].answers[place].text for label in LABELS}
        broken = {
            label: tuple(row.rules.broken(answer)) if row.rules is not None else () for label, answer in answers.items()
        }
        found.append(JudgedAnswer(suite.name, row.id, row.messages, row.reference, answers, broken, row.person_id))
    return found


def _golden_broken(answers: Sequence[JudgedAnswer]) -> tuple[str, ...]:
    return tuple(
        one.id for one in answers if one.suite == "golden" and one.broken["candidate"] and not one.broken["champion"]
    )


def _shown(answers: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """As many as people may look at, those first where candidate and champion differ in what they broke or said."""

    def rank(one: JudgedAnswer) -> tuple[bool, bool]:
        return (one.broken["candidate"] == one.broken["champion"], one.answers["candidate"] == one.answers["champion"])

    return sorted(answers, key=rank)[:MAX_ANSWERS]
