"""Tables of sources, articles, passages, intents and curated answers.

Times, ids and JSON are as in `storage.schema`. An article has a row for each state of its text. The row belongs to the
versions of the index from `from_version` on and before `until_version`; one number in `knowledge_index` is the
published version, so that a sync switches all articles at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sqlalchemy as sa
from pgvector.sqlalchemy import VECTOR

from storage.schema import Json, metadata, time_column, workspace_column

# The prefix of SQLite's full-text table and its shadow tables, and of PostgreSQL's index on the words. Only a migration
# makes them, as SQLAlchemy can't declare them.
FULL_TEXT = "passage_words"


class Vector(sa.types.TypeDecorator[Any]):
    """A vector of float32: a blob in SQLite, pgvector's type in PostgreSQL."""

    impl = sa.LargeBinary
    cache_ok = True

    class comparator_factory(sa.types.TypeDecorator.Comparator[Any]):
        """Add pgvector's distance operator."""

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


# Sources, read again at each sync. An upload has its content here, as there is no file to read again.
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
    # Set to have the next sync take the source's articles out of the index.
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
    # The name in lists and files of questions: an id of the article's own, or its file's name without the suffix.
    sa.Column("name", sa.Text, nullable=False),
    # The path below the source's folder, or the source's own location.
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
    # Counts from 0, in the order of the article.
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("headings", Json, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    # The search tokens of title, headings and text, separated by spaces.
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("vector", Vector, nullable=False),
    sa.UniqueConstraint("article_id", "number"),
)

# One row a workspace. `word_counts` is zlib-compressed JSON: the number of articles with each word.
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

# The calibrated confidence threshold above which a question counts as answered; one row a workspace.
knowledge_threshold = sa.Table(
    "knowledge_threshold",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    # The report of the calibration.
    sa.Column("report", Json, nullable=False),
    sa.Column("set_by", sa.Text, nullable=False),
    time_column("set_at"),
)

# The intents, as trained last; one row a workspace. `phrases` is [[phrase, intent], ...], `replies` maps an intent to a
# reply that is given word for word, `computed` is the classifier (NumPy's npz).
intent_set = sa.Table(
    "intent_set",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("embedder", sa.Text, nullable=False),
    sa.Column("phrases", Json, nullable=False),
    sa.Column("replies", Json, nullable=False),
    sa.Column("computed", sa.LargeBinary, nullable=False),
    # The score above which a message is about any intent at all.
    sa.Column("threshold", sa.Float, nullable=False),
    sa.Column("report", Json, nullable=False),
    sa.Column("trained_by", sa.Text, nullable=False),
    time_column("trained_at"),
)

# Answers that people have written or approved, given word for word. Removed rows stay, for the counts of replies.
curated_answer = sa.Table(
    "curated_answer",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    # Grows with every change of the workspace's curated answers.
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("question", sa.Text, nullable=False),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("audience", sa.Text, nullable=False),
    # The corrected reply and the person who asked; no foreign keys, as answers outlive both.
    sa.Column("reply_id", sa.Text),
    sa.Column("person_id", sa.Text, index=True),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("removed_at", nullable=True),
    sa.CheckConstraint("audience IN ('public', 'customers', 'staff')", name="ck_curated_answer_audience"),
    sa.Index("ix_curated_answer_workspace_id_version", "workspace_id", "version"),
)
