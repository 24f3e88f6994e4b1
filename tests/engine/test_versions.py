"""LoRA versions: mixed batches against merged weights, loading, damage.

The versions are written by PEFT itself.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bot.errors import InvalidInput, VersionError
from bot.generation.engine.batch import Batch
from bot.generation.engine.drafts import PromptLookup
from bot.generation.engine.local import LocalGenerator
from bot.generation.engine.lora import LoraVersion
from bot.generation.engine.runner import Runner
from bot.generation.models.sources import STARTER
from bot.generation.port import ChatMessage, Piece, Sampling
from tests.builders.engine_requests import Wanted, add, count_computed, finish, prompts, scripted_drafts
from tests.builders.tiny_models import KINDS, save_version

pytestmark = pytest.mark.model


@dataclass
class World:
    """A base model and versions of it, each with its merged model."""

    folder: Path
    base: Path
    runner: Runner
    versions: dict[str | None, LoraVersion | None]
    merged: dict[str | None, Any]

    def generate(self, name: str | None, wanted: Wanted) -> list[int]:
        inputs = torch.tensor([wanted.prompt_ids])
        output = self.merged[name].generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=wanted.max_tokens,
            do_sample=False,
            pad_token_id=2,
        )
        new_ids: list[int] = output[0, len(wanted.prompt_ids) :].tolist()
        return new_ids


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3"])
def world(
    request: pytest.FixtureRequest, tiny_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    folder = tmp_path_factory.mktemp("versions")
    base = tiny_of(request.param)
    runner = Runner(base, "cpu", None, context_tokens=512, exact=True)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    world = World(folder, base, runner, {None: None}, {None: plain})
    for seed, (name, config) in enumerate(KINDS.items()):
        world.merged[name] = save_version(base, folder / name, seed, **config)
        world.versions[name] = runner.read_version(name, folder / name, None)
    return world


def test_each_version_matches_its_merged_model(world: World) -> None:
    for name in world.versions:
        request = Wanted(prompts(20)[0], 12, version=world.versions[name])
        assert finish(Batch(world.runner), request) == [world.generate(name, request)]
    replies = {tuple(world.generate(name, Wanted(prompts(20)[0], 12))) for name in world.versions}
    assert len(replies) == len(world.versions), "the versions must differ, or this proves nothing"


def test_a_mixed_batch_keeps_versions_apart(world: World) -> None:
    batch = Batch(world.runner)
    names = [None, *KINDS, "all", None]
    same_prompt = prompts(40, seed=3)[0]
    wanted = [Wanted(same_prompt, 6 + 2 * index, version=world.versions[name]) for index, name in enumerate(names)]
    for request in wanted:
        add(batch, request)
        batch.step()
    finish(batch)
    assert [request.new_ids for request in wanted] == [
        world.generate(name, request) for name, request in zip(names, wanted, strict=True)
    ]


def test_drafts_are_verified_by_their_own_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if not world.runner.decoder.spare_tokens:
        pytest.skip("has no drafts")
    monkeypatch.setattr(world.runner.decoder, "spare_tokens", 99)
    names = [None, *KINDS]
    wanted = [
        Wanted(prompt, 20, version=world.versions[name])
        for name, prompt in zip(names, prompts(*[12] * len(names), seed=5), strict=True)
    ]
    replies = [world.generate(name, request) for name, request in zip(names, wanted, strict=True)]
    monkeypatch.setattr(PromptLookup, "propose", scripted_drafts(wanted, replies))
    batch = Batch(world.runner)
    counted = count_computed(batch)
    assert finish(batch, *wanted) == replies
    assert counted["steps"] < 20, "some drafts were right"


def test_prefixes_are_shared_within_a_version_only(world: World) -> None:
    batch = Batch(world.runner)
    for name in [None, *KINDS] * 2:
        request = Wanted(prompts(40, seed=4)[0], 5, version=world.versions[name])
        assert finish(batch, request) == [world.generate(name, request)]
        if world.runner.decoder.can_cut:
            assert {prefix.version for prefix in batch._prefixes._prefixes} <= set(world.versions.values())
    if world.runner.decoder.can_cut:
        assert len(batch._prefixes) == len(world.versions)
        version = world.versions["all"]
        assert version is not None
        batch.forget(version)
        assert len(batch._prefixes) == len(world.versions) - 1


# --- files that are refused ---


def copy_of(world: World, folder: Path) -> Path:
    return Path(shutil.copytree(world.folder / "all", folder / "copy"))


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return rewrite


def first_key(tensors: dict[str, torch.Tensor], part: str = "lora_A") -> str:
    return next(key for key in tensors if part in key)


LAYER_99 = "base_model.model.model.layers.99.mlp.up_proj.lora_A.weight"
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "can't be read"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "can't be read"),
    "a pickle": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "can't be read",
    ),
    "cut off": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:-100]
        ),
        "damaged",
    ),
    "empty": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), "damaged"),
    "a config that is no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "not JSON"),
    "another method": (change_config(peft_type="IA3"), "LoRA"),
    "no alpha": (change_config(lora_alpha=None), "lora_alpha"),
    "DoRA": (change_config(use_dora=True), "use_dora"),
    "trained biases": (change_config(bias="all"), "bias"),
    "whole modules": (change_config(modules_to_save=["lm_head"]), "modules_to_save"),
    "half a pair": (change_weights(lambda tensors: tensors.pop(first_key(tensors))), "half"),
    "not a number": (
        change_weights(lambda tensors: tensors[first_key(tensors)].fill_(float("nan"))),
        "not all numbers",
    ),
    "another shape": (
        change_weights(lambda tensors: tensors.update({first_key(tensors): torch.ones(4, 7)})),
        "another base",
    ),
    "another layer": (change_weights(lambda tensors: tensors.update({LAYER_99: torch.ones(4, 64)})), "half"),
    "a foreign tensor": (change_weights(lambda tensors: tensors.update({"x": torch.ones(1)})), "no LoRA weight"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("world", ["llama"], indirect=True)
def test_a_damaged_or_foreign_version_is_refused(world: World, tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    folder = copy_of(world, tmp_path)
    damage(folder)
    with pytest.raises(VersionError, match=reason):
        world.runner.read_version("v", folder, None)


@pytest.mark.parametrize("world", ["llama"], indirect=True)
def test_a_version_of_another_base_or_file_is_refused(
    world: World, tmp_path: Path, tiny_of: Callable[[str], Path]
) -> None:
    other = tiny_of("mistral")
    runner = Runner(other, "cpu", None, context_tokens=64, exact=True)
    small = {"r": 2, "lora_alpha": 2, "target_modules": ["c_attn"]}
    assert runner.read_version("v", world.folder / "all", None).name == "v", "the same shapes can't be told apart"
    gpt2 = tiny_of("gpt2")
    save_version(gpt2, tmp_path / "gpt2-version", **small)
    with pytest.raises(VersionError, match=r"fan_in_fan_out|another base"):
        world.runner.read_version("v", tmp_path / "gpt2-version", None)
    with pytest.raises(VersionError, match="SHA-256"):
        world.runner.read_version("v", world.folder / "all", "0" * 64)


# --- versions change during replies ---


@pytest.fixture(scope="module")
def starter_versions(starter_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("starter-versions")
    for seed, name in enumerate(("v1", "v2")):
        save_version(starter_model_path, folder / name, seed, r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    return {name: folder / name for name in ("v1", "v2")}


async def reply(generator: LocalGenerator, version: str | None, max_tokens: int = 24) -> str:
    prompt = await generator.encode([ChatMessage("user", "Tell me about the sea.")])
    sampling = Sampling(max_tokens=max_tokens, temperature=1.0, seed=7)
    events = [event async for event in generator.stream(prompt, sampling, version)]
    return "".join(event.text for event in events if isinstance(event, Piece))


async def test_loading_and_unloading_does_not_disturb_replies(
    local_generator: LocalGenerator, starter_versions: dict[str, Path]
) -> None:
    for name, folder in starter_versions.items():
        await local_generator.load_version(name, folder)
    assert set(local_generator.versions) == {"v1", "v2"}
    expected = {name: await reply(local_generator, name) for name in (None, "v1", "v2")}
    assert len(set(expected.values())) == 3
    replies = [asyncio.create_task(reply(local_generator, name)) for name in (None, "v1", "v2", None, "v1")]
    for _ in range(3):
        await asyncio.sleep(0.1)
        await local_generator.load_version("v3", starter_versions["v1"])
        await local_generator.unload_version("v3")
    assert await asyncio.gather(*replies) == [expected[name] for name in (None, "v1", "v2", None, "v1")]
    for name in starter_versions:
        await local_generator.unload_version(name)
        await local_generator.unload_version(name)
    assert local_generator.versions == ()


async def test_a_reply_keeps_its_version_after_unloading(
    local_generator: LocalGenerator, starter_versions: dict[str, Path]
) -> None:
    await local_generator.load_version("v1", starter_versions["v1"])
    expected = await reply(local_generator, "v1")
    prompt = await local_generator.encode([ChatMessage("user", "Tell me about the sea.")])
    sampling = Sampling(max_tokens=24, temperature=1.0, seed=7)
    async with aclosing(local_generator.stream(prompt, sampling, "v1")) as stream:
        first = await anext(stream)
        assert isinstance(first, Piece)
        await local_generator.unload_version("v1")
        with pytest.raises(InvalidInput, match="no version"):
            await reply(local_generator, "v1")
        await local_generator.load_version("v1", starter_versions["v2"])  # the name is free again
        rest = "".join([event.text async for event in stream if isinstance(event, Piece)])
    assert first.text + rest == expected
    assert await reply(local_generator, "v1") != expected
    await local_generator.unload_version("v1")


async def test_a_loaded_name_stands_for_one_file(
    local_generator: LocalGenerator, starter_versions: dict[str, Path], tmp_path: Path
) -> None:
    await local_generator.load_version("v1", starter_versions["v1"])
    before = await reply(local_generator, "v1", 6)
    await local_generator.load_version("v1", starter_versions["v1"])
    with pytest.raises(VersionError, match="another name"):
        await local_generator.load_version("v1", starter_versions["v2"])
    with pytest.raises(VersionError):
        await local_generator.load_version("v9", tmp_path)
    assert local_generator.versions == ("v1",)
    assert await reply(local_generator, "v1", 6) == before
    await local_generator.unload_version("v1")
    assert local_generator.model == STARTER
