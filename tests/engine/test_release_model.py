"""Promotion and rollback with the real engine, under load.

Two versions of the starter model with random weights are written by PEFT.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import peft
import pytest
import torch
import transformers

from adapters.cli.wiring import Agent, running_agent
from bot.access.roles import Actor
from bot.generation.engine.local import LocalGenerator
from bot.generation.models.sources import STARTER
from bot.settings import Settings
from storage import versions
from storage.learning_values import Version
from storage.transaction import Transaction
from tests.builders.versions import add_evaluation, add_job_and_dataset, ask, new_version, replies

pytestmark = pytest.mark.model
ADMIN = Actor("shell:root", "admin")


def save_versions(base: Path, data: Path, seeds: list[int]) -> list[Path]:
    """Have PEFT write a version with random weights for each seed; return the folders."""
    net = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    trained = peft.get_peft_model(net, config)
    folders = []
    for seed in seeds:
        torch.manual_seed(seed)
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        folders.append(data / f"draft-{seed}")
        trained.save_pretrained(folders[-1])
    return folders


async def register(agent: Agent, draft: Path, beside: Version | None = None) -> Version:
    """Move a folder into place, then write its row, as the trainer does, with a verdict beside a champion."""
    weights = await asyncio.to_thread((draft / "adapter_model.safetensors").read_bytes)
    digest = hashlib.sha256(weights).hexdigest()
    name = await agent.database.read(versions.next_name, agent.workspace_id, digest)
    folder = agent.settings.data / "versions" / name
    await asyncio.to_thread(folder.parent.mkdir, exist_ok=True)
    await asyncio.to_thread(draft.rename, folder)

    def write(tx: Transaction) -> Version:
        made = versions.register(tx, new_version(*add_job_and_dataset(tx), weights=digest), name)
        add_evaluation(tx, made.id, beside=beside.id if beside else None)
        return made

    return await agent.database.write(write, agent.workspace_id)


async def test_no_reply_is_lost_while_versions_change_under_load(
    starter_model_path: Path, database_url: str, tmp_path: Path
) -> None:
    drafts = await asyncio.to_thread(save_versions, starter_model_path, tmp_path, [1, 2])
    settings = Settings(data=tmp_path, database_url=database_url, max_reply_tokens=6, temperature=0)
    generator = LocalGenerator(starter_model_path, name=STARTER, context_tokens=512)
    await generator.start()
    async with running_agent(settings, generator) as agent:
        first = await register(agent, drafts[0])
        second = await register(agent, drafts[1], beside=first)

        async def chat(name: str) -> str:
            for number in range(3):
                conversation_id = await ask(agent, name, number, seconds=120)
            return conversation_id

        talking = [asyncio.create_task(chat(f"chat-{number}")) for number in range(4)]
        await agent.releases.promote(ADMIN, first.name)
        for _ in range(3):
            await agent.releases.promote(ADMIN, second.name)
            await agent.releases.rollback(ADMIN, "back")
        conversations = [await replies(agent, conversation_id) for conversation_id in await asyncio.gather(*talking)]
        assert [[state for _, state in turns] for turns in conversations] == [["answered"] * 3] * 4
        assert (await replies(agent, await ask(agent, "chat-0", 8, seconds=120)))[-1] == (first.name, "answered")
        await agent.releases.promote(ADMIN, "base")
        assert (await replies(agent, await ask(agent, "chat-0", 9, seconds=120)))[-1] == (None, "answered")
