"""Statements confined to one workspace, and their transaction.

Every statement is built by `scoped`, or openly by `across_workspaces`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement


class Rollback(Exception):
    """Raised by a unit of work to roll back its transaction and still return `value`."""

    def __init__(self, value: object) -> None:
        super().__init__("rolled back on purpose")
        self.value = value


class now_ms(FunctionElement[int]):
    """The database's clock in milliseconds since 1970."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_ms)
def _now_ms_in_print(*_: Any, **__: Any) -> str:
    return "now_ms()"  # SQLAlchemy prints a statement to find the tables that it reads from


@compiles(now_ms, "sqlite")
def _now_ms_sqlite(*_: Any, **__: Any) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)"


@compiles(now_ms, "postgresql")
def _now_ms_postgresql(*_: Any, **__: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """A prepared statement: confined to one workspace, or openly across all of them (`workspace_parameter` is None)."""

    by_dialect: Mapping[str, sa.Executable]
    workspace_parameter: str | None
    tables: frozenset[sa.Table] = field(init=False)
    needed_tables: frozenset[sa.Table] = field(init=False)

    def __post_init__(self) -> None:
        tables = frozenset(_all_tables(self.by_dialect.values()))
        object.__setattr__(self, "tables", tables)
        referenced = {key.column.table for table in tables for key in table.foreign_keys}
        object.__setattr__(self, "needed_tables", tables | referenced)


InsertBuilder = Callable[[Any], sa.Executable]


def scoped_for_each(clauses: Mapping[str, sa.Select[Any]]) -> Statement:
    """Confine a select that is written differently for each dialect; see `scoped`."""
    parts = {dialect: scoped(clause) for dialect, clause in clauses.items()}
    return Statement({dialect: part.by_dialect[dialect] for dialect, part in parts.items()}, "in_workspace")


def scoped(clause: sa.Executable | InsertBuilder) -> Statement:
    """Confine a statement to the transaction's workspace. No other code does this.

    Reads, updates and deletes get a criterion on every table; inserts get the column's value. A function is called with
    each dialect's `insert`, for ON CONFLICT. Raise `TypeError` for forms that could touch an unconfined table: nested
    selects, SQL as text, updates and deletes that read a second table, outer joins that don't compare workspaces.
    """
    if isinstance(clause, sa.Insert) or not isinstance(clause, sa.Executable):
        by_dialect = _same_for_all(clause) if isinstance(clause, sa.Insert) else _build_for_dialects(clause)
        for insert in by_dialect.values():
            _refuse_hidden_tables(insert)
        return Statement(by_dialect, "workspace_id")
    if not isinstance(clause, sa.Select | sa.Update | sa.Delete):
        raise TypeError(f"{type(clause).__name__} can't be confined to a workspace")
    _refuse_hidden_tables(clause)
    for table in _tables_of(clause):
        clause = clause.where(table.c.workspace_id == sa.bindparam("in_workspace", type_=sa.Text))
    return Statement(_same_for_all(clause), "in_workspace")


def across_workspaces(clause: sa.Executable | InsertBuilder) -> Statement:
    """Build a statement of the whole installation (claiming work, readiness). A test lists every use."""
    by_dialect = _same_for_all(clause) if isinstance(clause, sa.Executable) else _build_for_dialects(clause)
    return Statement(by_dialect, None)


def _all_tables(clauses: Iterable[Any]) -> Iterator[sa.Table]:
    for clause in clauses:
        for element in visitors.iterate(clause):
            if isinstance(element, sa.Insert | sa.Update | sa.Delete):
                element = element.table
            if isinstance(element, sa.Table):
                yield element


def _build_for_dialects(build: InsertBuilder) -> dict[str, sa.Executable]:
    return {"sqlite": build(sqlite.insert), "postgresql": build(postgresql.insert)}


def _same_for_all(clause: sa.Executable) -> dict[str, sa.Executable]:
    return {"sqlite": clause, "postgresql": clause}


def _refuse_hidden_tables(clause: Any) -> None:
    only = clause.table if isinstance(clause, sa.Update | sa.Delete) else None
    for element in visitors.iterate(clause):
        if isinstance(element, sa.SelectBase) and element is not clause:
            raise TypeError("write nested selects as two statements, or as a join")
        if isinstance(element, sa.TextClause):
            raise TypeError("SQL as text can't be confined to a workspace")
        if only is not None and isinstance(element, sa.Column) and element.table is not only:
            raise TypeError("write an update or delete that looks at a second table as two statements")


def _tables_of(clause: sa.Select[Any] | sa.Update | sa.Delete) -> Iterable[sa.FromClause]:
    waiting: list[sa.FromClause] = list(clause.get_final_froms()) if isinstance(clause, sa.Select) else [clause.table]
    while waiting:
        source = waiting.pop()
        if isinstance(source, sa.Join):
            waiting += [source.left] if _is_confined_outer_join(source) else [source.left, source.right]
        elif isinstance(source, sa.Table | sa.Alias):
            yield source
        else:
            raise TypeError(f"{type(source).__name__} can't be confined to a workspace")


def _is_confined_outer_join(join: sa.Join) -> bool:
    """Return True for an outer join that is confined in its ON clause; raise `TypeError` if it is not.

    A criterion in WHERE would drop the rows without a partner.
    """
    if not join.isouter:
        return False
    on = join.onclause
    conditions: list[Any] = [on]
    if isinstance(on, sa.BooleanClauseList) and on.operator is operator.and_:
        conditions = list(on.clauses)
    if not any(_compares_workspaces(condition, join.right.c.get("workspace_id")) for condition in conditions):
        raise TypeError("an outer join must compare both sides' workspace_id")
    return True


def _compares_workspaces(condition: Any, right: Any) -> bool:
    if not isinstance(condition, sa.BinaryExpression) or condition.operator is not operator.eq:
        return False
    sides = [condition.left, condition.right]
    return any(side is right for side in sides) and all(getattr(side, "name", "") == "workspace_id" for side in sides)


Marked = TypeVar("Marked", bound=Callable[..., Any])


def urgent(unit: Marked) -> Marked:
    """Mark a unit of work to be committed before waiting units: a person outside waits for this commit."""
    unit.is_urgent = True  # type: ignore[attr-defined]
    return unit


def is_urgent(unit: Callable[..., Any]) -> bool:
    return getattr(unit, "is_urgent", False)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction, bound to a workspace, or to None for statements across workspaces."""

    connection: sa.Connection
    workspace_id: str | None
    postponed: PostponedInserts | None = None

    def execute(self, statement: Statement, **parameters: Any) -> sa.CursorResult[Any]:
        """Run one statement; `parameters` fill its bind parameters and an insert's columns."""
        if self.postponed is not None:
            self.postponed.send_if_needed_by(statement)
        self._confine(statement, parameters)
        return self.connection.execute(statement.by_dialect[self.connection.dialect.name], parameters)

    def insert(self, statement: Statement, **parameters: Any) -> None:
        """Insert a row without returning a result. The row may be sent later, in a batch with others of its kind."""
        self._confine(statement, parameters)
        if self.postponed is not None:
            self.postponed.add(statement, parameters)
        else:
            self.connection.execute(statement.by_dialect[self.connection.dialect.name], parameters)

    def _confine(self, statement: Statement, parameters: dict[str, Any]) -> None:
        if statement.workspace_parameter is None:
            return
        if self.workspace_id is None:
            raise RuntimeError("a statement confined to a workspace needs a transaction that has one")
        parameters[statement.workspace_parameter] = self.workspace_id


class PostponedInserts:
    """Inserts of one transaction, batched so that many units share a round trip (a third of the work on PostgreSQL).

    They are sent before a statement that reads their tables, and before the commit.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._rows: dict[Statement, list[dict[str, Any]]] = {}

    def add(self, statement: Statement, parameters: dict[str, Any]) -> None:
        self._rows.setdefault(statement, []).append(parameters)

    def send_if_needed_by(self, statement: Statement) -> None:
        if any(not waiting.tables.isdisjoint(statement.needed_tables) for waiting in self._rows):
            self.send()

    def send(self) -> None:
        rows, self._rows = self._rows, {}
        for statement, parameters in rows.items():
            self._connection.execute(statement.by_dialect[self._connection.dialect.name], parameters)
