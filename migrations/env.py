"""Alembic's entry point for migrations.

`storage.migrate` calls it with an open connection, the `alembic` command with a database URL.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context

from storage.engines import sqlite_engine
from storage.knowledge_schema import FULL_TEXT, article


def _migrate(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=article.metadata,
        include_name=lambda name, *_: not str(name).startswith(FULL_TEXT),
        transactional_ddl=True,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _connect() -> sa.Engine:
    url = sa.make_url(context.get_x_argument(as_dictionary=True).get("url", ""))
    return sqlite_engine(url) if url.get_backend_name() == "sqlite" else sa.create_engine(url)


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with _connect().connect() as opened:
        _migrate(opened)
        opened.commit()
