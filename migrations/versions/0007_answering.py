"""Answering: intents, curated answers and knowledge gaps.

Revision: 0007, after 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("reply", sa.Column("intent", sa.Text(), nullable=True))
    op.add_column("reply", sa.Column("curated_id", sa.Text(), nullable=True))
    op.add_column("reply", sa.Column("gap_closed_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "intent_set",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("embedder", sa.Text(), nullable=False),
        sa.Column("phrases", _JSON, nullable=False),
        sa.Column("replies", _JSON, nullable=False),
        sa.Column("computed", sa.LargeBinary(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("report", _JSON, nullable=False),
        sa.Column("trained_by", sa.Text(), nullable=False),
        sa.Column("trained_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace_id"], ["workspace.id"], name=op.f("fk_intent_set_workspace_id_workspace"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_intent_set")),
    )
    op.create_table(
        "curated_answer",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("reply_id", sa.Text(), nullable=True),
        sa.Column("person_id", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("audience IN ('public', 'customers', 'staff')", name="ck_curated_answer_audience"),
        sa.ForeignKeyConstraint(
            ["workspace_id"],
            ["workspace.id"],
            name=op.f("fk_curated_answer_workspace_id_workspace"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_curated_answer")),
    )
    op.create_index(
        op.f("ix_curated_answer_workspace_id_version"), "curated_answer", ["workspace_id", "version"], unique=False
    )
    op.create_index(op.f("ix_curated_answer_person_id"), "curated_answer", ["person_id"], unique=False)


def downgrade() -> None:
    op.drop_table("curated_answer")
    op.drop_table("intent_set")
    op.drop_column("reply", "gap_closed_at")
    op.drop_column("reply", "curated_id")
    op.drop_column("reply", "intent")
