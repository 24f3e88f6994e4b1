"""Gain of one training, end to end: import, `myna train`, and `myna evaluate` on unseen rows.

    python -m benchmarks.learning train.jsonl eval.jsonl --rows 1000

Both files have chat `messages`. So many rows of the first, drawn by chance with a fixed seed, are imported and trained
on, less the tenth that is held out; all of the second judge. Works in a data folder of its own (`--data FOLDER` keeps
it) with the starter model, and prints the losses, ROUGE-L and the general suite before and after, the verdict of the
gate on what was held out, and the minutes from `myna train` to that verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.table import print_rows


def myna(data: Path, *arguments: str) -> tuple[int, Any]:
    """Run a command with `--json`, its progress on our standard error; return its exit code and last value."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MYNA_")}
    done = subprocess.run(
        [sys.executable, "-m", "adapters.cli.main", *arguments, "--json"],
        env=environment | {"MYNA_DATA": str(data), "MYNA_TRAINING_PRIORITY": "normal"},
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else None


def figure(report: dict[str, Any], suite: str, measure: str) -> tuple[float, float]:
    """Return a measure of the base model and of the version."""
    values = report["suites"][suite]["measures"][measure]["values"]
    return values["base"]["mean"], values["candidate"]["mean"]


def measure(data: Path, train: Path, evaluation: Path, rows: int) -> dict[str, Any]:
    data.mkdir(parents=True, exist_ok=True)
    drawn = data / "rows.jsonl"
    drawn.write_text("".join(random.Random(1).sample(train.read_text().splitlines(keepends=True), rows)))
    myna(data, "import", str(drawn))
    began = time.monotonic()
    code, job = myna(data, "train", "--wait")
    if code not in (0, 3) or not job or not job.get("result"):
        raise SystemExit(f"the training ended with {code}: {job}")
    minutes = (time.monotonic() - began) / 60
    version = job["result"]["version"]
    _, judged = myna(data, "evaluate", version, "--file", str(evaluation), "--rows", "471")
    report = judged["report"]
    loss, rouge, general = (
        figure(report, *which) for which in (("held_out", "loss"), ("held_out", "rouge_l"), ("general", "loss"))
    )
    return {
        "rows": rows,
        "minutes": round(minutes, 1),
        "loss before": round(loss[0], 3),
        "loss after": round(loss[1], 3),
        "drop": f"{1 - loss[1] / loss[0]:.1%}",
        "ROUGE-L before": round(rouge[0], 3),
        "after": round(rouge[1], 3),
        "ratio": round(rouge[1] / rouge[0], 2),
        "general rise": f"{general[1] / general[0] - 1:+.1%}",
        "passed": job["result"]["passed"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or Path(folder)
        print_rows([measure(data, arguments.train, arguments.evaluation, arguments.rows)], as_json=arguments.json)


if __name__ == "__main__":
    main()
