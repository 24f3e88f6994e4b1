"""Knowledge: sources, articles, passages with full text and vectors.

Revision: 0005, after 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy.dialects.postgresql import JSONB

from storage.database import StorageUnavailable

revision = "0005"
down_revision = "0004"

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_VECTOR = sa.LargeBinary().with_variant(VECTOR(), "postgresql")
_AUDIENCES = "audience IN ('public', 'customers', 'staff')"

# The words are in `passage` already, so only the index is kept; triggers keep it in step, also when a workspace goes.
_SQLITE = (
    "CREATE VIRTUAL TABLE passage_words USING fts5(words, workspace_id UNINDEXED, content='passage', "
    "content_rowid='id', columnsize=0, tokenize=\"unicode61 remove_diacritics 0 tokenchars '_'\")",
    "CREATE TRIGGER passage_words_insert AFTER INSERT ON passage "
    "BEGIN INSERT INTO passage_words(rowid, words) VALUES (new.id, new.words); END",
    "CREATE TRIGGER passage_words_delete AFTER DELETE ON passage "
    "BEGIN INSERT INTO passage_words(passage_words, rowid, words) VALUES ('delete', old.id, old.words); END",
)
_POSTGRESQL = ("CREATE INDEX passage_words ON passage USING gin (array_to_tsvector(string_to_array(words, ' ')))",)
_NO_PGVECTOR = (
    "PostgreSQL lacks the extension pgvector, which keeps the vectors of articles. Install it beside the server "
    "(Debian: apt install postgresql-NN-pgvector; hosted ones have it), run CREATE EXTENSION vector in Myna's database "
    "as an administrator, and start again."
)


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if not is_sqlite:
        _create_extension()
    _create_articles()
    _create_index()
    for statement in _SQLITE if is_sqlite else _POSTGRESQL:
        op.execute(statement)


def _create_extension() -> None:
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")):
        return
    try:
        with connection.begin_nested():
            connection.execute(sa.text("CREATE EXTENSION vector"))
    except sa.exc.DBAPIError as error:
        raise StorageUnavailable(f"{_NO_PGVECTOR} ({str(error.orig).splitlines()[0]})") from error


def _create_articles() -> None:
    op.create_table(
        "knowledge_source",
        _text("id"),
        _workspace_column(),
        _text("kind"),
        _text("location"),
        _text("audience"),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        _text("added_by"),
        _whole("added_at"),
        _whole("read_at", nullable=True),
        _whole("removed_at", nullable=True),
        sa.CheckConstraint("kind IN ('folder', 'file', 'url', 'upload')", name="ck_knowledge_source_kind"),
        sa.CheckConstraint(_AUDIENCES, name="ck_knowledge_source_audience"),
        _workspace_key("knowledge_source"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_knowledge_source")),
        sa.UniqueConstraint("workspace_id", "location", name=op.f("uq_knowledge_source_workspace_id_location")),
    )
    op.create_table(
        "article",
        _text("id"),
        _workspace_column(),
        _text("source_id"),
        _text("name"),
        _text("location"),
        _text("title"),
        _text("url", nullable=True),
        _text("language", nullable=True),
        _text("audience"),
        _text("sha256"),
        _whole("from_version"),
        _whole("until_version", nullable=True),
        _whole("added_at"),
        sa.CheckConstraint(_AUDIENCES, name="ck_article_audience"),
        _workspace_key("article"),
        _key("article", "source_id", "knowledge_source"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_article")),
    )
    op.create_index(op.f("ix_article_source_id"), "article", ["source_id"], unique=False)
    op.create_index("ix_article_workspace_id_from_version", "article", ["workspace_id", "from_version"], unique=False)
    op.create_table(
        "passage",
        sa.Column("id", sa.Integer(), nullable=False),
        _workspace_column(),
        _text("article_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("headings", _JSON, nullable=False),
        _text("text"),
        _text("words"),
        sa.Column("vector", _VECTOR, nullable=False),
        _workspace_key("passage"),
        _key("passage", "article_id", "article"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passage")),
        sa.UniqueConstraint("article_id", "number", name=op.f("uq_passage_article_id_number")),
    )


def _create_index() -> None:
    op.create_table(
        "knowledge_index",
        _workspace_column(),
        _whole("version"),
        _text("embedder"),
        sa.Column("num_articles", sa.Integer(), nullable=False),
        sa.Column("num_passages", sa.Integer(), nullable=False),
        sa.Column("average_words", sa.Float(), nullable=False),
        sa.Column("word_counts", sa.LargeBinary(), nullable=False),
        _whole("updated_at"),
        _workspace_key("knowledge_index"),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_knowledge_index")),
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE passage_words")
    for table in ("knowledge_index", "passage", "article", "knowledge_source"):
        op.drop_table(table)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _whole(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _workspace_column() -> sa.Column[str]:
    return _text("workspace_id")


def _workspace_key(table: str) -> sa.ForeignKeyConstraint:
    return _key(table, "workspace_id", "workspace")


def _key(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{to}")
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=name, ondelete="CASCADE")
