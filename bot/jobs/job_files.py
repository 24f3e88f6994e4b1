"""Folders of jobs in the data folder: where they lie, who holds them, and their removal once a job has ended."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from storage import jobs
from storage.database import Database

# In a job's folder: what a training has behind it, with the dataset that it learns from.
TASK_FILE = "task.json"


def job_folder(data: Path, job_id: str) -> Path:
    """Where a job keeps what it needs to go on."""
    return data / "jobs" / job_id


def lock_file(folder: Path) -> Path:
    """Whoever works in a job's folder, or removes it, holds this."""
    return folder.with_name(f"{folder.name}.lock")


def datasets_of_jobs(data: Path) -> dict[str, str]:
    """The dataset that each job in this data folder learns from, by job id."""
    found = {}
    for folder in _job_folders(data):
        try:
            state = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and isinstance(state.get("dataset_id"), str) and state["dataset_id"]:
            found[folder.name] = state["dataset_id"]
    return found


async def remove_ended_jobs(database: Database, data: Path) -> int:
    """Remove the folders of jobs that never go on, as of those cancelled while they waited; how many there were."""
    folders = await asyncio.to_thread(_job_folders, data)
    if not folders:
        return 0
    ended = await database.read(jobs.ended, None, [folder.name for folder in folders])
    return await asyncio.to_thread(remove_unheld, [folder for folder in folders if folder.name in ended])


def _job_folders(data: Path) -> list[Path]:
    folder = data / "jobs"
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def remove_unheld(folders: Sequence[Path]) -> int:
    """Those in which nobody works now."""
    removed = 0
    for folder in folders:
        lock = lock_file(folder)
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(folder)
        except Timeout:
            continue
        lock.unlink(missing_ok=True)
        removed += 1
    return removed
