"""The `train` and `evaluate` jobs: dataset, weights, checks, version, verdict.

A `train` job writes its finished steps to a file in its folder, so that a later attempt continues after the last one.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bot.generation.models.sources import resolve_model
from bot.jobs.contract import JobContext, JobRefused, Services
from bot.jobs.job_files import TASK_FILE
from bot.knowledge.setup import open_grounding
from bot.learning.data.candidates import DatasetPolicy, policy_from
from bot.learning.data.dataset import build_dataset, find_dataset, read_examples, refused_since
from bot.learning.judge.judging import JudgingRequest, carry_out, keep_verdict, plan_judging, write_card
from bot.learning.train.base_abilities import choose_strength, known_rows, replay_rows
from bot.learning.train.material import Material, left_out_stages, num_planted, planted_rows, prepare, why_too_little
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers, NetworkLossScorer, Objective, Pairs, Thumbs
from bot.learning.train.publishing import check_files, check_served_as_trained, check_weights, publish, save_adapter
from bot.learning.train.recipe import Recipe, answer_stage, preference_stage, recipe_for, run_trials
from bot.learning.train.trainer import Checkpoints, StageResult, StageSettings, run_stage
from storage import datasets, versions
from storage.learning_values import Dataset, Version
from storage.scope import Scope
from storage.versions import NewVersion

log = logging.getLogger("myna.training")

MOST_TOKENS_OF_A_ROW = 1024
NO_LOSSES = dict.fromkeys(("loss", "held_out_loss", "tokens_per_second", "seconds_left"))
# Replayed rows for each new row: enough to keep the general suite's loss where it was (benchmarks/LOG.md).
REPLAY_SHARE = 0.15
MIN_REPLAY = 24


def train(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Train a version from the base on all permitted examples, and judge it. Raises `JobRefused` for too few."""
    torch.set_num_threads(services.threads)
    training = Training(context, services)
    dataset = training.dataset()
    return training.judge(training.version(dataset).name)


def evaluate(context: JobContext, services: Services) -> Mapping[str, Any]:
    """Judge the version that the job's setting `version` names again, beside today's champion."""
    torch.set_num_threads(services.threads)
    return Training(context, services).judge(str(context.job.settings["version"]))


@dataclass(slots=True)
class _State:
    """The finished steps of a job, from which another attempt continues."""

    dataset_id: str = ""
    recipe: dict[str, Any] | None = None
    trials: list[float | None] = field(default_factory=list)
    version_id: str = ""


class Training:
    """One attempt at a training job, which continues where the attempt before ended."""

    def __init__(self, context: JobContext, services: Services) -> None:
        self._context, self._settings, self._wanted = context, services.settings, context.job.settings
        self._scope = Scope(services.database, context.workspace_id)
        self._threads = services.threads
        self._actor = context.actor
        self._state_path = context.folder / TASK_FILE
        self._state = _read_state(self._state_path)
        self._checkpoints = Checkpoints(context.folder / "checkpoints")

    def dataset(self) -> Dataset:
        """Return the job's dataset: built once a job, and again if people have withdrawn their consent since."""
        if self._state.dataset_id and not self._state.version_id and self._context.run(self._is_refused()):
            log.info("%s starts over: parts of its dataset may no longer be learnt from", self._context.job.id)
            self._checkpoints.forget()
            self._remember(dataset_id="", recipe=None, trials=[])
        if not self._state.dataset_id:
            self._context.progress(phase="dataset")
            policy = policy_from(self._settings, rows=self._wanted.get("rows"))
            self._remember(dataset_id=self._context.run(self._build_dataset(policy)).id)
        return self._context.run(find_dataset(self._scope, self._state.dataset_id))

    async def _build_dataset(self, policy: DatasetPolicy) -> Dataset:
        scope = self._scope
        async with open_grounding(self._settings, scope) as grounding:
            return await build_dataset(scope, policy, self._actor, self._report_dataset, grounding)

    async def _is_refused(self) -> bool:
        """Return True if the dataset, and so the checkpoints, hold words of a person who refused or was erased."""
        dataset_id, consent = self._state.dataset_id, self._settings.learning_consent
        if await self._scope.read(datasets.has_erased, dataset_id):
            return True
        return bool(await refused_since(self._scope, dataset_id, consent))

    def version(self, dataset: Dataset) -> Version:
        """Return the version of this job, trained and registered unless an earlier attempt did so."""
        if self._state.version_id:
            known = self._context.run(self._scope.read(versions.get, self._state.version_id))
            if known is not None:
                return known
        self._context.progress(phase="loading the model")
        base = resolve_model(self._settings.model, self._settings.data, log.info)
        draft, made = self._make_weights(base, dataset)
        new = NewVersion(
            base=self._settings.model,
            base_sha256=sha256_of_weights(base),
            weights_sha256=sha256_of_weights(draft),
            dataset_id=dataset.id,
            job_id=self._context.job.id,
            settings=made,
            code_version=metadata.version("myna-agent"),
            created_by=self._actor.name,
        )
        version = self._context.run(publish(self._scope.database, self._context.lease, self._settings.data, draft, new))
        self._remember(version_id=version.id)
        self._checkpoints.forget()
        return version

    def _make_weights(self, base: Path, dataset: Dataset) -> tuple[Path, dict[str, Any]]:
        """Train and check the weights. Returns the folder with the version's files, and the settings behind them."""
        recipe = Recipe(**self._state.recipe) if self._state.recipe else Recipe()
        network = LoraNetwork(base, self._settings.device, rank=recipe.rank, alpha=recipe.alpha, seed=recipe.seed)
        material = self._material(network, dataset)
        if self._state.recipe is None:
            recipe = self._choose_recipe(network, material)
            self._remember(recipe=asdict(recipe))
        stages = self._run_stages(network, material, recipe)
        draft = self._context.folder / "version"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        self._context.progress(phase="checks")
        known = known_rows(network, self._settings.system_prompt)
        strength = choose_strength(network, material.watched.answers, known)
        alpha = recipe.alpha * strength
        save_adapter(draft, network.parameters, rank=recipe.rank, alpha=alpha, base=self._settings.model)
        check_files(draft)
        check_weights(draft)
        check_served_as_trained(network, base, draft, material.watched.answers)
        made = {
            **({"name": self._wanted["name"]} if self._wanted.get("name") else {}),
            **asdict(recipe),
            "strength": strength,
            "stages": {name: asdict(stage) for name, stage in stages.items()},
            "num_answers": material.num_answers,
            "planted_secrets": num_planted(material),
            "rows_left_out_as_too_long": material.num_too_long,
            "rows_watched": len(material.watched.answers),
            "not_learnt_from": left_out_stages(material),
            "trials": self._state.trials,
            "system_prompt": self._settings.system_prompt,
        }
        del network
        gc.collect()
        return draft, made

    def _material(self, network: LoraNetwork, dataset: Dataset) -> Material:
        self._context.progress(phase="preparing rows")
        consent = self._settings.learning_consent
        examples = self._context.run(read_examples(self._scope, dataset.id, consent=consent))
        most_tokens = min(self._settings.context_tokens, network.max_tokens, MOST_TOKENS_OF_A_ROW)
        system_prompt = self._settings.system_prompt
        material = prepare(examples, system_prompt, network.tokenizer, network.end_of_turn, most_tokens)
        if reason := why_too_little(material):
            raise JobRefused(reason)
        count = max(MIN_REPLAY, math.ceil(REPLAY_SHARE * len(material.train.answers)))
        material.train.answers += replay_rows(network, system_prompt, count, self._report_replay)
        material.train.answers += planted_rows(material, system_prompt, network.tokenizer, network.end_of_turn)
        return material

    def _choose_recipe(self, network: LoraNetwork, material: Material) -> Recipe:
        recipe = recipe_for(material, self._wanted)
        if (recipe.rank, recipe.alpha) != (network.rank, network.alpha):
            raise JobRefused("The rank of LoRA weights can't be chosen for a single job.")
        network.begin_anew(recipe.seed)
        if (count := int(self._wanted.get("search") or 0)) <= 1:
            return recipe
        trials = run_trials(
            network,
            material,
            recipe,
            count,
            self._checkpoints,
            self._context,
            self._state.trials,
            lambda losses: self._remember(trials=losses),
        )
        return min(trials, key=lambda trial: math.inf if trial[1] is None else trial[1])[0]

    def _run_stages(self, network: LoraNetwork, material: Material, recipe: Recipe) -> dict[str, StageResult]:
        """Learn answers first, then preferences; the reference of each stage is the result of the stage before."""
        train, watched = material.train, material.watched
        stages: dict[str, StageResult] = {}

        def run(name: str, objective: Objective, settings: StageSettings) -> None:
            stages[name] = run_stage(name, network, objective, settings, self._checkpoints, self._context)

        run("answers", Answers(network, train.answers, watched.answers), answer_stage(recipe, len(train.answers)))
        if material.has_pairs:
            run("pairs", Pairs(network, train.pairs, watched.pairs), preference_stage(recipe, len(train.pairs)))
        if material.has_thumbs:
            run("thumbs", Thumbs(network, train.thumbs, watched.thumbs), preference_stage(recipe, len(train.thumbs)))
        return stages

    def judge(self, which: str) -> Mapping[str, Any]:
        """Compare a registered version with champion and base, store the gate's verdict, and write the model card."""
        settings = replace(self._settings, threads=self._threads)
        plan = self._context.run(plan_judging(self._scope, settings, self._actor, JudgingRequest(which)))
        if plan.subject is None:
            raise JobRefused(f'The version "{which}" is not registered, so nothing is known to be held out for it.')
        version = plan.subject.version
        dataset = self._context.run(find_dataset(self._scope, version.dataset_id))
        # In this thread, because the threads that it starts inherit its low priority.
        report = asyncio.run(carry_out(settings, plan, self._report_evaluation, self._make_scorer))
        judged = self._context.run(keep_verdict(self._scope, self._actor, plan, report))
        write_card(self._settings.data, version, dataset, judged)
        return {
            "version": version.name,
            "dataset": dataset.id,
            "passed": judged.verdict.passed,
            "reasons": list(judged.verdict.reasons),
            "not_learnt_from": version.settings.get("not_learnt_from", []),
            "evaluation": judged.evaluation_id,
        }

    def _make_scorer(self, base: Path, context_tokens: int) -> NetworkLossScorer:
        return NetworkLossScorer(base, context_tokens, self._settings.device)

    def _report_evaluation(self, what: str, done: int, of: int) -> None:
        self._context.progress(phase=f"evaluation: {what}", step=done, steps=of, **NO_LOSSES)
        self._context.check()

    def _report_replay(self, done: int, of: int) -> None:
        self._context.progress(phase="everyday answers of the base", step=done, steps=of)
        self._context.check()

    def _report_dataset(self, done: int, total: int) -> None:
        self._context.progress(phase="dataset", step=done, steps=total)
        self._context.check()

    def _remember(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self._state, name, value)
        draft = self._state_path.with_suffix(".part")
        draft.write_text(json.dumps(asdict(self._state)), encoding="utf-8")
        draft.replace(self._state_path)


def _read_state(path: Path) -> _State:
    try:
        return _State(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return _State()


def sha256_of_weights(folder: Path) -> str:
    """Return the SHA-256 over a folder's safetensors files, concatenated in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
