"""Training throughput and final loss, ours beside TRL's: the same rows, LoRA form and steps.

    python -m benchmarks.training_speed rows.jsonl --rows 48

`rows.jsonl` has chat `messages`. Both learn the last answer of each row, in bf16, on the same threads, once through all
rows, eight a step, at the same learning rate; TRL with its own settings but for those, so that the order of the rows
and the first weights are others. Both are timed as a whole and cold, ours with its looks at what is held out (one row)
and its checkpoint. Tokens are those of the rows, without what is filled up. The held-out loss of both is measured by
our own network, on a quarter of the rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.table import print_rows
from bot.generation.models.sources import resolve_model
from bot.learning.train.material import TokenRow, render, with_system_prompt
from bot.learning.train.network import LoraNetwork
from bot.learning.train.objectives import Answers
from bot.learning.train.trainer import Checkpoints, StageSettings, run_stage
from bot.settings import load_settings

RANK, ALPHA, RATE, ROWS_PER_STEP = 16, 32.0, 1e-3, 8
MOST_TOKENS = 1024


class Nobody:
    """Ignores all progress."""

    def progress(self, **fields: object) -> None: ...

    def point(self, series: str, step: int, value: float) -> None: ...

    def check(self) -> None: ...

    def flush(self) -> None: ...


def read_rows(path: Path, network: LoraNetwork, system_prompt: str, count: int) -> list[TokenRow]:
    """Read the first rows of a file that are short enough."""
    rows: list[TokenRow] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            *messages, answer = json.loads(line)["messages"]
            turns = with_system_prompt(messages, system_prompt)
            row = render(turns, answer["content"], network.tokenizer, network.end_of_turn)
            if len(row) <= MOST_TOKENS:
                rows.append(row)
            if len(rows) == count:
                break
    return rows


def train_ours(network: LoraNetwork, rows: list[TokenRow], folder: Path) -> float:
    """Train with our trainer; return the seconds it took."""
    settings = StageSettings(
        -(-len(rows) // ROWS_PER_STEP), ROWS_PER_STEP, RATE, looks=1, warmup_share=0.1, last_rate_share=0.0
    )
    objective = Answers(network, rows, rows[:1])
    began = time.monotonic()
    run_stage("answers", network, objective, settings, Checkpoints(folder), Nobody())
    return time.monotonic() - began


def train_theirs(base: Path, rows: list[TokenRow], folder: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Train with TRL; return the seconds it took, and the weights under our names."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    labels = []
    for row in rows:
        learnt = set(row.learnt)
        labels.append([one if place in learnt else -100 for place, one in enumerate(row.token_ids)])
    dataset = Dataset.from_dict({"input_ids": [list(row.token_ids) for row in rows], "labels": labels})
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS_PER_STEP,
        num_train_epochs=1,
        learning_rate=RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.0,
        bf16=True,
        use_cpu=True,
        report_to=[],
        gradient_checkpointing=False,
        max_length=MOST_TOKENS,
        packing=False,
        logging_steps=1000,
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        args=config,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0),
    )
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    weights = {
        name.removeprefix("base_model.model.").replace(".default.weight", ""): one.detach().float()
        for name, one in trainer.model.named_parameters()
        if "lora_" in name
    }
    return seconds, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows_file", type=Path)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = load_settings({})
    base = resolve_model(settings.model, settings.data, print)
    network = LoraNetwork(base, rank=RANK, alpha=ALPHA, seed=1)
    rows = read_rows(arguments.rows_file, network, settings.system_prompt, arguments.rows + arguments.rows // 4)
    train, held_out = rows[: arguments.rows], rows[arguments.rows :]
    tokens = sum(map(len, train))
    judge = Answers(network, train, held_out)

    def measured(who: str, seconds: float) -> dict[str, Any]:  # with the weights that the network has now
        return {
            "who": who,
            "rows": len(train),
            "tokens": tokens,
            "seconds": round(seconds, 1),
            "tokens/s": round(tokens / seconds),
            "held-out loss": round(judge.held_out_loss(), 3),
        }

    with tempfile.TemporaryDirectory() as folder:
        ours = measured("ours", train_ours(network, train, Path(folder) / "ours"))
        seconds, weights = train_theirs(base, train, Path(folder) / "theirs")
        network.load(weights)
        theirs = measured("TRL", seconds)
    with network.base_only():
        before = round(judge.held_out_loss(), 3)
    ratio = {"ratio": round(theirs["seconds"] / ours["seconds"], 2), "held-out loss before": before}
    print_rows([{**ours, "ratio": "", "held-out loss before": before}, {**theirs, **ratio}], as_json=arguments.json)


if __name__ == "__main__":
    main()
