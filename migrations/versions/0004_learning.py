"""The learning loop: accounts, audit log, datasets, versions, releases.

Revision: 0004, after 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")

# A row of the audit log never changes. It may be deleted only with its whole workspace.
_SQLITE_TRIGGERS = (
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit "
    "WHEN EXISTS (SELECT 1 FROM workspace WHERE id = OLD.workspace_id) "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END",
)
_POSTGRESQL_TRIGGERS = (
    "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT 1 FROM workspace WHERE id = OLD.workspace_id) THEN RETURN OLD; END IF; "
    "RAISE EXCEPTION 'the audit log is append-only'; END $$",
    "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit "
    "FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()",
)


def upgrade() -> None:
    _create_accounts()
    _create_feedback()
    _create_jobs()
    _create_releases()
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_TRIGGERS if is_sqlite else _POSTGRESQL_TRIGGERS:
        op.execute(statement)
    op.add_column("conversation", _text("instructions", nullable=True))
    op.add_column("conversation", _text("split_group", nullable=True))
    op.add_column("conversation", _text("import_id", nullable=True))
    op.add_column("conversation", sa.Column("may_learn", sa.Boolean(), nullable=True))
    op.create_index(op.f("ix_conversation_import_id"), "conversation", ["import_id"], unique=False)
    op.add_column("message", _text("draft", nullable=True))
    op.add_column("person", sa.Column("may_learn", sa.Boolean(), nullable=True))
    _create_indexes()


def _create_indexes() -> None:  # for erasures, and for a canary that looks every few seconds
    op.create_index(op.f("ix_message_person_id"), "message", ["person_id"], unique=False)
    where = sa.text("author = 'agent'")
    op.create_index(
        "ix_message_agents", "message", ["workspace_id", "created_at"], sqlite_where=where, postgresql_where=where
    )
    for table in ("reply", "vote"):
        op.create_index(f"ix_{table}_workspace_id_created_at", table, ["workspace_id", "created_at"], unique=False)


def _create_accounts() -> None:
    op.create_table(
        "account",
        _text("id"),
        _workspace_column(),
        _text("name"),
        _text("role"),
        _text("password_hash", nullable=True),
        _whole("created_at"),
        _whole("disabled_at", nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'agent', 'trainer', 'admin')", name="ck_account_role"),
        _workspace_key("account"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_account_workspace_id_name")),
    )
    op.create_table(
        "account_session",
        _text("secret_sha256"),
        _workspace_column(),
        _text("account_id"),
        _whole("created_at"),
        _whole("used_at"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("fk_account_session_account_id_account"), ondelete="CASCADE"
        ),
        _workspace_key("account_session"),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_account_session")),
    )
    op.create_index(op.f("ix_account_session_account_id"), "account_session", ["account_id"], unique=False)
    op.create_table(
        "account_identity",
        _text("id"),
        _workspace_column(),
        _text("account_id"),
        _text("channel"),
        _text("external_id"),
        _whole("created_at"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("fk_account_identity_account_id_account"), ondelete="CASCADE"
        ),
        _workspace_key("account_identity"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account_identity")),
        sa.UniqueConstraint(
            "workspace_id", "channel", "external_id", name=op.f("uq_account_identity_workspace_id_channel_external_id")
        ),
    )
    op.create_index(op.f("ix_account_identity_account_id"), "account_identity", ["account_id"], unique=False)
    op.create_table(
        "audit",
        _text("id"),
        _workspace_column(),
        _whole("number"),
        _text("actor"),
        _text("action"),
        _text("target", nullable=True),
        sa.Column("details", _JSON, nullable=False),
        _text("previous_sha256"),
        _text("sha256"),
        _whole("created_at"),
        _workspace_key("audit"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("workspace_id", "number", name=op.f("uq_audit_workspace_id_number")),
    )


def _create_feedback() -> None:
    op.create_table(
        "import_batch",
        _text("id"),
        _workspace_column(),
        _text("file_name"),
        _text("sha256"),
        sa.Column("conversations", sa.Integer(), nullable=False),
        _text("created_by"),
        _whole("created_at"),
        _workspace_key("import_batch"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_batch")),
    )
    op.create_table(
        "review",
        _text("id"),
        _workspace_column(),
        _text("conversation_id"),
        _text("reply_id"),
        _text("decision"),
        _text("better", nullable=True),
        _text("reviewer"),
        _whole("created_at"),
        _whole("replaced_at", nullable=True),
        sa.CheckConstraint("decision IN ('approve', 'correct', 'exclude')", name="ck_review_decision"),
        sa.ForeignKeyConstraint(
            ["conversation_id"],
            ["conversation.id"],
            name=op.f("fk_review_conversation_id_conversation"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["reply_id"], ["message.id"], name=op.f("fk_review_reply_id_message"), ondelete="CASCADE"
        ),
        _workspace_key("review"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
    )
    op.create_index(op.f("ix_review_conversation_id"), "review", ["conversation_id"], unique=False)
    op.create_index(
        "ix_review_current",
        "review",
        ["reply_id"],
        unique=True,
        sqlite_where=sa.text("replaced_at IS NULL"),
        postgresql_where=sa.text("replaced_at IS NULL"),
    )
    op.create_table(
        "dataset",
        _text("id"),
        _workspace_column(),
        _text("sha256"),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("counts", _JSON, nullable=False),
        _text("created_by"),
        _whole("created_at"),
        _workspace_key("dataset"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("workspace_id", "sha256", name=op.f("uq_dataset_workspace_id_sha256")),
    )
    op.create_table(
        "dataset_example",
        _text("dataset_id"),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        _workspace_column(),
        _text("sha256"),
        _text("kind"),
        _text("source"),
        _text("split", nullable=True),
        _text("rejected_because", nullable=True),
        _text("conversation_id"),
        _text("message_id"),
        _text("person_id", nullable=True),
        sa.Column("content", _JSON, nullable=True),
        sa.CheckConstraint("kind IN ('answer', 'pair', 'thumb')", name="ck_dataset_example_kind"),
        sa.CheckConstraint("split IN ('train', 'held_out')", name="ck_dataset_example_split"),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["dataset.id"], name=op.f("fk_dataset_example_dataset_id_dataset"), ondelete="CASCADE"
        ),
        _workspace_key("dataset_example"),
        sa.PrimaryKeyConstraint("dataset_id", "number", name=op.f("pk_dataset_example")),
    )
    op.create_index(op.f("ix_dataset_example_person_id"), "dataset_example", ["person_id"], unique=False)
    op.create_index(op.f("ix_dataset_example_conversation_id"), "dataset_example", ["conversation_id"], unique=False)


def _create_jobs() -> None:
    op.create_table(
        "job",
        _text("id"),
        _workspace_column(),
        _text("kind"),
        _text("state"),
        sa.Column("wanted", sa.Text(), server_default="run", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        _text("device"),
        sa.Column("settings", _JSON, nullable=False),
        sa.Column("progress", _JSON, nullable=True),
        sa.Column("result", _JSON, nullable=True),
        _text("error", nullable=True),
        _text("created_by"),
        _text("owner", nullable=True),
        _whole("lease_until", nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        _whole("created_at"),
        _whole("started_at", nullable=True),
        _whole("ended_at", nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'paused', 'done', 'refused', 'failed', 'cancelled')", name="ck_job_state"
        ),
        sa.CheckConstraint("wanted IN ('run', 'pause', 'cancel')", name="ck_job_wanted"),
        _workspace_key("job"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(
        "ix_job_open",
        "job",
        ["device"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_job_running",
        "job",
        ["device"],
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "job_point",
        _text("job_id"),
        _text("series"),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        _workspace_column(),
        sa.Column("value", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_point_job_id_job"), ondelete="CASCADE"),
        _workspace_key("job_point"),
        sa.PrimaryKeyConstraint("job_id", "series", "step", name=op.f("pk_job_point")),
    )
    op.create_table(
        "model_version",
        _text("id"),
        _workspace_column(),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("name"),
        _text("base"),
        _text("base_sha256"),
        _text("weights_sha256"),
        _text("dataset_id"),
        _text("job_id"),
        sa.Column("settings", _JSON, nullable=False),
        _text("code_version"),
        _text("created_by"),
        _whole("created_at"),
        _whole("retired_at", nullable=True),
        _text("retired_because", nullable=True),
        _whole("tainted_at", nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_model_version_dataset_id_dataset")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_model_version_job_id_job")),
        _workspace_key("model_version"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("workspace_id", "name", name=op.f("uq_model_version_workspace_id_name")),
        sa.UniqueConstraint("workspace_id", "number", name=op.f("uq_model_version_workspace_id_number")),
    )
    op.create_index(op.f("ix_model_version_dataset_id"), "model_version", ["dataset_id"], unique=False)
    op.create_table(
        "evaluation",
        _text("id"),
        _workspace_column(),
        _text("version_id"),
        _text("champion_id", nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reasons", _JSON, nullable=False),
        sa.Column("report", _JSON, nullable=False),
        _text("created_by"),
        _whole("created_at"),
        sa.ForeignKeyConstraint(
            ["champion_id"],
            ["model_version.id"],
            name=op.f("fk_evaluation_champion_id_model_version"),
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_version.id"],
            name=op.f("fk_evaluation_version_id_model_version"),
            ondelete="CASCADE",
        ),
        _workspace_key("evaluation"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluation")),
    )
    op.create_index(op.f("ix_evaluation_version_id"), "evaluation", ["version_id"], unique=False)
    op.create_table(
        "judgement",
        _text("id"),
        _workspace_column(),
        _text("evaluation_id"),
        sa.Column("number", sa.Integer(), nullable=False),
        _text("judge"),
        _text("better"),
        _whole("created_at"),
        sa.CheckConstraint("better IN ('candidate', 'champion', 'same')", name="ck_judgement_better"),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluation.id"], name=op.f("fk_judgement_evaluation_id_evaluation"), ondelete="CASCADE"
        ),
        _workspace_key("judgement"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgement")),
        sa.UniqueConstraint("evaluation_id", "number", "judge", name=op.f("uq_judgement_evaluation_id_number_judge")),
    )
    op.create_index(op.f("ix_judgement_evaluation_id"), "judgement", ["evaluation_id"], unique=False)
    op.create_table(
        "golden_question",
        _text("id"),
        _workspace_column(),
        sa.Column("messages", _JSON, nullable=False),
        sa.Column("rules", _JSON, nullable=False),
        _text("created_by"),
        _whole("created_at"),
        _whole("removed_at", nullable=True),
        _workspace_key("golden_question"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_golden_question")),
    )


def _create_releases() -> None:
    op.create_table(
        "canary",
        _text("id"),
        _workspace_column(),
        _text("challenger_id"),
        _text("champion_id", nullable=True),
        sa.Column("share", sa.Float(), nullable=False),
        _text("salt"),
        sa.Column("settings", _JSON, nullable=False),
        _text("created_by"),
        _whole("created_at"),
        _whole("ended_at", nullable=True),
        _text("outcome", nullable=True),
        sa.Column("report", _JSON, nullable=True),
        sa.CheckConstraint("outcome IN ('promoted', 'rolled_back', 'harm', 'replaced')", name="ck_canary_outcome"),
        sa.ForeignKeyConstraint(
            ["challenger_id"], ["model_version.id"], name=op.f("fk_canary_challenger_id_model_version")
        ),
        sa.ForeignKeyConstraint(
            ["champion_id"], ["model_version.id"], name=op.f("fk_canary_champion_id_model_version")
        ),
        _workspace_key("canary"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_canary")),
    )
    op.create_table(
        "release",
        _workspace_column(),
        _whole("number"),
        _text("champion_id", nullable=True),
        _text("previous_id", nullable=True),
        _text("canary_id", nullable=True),
        _whole("updated_at"),
        sa.ForeignKeyConstraint(["canary_id"], ["canary.id"], name=op.f("fk_release_canary_id_canary")),
        sa.ForeignKeyConstraint(
            ["champion_id"], ["model_version.id"], name=op.f("fk_release_champion_id_model_version")
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["model_version.id"], name=op.f("fk_release_previous_id_model_version")
        ),
        _workspace_key("release"),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_release")),
    )
    op.create_table(
        "erasure",
        _text("id"),
        _workspace_column(),
        _text("subject_hmac"),
        sa.Column("counts", _JSON, nullable=False),
        sa.Column("versions", _JSON, nullable=False),
        _text("created_by"),
        _whole("created_at"),
        _workspace_key("erasure"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure")),
    )


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _whole(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _workspace_column() -> sa.Column[str]:
    return sa.Column("workspace_id", sa.Text(), nullable=False)


def _workspace_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["workspace_id"], ["workspace.id"], name=op.f(f"fk_{table}_workspace_id_workspace"), ondelete="CASCADE"
    )


def downgrade() -> None:
    op.drop_index("ix_message_person_id", table_name="message")
    op.drop_index("ix_message_agents", table_name="message")
    op.drop_index("ix_reply_workspace_id_created_at", table_name="reply")
    op.drop_index("ix_vote_workspace_id_created_at", table_name="vote")
    op.drop_index(op.f("ix_conversation_import_id"), table_name="conversation")
    for table, column in (
        *(("conversation", one) for one in ("instructions", "split_group", "import_id", "may_learn")),
        ("message", "draft"),
        ("person", "may_learn"),
    ):
        op.drop_column(table, column)
    for table in _TABLES:
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change()")


_TABLES = (
    "erasure",
    "release",
    "canary",
    "golden_question",
    "judgement",
    "evaluation",
    "model_version",
    "job_point",
    "job",
    "dataset_example",
    "dataset",
    "review",
    "import_batch",
    "audit",
    "account_identity",
    "account_session",
    "account",
)
