"""Losses and gradients against TRL's, on the same weights and batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

from bot.learning.train import objectives
from bot.learning.train.material import TokenRow, make_batch
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers, answer_logps
from bot.learning.train.publishing import save_adapter

pytestmark = [pytest.mark.model, pytest.mark.slow]

RANK, ALPHA = 4, 8.0
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Where is order {number}?"}],
        "completion": [{"role": "assistant", "content": "It is on its way" + " to you" * number + "."}],
    }
    for number in range(1, 7)
]
PAIRS = [
    {"prompt": row["prompt"], "chosen": row["completion"], "rejected": [{"role": "assistant", "content": "No idea!"}]}
    for row in ROWS
]
THUMBS = [{**row, "label": number % 3 != 0} for number, row in enumerate(ROWS)]
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 3,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_length": None,
    "seed": 1,
    "dataloader_num_workers": 0,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def base_path(request: pytest.FixtureRequest, tiny_of: Callable[[str], Path]) -> Path:
    return tiny_of(request.param)


@pytest.fixture
def ours(base_path: Path) -> LoraNetwork:
    """Return a network with LoRA weights that have an effect."""
    network = LoraNetwork(base_path, rank=RANK, alpha=ALPHA, seed=3, dtype=torch.float32)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in network.parameters.items():
            if name.endswith("lora_B"):
                parameter.normal_(0, 0.05, generator=generator)
    return network


@pytest.fixture
def theirs(base_path: Path, ours: LoraNetwork, tmp_path: Path) -> PeftModel:
    """Load our weights into PEFT's model, through our files."""
    save_adapter(tmp_path, ours.parameters, rank=RANK, alpha=ALPHA, base=str(base_path))
    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
    return PeftModel.from_pretrained(base, tmp_path, is_trainable=True)


def rows_of(token_ids: torch.Tensor, mask: torch.Tensor, learnt: torch.Tensor) -> list[TokenRow]:
    """Convert TRL's padded batch to rows."""
    rows = []
    for ids, is_there, is_learnt in zip(token_ids, mask.bool(), learnt.bool(), strict=True):
        places = torch.arange(len(ids))[is_there]
        wanted = [number for number, place in enumerate(places.tolist()) if is_learnt[place]]
        rows.append(TokenRow(tuple(ids[is_there].tolist()), tuple(wanted)))
    return rows


def tokenizer_of(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


def test_initial_weights_match_peft(base_path: Path) -> None:
    """The sizes, layers and spread are equal, so that learning rates can be compared."""
    network = LoraNetwork(base_path, rank=RANK, alpha=ALPHA, seed=3, dtype=torch.float32)
    peft = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32),
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
    )
    their_weights = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): one
        for name, one in peft.named_parameters()
        if "lora_" in name
    }
    mine = network.parameters
    assert mine.keys() == their_weights.keys()
    for name, one in mine.items():
        assert one.shape == their_weights[name].shape
        assert one.std().item() == pytest.approx(their_weights[name].std().item(), rel=0.25, abs=1e-9)


def test_answer_loss_and_gradients_match_trl(
    base_path: Path, ours: LoraNetwork, theirs: PeftModel, tmp_path: Path
) -> None:
    trainer = SFTTrainer(
        model=theirs,
        args=SFTConfig(output_dir=str(tmp_path), packing=False, **COMMON),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer_of(base_path),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = rows_of(batch["input_ids"], batch["attention_mask"], batch["labels"] != -100)
    theirs.train()
    expected = trainer.compute_loss(theirs, dict(batch))
    expected.backward()
    loss, tokens = Answers(ours, rows, rows).backward(range(len(rows)))
    assert tokens == int(batch["attention_mask"].sum())
    assert loss == pytest.approx(float(expected), rel=1e-5)
    gradients = {name: one.grad for name, one in theirs.named_parameters() if one.grad is not None}
    for name, parameter in ours.parameters.items():
        found = gradients[f"base_model.model.{name}.default.weight"]
        assert torch.allclose(parameter.grad, found, rtol=1e-3, atol=1e-6), name


def test_pair_loss_matches_trl(base_path: Path, ours: LoraNetwork, theirs: PeftModel, tmp_path: Path) -> None:
    trainer = DPOTrainer(
        model=theirs,
        args=DPOConfig(output_dir=str(tmp_path), beta=0.1, **COMMON),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer_of(base_path),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    rows = rows_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    with torch.no_grad():
        # TRL's reference of a model that came with LoRA weights is those very weights; ours here is the base.
        for name, parameter in theirs.named_parameters():
            if ".ref." in name:
                parameter.zero_()
        expected = float(trainer.compute_loss(theirs.eval(), dict(batch)))
    now = answer_logps(ours, rows).view(2, -1)
    with ours.base_only():
        before = answer_logps(ours, rows).view(2, -1)
    loss = objectives.pair_loss(now[0], now[1], before[0], before[1], beta=0.1).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert abs(float(loss) - 0.6931) > 1e-3, "weights that change nothing would prove nothing"


def test_thumb_loss_matches_trl(base_path: Path, ours: LoraNetwork, theirs: PeftModel, tmp_path: Path) -> None:
    trainer = KTOTrainer(
        model=theirs,
        args=KTOConfig(output_dir=str(tmp_path), beta=0.1, **COMMON),
        train_dataset=Dataset.from_list(THUMBS),
        processing_class=tokenizer_of(base_path),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    own = rows_of(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    elsewhere = rows_of(batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".ref." in name:
                parameter.zero_()
        expected = float(trainer.compute_loss(theirs.eval(), dict(batch)))
    now, now_elsewhere = answer_logps(ours, own), answer_logps(ours, elsewhere)
    with ours.base_only():
        before, before_elsewhere = answer_logps(ours, own), answer_logps(ours, elsewhere)
    apart = objectives.divergence(now_elsewhere, before_elsewhere)
    good = torch.as_tensor(batch["label"]).bool()
    loss = objectives.thumb_loss(now, before, good, apart, beta=0.1)
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-4)


def test_bf16_is_as_exact_as_in_transformers(base_path: Path) -> None:
    row = TokenRow(tuple(range(10, 60)), tuple(range(5, 50)))
    found = {}
    # Asked for by name, as it is not what a network takes where the CPU has no bf16.
    for dtype in (torch.float32, torch.bfloat16):
        network = LoraNetwork(base_path, rank=RANK, alpha=ALPHA, seed=3, dtype=dtype)
        found[dtype] = network.logprobs(make_batch([row])).detach()
    with torch.no_grad():
        net = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.bfloat16)
        scores = net(torch.tensor([row.token_ids])).logits[0].float().log_softmax(-1)
    theirs = torch.stack([scores[place - 1, row.token_ids[place]] for place in row.learnt])
    exact = found[torch.float32]
    lost, they_lose = (found[torch.bfloat16] - exact).abs().mean(), (theirs - exact).abs().mean()
    assert 0 < lost < 1.5 * they_lose


def test_the_base_alone_matches_transformers(base_path: Path, ours: LoraNetwork) -> None:
    token_ids = tuple(range(20, 50))
    with torch.no_grad():
        net = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32)
        expected = net(torch.tensor([token_ids])).logits[0, -1]
    with ours.base_only():
        assert torch.allclose(ours.next_token_scores(token_ids), expected, atol=1e-4)
    assert not torch.allclose(ours.next_token_scores(token_ids), expected, atol=1e-2)
