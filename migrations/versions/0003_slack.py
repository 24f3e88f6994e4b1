"""Slack: threads left, edits, messages shown live, votes, installations.

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("conversation", sa.Column("left_at", sa.BigInteger(), nullable=True))
    op.add_column("message", sa.Column("edited_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "shown_part",
        sa.Column("id", sa.Text(), nullable=False),
        _workspace_column(),
        _conversation_column(),
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("is_stream", sa.Boolean(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _workspace_key("shown_part"),
        _conversation_key("shown_part"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shown_part")),
    )
    op.create_index(op.f("ix_shown_part_conversation_id"), "shown_part", ["conversation_id"], unique=False)
    _create_vote()
    op.create_table(
        "slack_installation",
        sa.Column("id", sa.Text(), nullable=False),
        _workspace_column(),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("bot_user_id", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("bot_token", sa.Text(), nullable=False),
        sa.Column("refresh_token", sa.Text(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("renewing_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _workspace_key("slack_installation"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_slack_installation")),
        sa.UniqueConstraint("workspace_id", "tenant", name=op.f("uq_slack_installation_workspace_id_tenant")),
    )
    op.create_table(
        "slack_install_attempt",
        sa.Column("state_sha256", sa.Text(), nullable=False),
        _workspace_column(),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        _workspace_key("slack_install_attempt"),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("pk_slack_install_attempt")),
    )
    op.create_table(
        "seen_event",
        _workspace_column(),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        _workspace_key("seen_event"),
        sa.PrimaryKeyConstraint("workspace_id", "key", name=op.f("pk_seen_event")),
    )


def _create_vote() -> None:
    op.create_table(
        "vote",
        sa.Column("id", sa.Text(), nullable=False),
        _workspace_column(),
        _conversation_column(),
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("value", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("better", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("replaced_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("value IN (-1, 1)", name="ck_vote_value"),
        _workspace_key("vote"),
        _conversation_key("vote"),
        sa.ForeignKeyConstraint(
            ["reply_id"], ["message.id"], name=op.f("fk_vote_reply_id_message"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name=op.f("fk_vote_person_id_person"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vote")),
    )
    op.create_index(op.f("ix_vote_conversation_id"), "vote", ["conversation_id"], unique=False)
    op.create_index(op.f("ix_vote_person_id"), "vote", ["person_id"], unique=False)
    op.create_index(
        "ix_vote_current",
        "vote",
        ["reply_id", "person_id"],
        unique=True,
        sqlite_where=sa.text("replaced_at IS NULL"),
        postgresql_where=sa.text("replaced_at IS NULL"),
    )


def _workspace_column() -> sa.Column[str]:
    return sa.Column("workspace_id", sa.Text(), nullable=False)


def _workspace_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["workspace_id"], ["workspace.id"], name=op.f(f"fk_{table}_workspace_id_workspace"), ondelete="CASCADE"
    )


def _conversation_column() -> sa.Column[str]:
    return sa.Column("conversation_id", sa.Text(), nullable=False)


def _conversation_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["conversation_id"],
        ["conversation.id"],
        name=op.f(f"fk_{table}_conversation_id_conversation"),
        ondelete="CASCADE",
    )


def downgrade() -> None:
    for table in ("seen_event", "slack_install_attempt", "slack_installation", "vote", "shown_part"):
        op.drop_table(table)
    op.drop_column("message", "edited_at")
    op.drop_column("conversation", "left_at")
