"""Audit log: rows can't be changed or deleted, and tampering with the database itself is detected."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from adapters.cli.main import main
from storage import audit
from storage.engines import postgresql_engine, sqlite_engine
from storage.learning_schema import audit as table
from storage.schema import DEFAULT_WORKSPACE
from storage.transaction import Transaction

pytestmark = [pytest.mark.both_databases("triggers"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(name="engine")
def engine_with_three_rows(database_url: str) -> Iterator[sa.Engine]:
    url = sa.make_url(database_url)
    engine = (postgresql_engine if url.get_backend_name() == "postgresql" else sqlite_engine)(url)
    with engine.begin() as connection:
        tx = Transaction(connection, DEFAULT_WORKSPACE)
        for name in ("one", "two", "three"):
            audit.record(tx, "shell:root", "version.promoted", name, {"why": "it is better"})
    yield engine
    engine.dispose()


def first_broken(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        return audit.first_broken(Transaction(connection, DEFAULT_WORKSPACE))


def drop_triggers(engine: sa.Engine) -> None:
    """Drop the triggers, as anybody with the database's own rights can."""
    is_sqlite = engine.dialect.name == "sqlite"
    find = (
        "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit'"
        if is_sqlite
        else "SELECT DISTINCT trigger_name FROM information_schema.triggers WHERE event_object_table = 'audit'"
    )
    with engine.begin() as connection:
        names = [row[0] for row in connection.execute(sa.text(find))]
        assert names
        for name in names:
            connection.execute(sa.text(f"DROP TRIGGER {name}" + ("" if is_sqlite else " ON audit")))


CHANGES = {
    "update": table.update().where(table.c.number == 2).values(target="another"),
    "delete": table.delete().where(table.c.number == 2),
    "details": table.update().where(table.c.number == 2).values(details={"why": "it is cheaper"}),
    "actor": table.update().where(table.c.number == 2).values(actor="shell:nobody"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_database_refuses_to_change_a_row(engine: sa.Engine, change: str) -> None:
    with pytest.raises(sa.exc.DBAPIError), engine.begin() as connection:
        connection.execute(CHANGES[change])
    assert first_broken(engine) is None


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_changed_without_triggers_is_found(engine: sa.Engine, change: str) -> None:
    drop_triggers(engine)
    with engine.begin() as connection:
        connection.execute(CHANGES[change])
    # After a deleted row, the next row breaks the chain.
    assert first_broken(engine) == (3 if change == "delete" else 2)


def test_a_forged_row_is_found(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        row = connection.execute(table.select().where(table.c.number == 3)).one()._mapping
        connection.execute(table.insert().values({**row, "id": "forged", "number": 4, "target": "four"}))
    assert first_broken(engine) == 4


def test_the_command_verifies_the_log(
    engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYNA_DATABASE_URL", database_url)
    assert main(["audit", "--verify"]) == 0
    assert capsys.readouterr().out == "The audit log is intact.\n"
    drop_triggers(engine)
    with engine.begin() as connection:
        connection.execute(CHANGES["update"])
    assert main(["audit", "--verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False, "first_broken": 2}


def test_the_command_lists_newest_rows_first(
    engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MYNA_DATABASE_URL", database_url)
    assert main(["audit", "--json", "--most", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["number"], row["target"]) for row in rows] == [(3, "three"), (2, "two")]
