"""Training loop of a stage: learning, early stopping, resumption."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bot.errors import ModelError, TrainingFailed
from bot.learning.train import base_abilities
from bot.learning.train.base_abilities import KEPT_GAIN, STRENGTHS, choose_strength, replay_rows
from bot.learning.train.material import AnswerPair, Thumb, TokenRow
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers, Objective, Pairs, Thumbs
from bot.learning.train.trainer import Checkpoints, StageResult, StageSettings, StageState, run_stage
from tests.builders.tiny_models import VOCABULARY, save_tokenizer

pytestmark = [pytest.mark.model, pytest.mark.slow]

SETTINGS = StageSettings(steps=12, examples_per_step=2, learning_rate=2e-2, looks=4, seconds_per_checkpoint=1e9)


def rows(first: int, count: int) -> list[TokenRow]:
    """Make rows that are easily memorised."""
    return [
        TokenRow(tuple(range(start, start + 12)), tuple(range(6, 12)), f"row {start}")
        for start in range(first, first + 20 * count, 20)
    ]


class Looker:
    """Recorder of progress that can stop the work before a given step."""

    def __init__(self, stop_before: int | None = None) -> None:
        self.stop_before = stop_before
        self.last: dict[str, Any] = {}
        self.points: dict[tuple[str, int], float] = {}
        self.num_checks = 0

    def progress(self, **fields: object) -> None:
        self.last = fields

    def point(self, series: str, step: int, value: float) -> None:
        self.points[series, step] = value

    def check(self) -> None:
        if self.stop_before == self.num_checks:
            raise InterruptedError
        self.num_checks += 1

    def flush(self) -> None:
        pass


def new_network(tiny: Path) -> LoraNetwork:
    return LoraNetwork(tiny, rank=4, alpha=8, seed=3, dtype=torch.float32)


def answers(network: LoraNetwork) -> Objective:
    return Answers(network, rows(100, 6), rows(100, 3))


def run(
    tiny: Path, folder: Path, looker: Looker, settings: StageSettings = SETTINGS
) -> tuple[StageResult, dict[str, torch.Tensor]]:
    network = new_network(tiny)
    result = run_stage("answers", network, answers(network), settings, Checkpoints(folder), looker)
    return result, {name: one.detach().clone() for name, one in network.parameters.items()}


def test_a_stage_learns_and_reports_progress(tiny: Path, tmp_path: Path) -> None:
    looker = Looker()
    result, _ = run(tiny, tmp_path, looker)
    assert result.best_held_out_loss < 0.7 * result.first_held_out_loss
    assert looker.last["step"] == looker.last["steps"] == result.steps == 12
    assert looker.last["seconds_left"] == 0
    curve = [value for (series, _), value in sorted(looker.points.items()) if series == "answers.loss"]
    assert len(curve) == 12
    assert curve[-1] < curve[0]
    assert [step for series, step in sorted(looker.points) if series == "answers.held_out_loss"] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize("stop_before", [0, 1, 5, 11])
def test_an_interrupted_stage_ends_with_the_same_weights(tiny: Path, tmp_path: Path, stop_before: int) -> None:
    expected_result, expected = run(tiny, tmp_path / "whole", Looker())
    with pytest.raises(InterruptedError):
        run(tiny, tmp_path / "parts", Looker(stop_before))
    looker = Looker()
    result, found = run(tiny, tmp_path / "parts", looker)
    assert looker.num_checks == 12 - stop_before
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert result.best_held_out_loss == expected_result.best_held_out_loss
    assert result.tokens == expected_result.tokens


class Killer(Looker):
    """Recorder that ends the process in the middle of a step, as running out of memory does."""

    def point(self, series: str, step: int, value: float) -> None:
        super().point(series, step, value)
        if (series, step) == ("answers.loss", 8):
            os.kill(os.getpid(), signal.SIGKILL)


OFTEN = replace(SETTINGS, seconds_per_checkpoint=0)


def test_a_killed_stage_ends_with_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    expected_result, expected = run(tiny, tmp_path / "whole", Looker(), OFTEN)
    killed = multiprocessing.get_context("spawn").Process(target=run, args=(tiny, tmp_path / "parts", Killer(), OFTEN))
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    result, found = run(tiny, tmp_path / "parts", looker := Looker(), OFTEN)
    assert looker.num_checks == 12 - 7, "the step in which it was killed is done again"
    assert all(torch.equal(found[name], one) for name, one in expected.items())
    assert (result.tokens, result.best_held_out_loss) == (expected_result.tokens, expected_result.best_held_out_loss)


def unlike(learnt: list[TokenRow]) -> list[TokenRow]:
    """Return the same prompts with unrelated answers."""
    return [replace(row, token_ids=(*row.token_ids[: row.learnt[0]], *[5] * len(row.learnt))) for row in learnt]


def loss_of(network: LoraNetwork, rows_to_ask: list[TokenRow], strength: float) -> float:
    network.set_strength(strength)
    return Answers(network, rows_to_ask, rows_to_ask).held_out_loss()


def test_the_least_strength_that_keeps_the_gain_is_chosen(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = new_network(tiny)
    run_stage("answers", network, answers(network), SETTINGS, Checkpoints(tmp_path), Looker())
    watched = rows(100, 3)

    def loss(strength: float) -> float:
        network.set_strength(strength)
        return Answers(network, watched, watched).held_out_loss()

    gain = loss(0.0) - loss(1.0)
    chosen = choose_strength(network, watched)
    enough = [one for one in STRENGTHS if loss(0.0) - loss(one) >= KEPT_GAIN * gain]
    assert chosen == min(enough)
    known = unlike(watched)
    most = loss_of(network, known, 0.5) + 1e-6
    monkeypatch.setattr(base_abilities, "MOST_FORGOTTEN", most / loss_of(network, known, 0.0) - 1)
    remembering = [
        strength for strength in STRENGTHS if strength <= chosen and loss_of(network, known, strength) <= most
    ]
    assert choose_strength(network, watched, known) == max(remembering) < chosen, "more would forget too much"
    network.begin_anew(3)
    assert choose_strength(network, watched) == 1.0, "without a gain there is nothing to choose"


def test_replayed_rows_hold_the_answers_of_the_base(tiny: Path, tmp_path: Path) -> None:
    network = new_network(tiny)
    before = replay_rows(network, "Be kind.", 5, lambda _done, _of: None)
    run_stage("answers", network, answers(network), SETTINGS, Checkpoints(tmp_path), Looker())
    assert replay_rows(network, "Be kind.", 5, lambda _done, _of: None) == before
    assert len(before) == 5
    for row in before:
        asked = tuple(row.token_ids[: row.learnt[0]])
        with network.base_only():
            assert network.answers([asked], 64) == [row.token_ids[row.learnt[0] :]]


def test_a_finished_stage_is_not_run_again(tiny: Path, tmp_path: Path) -> None:
    expected_result, expected = run(tiny, tmp_path, Looker())
    looker = Looker()
    result, found = run(tiny, tmp_path, looker)
    assert (result, looker.num_checks, looker.points) == (expected_result, 0, {})
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_a_damaged_checkpoint_is_skipped(tiny: Path, tmp_path: Path) -> None:
    _, expected = run(tiny, tmp_path / "whole", Looker())
    for stop in (3, 4):
        with pytest.raises(InterruptedError):
            run(tiny, tmp_path / "parts", Looker(stop))
    _, newer = sorted((tmp_path / "parts").glob("*.checkpoint"))
    content = bytearray(newer.read_bytes())
    content[len(content) // 2] ^= 1
    newer.write_bytes(content)
    looker = Looker()
    _, found = run(tiny, tmp_path / "parts", looker)
    assert looker.num_checks == 12 - 3
    assert all(torch.equal(found[name], one) for name, one in expected.items())


def test_a_checkpoint_of_other_settings_is_skipped(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        run(tiny, tmp_path, Looker(4))
    other = StageSettings(steps=6, examples_per_step=2, learning_rate=1e-3, looks=4)
    result, _ = run(tiny, tmp_path, looker := Looker(), other)
    assert (result.steps, looker.num_checks) == (6, 6)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, state = Checkpoints(tmp_path), StageState("answers", {})
    checkpoints.save(state, {"a": torch.ones(2)})

    def no_room(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bot.learning.train.trainer.os.fsync", no_room)
    state.step = 5
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(state, {"a": torch.zeros(2)})
    found = checkpoints.newest(StageState("answers", {}))
    assert found is not None
    assert (found[0].step, found[1]["a"].tolist()) == (0, [1.0, 1.0])
    assert [path.suffix for path in tmp_path.iterdir()] == [".checkpoint"]


def test_two_checkpoints_are_kept_until_they_are_deleted(tmp_path: Path) -> None:
    checkpoints, state = Checkpoints(tmp_path), StageState("answers", {})
    for state.step in range(4):
        checkpoints.save(state, {"a": torch.ones(1)})
    assert sorted(path.name[:14] for path in tmp_path.iterdir()) == ["answers-000002", "answers-000003"]
    checkpoints.forget()
    assert not list(tmp_path.iterdir())


def test_a_diverging_loss_ends_with_a_clear_error(tiny: Path, tmp_path: Path) -> None:
    wild = StageSettings(steps=60, examples_per_step=2, learning_rate=1e30, looks=1, warmup_share=0.0)
    with pytest.raises(TrainingFailed, match=r"is not finite at step \d+ of 60 .*lower learning rate"):
        run(tiny, tmp_path, Looker(), wild)


def test_a_worse_held_out_loss_stops_early_with_the_best(tiny: Path, tmp_path: Path) -> None:
    network = new_network(tiny)
    unlike = [TokenRow(tuple(range(5000, 4988, -1)), tuple(range(6, 12)))]
    objective = Answers(network, rows(100, 2), unlike)
    settings = StageSettings(steps=60, examples_per_step=2, learning_rate=2e-2, looks=30, patience=3)
    result = run_stage("answers", network, objective, settings, Checkpoints(tmp_path), Looker())
    assert result.steps < 60
    assert objective.held_out_loss() == pytest.approx(result.best_held_out_loss, rel=1e-5)


def test_a_model_that_rescales_its_scores_is_refused(starter_model_path: Path, tmp_path: Path) -> None:
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.GraniteConfig(vocab_size=VOCABULARY, num_key_value_heads=4, logits_scaling=8.0, **small)
    transformers.GraniteForCausalLM(config).save_pretrained(tmp_path)
    save_tokenizer(starter_model_path, tmp_path)
    with pytest.raises(ModelError, match="granite, because they rescale their scores"):
        new_network(tmp_path)


def test_pairs_make_the_better_answer_likelier(tiny: Path, tmp_path: Path) -> None:
    network = new_network(tiny)
    pairs = [AnswerPair(good, TokenRow((*good.token_ids[:6], *range(900, 906)), good.learnt)) for good in rows(100, 6)]
    objective = Pairs(network, pairs, pairs[:2])
    settings = StageSettings(steps=10, examples_per_step=3, learning_rate=2e-3, looks=2)
    result = run_stage("pairs", network, objective, settings, Checkpoints(tmp_path), Looker())
    assert result.first_held_out_loss == pytest.approx(0.6931, abs=1e-3)
    assert result.best_held_out_loss < 0.4


def test_thumbs_move_answers_up_and_down(tiny: Path, tmp_path: Path) -> None:
    network = new_network(tiny)
    both = [*rows(100, 4), *(TokenRow((*one.token_ids[:6], *range(900, 906)), one.learnt) for one in rows(100, 4))]
    thumbs = [Thumb(row, number < 4, both[number - 1]) for number, row in enumerate(both)]
    objective = Thumbs(network, thumbs, thumbs[2:6])
    settings = StageSettings(steps=10, examples_per_step=4, learning_rate=2e-3, looks=2)
    result = run_stage("thumbs", network, objective, settings, Checkpoints(tmp_path), Looker())
    assert result.first_held_out_loss == pytest.approx(0.5, abs=1e-3)
    assert result.best_held_out_loss < 0.4
