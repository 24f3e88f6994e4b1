"""Run an evaluation: base, champion and candidate answer the same prompts and score the same references.

Prompts are built by the code that serves chats, so that a version is judged as it would answer.
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
from bot.learning.judge.evaluation_report import (
    LABELS,
    MAX_ANSWERS,
    EvaluationReport,
    JudgedAnswer,
    Label,
    Leakage,
    SuiteReport,
)
from bot.learning.judge.measures import ContestantAnswer, EvaluationRow, Taken, measure_suite
from bot.learning.judge.planted_secrets import BY_HEART_BITS, PlantedSecret, exposures
from bot.settings import Settings
from storage.values import Author, Message, text_part

# Chats on the same generator go first.
PRIORITY = 10
AT_ONCE = 32
# Work can be stopped between two such parts.
SCORED_AT_ONCE = 32
# A reference may be long, and the prompt must still leave room for it.
MAX_ANSWER_TOKENS = 256

# Called with the suite, the steps done and the steps in all.
EvaluationProgress = Callable[[str, int, int], None]


def ignore_progress(_what: str, _done: int, _of: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model to evaluate: `folder` holds LoRA weights in PEFT's files; None is the base."""

    name: str
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """Rows that are measured together. The first `answered` rows are answered, too, in at most `max_tokens` tokens."""

    name: str
    rows: Sequence[EvaluationRow]
    answered: int = MAX_ANSWERS
    max_tokens: int = MAX_ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class AnswerPolicy:
    """Settings of answers: those of chats, but greedy (temperature 0) and at most `MAX_ANSWER_TOKENS` long."""

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


class Evaluator:
    """Evaluates contestants with a started generator. Versions loaded for it are unloaded at the end."""

    def __init__(
        self,
        generator: Generator,
        scorer: LossScorer,
        policy: AnswerPolicy,
        contestants: Mapping[Label, Contestant],
        progress: EvaluationProgress = ignore_progress,
    ) -> None:
        self._generator = generator
        self._scorer = scorer
        self._policy = policy
        self._contestants = contestants
        self._progress = progress
        self._done = 0
        self._of = 0

    async def run(self, suites: Sequence[Suite], secrets: Sequence[PlantedSecret] = ()) -> EvaluationReport:
        """Measure all contestants on all suites.

        Raises `InvalidInput` if no row of a suite fits the model, `VersionError` for a version that can't be loaded.
        """
        started = time.monotonic()
        before = set(self._generator.versions)
        try:
            for contestant in self._different():
                if contestant.folder is not None:
                    await self._generator.load_version(contestant.name, contestant.folder)
            prepared = {suite.name: await self._prepare(suite) for suite in suites}
            self._of = sum(self._amount(suite, prepared[suite.name]) for suite in suites) * len(self._different())
            taken = {suite.name: await self._take(suite, prepared[suite.name]) for suite in suites}
            leakage = await self._measure_leakage(secrets)
        finally:
            for name in {contestant.name for contestant in self._different()} - before:
                await self._generator.unload_version(name)
        reports = await asyncio.to_thread(_measure_all, prepared, taken)
        answers = [answer for suite in suites for answer in _judged(suite, prepared[suite.name], taken[suite.name])]
        return EvaluationReport(
            names={label: self._contestants[label].name for label in LABELS},
            suites=reports,
            golden_broken=_golden_broken(answers),
            leakage=leakage,
            answers=tuple(_shown(answers)),
            seconds=round(time.monotonic() - started, 1),
        )

    def _different(self) -> list[Contestant]:
        """Return each contestant once: the champion often is the base."""
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
        history, asked = split_at_last_reply([_stored(number, message) for number, message in enumerate(messages, 1)])
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
        for contestant in self._different():
            taken = by_folder[contestant.folder] = Taken()
            # One contestant after the other: a step is quicker if all its tokens use the same weights.
            asked = list(zip(prepared.rows, prepared.prompts, strict=True))[: suite.answered]
            taken.answers = await self._answer_all(suite, asked, contestant)
            if all(row.reference is not None for row in prepared.rows):
                await self._take_losses(suite, prepared, contestant, taken)
        return {label: by_folder[self._contestants[label].folder] for label in LABELS}

    async def _take_losses(self, suite: Suite, prepared: _Prepared, contestant: Contestant, taken: Taken) -> None:
        own = [
            AnsweredPrompt(prompt.messages, row.reference or "")
            for row, prompt in zip(prepared.rows, prepared.prompts, strict=True)
        ]
        taken.losses = await self._losses(suite.name, own, contestant)
        first = own[: suite.answered]
        if len(first) > 1:
            half = len(first) // 2
            foreign = [
                AnsweredPrompt(other.messages, mine.answer)
                for mine, other in zip(first, first[half:] + first[:half], strict=True)
            ]
            taken.foreign_losses = await self._losses(suite.name, foreign, contestant)

    async def _losses(self, suite: str, rows: Sequence[AnsweredPrompt], contestant: Contestant) -> list[AnswerLoss]:
        found: list[AnswerLoss] = []
        for begin in range(0, len(rows), SCORED_AT_ONCE):
            part = rows[begin : begin + SCORED_AT_ONCE]
            found += await asyncio.to_thread(self._scorer.answer_losses, part, contestant.folder)
            self._report(suite, len(part))
        return found

    async def _answer_all(
        self, suite: Suite, asked: Sequence[tuple[EvaluationRow, Prompt]], contestant: Contestant
    ) -> list[ContestantAnswer]:
        version = None if contestant.folder is None else contestant.name
        places = asyncio.Semaphore(AT_ONCE)
        sampling = self._policy.sampling
        sampling = replace(sampling, max_tokens=min(sampling.max_tokens, suite.max_tokens))

        async def answer(row: EvaluationRow, prompt: Prompt) -> ContestantAnswer:
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

    async def _answer(self, prompt: Prompt, version: str | None, sampling: Sampling) -> ContestantAnswer:
        while True:
            pieces: list[str] = []
            try:
                stream = self._generator.stream(prompt, sampling, version, priority=PRIORITY)
                async with aclosing(stream):
                    async for event in stream:
                        if isinstance(event, Piece):
                            pieces.append(event.text)
                        elif isinstance(event, Finish):
                            return ContestantAnswer("".join(pieces), event.reason == "stop")
            except GeneratorBusy as busy:
                await asyncio.sleep(busy.retry_after)

    async def _measure_leakage(self, secrets: Sequence[PlantedSecret]) -> Leakage | None:
        if not secrets:
            return None
        by_folder = {
            contestant.folder: await asyncio.to_thread(
                exposures, self._scorer, self._policy.system_prompt, secrets, contestant.folder
            )
            for contestant in self._different()
        }
        bits = {label: by_folder[self._contestants[label].folder] for label in LABELS}
        return Leakage(
            len(secrets),
            {label: sum(found) / len(found) for label, found in bits.items()},
            {label: sum(exposed >= BY_HEART_BITS for exposed in found) for label, found in bits.items()},
        )

    def _report(self, suite: str, count: int) -> None:
        self._done += count
        self._progress(suite, self._done, self._of)


def _stored(number: int, message: Mapping[str, str]) -> Message:
    """Make a stored message of a row's message, so that chats' own code builds the prompt."""
    author: Author = "person" if message["role"] == "user" else "bot"
    return Message(str(number), number, author, (text_part(message["content"]),), 0)


def _measure_all(
    prepared: Mapping[str, _Prepared], taken: Mapping[str, Mapping[Label, Taken]]
) -> dict[str, SuiteReport]:
    return {name: measure_suite(suite.rows, taken[name], suite.left_out) for name, suite in prepared.items()}


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
        answer.id
        for answer in answers
        if answer.suite == "golden" and answer.broken["candidate"] and not answer.broken["champion"]
    )


def _shown(answers: Sequence[JudgedAnswer]) -> list[JudgedAnswer]:
    """Choose `MAX_ANSWERS` answers to show, first those where candidate and champion differ in rules or words."""

    def rank(answer: JudgedAnswer) -> tuple[bool, bool]:
        broken, texts = answer.broken, answer.answers
        return (broken["candidate"] == broken["champion"], texts["candidate"] == texts["champion"])

    return sorted(answers, key=rank)[:MAX_ANSWERS]
