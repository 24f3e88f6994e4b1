"""Migrate a database to the revision of this code, by Alembic.

One process migrates at a time, and an older SQLite file is copied first.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from storage.database import StorageUnavailable
from storage.engines import restrict_file, sqlite_engine
from storage.transaction import Transaction

PG_LOCK_KEY = 0x4D796E61  # "Myna", so that two processes that start together don't both migrate


class WrongRevision(Exception):
    """The database has a revision that this code does not know, as after an upgrade by a newer Myna."""


@dataclass(frozen=True, slots=True)
class Migrated:
    """Outcome of a migration. `before` is None for a new database; `backup` is the copy of an older SQLite file."""

    before: str | None
    after: str
    backup: Path | None


def upgrade(url: str) -> Migrated:
    """Migrate to the newest revision. Raise `WrongRevision` or `StorageUnavailable`, and then change nothing."""
    config = alembic_config()
    head = _head(config)
    with _locked(url) as connection:
        before = _revision(connection)
        _check_known(config, before)
        if before == head:
            return Migrated(before, head, None)
        backup = _back_up_sqlite(connection, before)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return Migrated(before, head, backup)


def revisions(tx: Transaction) -> tuple[str | None, str]:
    """Return `(the database's revision, this code's revision)`. A unit of work, so that it also runs read-only."""
    return _revision(tx.connection), _head(alembic_config())


def alembic_config() -> Config:
    """Return Alembic's settings, with the scripts found wherever the package is installed."""
    import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(next(iter(migrations.__path__))).resolve()))
    return config


def _head(config: Config) -> str:
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None
    return head


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_known(config: Config, revision: str | None) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise WrongRevision(
            f"The database is at revision {revision}, which this version of Myna does not know. "
            "It was probably used with a newer Myna: install that one, or point MYNA_DATABASE_URL elsewhere."
        )


@contextlib.contextmanager
def _locked(url: str) -> Iterator[sa.Connection]:
    try:
        engine = _engine(sa.make_url(url))
    except OSError as error:
        raise StorageUnavailable(f"{error.filename}: {error.strerror}") from error
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(PG_LOCK_KEY)))
            yield connection
    except sa.exc.DBAPIError as error:
        raise StorageUnavailable(str(error.orig)) from error
    finally:
        engine.dispose()


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        restrict_file(Path(url.database or ""))
        return sqlite_engine(url)
    return sa.create_engine(url.set(drivername="postgresql+psycopg"), connect_args={"connect_timeout": 10})


def _back_up_sqlite(connection: sa.Connection, before: str | None) -> Path | None:
    """Copy an older database beside itself, so that a bad upgrade can be undone by hand."""
    if before is None or connection.dialect.name != "sqlite":
        return None
    source = Path(connection.engine.url.database or "")
    target = source.with_name(f"{source.stem}-{before}-{time.strftime('%Y%m%d-%H%M%S')}.db")
    restrict_file(target)
    with contextlib.closing(sqlite3.connect(source)) as reader, contextlib.closing(sqlite3.connect(target)) as writer:
        reader.backup(writer)
    return target
