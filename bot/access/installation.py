"""An installation's data folder, process lock, database and keys."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from bot.access.vault import Vault, stored_keys
from bot.errors import AlreadyRunning, MynaError, Unavailable
from bot.settings import Settings
from storage import migrate
from storage.database import Database, StorageUnavailable
from storage.engines import ProcessLock, sqlite_file

Say = Callable[[str], None]


@contextlib.contextmanager
def exclusive_use(settings: Settings) -> Iterator[None]:
    """Hold the process lock of an SQLite database; PostgreSQL needs none. Raises `AlreadyRunning`, `MynaError`."""
    database = sqlite_file(settings.resolved_database_url)
    lock = ProcessLock(database) if database is not None else None
    try:
        for folder in [settings.data, *([database.parent] if database is not None else [])]:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        alone = lock is None or lock.acquire()
    except OSError as error:
        raise MynaError(
            f"Myna can't write in {error.filename}: {error.strerror}. "
            "Choose another folder with MYNA_DATA or MYNA_DATABASE_URL."
        ) from error
    if lock is None:
        yield
        return
    if not alone:
        raise AlreadyRunning(
            f"Another Myna (process {lock.holder()}) already uses {database}. Stop it first, give this one a data "
            "folder of its own with MYNA_DATA, or let both share a PostgreSQL database with MYNA_DATABASE_URL."
        )
    try:
        yield
    finally:
        lock.release()


def migrate_database(settings: Settings, say: Say) -> migrate.Migrated:
    """Migrate the database to this Myna's revision, and say so if anything changed."""
    try:
        done = migrate.upgrade(settings.resolved_database_url)
    except migrate.WrongRevision as error:
        raise MynaError(str(error)) from error
    except StorageUnavailable as error:
        raise Unavailable(f"The database can't be used: {error}") from error
    if done.before != done.after:
        say(f"Database migrated from {done.before or 'nothing'} to {done.after}." + _backup_note(done))
    return done


def _backup_note(done: migrate.Migrated) -> str:
    return f" A copy of the old one is at {done.backup}." if done.backup else ""


@contextlib.asynccontextmanager
async def open_database(settings: Settings, *, read_only: bool = False, guest: bool = False) -> AsyncIterator[Database]:
    """Open the database for a command that needs nothing else. Raises `MynaError` for another revision."""
    try:
        database = Database(settings.resolved_database_url, read_only=read_only, guest=guest)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            revision, needed = await database.read(migrate.revisions, None)
            if revision != needed:
                raise MynaError(
                    f"The database is at revision {revision or 'none'}, and this Myna needs {needed}. "
                    "Run `myna migrate` first."
                )
            yield database
    except StorageUnavailable as error:
        raise MynaError(f"The database can't be {'read' if read_only else 'used'}: {error}") from error


def make_vault(settings: Settings) -> Vault:
    """Return the vault for third parties' secrets. Without keys in the settings it reads new stored keys by itself."""
    if settings.encryption_keys:
        return Vault(settings.encryption_keys)
    return Vault(stored_keys(settings.data), lambda: stored_keys(settings.data))


def secret_keys(settings: Settings) -> Sequence[str]:
    """Return the encryption keys, newest first: from the settings, or else made and kept in MYNA_DATA."""
    return settings.encryption_keys or stored_keys(settings.data)
