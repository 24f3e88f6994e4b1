"""Tables of the knowledge: where articles come from, their passages with words and vectors.

Knows: columns, keys and indexes; rules are those of `schema`. Does not know: who reads or writes them.

An article is a row for each state of its text. It belongs to the versions of the index from `from_version` on and
before `until_version`; one number in `knowledge_index` says which version is looked at: a sync switches all at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from pgvector.sqlalchemy import VECTOR

from storage.schema import Json, metadata, time_column, workspace_column

# SQLite's table for full text, with what that keeps for itself, and PostgreSQL's index on the words: made by a
# migration alone, as neither can be written down as a table here.
FULL_TEXT = "passage_words"


class Vector(sa.types.TypeDecorator[Any]):
    """Numbers of float32: a blob in SQLite, pgvector's type in PostgreSQL."""

    impl = sa.LargeBinary
    cache_ok = True

    class comparator_factory(sa.types.TypeDecorator.Comparator[Any]):
        """Adds pgvector's distance."""

        def cosine_distance(self, other: Any) -> sa.ColumnElement[float]:
            distance: sa.ColumnElement[float] = self.op("<=>", return_type=sa.Float())(other)  # type: ignore[assignment]
            return distance

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(VECTOR() if dialect.name == "postgresql" else sa.LargeBinary())

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return np.asarray(value, np.float32).tobytes()

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        return np.frombuffer(value, np.float32) if isinstance(value, bytes) else np.asarray(value, np.float32)


# What is read again at each sync. An upload has its content here, as there is no file to look at again.
knowledge_source = sa.Table(
    "knowledge_source",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("content", sa.LargeBinary),
    sa.Column("added_by", sa.Text, nullable=False),
    time_column("added_at"),
    time_column("read_at", nullable=True),
    # The next sync takes its articles out of the index.
    time_column("removed_at", nullable=True),
    sa.UniqueConstraint("workspace_id", "location"),
    sa.CheckConstraint("kind IN ('folder', 'file', 'url', 'upload')", name="ck_knowledge_source_kind"),
    sa.CheckConstraint("audience IN ('public', 'customers', 'staff')", name="ck_knowledge_source_audience"),
)

article = sa.Table(
    "article",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column(
        "source_id", sa.Text, sa.ForeignKey("knowledge_source.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    # What people and files of questions call it: its own id, or its file's name without the ending.
    sa.Column("name", sa.Text, nullable=False),
    # Its path below a folder, or the source's own location.
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("url", sa.Text),
    sa.Column("language", sa.Text),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("from_version", sa.BigInteger, nullable=False),
    sa.Column("until_version", sa.BigInteger),
    time_column("added_at"),
    sa.CheckConstraint("audience IN ('public', 'customers', 'staff')", name="ck_article_audience"),
    sa.Index("ix_article_workspace_id_from_version", "workspace_id", "from_version"),
)

passage = sa.Table(
    "passage",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    workspace_column(),
    sa.Column("article_id", sa.Text, sa.ForeignKey("article.id", ondelete="CASCADE"), nullable=False),
    # From 0 on, in the article's order.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("headings", Json, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    # The words of title, headings and text as a search compares them, with spaces between.
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("vector", Vector, nullable=False),
    sa.UniqueConstraint("article_id", "number"),
)

# One row a workspace. `word_counts` is compressed JSON: in how many articles each word stands.
knowledge_index = sa.Table(
    "knowledge_index",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("num_articles", sa.Integer, nullable=False),
    sa.Column("num_passages", sa.Integer, nullable=False),
    sa.Column("average_words", sa.Float, nullable=False),
    sa.Column("word_counts", sa.LargeBinary, nullable=False),
    time_column("updated_at"),
)

# From how sure on a question counts as answered by the articles, where somebody has measured it; one row a workspace.
knowledge_threshold = sa.Table(
    "knowledge_threshold",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    # What was measured with it.
    sa.Column("report", Json, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    time_column("set_at"),
)

# What messages may be about, as it was trained last; one row a workspace. `phrases` is [[phrase, intent], ...],
# `replies` what is said word for word to an intent, `computed` what the classifier made of it (NumPy's npz).
intent_set = sa.Table(
    "intent_set",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("phrases", Json, nullable=False),
    sa.Column("replies", Json, nullable=False),
    sa.Column("computed", sa.LargeBinary, nullable=False),
    # From how good a fit on a message is about any of them.
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("report", Json, nullable=False),
    sa.Column("trained_by", sa.Text, nullable=False),
    time_column("trained_at"),
)

# Answers that people have written or approved, given word for word. Rows that are removed stay to be counted by.
curated_answer = sa.Table(
    "curated_answer",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    # Grows with every change of the workspace's answers.
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    # The reply that was corrected, and whose question it was; no references, as answers outlive them.
    sa.Column("reply_id", sa.Text),
    sa.Column("person_id", sa.Text, index=True),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("removed_at", nullable=True),
    sa.CheckConstraint("audience IN ('public', 'customers', 'staff')", name="ck_curated_answer_audience"),
    sa.Index("ix_curated_answer_workspace_id_version", "workspace_id", "version"),
)
