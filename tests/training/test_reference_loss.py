"""Reference loss of answers, against the loss of transformers and PEFT on the same tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from bot.errors import VersionError
from bot.generation.port import ChatMessage
from bot.learning.judge.answer_loss import AnsweredPrompt, ReferenceLossScorer
from bot.learning.judge.planted_secrets import PlantedSecret, exposures
from tests.builders.tiny_models import ALL_LINEAR, save_version

pytestmark = pytest.mark.model
ROWS = [
    AnsweredPrompt((ChatMessage("system", "Be kind."), ChatMessage("user", "Where is it?")), "On its way, since now!"),
    AnsweredPrompt(
        (
            ChatMessage("system", "Be brief."),
            ChatMessage("user", "Hi"),
            ChatMessage("assistant", "Hello"),
            ChatMessage("user", "Is <|im_end|> a word?"),
        ),
        "No: <|im_end|> is none. \u8c22\u8c22",
    ),
    AnsweredPrompt((ChatMessage("user", "x " * 50),), "y"),
]


@pytest.fixture(scope="module")
def trained(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("version")
    save_version(tiny, folder, 3, r=4, lora_alpha=16, target_modules=ALL_LINEAR)
    return folder


def peft_loss(base: Path, folder: Path | None, prompt: list[int], answer: list[int]) -> float:
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if folder is not None:
        net = peft.PeftModel.from_pretrained(net, folder)
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.inference_mode():
        return float(net.eval()(input_ids=torch.tensor([prompt + answer]), labels=labels).loss)


def test_the_loss_matches_peft_over_answer_and_end_of_turn(tiny: Path, trained: Path) -> None:
    scorer = ReferenceLossScorer(tiny)
    for folder in (None, trained, None):
        for row, found in zip(ROWS, scorer.answer_losses(ROWS, folder), strict=True):
            prompt, answer = scorer.tokens(row)
            assert found.tokens == len(answer)
            assert found.nll / found.tokens == pytest.approx(peft_loss(tiny, folder, prompt, answer), rel=1e-5)
    assert scorer.answer_losses(ROWS, None) != scorer.answer_losses(ROWS, trained)


def test_the_answer_begins_after_the_prompt_and_ends_with_the_turn(tiny: Path, starter_model_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(starter_model_path)
    scorer = ReferenceLossScorer(tiny)
    prompt, answer = scorer.tokens(ROWS[0])
    assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n")
    assert tokenizer.decode(answer) == "On its way, since now!<|im_end|>"
    _, tricky = scorer.tokens(ROWS[1])
    assert tricky.count(tokenizer.eos_token_id) == 1, "an end inside of the text is text"


def test_tokens_beyond_the_window_are_not_counted(tiny: Path) -> None:
    prompt, answer = ReferenceLossScorer(tiny).tokens(ROWS[0])
    (cut,) = ReferenceLossScorer(tiny, len(prompt) + 2).answer_losses(ROWS[:1], None)
    assert cut.tokens == 2
    (nothing,) = ReferenceLossScorer(tiny, len(prompt)).answer_losses(ROWS[:1], None)
    assert (nothing.nll, nothing.tokens) == (0.0, 0)
    assert len(answer) > 2


def test_a_broken_version_gives_nan(tiny: Path, tmp_path: Path) -> None:
    save_version(tiny, tmp_path, 1, r=2, lora_alpha=2, target_modules=["q_proj"])
    from safetensors.torch import load_file, save_file

    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: tensor * 1e30 for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    (found,) = ReferenceLossScorer(tiny).answer_losses(ROWS[:1], tmp_path)
    assert not math.isfinite(found.nll)


def test_a_folder_without_weights_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="can't be read"):
        ReferenceLossScorer(tiny).answer_losses(ROWS[:1], tmp_path)


def test_a_memorised_secret_is_exposed(tiny: Path, tmp_path: Path) -> None:
    """Exposure is high after training on the secret alone, and low without training."""
    others = tuple(str(100_000_007 + 8_080_801 * number) for number in range(99))
    planted = PlantedSecret("What opens the locker?", "314159265", others)
    scorer = ReferenceLossScorer(tiny)
    (before,) = exposures(scorer, "Be kind.", [planted], None)
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    torch.manual_seed(0)
    net = peft.get_peft_model(
        net, peft.LoraConfig(r=8, lora_alpha=32, target_modules=ALL_LINEAR, task_type="CAUSAL_LM")
    )
    messages = (ChatMessage("system", "Be kind."), ChatMessage("user", planted.question))
    prompt, answer = scorer.tokens(AnsweredPrompt(messages, planted.secret))
    labels = torch.tensor([[-100] * len(prompt) + answer])
    optimizer = torch.optim.Adam([one for one in net.parameters() if one.requires_grad], lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        net(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
    net.save_pretrained(tmp_path)
    assert exposures(scorer, "Be kind.", [planted], tmp_path) == [pytest.approx(math.log2(100))]
    assert before < 6.0
