"""`scoped` confines every table of a statement to one workspace, or refuses it."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

import storage
from storage.schema import conversation, identity, message, metadata, person, reply
from storage.transaction import Statement, Transaction, across_workspaces, scoped

other = person.alias("other")
same_workspace = reply.c.workspace_id == message.c.workspace_id


def sql(statement: Statement) -> str:
    return " ".join(
        str(statement.by_dialect["postgresql"].compile(dialect=postgresql.dialect())).replace("::VARCHAR", "").split()
    )  # type: ignore[attr-defined]


def confined(statement: Statement) -> set[str]:
    """Return the tables, or their aliases, that a statement confines in its WHERE."""
    _, _, condition = sql(statement).partition(" WHERE ")
    return {
        part.split(".workspace_id")[0].split()[-1].strip("(") for part in condition.split(" = %(in_workspace)s")[:-1]
    }


joined = sa.select(message.c.id, conversation.c.title).join(
    conversation, conversation.c.id == message.c.conversation_id
)


@pytest.mark.parametrize(
    ("clause", "tables"),
    [
        (sa.select(person.c.id), {"person"}),
        (sa.select(person.c.id).where(sa.or_(person.c.id == "a", person.c.locale == "b")), {"person"}),
        (joined, {"message", "conversation"}),
        (joined.join(person, person.c.id == message.c.person_id), {"message", "conversation", "person"}),
        (sa.select(person.c.id, message.c.id).where(message.c.person_id == person.c.id), {"message", "person"}),
        (sa.select(person.c.id).where(message.c.author == "bot"), {"message", "person"}),
        (sa.select(person.c.id, other.c.id).join(other, other.c.locale == person.c.locale), {"person", "other"}),
        (sa.select(sa.func.count()).select_from(message), {"message"}),
        (sa.update(person).values(locale="x"), {"person"}),
        (sa.delete(person).where(person.c.id == "x"), {"person"}),
        (sa.select(message.c.id, reply.c.state).select_from(message.outerjoin(reply, same_workspace)), {"message"}),
        (
            sa.select(message.c.id).select_from(
                message.join(conversation, conversation.c.id == message.c.conversation_id).outerjoin(
                    reply, sa.and_(reply.c.message_id == message.c.id, same_workspace)
                )
            ),
            {"message", "conversation"},
        ),
        (
            sa.select(message.c.id).select_from(
                message.outerjoin(reply, same_workspace).join(person, person.c.id == message.c.person_id)
            ),
            {"message", "person"},
        ),
    ],
)
def test_every_table_of_a_statement_is_confined(clause: sa.Executable, tables: set[str]) -> None:
    statement = scoped(clause)
    assert confined(statement) == tables
    assert statement.workspace_parameter == "in_workspace"


def test_an_or_in_the_condition_stays_in_the_workspace() -> None:
    """`a OR b AND workspace` would let `a` through: the criterion must bind both."""
    statement = scoped(sa.select(person.c.id).where(sa.or_(person.c.id == "a", person.c.locale == "b")))
    assert "(person.id = %(id_1)s OR person.locale = %(locale_1)s) AND person.workspace_id" in sql(statement)


from_person = sa.select(person.c.id)
is_reply = reply.c.message_id == message.c.id
REFUSED: dict[str, Callable[[], Any]] = {
    "a select in the condition": lambda: from_person.where(person.c.id.in_(sa.select(message.c.person_id))),
    "a select as a value": lambda: sa.select(person.c.id, sa.select(message.c.id).limit(1).scalar_subquery()),
    "a select as a table": lambda: sa.select(sa.select(person).subquery().c.id),
    "a common table expression": lambda: sa.select(sa.select(person).cte().c.id),
    "exists": lambda: from_person.where(sa.exists().where(message.c.person_id == person.c.id)),
    "a union": lambda: sa.union(sa.select(person.c.id), sa.select(message.c.id)),
    "a union inside": lambda: from_person.where(person.c.id.in_(sa.union(from_person, sa.select(message.c.id)))),
    "values from a select": lambda: sa.update(person).values(locale=sa.select(message.c.author).scalar_subquery()),
    "an update that looks elsewhere": lambda: sa.update(person).where(person.c.id == message.c.person_id),
    "an update that takes from elsewhere": lambda: sa.update(person).values(locale=message.c.author),
    "a delete that looks elsewhere": lambda: sa.delete(person).where(person.c.id == message.c.person_id),
    "an insert from a select": lambda: sa.insert(person).from_select(["id"], sa.select(message.c.id)),
    "an insert of a selected value": lambda: sa.insert(person).values(id=sa.select(message.c.id).scalar_subquery()),
    "a built insert from a select": lambda: lambda insert: insert(person).from_select(["id"], sa.select(message.c.id)),
    "a built insert that asks on conflict": lambda: (
        lambda insert: insert(person).on_conflict_do_update(
            index_elements=["id"], set_={"locale": sa.select(message.c.author).scalar_subquery()}
        )
    ),
    "text as a table": lambda: sa.select(sa.text("id")).select_from(sa.text("person")),
    "text in the condition": lambda: from_person.where(sa.text("id IN (SELECT id FROM message)")),
    "text alone": lambda: sa.text("SELECT 1"),
    "an unknown table": lambda: sa.select(sa.table("person", sa.column("id")).c.id),
    "an outer join by id alone": lambda: sa.select(message.c.id).select_from(message.outerjoin(reply, is_reply)),
    "an outer join with a way around": lambda: sa.select(message.c.id).select_from(
        message.outerjoin(reply, sa.or_(same_workspace, is_reply))
    ),
    "an outer join that does not compare for equality": lambda: sa.select(message.c.id).select_from(
        message.outerjoin(reply, sa.and_(is_reply, reply.c.workspace_id != message.c.workspace_id))
    ),
    "an outer join that compares a side with itself": lambda: sa.select(message.c.id).select_from(
        message.outerjoin(reply, sa.and_(is_reply, message.c.workspace_id == message.c.workspace_id))
    ),
    "an outer join that compares with something else": lambda: sa.select(message.c.id).select_from(
        message.outerjoin(reply, sa.and_(is_reply, reply.c.workspace_id == message.c.id))
    ),
    "an outer join with a join": lambda: sa.select(message.c.id).select_from(
        message.outerjoin(reply.join(person, person.c.id == reply.c.model), same_workspace)
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_forms_that_could_leave_the_workspace_are_refused(form: str) -> None:
    with pytest.raises(TypeError):
        scoped(REFUSED[form]())


def storage_statements() -> Iterator[tuple[str, Statement]]:
    for module in pkgutil.iter_modules(storage.__path__):
        for name, value in vars(importlib.import_module(f"storage.{module.name}")).items():
            if isinstance(value, Statement):
                yield f"{module.name}.{name}", value


STATEMENTS = dict(storage_statements())


@pytest.mark.parametrize(
    "name", [name for name, statement in STATEMENTS.items() if statement.workspace_parameter == "in_workspace"]
)
def test_storage_confines_every_table_it_reads_or_changes(name: str) -> None:
    """The tables are read from the SQL itself, so that a hole in `scoped` shows."""
    text = sql(STATEMENTS[name])
    tables = {table for table in metadata.tables if f" {table}." in f" {text}".replace("(", " ").replace(",", " ")}
    tables |= {table for table in metadata.tables if text.startswith((f"UPDATE {table} ", f"DELETE FROM {table} "))}
    joined = [part.split(" ON ")[0] for part in text.split(" LEFT OUTER JOIN ")[1:]]  # "reply", "model_version AS x"
    for source in joined:
        condition = text.split(f" LEFT OUTER JOIN {source} ON ")[1].split(" LEFT OUTER JOIN ")[0].split(" WHERE ")[0]
        assert f"{source.split()[-1]}.workspace_id = " in condition
    outer = {source.split()[-1] for source in joined}
    assert tables, "the test must see a table"
    assert confined(STATEMENTS[name]) == tables - outer


def test_the_statements_were_found() -> None:
    assert len(STATEMENTS) > 25
    parameters = {statement.workspace_parameter for statement in STATEMENTS.values()}
    assert parameters == {"in_workspace", "workspace_id", None}


# --- the workspace that the transaction adds ---


@pytest.fixture
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


INSERT = scoped(sa.insert(identity).values(channel="web", created_at=0))
ALL = across_workspaces(sa.select(identity.c.workspace_id, identity.c.id))


def test_an_insert_gets_the_workspace_of_its_transaction(connection: sa.Connection) -> None:
    tx = Transaction(connection, "mine")
    tx.execute(INSERT, id="1", person_id="p", external_id="1")
    tx.execute(INSERT, id="2", person_id="p", external_id="2", workspace_id="theirs")
    fixed = scoped(sa.insert(identity).values(channel="web", created_at=0, workspace_id="theirs"))
    tx.execute(fixed, id="3", person_id="p", external_id="3")
    assert {tuple(row) for row in tx.execute(ALL)} == {("mine", "1"), ("mine", "2"), ("mine", "3")}


def test_a_caller_cannot_name_another_workspace(connection: sa.Connection) -> None:
    Transaction(connection, "theirs").execute(INSERT, id="1", person_id="p", external_id="1")
    find = scoped(sa.select(identity.c.id))
    assert Transaction(connection, "mine").execute(find, in_workspace="theirs").all() == []
    assert Transaction(connection, "theirs").execute(find).scalars().all() == ["1"]


def test_a_confined_statement_needs_a_workspace(connection: sa.Connection) -> None:
    with pytest.raises(RuntimeError, match="needs a transaction that has one"):
        Transaction(connection, None).execute(INSERT, id="1", person_id="p", external_id="1")
    assert Transaction(connection, None).execute(ALL).all() == []
