"""Judge a version in three steps: plan the evaluation, run it, and store the gate's verdict."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.generation.engine.build import local_generator
from bot.generation.models.sources import resolve_model
from bot.learning.data.dataset import refused_since
from bot.learning.judge.answer_loss import LossScorer, ReferenceLossScorer
from bot.learning.judge.blind_judging import tally_of
from bot.learning.judge.evaluation import (
    AT_ONCE,
    AnswerPolicy,
    Contestant,
    EvaluationProgress,
    Evaluator,
    Suite,
    ignore_progress,
)
from bot.learning.judge.evaluation_report import MAX_ANSWERS, EvaluationReport, Label, report_as_json
from bot.learning.judge.evaluation_rows import load_suite, read_rows, rows_of_examples, rows_of_golden
from bot.learning.judge.gate import GateVerdict, judge
from bot.learning.judge.measures import EvaluationRow
from bot.learning.judge.model_card import ModelCard, write_model_card
from bot.learning.judge.planted_secrets import PlantedSecret, secrets_to_plant
from bot.learning.versions import find, folder_of, rival_of
from bot.settings import Settings
from storage import audit, datasets, erasure, evaluations, golden, releases
from storage.learning_values import Dataset, Version
from storage.scope import Scope
from storage.transaction import Transaction

MAX_ROWS = 200
GENERAL_ANSWERED = 20
SHORT_ANSWER_TOKENS = 80
MakeScorer = Callable[[Path, int], LossScorer]
VERSION_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class JudgingResult:
    """The outcome of an evaluation; `evaluation_id` is None if the verdict is not binding, and so not stored."""

    report: EvaluationReport
    verdict: GateVerdict
    evaluation_id: str | None


@dataclass(frozen=True, slots=True)
class JudgingRequest:
    """A version and at most `rows` rows to judge it on: from a `file` of chat `messages`, or held out by its dataset.

    The first `answered` rows are answered, too, which takes most of the time.
    """

    version: str
    file: Path | None = None
    rows: int = MAX_ROWS
    answered: int = MAX_ANSWERS


@dataclass(frozen=True, slots=True)
class Subject:
    """A registered version and the champion that it must beat; None is the base."""

    version: Version
    champion: Version | None


@dataclass(frozen=True, slots=True)
class JudgingPlan:
    """All inputs of an evaluation, so that no transaction is open while models work.

    With `is_binding` the gate's verdict is stored and counts; rows from a file don't bind, as the version may have been
    trained on them. `after_erasures` is the number of erasures before the first row was read.
    """

    subject: Subject | None
    is_binding: bool
    contestants: Mapping[Label, Contestant]
    suites: tuple[Suite, ...]
    secrets: tuple[PlantedSecret, ...]
    after_erasures: int


async def plan_judging(scope: Scope, settings: Settings, actor: Actor, request: JudgingRequest) -> JudgingPlan:
    """Read all that an evaluation needs; the first of three steps.

    Needs the role trainer. Raises `NotFound` for an unknown version, `InvalidInput` for unusable rows.
    """
    actor.check("trainer")
    if settings.generator != "local":
        raise InvalidInput("Versions are judged with the model on this machine: set MYNA_GENERATOR=local.")
    after_erasures = await scope.read(erasure.how_many)
    subject = await _find_subject(scope, settings.data, request.version)
    contestants = await asyncio.to_thread(_contestants, settings, subject, request.version)
    rows = await _held_out_rows(scope, settings, subject, request)
    questions = await scope.read(golden.list_all)
    suites = [
        Suite("held_out", rows, request.answered),
        # Short answers suffice for these suites.
        Suite("general", await asyncio.to_thread(load_suite, "general"), GENERAL_ANSWERED, SHORT_ANSWER_TOKENS),
        Suite("safety", await asyncio.to_thread(load_suite, "safety"), max_tokens=SHORT_ANSWER_TOKENS),
    ]
    if questions:
        suites.append(Suite("golden", rows_of_golden(questions), len(questions)))
    planted = int(subject.version.settings.get("planted_secrets", 0)) if subject is not None else 0
    is_binding = subject is not None and request.file is None
    return JudgingPlan(
        subject, is_binding, contestants, tuple(suites), tuple(secrets_to_plant(planted)), after_erasures
    )


async def _find_subject(scope: Scope, data: Path, which: str) -> Subject | None:
    """Find a registered version; None if only its folder exists."""
    try:
        return await scope.read(_subject, which)
    except NotFound:
        if not await asyncio.to_thread(_is_folder, data, which):
            raise
        return None


def _subject(tx: Transaction, which: str) -> Subject:
    version = find(tx, which)
    return Subject(version, rival_of(version, releases.current(tx).champion))


async def carry_out(
    settings: Settings,
    plan: JudgingPlan,
    progress: EvaluationProgress = ignore_progress,
    make_scorer: MakeScorer = ReferenceLossScorer,
) -> EvaluationReport:
    """Load the model, ask base, champion and version, and measure; the second step, which takes minutes.

    Raises `VersionError` and `ModelError` for weights that can't be loaded.
    """
    folder = await asyncio.to_thread(resolve_model, settings.model, settings.data, lambda _line: None)
    scorer = await asyncio.to_thread(make_scorer, folder, settings.context_tokens)
    generator = local_generator(settings, folder, queue_limit=AT_ONCE)
    try:
        await generator.start()
        policy = AnswerPolicy.from_settings(settings)
        return await Evaluator(generator, scorer, policy, plan.contestants, progress).run(plan.suites, plan.secrets)
    finally:
        await generator.close()


async def keep_verdict(scope: Scope, actor: Actor, plan: JudgingPlan, report: EvaluationReport) -> JudgingResult:
    """Judge the report, and store the verdict if it is binding; the last step."""
    if plan.subject is None or not plan.is_binding:
        return JudgingResult(report, judge(report), None)
    verdict, evaluation_id = await scope.write(_save, plan.subject, report, actor, plan.after_erasures)
    return JudgingResult(report, verdict, evaluation_id)


def write_card(data: Path, version: Version, dataset: Dataset, result: JudgingResult) -> None:
    """Write the model card of a judged version beside its weights."""
    write_model_card(folder_of(data, version.name), ModelCard(version, dataset, result.report, result.verdict))


def _contestants(settings: Settings, subject: Subject | None, which: str) -> dict[Label, Contestant]:
    base = Contestant(Path(settings.model).name)
    champion = base
    if subject is not None and subject.champion is not None:
        champion = Contestant(subject.champion.name, _folder(settings.data, subject.champion.name))
    name = subject.version.name if subject is not None else which
    return {"base": base, "champion": champion, "candidate": Contestant(name, _folder(settings.data, name))}


def _folder(data: Path, name: str) -> Path:
    if not _is_folder(data, name):
        raise NotFound(f"The weights of {name} are not in {folder_of(data, name).parent}.")
    return folder_of(data, name)


def _is_folder(data: Path, name: str) -> bool:
    return bool(VERSION_NAME.fullmatch(name)) and folder_of(data, name).is_dir()


async def _held_out_rows(
    scope: Scope, settings: Settings, subject: Subject | None, request: JudgingRequest
) -> Sequence[EvaluationRow]:
    if request.file is not None:
        return (await asyncio.to_thread(read_rows, request.file))[: request.rows]
    if subject is None:
        raise InvalidInput(
            f'"{request.version}" is not registered, so no rows are known to be held out. Give rows of your own.',
            hint="give_rows",
        )
    dataset_id = subject.version.dataset_id
    refused = await refused_since(scope, dataset_id, settings.learning_consent)
    found = await scope.read(evaluations.held_out, dataset_id)
    examples = [example for number, example in found if number not in refused]
    if not examples:
        raise InvalidInput(
            f'The dataset of "{request.version}" holds nothing out. Give rows of your own.', hint="give_rows"
        )
    return rows_of_examples(examples)[: request.rows]


def _save(
    tx: Transaction, subject: Subject, report: EvaluationReport, actor: Actor, after_erasures: int
) -> tuple[GateVerdict, str | None]:
    """Store figures and verdict, without the words of people who were erased during the evaluation."""
    version_id, champion_id = subject.version.id, subject.champion.id if subject.champion is not None else None
    verdict = judge(report, judgements=tally_of(tx, version_id, champion_id))
    kept = report_as_json(report)
    if erasure.lock(tx) != after_erasures:
        kept = evaluations.without_erased(tx, kept, of_all=datasets.has_erased(tx, subject.version.dataset_id))
    evaluation_id = evaluations.save(
        tx, version_id, champion_id, passed=verdict.passed, reasons=verdict.reasons, report=kept, created_by=actor.name
    )
    if evaluation_id is not None:
        audit.record(tx, actor.name, "version.evaluated", subject.version.name, {"passed": verdict.passed})
    return verdict, evaluation_id
