"""A trained version's way to where versions lie: files in a folder of its own, moved into place, then a row.

Knows: that a row never names a folder that is not there, and that a number taken meanwhile means another name. Does not
know: how weights are trained, what is done with a version.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from bot.jobs.contract import JobRefused
from bot.learning.versions import folder_of
from storage import audit, datasets, jobs, versions
from storage.database import Database
from storage.jobs import JobLease
from storage.learning_values import Version
from storage.transaction import Transaction
from storage.versions import NameTaken, NewVersion


async def publish(database: Database, lease: JobLease, data: Path, draft: Path, new: NewVersion) -> Version:
    """Move the `draft` folder into place and register it. Raises `LeaseLost` if the job is somebody else's by now,
    and `JobRefused` if somebody whose words it learnt has been erased.

    What stands in the draft stays there until the version is registered, so that this can be done again after a crash.
    """
    while True:
        name = await database.read(versions.next_name, lease.workspace_id, new.weights_sha256)
        folder = folder_of(data, name)
        await asyncio.to_thread(_copy, draft, folder)
        try:
            version = await database.write(_register, lease.workspace_id, lease, new, name)
        except NameTaken:
            await asyncio.to_thread(shutil.rmtree, folder)
            continue
        except BaseException:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))
            raise
        if version.name != name:  # it was registered before a crash, under another number
            await asyncio.to_thread(shutil.rmtree, folder)
            await asyncio.to_thread(_copy, draft, folder_of(data, version.name))
        return version


def _register(tx: Transaction, lease: JobLease, new: NewVersion, name: str) -> Version:
    jobs.hold(tx, lease)
    if datasets.has_erased(tx, new.dataset_id):
        raise JobRefused("Somebody whose words it learnt was erased meanwhile. A new training begins without them.")
    version = versions.register(tx, new, name)
    if version.name == name:  # else it was registered before a crash
        details = {"dataset": new.dataset_id, "job": new.job_id, "weights_sha256": new.weights_sha256}
        audit.record(tx, new.created_by, "version.registered", version.name, details)
    return version


def _copy(draft: Path, folder: Path) -> None:
    """Under another name first: a folder of that name is always whole, and is not written again."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(draft, part)
    for path in part.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    part.replace(folder)
