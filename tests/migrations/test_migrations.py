"""Migrations: their schema, up and down on data, locks and refusals."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.schema import CreateIndex

from storage import migrate
from storage.database import Database, StorageUnavailable
from storage.engines import sqlite_engine, sqlite_file
from storage.knowledge_schema import FULL_TEXT, Vector, article

metadata = article.metadata
ROOT = Path(__file__).parent.parent.parent
REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions()][::-1]
NOW = 1_764_000_000_000


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    parsed = sa.make_url(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    engine = sqlite_engine(parsed) if is_sqlite else sa.create_engine(parsed.set(drivername="postgresql+psycopg"))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def run_alembic(url: str, step: Callable[..., None], revision: str) -> None:
    config = migrate.alembic_config()
    with connected(url) as connection:
        config.attributes["connection"] = connection
        step(config, revision)


def set_revision(url: str, revision: str) -> None:
    with connected(url) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :it"), {"it": revision})


def value_for(column: sa.Column[Any]) -> Any:
    """Return a value that fits a column and its checks."""
    chosen = {
        "inbox.kind": "message",
        "message.author": "person",
        "reply.state": "answered",
        "outbox.state": "pending",
        "account.role": "agent",
        "review.decision": "correct",
        "dataset_example.kind": "pair",
        "dataset_example.split": "train",
        "job.state": "running",
        "job.wanted": "pause",
        "judgement.better": "same",
        "canary.outcome": "harm",
        "knowledge_source.kind": "upload",
        "knowledge_source.audience": "staff",
        "article.audience": "staff",
        "curated_answer.audience": "staff",
    }.get(str(column))
    if chosen is not None:
        return chosen
    if isinstance(column.type, sa.JSON):
        return [{"type": "text", "text": "ü 你好"}]
    return {
        sa.Text: f"a {column.name}",
        sa.BigInteger: NOW,
        sa.Integer: 7,
        sa.SmallInteger: 1,
        sa.Boolean: True,
        sa.Float: 0.5,
        sa.LargeBinary: b"\0\xff",
        Vector: [0.5, 1.0],
    }[type(column.type)]


def fill_every_table(connection: sa.Connection) -> None:
    """Insert one full row in each table. Its id is the table's name, so that rows refer to each other."""
    connection.execute(metadata.tables["workspace"].delete())
    for table in metadata.sorted_tables:
        row = {column.name: value_for(column) for column in table.columns}
        for column in table.columns:
            if column.primary_key and isinstance(column.type, sa.Text) and not column.foreign_keys:
                row[column.name] = table.name
            for key in column.foreign_keys:
                row[column.name] = key.column.table.name
        connection.execute(table.insert().values(row))


def all_rows(connection: sa.Connection, inspector: sa.Inspector | None = None) -> dict[str, list[dict[str, Any]]]:
    there = (inspector or sa.inspect(connection)).get_table_names()
    return {
        name: [dict(row._mapping) for row in connection.execute(sa.select(sa.literal_column("*")).select_from(table))]
        for name, table in metadata.tables.items()
        if name in there
    }


# --- the schema ---


def test_migrations_build_the_schema_of_the_models(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        options = {
            "compare_type": True,
            "compare_server_default": True,
            "include_name": lambda name, *_: not str(name).startswith(FULL_TEXT),
        }
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_indexes_equal_those_of_the_models(empty_database_url: str) -> None:
    """Columns, their order and the WHERE; Alembic compares neither the WHERE nor the order."""
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        found, wanted = stored_indexes(connection), model_indexes(connection)
    assert found == wanted
    assert sum("WHERE" in sql for sql in wanted.values()) >= 3


def stored_indexes(connection: sa.Connection) -> dict[str, str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    else:
        query = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexname LIKE 'ix_%'"
    return {name: normal_sql(sql) for name, sql in connection.execute(sa.text(query))}


def model_indexes(connection: sa.Connection) -> dict[str, str]:
    """Return the models' indexes in the database's own spelling, made in a scratch schema."""
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    if connection.dialect.name == "sqlite":
        return {str(index.name): normal_sql(str(CreateIndex(index).compile(connection))) for index in indexes}
    connection.execute(sa.text("CREATE SCHEMA scratch"))
    connection.execute(sa.text("SET LOCAL search_path TO scratch, public"))
    metadata.create_all(connection, checkfirst=False)
    rows = connection.execute(
        sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'scratch' AND indexname LIKE 'ix_%'")
    )
    return {name: normal_sql(sql.replace("scratch.", "public.")) for name, sql in rows}


def normal_sql(text: str) -> str:
    return " ".join(text.replace('"', "").split())


def test_checks_and_foreign_keys_equal_those_of_the_models(empty_database_url: str, tmp_path: Path) -> None:
    """Alembic compares no check constraints at all, and no ON DELETE on SQLite."""
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            wanted = {str(check.name) for check in table.constraints if isinstance(check, sa.CheckConstraint)}
            found = {str(check["name"]) for check in inspector.get_check_constraints(table.name)}
            assert found == wanted, table.name
            keys = {
                (key["constrained_columns"][0], key["referred_table"], key["options"].get("ondelete"))
                for key in inspector.get_foreign_keys(table.name)
            }
            assert keys == {(key.parent.name, key.column.table.name, key.ondelete) for key in table.foreign_keys}, (
                table.name
            )


@pytest.mark.parametrize(
    ("table", "column", "bad"),
    [
        ("inbox", "kind", "order"),
        ("message", "author", "nobody"),
        ("reply", "state", "maybe"),
        ("outbox", "state", "lost"),
    ],
)
def test_checks_refuse_unknown_values(empty_database_url: str, table: str, column: str, bad: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
    with pytest.raises(sa.exc.IntegrityError), connected(empty_database_url) as connection:
        connection.execute(sa.text(f"UPDATE {table} SET {column} = '{bad}'"))


def test_server_defaults_equal_those_of_the_models(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        for table in metadata.sorted_tables:
            stored = {column["name"]: column for column in sa.inspect(connection).get_columns(table.name)}
            for column in table.columns:
                if column is table.autoincrement_column:
                    continue  # a sequence in PostgreSQL, and nothing at all in SQLite
                wanted = column.server_default.arg if isinstance(column.server_default, sa.DefaultClause) else None
                found = stored[column.name]["default"]
                assert (found or "").split("::")[0].strip("'") == (wanted or ""), f"{table.name}.{column.name}"
                assert stored[column.name]["nullable"] == column.nullable, f"{table.name}.{column.name}"


def test_a_new_database_has_the_default_workspace(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        assert connection.execute(sa.text("SELECT id FROM workspace")).scalars().all() == ["default"]


# --- up and down ---


def test_every_migration_goes_down_and_up_again_on_data(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
        before = all_rows(connection)
    assert all(len(rows) == 1 for rows in before.values()), "the test must put a row in every table"
    for revision, below in zip(reversed(REVISIONS), [*reversed(REVISIONS[:-1]), "base"], strict=True):
        run_alembic(empty_database_url, command.downgrade, below)
        with connected(empty_database_url) as connection:
            older = set(all_rows(connection))  # the first one drops everything
        run_alembic(empty_database_url, command.upgrade, revision)
        with connected(empty_database_url) as connection:
            assert MigrationContext.configure(connection).get_current_revision() == revision
            kept = all_rows(connection)
        assert {name: len(rows) for name, rows in kept.items() if name in older} == dict.fromkeys(older, 1)
        run_alembic(empty_database_url, command.downgrade, below)


def test_a_downgrade_to_base_drops_every_table(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
    run_alembic(empty_database_url, command.downgrade, "base")
    with connected(empty_database_url) as connection:
        assert set(sa.inspect(connection).get_table_names()) == {"alembic_version"}


def test_migrating_again_changes_nothing(empty_database_url: str) -> None:
    first = migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
        before = all_rows(connection)
    second = migrate.upgrade(empty_database_url)
    assert first == migrate.Migrated(None, REVISIONS[-1], None)
    assert second == migrate.Migrated(REVISIONS[-1], REVISIONS[-1], None)
    with connected(empty_database_url) as connection:
        assert all_rows(connection) == before


async def test_a_read_only_database_tells_its_revision(database_url: str) -> None:
    database = await asyncio.to_thread(Database, database_url, read_only=True)
    assert await database.read(migrate.revisions, None) == (REVISIONS[-1], REVISIONS[-1])
    await database.close()


async def test_a_database_that_was_never_migrated_has_no_revision(empty_database_url: str) -> None:
    if sqlite_path := sqlite_file(empty_database_url):
        await asyncio.to_thread(sqlite_path.touch)
    database = await asyncio.to_thread(Database, empty_database_url, read_only=True)
    assert await database.read(migrate.revisions, None) == (None, REVISIONS[-1])
    await database.close()


def test_a_failed_migration_changes_nothing(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
        before = all_rows(connection)
    add_column = "op.add_column('person', sa.Column('extra', sa.Text()))"
    use_scripts_with_one_more(tmp_path, monkeypatch, f"{add_column}; op.execute(sa.text('DROP TABLE nowhere'))")
    with pytest.raises(StorageUnavailable, match="nowhere"):
        migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        assert "extra" not in {column["name"] for column in sa.inspect(connection).get_columns("person")}
        assert all_rows(connection) == before
        assert MigrationContext.configure(connection).get_current_revision() == REVISIONS[-1]


def use_scripts_with_one_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrade: str) -> None:
    """Act as a newer Myna: today's migrations and one more."""
    scripts = tmp_path / "migrations"
    shutil.copytree(ROOT / "migrations", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "9999_next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '9999'\ndown_revision = '{REVISIONS[-1]}'\n"
        f"def upgrade() -> None:\n    {upgrade}\ndef downgrade() -> None:\n    op.drop_column('person', 'extra')\n",
        encoding="utf-8",
    )
    config = migrate.alembic_config()
    config.set_main_option("script_location", str(scripts))
    monkeypatch.setattr(migrate, "alembic_config", lambda: config)


# --- locks and refusals ---


def test_a_database_of_a_newer_version_is_refused(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        fill_every_table(connection)
        before = all_rows(connection)
    set_revision(empty_database_url, "7777")
    with pytest.raises(
        migrate.WrongRevision, match="at revision 7777, which this version of Myna does not know"
    ) as caught:
        migrate.upgrade(empty_database_url)
    assert "newer Myna" in str(caught.value)
    with connected(empty_database_url) as connection:
        assert all_rows(connection) == before
        assert MigrationContext.configure(connection).get_current_revision() == "7777"


def test_an_older_sqlite_database_is_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'myna.db'}"
    migrate.upgrade(url)
    with connected(url) as connection:
        fill_every_table(connection)
        before = all_rows(connection)
    use_scripts_with_one_more(tmp_path, monkeypatch, "op.add_column('person', sa.Column('extra', sa.Text()))")
    done = migrate.upgrade(url)
    assert (done.before, done.after) == (REVISIONS[-1], "9999")
    assert done.backup is not None and done.backup.parent == tmp_path
    assert done.backup.name.startswith(f"myna-{REVISIONS[-1]}-")
    with connected(f"sqlite:///{done.backup}") as connection:
        assert all_rows(connection) == before
        assert "extra" not in {column["name"] for column in sa.inspect(connection).get_columns("person")}
    with connected(url) as connection:
        assert "extra" in {column["name"] for column in sa.inspect(connection).get_columns("person")}


def test_the_database_and_its_copies_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'data' / 'myna.db'}"
    migrate.upgrade(url)
    use_scripts_with_one_more(tmp_path, monkeypatch, "op.add_column('person', sa.Column('extra', sa.Text()))")
    backup = migrate.upgrade(url).backup
    assert backup is not None
    for path, mode in ((tmp_path / "data", 0o700), (tmp_path / "data" / "myna.db", 0o600), (backup, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_a_new_sqlite_database_needs_no_copy(tmp_path: Path) -> None:
    assert migrate.upgrade(f"sqlite:///{tmp_path / 'myna.db'}").backup is None
    assert [path.suffix for path in tmp_path.iterdir()].count(".db") == 1


def test_a_file_that_is_no_database_is_refused_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "myna.db"
    path.write_text("this is a letter, not a database" * 100)
    with pytest.raises(StorageUnavailable, match="not a database"):
        migrate.upgrade(f"sqlite:///{path}")
    assert path.read_text() == "this is a letter, not a database" * 100


def test_a_locked_database_is_reported_soon(tmp_path: Path) -> None:
    path = tmp_path / "myna.db"
    migrate.upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            migrate.upgrade(f"sqlite:///{path}")
    other.close()


def test_an_unreachable_server_is_reported() -> None:
    with pytest.raises(StorageUnavailable, match="refused"):
        migrate.upgrade("postgresql://nobody@127.0.0.1:1/nothing")


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="Not a directory"):
        migrate.upgrade(f"sqlite:///{tmp_path / 'file' / 'below' / 'myna.db'}")


def _upgrade_elsewhere(url: str, start: Any, results: Any) -> None:
    start.wait()
    try:
        results.put(migrate.upgrade(url))
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.slow
def test_processes_that_start_together_migrate_once(postgres: Any) -> None:
    from tests.conftest import new_postgres_database

    url = new_postgres_database(postgres)
    spawn = multiprocessing.get_context("spawn")
    start, results = spawn.Barrier(3), spawn.Queue()
    processes = [spawn.Process(target=_upgrade_elsewhere, args=(url, start, results)) for _ in range(3)]
    for process in processes:
        process.start()
    done = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(done, key=str) == sorted(
        [migrate.Migrated(None, REVISIONS[-1], None)] + [migrate.Migrated(REVISIONS[-1], REVISIONS[-1], None)] * 2,
        key=str,
    )


# --- the scripts ---


def test_revisions_form_one_line_and_name_their_files() -> None:
    scripts = ScriptDirectory.from_config(migrate.alembic_config())
    assert len(scripts.get_heads()) == 1
    for script in scripts.walk_revisions():
        assert Path(script.path).name.startswith(f"{script.revision}_")


@pytest.mark.slow
def test_the_built_wheel_holds_the_migrations_and_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("adapters", "bot", "migrations", "storage"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    data = "adapters/web/static/"
    wanted = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and (path.suffix == ".py" or path.relative_to(source).as_posix().startswith(data))
    } - {path.relative_to(source).as_posix() for path in source.glob("build/**/*")}
    assert any(name.startswith("migrations/versions/0001") for name in wanted)
    assert any(name.startswith("adapters/web/static/") for name in wanted)
    assert wanted <= packed
    assert not [name for name in packed if name.split("/")[0] in ("tests", "benchmarks", "shared")]
