"""Tables of the learning loop: accounts, datasets, jobs, versions.

Times, ids and JSON are as in `storage.schema`. Each aggregate has a module of its own beside this one.
"""

from __future__ import annotations

import sqlalchemy as sa

from storage.schema import Json, NullableJson, conversation_column, metadata, time_column, workspace_column

# Members of staff: a name and a password for the admin page, and a role.
account = sa.Table(
    "account",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("password_hash", sa.Text),
    time_column("created_at"),
    time_column("disabled_at", nullable=True),
    sa.UniqueConstraint("workspace_id", "name"),
    sa.CheckConstraint("role IN ('viewer', 'agent', 'trainer', 'admin')", name="ck_account_role"),
)

# A session in one browser. Only the hash of the cookie's secret is stored.
account_session = sa.Table(
    "account_session",
    metadata,
    sa.Column("secret_sha256", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("account_id", sa.Text, sa.ForeignKey("account.id", ondelete="CASCADE"), nullable=False, index=True),
    time_column("created_at"),
    time_column("used_at"),
)

# The id by which a channel knows an account, so that commands given there are the account's: "T123/U456" on Slack.
account_identity = sa.Table(
    "account_identity",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("account_id", sa.Text, sa.ForeignKey("account.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text, nullable=False),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "channel", "external_id"),
)

# The audit log: append-only, each row with the hash of the row before. It holds no personal text.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("details", Json, nullable=False),
    sa.Column("previous_sha256", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "number"),
)

# An imported file of conversations.
import_batch = sa.Table(
    "import_batch",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("conversations", sa.Integer, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
)

# Staff's decisions about replies: the newest of a reply counts, replaced ones are kept.
review = sa.Table(
    "review",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(index=True),
    sa.Column("reply_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    # 'approve': learn the reply; 'correct': learn `better` instead; 'exclude': learn nothing from it.
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("better", sa.Text),
    sa.Column("reviewer", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("replaced_at", nullable=True),
    sa.CheckConstraint("decision IN ('approve', 'correct', 'exclude')", name="ck_review_decision"),
    sa.Index(
        "ix_review_current",
        "reply_id",
        unique=True,
        sqlite_where=sa.text("replaced_at IS NULL"),
        postgresql_where=sa.text("replaced_at IS NULL"),
    ),
)

# The examples to train a model on. `sha256` is over the hashes of its examples, in order.
dataset = sa.Table(
    "dataset",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("counts", Json, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "sha256"),
)

# An example, or a rejected candidate and the reason. The row outlives its conversation; an erasure empties it.
dataset_example = sa.Table(
    "dataset_example",
    metadata,
    sa.Column("dataset_id", sa.Text, sa.ForeignKey("dataset.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    workspace_column(),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    # 'train' or 'held_out'; null for a rejected candidate, which then has a `rejected_because`.
    sa.Column("split", sa.Text),
    sa.Column("rejected_because", sa.Text),
    # No foreign keys: these tell the origin of the example, also after an erasure.
    sa.Column("conversation_id", sa.Text, nullable=False, index=True),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("person_id", sa.Text, index=True),
    # {"messages": [...], "chosen": text, "rejected": text or null, "good": true, false or null}; null once erased.
    sa.Column("content", NullableJson),
    sa.CheckConstraint("kind IN ('answer', 'pair', 'thumb')", name="ck_dataset_example_kind"),
    sa.CheckConstraint("split IN ('train', 'held_out')", name="ck_dataset_example_split"),
)

# Work of minutes for a worker process, one job at a time on each device.
job = sa.Table(
    "job",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # The request to a running job, which the worker reads between two steps.
    sa.Column("wanted", sa.Text, nullable=False, server_default="run"),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("device", sa.Text, nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("progress", NullableJson),
    sa.Column("result", NullableJson),
    sa.Column("error", sa.Text),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("owner", sa.Text),
    time_column("lease_until", nullable=True),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    time_column("created_at"),
    time_column("started_at", nullable=True),
    time_column("ended_at", nullable=True),
    sa.CheckConstraint(
        "state IN ('queued', 'running', 'paused', 'done', 'refused', 'failed', 'cancelled')", name="ck_job_state"
    ),
    sa.CheckConstraint("wanted IN ('run', 'pause', 'cancel')", name="ck_job_wanted"),
    sa.Index(
        "ix_job_open",
        "device",
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    ),
    # Two workers that claim at the same moment don't see each other's claim; this index refuses the second.
    sa.Index(
        "ix_job_running",
        "device",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)

# The curves of a job: loss on training rows and on held-out ones, tokens a second.
job_point = sa.Table(
    "job_point",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("job.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("series", sa.Text, primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    workspace_column(),
    sa.Column("value", sa.Float, nullable=False),
)

# A trained version. Its origin never changes; it may be retired or tainted.
model_version = sa.Table(
    "model_version",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("base", sa.Text, nullable=False),
    sa.Column("base_sha256", sa.Text, nullable=False),
    sa.Column("weights_sha256", sa.Text, nullable=False),
    sa.Column("dataset_id", sa.Text, sa.ForeignKey("dataset.id"), nullable=False, index=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("job.id"), nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("retired_at", nullable=True),
    sa.Column("retired_because", sa.Text),
    # Set when a person whose words it was trained on has been erased.
    time_column("tainted_at", nullable=True),
    sa.UniqueConstraint("workspace_id", "number"),
    sa.UniqueConstraint("workspace_id", "name"),
)

# A comparison of a version with the champion on the same prompts, with the gate's verdict.
evaluation = sa.Table(
    "evaluation",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("version_id", sa.Text, sa.ForeignKey("model_version.id", ondelete="CASCADE"), nullable=False, index=True),
    # The version it was compared with; null is the base.
    sa.Column("champion_id", sa.Text, sa.ForeignKey("model_version.id", ondelete="SET NULL")),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("reasons", Json, nullable=False),
    sa.Column("report", Json, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
)

# A person's blind judgement of two answers.
judgement = sa.Table(
    "judgement",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("evaluation_id", sa.Text, sa.ForeignKey("evaluation.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("judge", sa.Text, nullable=False),
    sa.Column("better", sa.Text, nullable=False),
    time_column("created_at"),
    sa.UniqueConstraint("evaluation_id", "number", "judge"),
    sa.CheckConstraint("better IN ('candidate', 'champion', 'same')", name="ck_judgement_better"),
)

# A golden question, which every version must answer within rules.
golden_question = sa.Table(
    "golden_question",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("messages", Json, nullable=False),
    # {"must_contain": [...], "must_not_contain": [...]}
    sa.Column("rules", Json, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("removed_at", nullable=True),
)

# A canary release: a challenger tried on a share of the conversations. `outcome` is null while it runs.
canary = sa.Table(
    "canary",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("challenger_id", sa.Text, sa.ForeignKey("model_version.id"), nullable=False),
    sa.Column("champion_id", sa.Text, sa.ForeignKey("model_version.id")),
    sa.Column("share", sa.Float, nullable=False),
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("settings", Json, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
    time_column("ended_at", nullable=True),
    sa.Column("outcome", sa.Text),
    sa.Column("report", NullableJson),
    sa.CheckConstraint("outcome IN ('promoted', 'rolled_back', 'harm', 'replaced')", name="ck_canary_outcome"),
)

# The release in force, one row a workspace. Null is the base; `number` grows with each change.
release = sa.Table(
    "release",
    metadata,
    sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("champion_id", sa.Text, sa.ForeignKey("model_version.id")),
    sa.Column("previous_id", sa.Text, sa.ForeignKey("model_version.id")),
    sa.Column("canary_id", sa.Text, sa.ForeignKey("canary.id")),
    time_column("updated_at"),
)

# Proof of an erasure; the person is identified by an HMAC only.
erasure = sa.Table(
    "erasure",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("subject_hmac", sa.Text, nullable=False),
    sa.Column("counts", Json, nullable=False),
    sa.Column("versions", Json, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    time_column("created_at"),
)
