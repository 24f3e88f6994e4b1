"""Web API methods for agents: streams, agent sessions, and the older assistant threads."""

from __future__ import annotations

from tests.fakes.slack.calls import MARKDOWN_TEXT, Asked, SlackError, invalid_arguments
from tests.fakes.slack.records import Channel, Json, Mode, Session, Stream, is_ts

STATUSES = ("active", "processing", "suspended", "closed")
CHUNK_TYPES = ("markdown_text", "task_update", "plan_update", "blocks")
LONGEST_TITLE = 200
MOST_PROMPTS = 4

# --- streams ---


def start_stream(asked: Asked) -> Json:
    asked.need("channel", "thread_ts")
    channel = asked.find_writable()
    root = channel.find(asked.thread_ts())
    if root is None:
        raise SlackError("invalid_thread_ts")
    _check_recipient(asked, channel)
    mode, chunks = _read_chunks(asked)
    now = asked.slack.clock.now()
    message = asked.new_message(channel, {"text": "", "streaming_state": "in_progress"}, root["ts"])
    stream = Stream(channel, message, now, now)
    asked.slack.streams[channel.team_id, channel.id, message["ts"]] = stream
    _extend(stream, mode, chunks)
    asked.clear_thread_status(channel, message["thread_ts"])
    return {"channel": channel.id, "ts": message["ts"]}


def _check_recipient(asked: Asked, channel: Channel) -> None:
    """Refuse a stream in a channel that names no recipient of that team or organization."""
    team, user = asked.text("recipient_team_id"), asked.text("recipient_user_id")
    if channel.kind != "im" and not team:
        raise SlackError("missing_recipient_team_id")
    if channel.kind != "im" and not user:
        raise SlackError("missing_recipient_user_id")
    if team and team not in (channel.team_id, asked.slack.teams[channel.team_id].enterprise_id):
        raise SlackError("team_not_found")
    if user and (user not in asked.slack.users or asked.slack.users[user].is_bot):
        raise SlackError("user_not_found")


def _read_chunks(asked: Asked) -> tuple[Mode, list[Json]]:
    """Return the mode of the call ("text", "chunks" or ""), and its chunks."""
    text, chunks = asked.markdown_text(), asked.parsed("chunks")
    if text:
        return "text", [{"type": "markdown_text", "text": text}]
    if not chunks:
        return "", []
    if not isinstance(chunks, list) or any(not _is_chunk(one) for one in chunks):
        raise SlackError("invalid_chunks")
    if any(len(one.get("text", "")) > MARKDOWN_TEXT for one in chunks):
        raise SlackError("msg_too_long")
    return "chunks", chunks


def _is_chunk(value: object) -> bool:
    if not isinstance(value, dict) or value.get("type") not in CHUNK_TYPES:
        return False
    needed = {"markdown_text": ("text",), "task_update": ("id", "title"), "plan_update": ("title",)}
    return all(isinstance(value.get(name), str) for name in needed.get(value["type"], ()))


def _extend(stream: Stream, mode: Mode, chunks: list[Json]) -> None:
    """Append to a stream, in the mode that it was opened with, and restart its idle time."""
    if mode and stream.mode and mode != stream.mode:
        raise SlackError("streaming_mode_mismatch")
    stream.mode = stream.mode or mode
    stream.chunks += chunks
    stream.message["text"] += "".join(one["text"] for one in chunks if one["type"] == "markdown_text")


def append_stream(asked: Asked) -> Json:
    stream = _running_stream(asked, after_stop="stopped_by_user")
    mode, chunks = _read_chunks(asked)
    if not chunks:
        raise SlackError("no_text")
    _extend(stream, mode, chunks)
    stream.last_append = asked.slack.clock.now()
    return {"channel": stream.channel.id, "ts": stream.message["ts"]}


def _running_stream(asked: Asked, after_stop: str = "message_not_in_streaming_state") -> Stream:
    """Return the stream if it runs; `after_stop` is the error if the person has stopped it."""
    asked.need("channel", "ts")
    channel = asked.find_writable()
    message = asked.find_own(channel, "message_not_owned_by_app")
    stream = asked.slack.stream_of(channel, message["ts"])
    if stream is None or not stream.running:
        by_user = stream is not None and stream.ended_by == "user"
        raise SlackError(after_stop if by_user else "message_not_in_streaming_state")
    return stream


def stop_stream(asked: Asked) -> Json:
    stream = _running_stream(asked)
    status = asked.text("session_status") or "active"
    if status not in STATUSES:
        raise invalid_arguments("must be a valid enum value [json-pointer:/session_status]")
    blocks, metadata = asked.blocks(too_many="msg_blocks_too_many"), asked.metadata()
    mode, chunks = _read_chunks(asked)
    _extend(stream, mode, chunks)
    stream.message.update(metadata)
    if blocks:
        stream.message["blocks"] = blocks
    stream.end("app")
    session = asked.slack.sessions.get((stream.channel.team_id, stream.channel.id, stream.message["thread_ts"]))
    if session is not None:
        session.statuses.append(status)
    return {"channel": stream.channel.id, "ts": stream.message["ts"], "message": stream.message}


# --- agent sessions ---


def set_session_status(asked: Asked) -> Json:
    key = _session_key(asked)
    status, title = asked.text("status"), asked.text("title")
    if status not in STATUSES:
        raise invalid_arguments("must be a valid enum value [json-pointer:/status]")
    if len(title) > LONGEST_TITLE:
        raise invalid_arguments(f"must be less than {LONGEST_TITLE + 1} characters [json-pointer:/title]")
    session = asked.slack.sessions.get(key)
    if session is None:
        asked.slack.sessions[key] = session = Session([], title)
    session.statuses.append(status)
    return {"status": status, "agent_status": status, "title": session.title}


def rename_session(asked: Asked) -> Json:
    key = _session_key(asked)
    if not 0 < len(asked.text("title")) <= LONGEST_TITLE:
        raise invalid_arguments("must be between 1 and 200 characters [json-pointer:/title]")
    if key not in asked.slack.sessions:
        raise SlackError("session_not_found")
    asked.slack.sessions[key].title = asked.text("title")
    return {"title": asked.text("title")}


def _session_key(asked: Asked) -> tuple[str, str, str]:
    if not asked.slack.is_agent:
        raise SlackError("not_authorized")
    asked.need("channel_id")
    channel = asked.find_writable("channel_id")
    asked.need("thread_ts")
    if channel.find(asked.thread_ts()) is None:
        raise SlackError("thread_not_found")
    return channel.team_id, channel.id, asked.thread_ts()


# --- assistant threads ---


def set_thread_status(asked: Asked) -> Json:
    key = _thread_key(asked)
    if asked.text("status"):
        asked.slack.thread_statuses[key] = asked.text("status"), asked.slack.clock.now()
    else:
        asked.slack.thread_statuses.pop(key, None)
    return {}


def set_thread_title(asked: Asked) -> Json:
    asked.need("title")
    asked.slack.titles[_thread_key(asked)] = asked.text("title")
    return {}


def set_suggested_prompts(asked: Asked) -> Json:
    """Accept prompts; under the agent surface they are the channel's, and with a thread they are not shown."""
    asked.need("channel_id", "prompts")
    channel, prompts = asked.find_channel("channel_id"), asked.parsed("prompts")
    if not isinstance(prompts, list) or len(prompts) > MOST_PROMPTS:
        raise invalid_arguments(f"no more than {MOST_PROMPTS} items allowed [json-pointer:/prompts]")
    if any(not isinstance(one, dict) or not one.get("title") or not one.get("message") for one in prompts):
        raise invalid_arguments("missing required field: title [json-pointer:/prompts/0]")
    thread_ts = asked.thread_ts()
    if not thread_ts or not asked.slack.is_agent:
        asked.slack.prompts[channel.team_id, channel.id, thread_ts] = prompts
    return {}


def _thread_key(asked: Asked) -> tuple[str, str, str]:
    asked.need("channel_id", "thread_ts")
    channel = asked.find_channel("channel_id")
    if not is_ts(asked.text("thread_ts")) or channel.find(asked.text("thread_ts")) is None:
        raise SlackError("invalid_thread_ts")
    return channel.team_id, channel.id, asked.text("thread_ts")
