"""Files that must not outlive what the database says: folders of jobs that ended, and what was learnt of the erased.

Knows: where jobs and versions keep their files, and which of these may be needed again. Does not know: who was erased,
how a job is done, how weights are loaded.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from bot.errors import MynaError
from bot.learning.versions import CARD_FILE, FACTS_FILE, folder_of
from storage import datasets, jobs, versions
from storage.database import Database
from storage.scope import Scope
from storage.transaction import Transaction

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
    return await asyncio.to_thread(_remove_jobs, [folder for folder in folders if folder.name in ended])


async def remove_erased(scope: Scope, data: Path) -> dict[str, int]:
    """Remove what was learnt from people who have been erased: checkpoints, drafts, weights of retired versions.

    A version's card stays. A job that waits begins anew; one that runs keeps its folder as long as it does. How many
    of each were removed. Raises `MynaError` if a file can't be; doing it again goes on.
    """
    learns_from = await asyncio.to_thread(datasets_of_jobs, data)
    holed, retired = await scope.read(_learnt_of_erased, sorted(set(learns_from.values())))
    folders = [job_folder(data, job_id) for job_id, dataset_id in learns_from.items() if dataset_id in holed]
    try:
        return dict(
            Counter(
                job_folder=await asyncio.to_thread(_remove_jobs, folders),
                version_weights=await asyncio.to_thread(_remove_weights, data, retired),
            )
        )
    except OSError as error:
        raise MynaError(
            f"The person's rows are erased, but {error.filename} can't be removed: {error.strerror}. Mend that, and "
            "erase the person once more."
        ) from error


def _learnt_of_erased(tx: Transaction, dataset_ids: Sequence[str]) -> tuple[set[str], list[str]]:
    """Which of these datasets had words erased, and the names of versions that had learnt some and are retired."""
    holed = {one for one in dataset_ids if datasets.has_erased(tx, one)}
    return holed, [one.name for one in versions.list_all(tx) if one.tainted_at and one.retired_at]


def _job_folders(data: Path) -> list[Path]:
    folder = data / "jobs"
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def _remove_jobs(folders: Sequence[Path]) -> int:
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


def _remove_weights(data: Path, names: Sequence[str]) -> int:
    """All but the card, which holds figures and nobody's words."""
    removed = 0
    for name in names:
        folder = folder_of(data, name)
        gone = [one for one in folder.iterdir() if one.name not in (CARD_FILE, FACTS_FILE)] if folder.is_dir() else []
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        removed += bool(gone)
    return removed


def touching(learns_from: Mapping[str, str], dataset_ids: Sequence[str]) -> list[str]:
    """Ids of the jobs that learn from one of these datasets."""
    return [job_id for job_id, dataset_id in learns_from.items() if dataset_id in dataset_ids]
