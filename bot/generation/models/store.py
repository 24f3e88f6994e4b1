"""Models on disk: list, install atomically, verify by manifest."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bot.errors import ModelError

Progress = Callable[[str], None]

MANIFEST = "myna-model.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a model, as recorded in its manifest."""

    name: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in the data folder, for the list of models."""

    name: str
    path: Path
    size_bytes: int
    source: str


def ignore_progress(_line: str) -> None:
    """Drop a progress line, for callers that show none."""


def models_folder(data_dir: Path) -> Path:
    return data_dir / "models"


def list_models(data_dir: Path) -> list[InstalledModel]:
    """Return the complete models in the data folder, by name. Hidden folders are unfinished downloads."""
    folders = sorted(path for path in models_folder(data_dir).glob("[!.]*") if (path / "config.json").is_file())
    return [_describe(folder) for folder in folders]


def install(
    target: Path,
    fill: Callable[[Path], Origin],
    progress: Progress = ignore_progress,
    *,
    resume_key: str | None = None,
    is_embedder: bool = False,
) -> Path:
    """Have `fill` write a model into a hidden folder beside `target`, check it, then rename the folder to `target`.

    With a `resume_key`, the hidden folder of a broken download stays, and the next try with the same key resumes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(target, progress):
        if target.is_dir():
            return target
        staging = target.parent / f".{target.name}.{resume_key or secrets.token_hex(6)}.partial"
        _remove_leftovers(target, staging)
        staging.mkdir(exist_ok=True)
        try:
            write_manifest(staging, fill(staging))
            (check_embedder if is_embedder else check_model)(staging)
            staging.rename(target)
        except BaseException as error:
            if resume_key is None or isinstance(error, ModelError):  # complete, but of an unusable model
                shutil.rmtree(staging, ignore_errors=True)
            raise
    return target


def write_manifest(folder: Path, origin: Origin) -> None:
    """Record the size and SHA-256 of a model's files, so that damage is found before a load."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST):
        path.chmod(0o644)  # safetensors writes 0600, and the server may run as another user than the download
        files[path.name] = {"sha256": _sha256(path), "size": path.stat().st_size}
    manifest = {"name": origin.name, "source": origin.source, "licence": origin.licence, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check_model(path: Path) -> None:
    """Raise `ModelError` with the remedy, unless the folder holds a complete model that needs no code of its own."""
    _check_network(path)
    _check_chat_template(path)
    _check_manifest(path)


def check_embedder(path: Path) -> None:
    """Check an embedder as `check_model` does; it needs no chat template."""
    _check_network(path)
    _check_manifest(path)


def _check_network(path: Path) -> None:
    if not path.is_dir():
        raise ModelError(f"The model folder {path} does not exist. Check the path, or fetch the model again.")
    config = _read_json(path / "config.json")
    if config is None:
        raise ModelError(f"{path} holds no config.json, so it is not a model. Point to the folder that has one.")
    _check_code(path, config)
    _check_weights(path)
    _check_tokenizer(path)


def quiet_transformers() -> None:
    """Silence transformers' progress bars and hints in the whole process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextlib.contextmanager
def _exclusive(target: Path, progress: Progress) -> Iterator[None]:
    """Hold a model's file lock, which excludes other processes; the system releases it when a process dies."""
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


def _remove_leftovers(target: Path, keep: Path) -> None:
    """Delete unfinished downloads of this model. The caller holds its lock."""
    for folder in target.parent.glob(f".{target.name}.*.partial"):
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)


def _describe(folder: Path) -> InstalledModel:
    manifest = _read_json(folder / MANIFEST) or {}
    return InstalledModel(
        name=str(manifest.get("name", folder.name)),
        path=folder,
        size_bytes=folder_size(folder),
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


def _check_chat_template(path: Path) -> None:
    in_config = "chat_template" in (_read_json(path / "tokenizer_config.json") or {})
    if not in_config and not any((path / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        raise ModelError(
            f"{path} has no chat template, so it is not made for conversations. Use the model's instruct variant."
        )


def _check_manifest(path: Path) -> None:
    """Compare every file with the manifest. A folder copied by hand has none, and passes."""
    manifest = _read_json(path / MANIFEST)
    for name, expected in (manifest or {}).get("files", {}).items():
        file = path / name
        if not file.is_file():
            raise ModelError(f"{path} lacks {name}. {_fetch_again(path)}")
        if file.stat().st_size != expected["size"] or _sha256(file) != expected["sha256"]:
            raise ModelError(f"{file} differs from the fetched file: it is damaged or changed. {_fetch_again(path)}")


def _fetch_again(path: Path) -> str:
    return f"Delete the folder {path} and fetch the model again."


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if the file does not exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}). {_fetch_again(path.parent)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged (not an object). {_fetch_again(path.parent)}")
    return content


def folder_size(folder: Path) -> int:
    """Return the bytes below a folder. Files may vanish meanwhile: downloads rename theirs."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
