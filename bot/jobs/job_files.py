"""Job folders in the data folder: paths, locks and removal after the end."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from storage import jobs
from storage.database import Database

# The state of a training in its job folder, with the id of its dataset.
TASK_FILE = "task.json"


def job_folder(data: Path, job_id: str) -> Path:
    """Return the folder of a job's checkpoints and drafts."""
    return data / "jobs" / job_id


def lock_file(folder: Path) -> Path:
    """Return the lock file of a job folder. A run, or a removal of the folder, holds it."""
    return folder.with_name(f"{folder.name}.lock")


def datasets_of_jobs(data: Path) -> dict[str, str]:
    """Return the dataset id of each training in this data folder, by job id."""
    datasets = {}
    for folder in _job_folders(data):
        try:
            state = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(state, dict) and isinstance(state.get("dataset_id"), str) and state["dataset_id"]:
            datasets[folder.name] = state["dataset_id"]
    return datasets


async def remove_ended_jobs(database: Database, data: Path) -> int:
    """Remove the folders of ended jobs, such as jobs cancelled while they waited; return the number removed."""
    folders = await asyncio.to_thread(_job_folders, data)
    if not folders:
        return 0
    ended = await database.read(jobs.ended, None, [folder.name for folder in folders])
    return await asyncio.to_thread(remove_unheld, [folder for folder in folders if folder.name in ended])


def _job_folders(data: Path) -> list[Path]:
    folder = data / "jobs"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def remove_unheld(folders: Sequence[Path]) -> int:
    """Remove the folders that no run holds at this moment; return the number removed."""
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
