"""Throughput and latency of the engine, beside the servers that a user might pick instead.

    python -m benchmarks.engine                                        Myna alone
    python -m benchmarks.engine --peer 'vllm=vllm serve MODEL --served-model-name m --port {port}' --rounds 3
    python -m benchmarks.engine --part versions                        four trained versions in one batch, and one

Each round starts every server in turn, holds the conversations of `benchmarks.chat_load` against it, and stops it.
Myna runs as users run it: `myna serve` with keys, quotas, SQL and metrics. The table has medians over the rounds;
the ratios are ours to each peer's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chat_load import run_load
from benchmarks.table import print_rows
from bot.generation.models.sources import resolve_model
from bot.settings import load_settings
from tests.conftest import free_port

OURS = "myna"
MEGABYTE = 2**20
NUM_VERSIONS = 4
RANK = 16


@dataclass
class Server:
    """A running server, with the models to ask."""

    name: str
    url: str
    models: Sequence[str]
    key: str
    process: subprocess.Popen[bytes]
    peak_mb: float = 0.0
    _watching: threading.Event = field(default_factory=threading.Event)

    def watch_memory(self) -> None:
        """Track the peak memory of the process and its children, sampled every two seconds.

        More often would be felt: to list all processes takes some milliseconds of the cores that are measured.
        """
        while not self._watching.wait(2.0):
            self.peak_mb = max(self.peak_mb, _resident_mb(self.process.pid))


def _resident_mb(pid: int) -> float:
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(one.memory_info().rss for one in family) / MEGABYTE
    except psutil.NoSuchProcess:
        return 0.0


@contextmanager
def running(
    name: str, command: Sequence[str], port: int, key: str = "none", least_models: int = 1, **environment: str
) -> Iterator[Server]:
    """Start a server, wait until it knows its models, and end it with all its children."""
    log = tempfile.NamedTemporaryFile(prefix=f"{name}-", suffix=".log", delete=False)  # noqa: SIM115
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        models = _wait_for_models(process, url, key, least_models, log.name)
        server = Server(name, url, models, key, process)
        watcher = threading.Thread(target=server.watch_memory, daemon=True)
        watcher.start()
        yield server
        server._watching.set()
        watcher.join()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_models(process: subprocess.Popen[bytes], url: str, key: str, least: int, log: str) -> list[str]:
    ready = url.removesuffix("/v1") + ("/readyz" if key.startswith("myna") else "/health")
    for _ in range(1200):
        if process.poll() is not None:
            raise SystemExit(f"The server ended; see {log}.")
        try:
            urllib.request.urlopen(ready, timeout=5).close()
            request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, timeout=5) as response:
                models = [one["id"] for one in json.load(response)["data"]]
            if len(models) >= least:
                return models
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.25)
    raise SystemExit(f"The server at {url} does not answer; see {log}.")


@contextmanager
def running_myna(*, versions: bool = False) -> Iterator[Server]:
    """Run `myna serve` with the model of the settings, on a data folder of its own."""
    settings = load_settings(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        (data / "models").symlink_to(settings.data / "models")
        if versions:
            model = resolve_model(settings.model, settings.data, print)
            for number in range(NUM_VERSIONS):
                write_random_version(model, data / "versions" / f"version-{number}", number)
        port = free_port()
        environment = {"MYNA_DATA": folder, "MYNA_PORT": str(port)}
        limits = ["--requests-per-minute", "1000000", "--tokens-per-day", "1000000000"]
        command = [sys.executable, "-m", "adapters.cli.main", "key", "create", "benchmark", *limits]
        made = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        serve = [sys.executable, "-m", "adapters.cli.main", "serve"]
        least = 1 + NUM_VERSIONS if versions else 1
        with running(OURS, serve, port, made.stdout.strip(), least, **environment) as server:
            yield server


def write_random_version(model: Path, folder: Path, seed: int) -> None:
    """Write LoRA weights for all linear layers, as training would, with small random numbers."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    tensors = {}
    for file in model.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dict
                if "_proj.weight" not in name:
                    continue
                rows, columns = weights.get_slice(name).get_shape()
                layer = "base_model.model." + name.removesuffix(".weight")
                tensors[f"{layer}.lora_A.weight"] = 0.01 * torch.randn(RANK, columns)
                tensors[f"{layer}.lora_B.weight"] = 0.01 * torch.randn(rows, RANK)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}))


@contextmanager
def running_peer(name: str, command: str) -> Iterator[Server]:
    port = free_port()
    with running(name, shlex.split(command.replace("{port}", str(port))), port) as server:
        yield server


def compare(peers: dict[str, str], rounds: int, conversations: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Measure all servers, `rounds` times in turn; print the medians and our ratio to each peer's."""
    found: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for number in range(rounds):
        for name in [OURS, *peers]:
            print(f"round {number + 1}: {name} ...", file=sys.stderr)
            with running_myna() if name == OURS else running_peer(name, peers[name]) as server:
                for count in conversations:
                    result = asyncio.run(run_load(server.url, server.models, server.key, count))
                    found[name, count].append(result | {"peak_mb": round(server.peak_mb)})
                    print(f"    {count:2} conversations: {found[name, count][-1]}", file=sys.stderr)
    medians = {place: _medians(results) for place, results in found.items()}
    for (name, count), row in sorted(medians.items(), key=lambda one: one[0][1]):
        yield {"server": name.ljust(12), "conversations": count, **row}
    for (name, count), row in medians.items():
        if name != OURS:
            ours = medians[OURS, count]
            yield {"server": f"ours / {name}".ljust(12), "conversations": count, **_ratios(ours, row)}


def compare_versions(rounds: int, conversations: int) -> Iterator[dict[str, Any]]:
    """Measure four versions in one batch, one version, and the base model, on one server in turn."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with running_myna(versions=True) as server:
        base, *versions = server.models
        assert len(versions) == NUM_VERSIONS, "the versions did not load"
        for _ in range(rounds):
            for what, models in (("base", [base]), ("one version", versions[:1]), ("four versions", versions)):
                found[what].append(asyncio.run(run_load(server.url, models, server.key, conversations)))
    medians = {what: _medians(results) for what, results in found.items()}
    for what, row in medians.items():
        yield {"server": what.ljust(22), "conversations": conversations, **row}
    for what in ("one version", "base"):
        ratios = _ratios(medians["four versions"], medians[what])
        yield {"server": f"four / {what}".ljust(22), "conversations": conversations, **ratios}


def _medians(results: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in results) for name in results[0]}


def _ratios(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    return {name: round(ours[name] / theirs[name], 2) for name in ours}


def main() -> None:
    parser = argparse.ArgumentParser(description="Myna's engine beside other servers.")
    parser.add_argument("--part", choices=["servers", "versions"], default="servers")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="{port} is filled in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-c", "--conversations", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.part == "versions":
        rows = compare_versions(arguments.rounds, 16)
    else:
        peers = dict(one.split("=", 1) for one in arguments.peer)
        rows = compare(peers, arguments.rounds, arguments.conversations)
    print_rows(rows, as_json=arguments.json)


if __name__ == "__main__":
    main()
