"""Files that must not outlive what the database says: folders of jobs that ended, and what was learnt of the erased.

Knows: where jobs and versions keep their files, and which of these may be needed again. Does not know: who was erased,
how a job is done, how weights are loaded.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from bot.errors import MynaError
from bot.jobs.job_files import datasets_of_jobs, job_folder, remove_unheld
from bot.learning.versions import CARD_FILE, FACTS_FILE, folder_of
from storage import datasets, versions
from storage.scope import Scope
from storage.transaction import Transaction


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
                job_folder=await asyncio.to_thread(remove_unheld, folders),
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
