"""Every table, as SQLAlchemy Core. The migrations build the same schema; a test compares the two on both databases.

Knows: columns, keys and indexes. Does not know: who reads or writes them; each aggregate has its module beside this.
All times are milliseconds since 1970 (UTC), by the database's clock; ids are UUIDv7 in hex unless said otherwise.
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
    # Whether their words may be learnt from, where they have said so.
    sa.Column("may_learn", sa.Boolean),
    time_column("created_at"),
)

# Who a person is on one channel: a visitor's id on the web, a user's id in a Slack team.
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
    # Set while the bot has been told to leave a thread of several people; who names it brings it back.
    time_column("left_at", nullable=True),
    # What the model was told before it, where that was not the bot's own system prompt; for imported ones.
    sa.Column("instructions", sa.Text),
    # Conversations of one group are trained on together or not at all, so that what is held out stays unseen.
    sa.Column("split_group", sa.Text),
    # The file it came from (`import_batch`), if it was imported.
    sa.Column("import_id", sa.Text, index=True),
    # Whether it may be learnt from, where somebody has said so for this conversation.
    sa.Column("may_learn", sa.Boolean),
    sa.UniqueConstraint("workspace_id", "channel", "external_id"),
)

# What was accepted, in order: a message, or a request to answer again. `seq` has no gap within a conversation.
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

# One thing said. A reply carries the seq of the last message it answers, so `seq, rank` is the conversation's order.
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
    # Set when an edit or a retry put something else in its place; kept, but out of the model's sight.
    time_column("superseded_at", nullable=True),
    time_column("created_at"),
    # When the person last changed it, by the channel's clock.
    time_column("edited_at", nullable=True),
    # What the bot had proposed where a human agent answered instead.
    sa.Column("draft", sa.Text),
    sa.UniqueConstraint("conversation_id", "seq", "rank"),
    sa.CheckConstraint("author IN ('person', 'bot', 'agent')", name="ck_message_author"),
    # What a canary looks at every few seconds, here and below: few of the messages are of agents.
    sa.Index(
        "ix_message_agents",
        "workspace_id",
        "created_at",
        sqlite_where=sa.text("author = 'agent'"),
        postgresql_where=sa.text("author = 'agent'"),
    ),
)

# How the bot's message came to be.
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
    # Whose words they are: 'model', Myna's own 'unknown' (nothing was found) and 'passage' (an article word for word),
    # or people's: 'curated' (an answer they wrote) and 'intent' (what they want to be said to all of a kind).
    sa.Column("origin", sa.Text, nullable=False, server_default="model"),
    # What the messages were about: empty for none of the intents, null where there are none.
    sa.Column("intent", sa.Text),
    sa.Column("curated_id", sa.Text),
    # Of one that knew no answer: when somebody said that none is needed.
    time_column("gap_closed_at", nullable=True),
    time_column("created_at"),
    sa.UniqueConstraint("conversation_id", "last_seq"),
    sa.CheckConstraint("state IN ('answered', 'stopped', 'refused', 'failed')", name="ck_reply_state"),
    sa.Index("ix_reply_workspace_id_created_at", "workspace_id", "created_at"),
)

# What a reply was made from, as it was then: the article may have been changed or taken out since.
reply_passage = sa.Table(
    "reply_passage",
    metadata,
    sa.Column("message_id", sa.Text, sa.ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    # What the reply calls it, from 1 on.
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

# What is left to do in a conversation, and who does it. Pending is `enq_seq > done_seq`: there is no flag to lose.
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
    # Everything up to this seq is to end as stopped by the person.
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

# Who posts to a conversation's channel, so that parts leave in order.
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

# The messages of a channel that show a reply, from before the first is made until the reply is complete in all of them.
# What is still here after a crash is taken over by whoever shows the reply next, so that nothing stands there twice.
shown_part = sa.Table(
    "shown_part",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    conversation_column(index=True),
    # No reference: while it is being streamed, the reply is not stored yet.
    sa.Column("reply_id", sa.Text, nullable=False),
    sa.Column("is_stream", sa.Boolean, nullable=False),
    # Null until the channel has said how it names the message.
    sa.Column("provider_id", sa.Text),
    time_column("created_at"),
)

# What people think of replies. The newest of a person and reply counts; what it took the place of is kept.
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

# Where the Slack app is installed: a team, or a whole organization. The tokens are encrypted.
slack_installation = sa.Table(
    "slack_installation",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    workspace_column(),
    # The organization's id where the app was installed for all of it, else the team's. It may be installed again:
    # `created_at` is of the last time.
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("bot_user_id", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("bot_token", sa.Text, nullable=False),
    sa.Column("refresh_token", sa.Text),
    time_column("expires_at", nullable=True),
    # Until then one process is renewing the token; the others go on with the one there is.
    time_column("renewing_until", nullable=True),
    time_column("created_at"),
    sa.UniqueConstraint("workspace_id", "tenant"),
)

# Installations that have been begun, each good for one return from Slack.
slack_install_attempt = sa.Table(
    "slack_install_attempt",
    metadata,
    sa.Column("state_sha256", sa.Text, primary_key=True),
    workspace_column(),
    time_column("expires_at"),
)

# What a channel told us that must not be done a second time, and is no message: kept for a while.
seen_event = sa.Table(
    "seen_event",
    metadata,
    workspace_column(),
    sa.Column("key", sa.Text, nullable=False),
    time_column("created_at"),
    sa.PrimaryKeyConstraint("workspace_id", "key"),
)

# What could not be answered after several tries, for an operator to look at.
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

# Who may use the API. Only the hash of a key's secret is kept.
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

# What a key has used on one day (counted from 1970, UTC), so that a quota needs no sum over all requests.
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
