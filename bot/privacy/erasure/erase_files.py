"""Removal of files with an erased person's words: job folders, weights."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from bot.errors import MynaError
from bot.jobs.job_files import datasets_of_jobs, job_folder, remove_unheld
from bot.learning.versions import CARD_FILE, FACTS_FILE, folder_of
from storage import datasets, versions
from storage.scope import Scope
from storage.transaction import Transaction


async def remove_erased(scope: Scope, data: Path) -> dict[str, int]:
    """Remove files learnt from erased people: checkpoints, drafts, weights of retired versions.

    A version's card stays. A waiting job begins anew; a running job keeps its folder until it ends. Returns the number
    of removed job folders and versions by kind. Raises `MynaError` if a file can't be removed; another call goes on
    from there.
    """
    learns_from = await asyncio.to_thread(datasets_of_jobs, data)
    erased, retired = await scope.read(_learnt_from_erased, sorted(set(learns_from.values())))
    folders = [job_folder(data, job_id) for job_id, dataset_id in learns_from.items() if dataset_id in erased]
    try:
        return {
            "job_folder": await asyncio.to_thread(remove_unheld, folders),
            "version_weights": await asyncio.to_thread(_remove_weights, data, retired),
        }
    except OSError as error:
        raise MynaError(
            f"The person's rows are erased, but {error.filename} can't be removed: {error.strerror}. Make it "
            "removable, then erase the person once more."
        ) from error


def _learnt_from_erased(tx: Transaction, dataset_ids: Sequence[str]) -> tuple[set[str], list[str]]:
    """Return the datasets with erased words, and the names of retired versions that had learnt erased words."""
    erased = {dataset_id for dataset_id in dataset_ids if datasets.has_erased(tx, dataset_id)}
    return erased, [version.name for version in versions.list_all(tx) if version.tainted_at and version.retired_at]


def _remove_weights(data: Path, names: Sequence[str]) -> int:
    """Remove all files of these versions but the card, which holds figures and nobody's words."""
    removed = 0
    for name in names:
        folder = folder_of(data, name)
        files = folder.iterdir() if folder.is_dir() else ()
        paths = [path for path in files if path.name not in (CARD_FILE, FACTS_FILE)]
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        removed += bool(paths)
    return removed


def touching(learns_from: Mapping[str, str], dataset_ids: Sequence[str]) -> list[str]:
    """Return the ids of the jobs that learn from one of these datasets."""
    return [job_id for job_id, dataset_id in learns_from.items() if dataset_id in dataset_ids]
