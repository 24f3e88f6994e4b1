"""Tables of conversations, channels and API keys, in SQLAlchemy Core.

The migrations build the same schema; a test compares the two on both databases. All times are milliseconds since 1970
(UTC), by the database's clock; ids are UUIDv7 in hex unless a comment says otherwise.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

naming = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=naming)

Json = sa.JSON().with_variant(JSONB(), "postgresql")
NullableJson = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def workspace_column() -> sa.Column[str]:
    return sa.Column("workspace_id", sa.Text, sa.ForeignKey("workspace.id", ondelete="CASCADE"), nullable=False)


def conversation_column(*, primary_key: bool = False, index: bool | None = None) -> sa.Column[str]:
    parent = sa.ForeignKey("conversation.id", ondelete="CASCADE")
    return sa.Column("conversation_id", sa.Text, parent, nullable=False, primary_key=primary_key, index=index)


def time_column(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


workspace = sa.Table(
    "workspace",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    time_column("created_at"),
)

person = sa.Table(
    "person",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("display_name", sa.Text),
    sa.Column("locale", sa.Text),
    # Consent to learning from the person's messages; null if not given.
    sa.Column("may_learn", sa.Boolean),
    time_column("created_at"),
)

# The id by which a channel knows a person: a visitor's id on the web, a user's id in a Slack team.
identity = sa.Table(
    "identity",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("person_id", sa.Text, sa.ForeignKey("person.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text, nullable=False),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "channel", "external_id"),
)

conversation = sa.Table(
    "conversation",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("external_id", sa.Text, nullable=False),
    # The person whose conversation it is; null where many write, as in a Slack thread.
    sa.Column("person_id", sa.Text, sa.ForeignKey("person.id", ondelete="SET NULL"), index=True),
    sa.Column("title", sa.Text, nullable=False),
    # Messages before this number are kept but no longer shown to the model ("/new").
    sa.Column("context_from_seq", sa.BigInteger, nullable=False, server_default="0"),
    time_column("created_at"),
    # Set while the bot has left a thread of several people on request; naming the bot brings it back.
    time_column("left_at", nullable=True),
    # The system prompt of an imported conversation, where it was not the bot's own.
    sa.Column("instructions", sa.Text),
    # All conversations of a group are trained on, or all are held out, so that held-out ones stay unseen.
    sa.Column("split_group", sa.Text),
    # The file it came from (`import_batch`), if it was imported.
    sa.Column("import_id", sa.Text, index=True),
    # Consent to learning from this conversation; null if not given.
    sa.Column("may_learn", sa.Boolean),
    sa.UniqueConstraint("workspace_id", "channel", "external_id"),
)

# The inbox: accepted messages and requests to answer again. `seq` has no gap within a conversation.
inbox = sa.Table(
    "inbox",
    metadata,
    conversation_column(primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    workspace_column(),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("dedupe_key", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text),
    time_column("received_at"),
    sa.UniqueConstraint("workspace_id", "dedupe_key"),
    sa.CheckConstraint("kind IN ('message', 'regenerate')", name="ck_inbox_kind"),
)

# A message. A reply carries the seq of the last message it answers, so `seq, rank` is the conversation's order.
message = sa.Table(
    "message",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("rank", sa.SmallInteger, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("person_id", sa.Text, sa.ForeignKey("person.id", ondelete="SET NULL"), index=True),
    # The channel's own id of the message: a web client's message id, a Slack timestamp.
    sa.Column("external_id", sa.Text),
    sa.Column("parts", Json, nullable=False),
    # Set when an edit or a retry replaced the message; it is kept, but hidden from the model.
    time_column("superseded_at", nullable=True),
    time_column("created_at"),
    # When the person last changed it, by the channel's clock.
    time_column("edited_at", nullable=True),
    # The bot's proposal, where a human agent answered instead.
    sa.Column("draft", sa.Text),
    sa.UniqueConstraint("conversation_id", "seq", "rank"),
    sa.CheckConstraint("author IN ('person', 'bot', 'agent')", name="ck_message_author"),
    # For a canary, which reads this every few seconds, here and below. Few of the messages are from agents.
    sa.Index(
        "ix_message_agents",
        "workspace_id",
        "created_at",
        sqlite_where=sa.text("author = 'agent'"),
        postgresql_where=sa.text("author = 'agent'"),
    ),
)

# The origin of a bot's message: model, version, prompt, tokens and times.
reply = sa.Table(
    "reply",
    metadata,
    sa.Column("message_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    workspace_column(),
    conversation_column(),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("prompt_sha256", sa.Text),
    sa.Column("prompt_tokens", sa.Integer),
    sa.Column("completion_tokens", sa.Integer),
    sa.Column("finish_reason", sa.Text),
    sa.Column("waited_ms", sa.Integer),
    sa.Column("first_piece_ms", sa.Integer),
    sa.Column("total_ms", sa.Integer),
    sa.Column("error", sa.Text),
    # The source of the words: 'model'; Myna's own 'unknown' (no article was found) and 'passage' (an article word for
    # word); or people's 'curated' (an answer they wrote) and 'intent' (a fixed reply to an intent).
    sa.Column("origin", sa.Text, nullable=False, server_default="model"),
    # The intent of the messages: empty if they had none, null if the workspace has no intents.
    sa.Column("intent", sa.Text),
    sa.Column("curated_id", sa.Text),
    # Set on an 'unknown' reply when staff close the knowledge gap.
    time_column("gap_closed_at", nullable=True),
    time_column("created_at"),
    sa.UniqueConstraint("conversation_id", "last_seq"),
    sa.CheckConstraint("state IN ('answered', 'stopped', 'refused', 'failed')", name="ck_reply_state"),
    sa.Index("ix_reply_workspace_id_created_at", "workspace_id", "created_at"),
)

# The passages that a reply was made from, as they were then: the article may have been changed or removed since.
reply_passage = sa.Table(
    "reply_passage",
    metadata,
    sa.Column("message_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    # The number that the reply cites, from 1 on.
    sa.Column("number", sa.Integer, primary_key=True),
    workspace_column(),
    sa.Column("article_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("headings", Json, nullable=False),
    sa.Column("url", sa.Text),
    sa.Column("audience", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("is_cited", sa.Boolean, nullable=False),
)

# The work left in a conversation, and its lease. Work is pending while `enq_seq > done_seq`: there is no flag to lose.
conversation_work = sa.Table(
    "conversation_work",
    metadata,
    conversation_column(primary_key=True),
    workspace_column(),
    sa.Column("channel", sa.Text, nullable=False),
    time_column("updated_at"),
    sa.Column("enq_seq", sa.BigInteger, nullable=False),
    sa.Column("done_seq", sa.BigInteger, nullable=False, server_default="0"),
    time_column("available_at"),
    time_column("retry_at"),
    time_column("burst_deadline", nullable=True),
    sa.Column("owner", sa.Text),
    time_column("lease_until", nullable=True),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # All messages up to this seq are to end as stopped by the person.
    sa.Column("stop_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index(
        "ix_conversation_work_pending",
        "available_at",
        sqlite_where=sa.text("enq_seq > done_seq"),
        postgresql_where=sa.text("enq_seq > done_seq"),
    ),
    sa.Index(
        "ix_conversation_work_owner",
        "owner",
        sqlite_where=sa.text("owner IS NOT NULL"),
        postgresql_where=sa.text("owner IS NOT NULL"),
    ),
)

# Replies to be posted to channels that must be called (Slack). Web and console read the message itself.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(),
    sa.Column("reply_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("provider_id", sa.Text),
    sa.Column("error", sa.Text),
    time_column("created_at"),
    sa.UniqueConstraint("conversation_id", "last_seq", "part"),
    sa.CheckConstraint("state IN ('pending', 'sending', 'sent', 'ambiguous', 'failed')", name="ck_outbox_state"),
    sa.Index(
        "ix_outbox_open",
        "conversation_id",
        sqlite_where=sa.text("state IN ('pending', 'sending')"),
        postgresql_where=sa.text("state IN ('pending', 'sending')"),
    ),
)

# The send lease of a conversation, so that its posts leave in order.
conversation_send = sa.Table(
    "conversation_send",
    metadata,
    conversation_column(primary_key=True),
    workspace_column(),
    sa.Column("owner", sa.Text),
    time_column("lease_until", nullable=True),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
    time_column("retry_at"),
)

# The messages of a channel that show a reply live, each from before it is made until the reply is complete in it.
# Rows left by a crash are taken over by the next turn, so that no reply stands there twice.
shown_part = sa.Table(
    "shown_part",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(index=True),
    # No reference: while it is being streamed, the reply is not stored yet.
    sa.Column("reply_id", sa.Text, nullable=False),
    sa.Column("is_stream", sa.Boolean, nullable=False),
    # The channel's id of the message; null until the channel has told it.
    sa.Column("provider_id", sa.Text),
    time_column("created_at"),
)

# Votes on replies. The newest of a person and reply counts; replaced ones are kept.
vote = sa.Table(
    "vote",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(index=True),
    sa.Column("reply_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    sa.Column("person_id", sa.Text, sa.ForeignKey("person.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("value", sa.SmallInteger, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("better", sa.Text),
    time_column("created_at"),
    time_column("replaced_at", nullable=True),
    sa.CheckConstraint("value IN (-1, 1)", name="ck_vote_value"),
    sa.Index("ix_vote_workspace_id_created_at", "workspace_id", "created_at"),
    sa.Index(
        "ix_vote_current",
        "reply_id",
        "person_id",
        unique=True,
        sqlite_where=sa.text("replaced_at IS NULL"),
        postgresql_where=sa.text("replaced_at IS NULL"),
    ),
)

# Installations of the Slack app, by team or by organization. The tokens are encrypted.
slack_installation = sa.Table(
    "slack_installation",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    # The organization's id where the app was installed for all of it, else the team's. `created_at` is the time of the
    # last installation.
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("bot_user_id", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("bot_token", sa.Text, nullable=False),
    sa.Column("refresh_token", sa.Text),
    time_column("expires_at", nullable=True),
    # Until then one process is renewing the token; the others go on with the old one.
    time_column("renewing_until", nullable=True),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "tenant"),
)

# Installations in progress (OAuth `state`), each good for one return from Slack.
slack_install_attempt = sa.Table(
    "slack_install_attempt",
    metadata,
    sa.Column("state_sha256", sa.Text, primary_key=True),
    workspace_column(),
    time_column("expires_at"),
)

# Idempotency keys of channel events that are no messages, kept for a week.
seen_event = sa.Table(
    "seen_event",
    metadata,
    workspace_column(),
    sa.Column("key", sa.Text, nullable=False),
    time_column("created_at"),
    sa.PrimaryKeyConstraint("workspace_id", "key"),
)

# Dead letters: messages that failed after several tries, for an operator to examine.
dead_letter = sa.Table(
    "dead_letter",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(index=True),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    time_column("created_at"),
)

# API keys. Only the hash of a key's secret is stored.
api_key = sa.Table(
    "api_key",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.Text, nullable=False, unique=True),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_day", sa.BigInteger),
    time_column("created_at"),
    time_column("revoked_at", nullable=True),
)

# One request to the API; without a key where the API is open.
api_usage = sa.Table(
    "api_usage",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    sa.Column("api_key_id", sa.Text, sa.ForeignKey("api_key.id", ondelete="CASCADE"), index=True),
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Text),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("first_token_ms", sa.Integer),
    sa.Column("total_ms", sa.Integer, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    time_column("created_at"),
)

# A key's usage on one day (counted from 1970, UTC), so that a quota needs no sum over all requests.
api_usage_day = sa.Table(
    "api_usage_day",
    metadata,
    sa.Column("api_key_id", sa.Text, sa.ForeignKey("api_key.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    workspace_column(),
    sa.Column("requests", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
)

DEFAULT_WORKSPACE = "default"
