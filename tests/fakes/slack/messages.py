"""Web API methods for messages, reactions, channels and people.

Source: docs.slack.dev/reference/methods.
"""

from __future__ import annotations

from tests.fakes.slack.calls import UPDATE_TEXT, Asked, SlackError
from tests.fakes.slack.records import Channel, Ephemeral, Json, is_ts


def post_message(asked: Asked) -> Json:
    asked.need("channel")
    channel = _channel_or_person(asked)
    content = asked.content() | asked.metadata()
    message = asked.new_message(channel, content, asked.thread_ts())
    asked.clear_thread_status(channel, str(message.get("thread_ts")))
    return {"channel": channel.id, "ts": message["ts"], "message": message}


def _channel_or_person(asked: Asked) -> Channel:
    """Return the channel; for a person's id, their direct messages, as `chat.postMessage` allows."""
    if asked.text("channel") in asked.slack.users:
        return _direct_messages(asked, asked.text("channel"))
    return asked.find_writable()


def _direct_messages(asked: Asked, user: str) -> Channel:
    teams = asked.slack.teams_of(asked.by)
    for channel in asked.slack.channels.values():
        if channel.kind == "im" and channel.team_id in teams and channel.members == {user, asked.by.bot_user_id}:
            return channel
    channel = asked.slack.channel(f"D{user[1:]}", teams[0])
    channel.members |= {user}
    return channel


def update(asked: Asked) -> Json:
    asked.need("channel", "ts")
    channel = asked.find_writable()
    message = asked.find_own(channel, "cant_update_message")
    stream = asked.slack.stream_of(channel, message["ts"])
    if stream is not None and stream.running:
        raise SlackError("streaming_state_conflict")
    message.update(asked.content(UPDATE_TEXT) | asked.metadata())
    message["edited"] = {"user": asked.by.bot_user_id, "ts": asked.slack.next_ts()}
    hidden = ("ts", "reactions", "reply_count", "latest_reply")
    shown = {key: message[key] for key in message if key not in hidden}
    return {"channel": channel.id, "ts": message["ts"], "text": message["text"], "message": shown}


def delete(asked: Asked) -> Json:
    asked.need("channel", "ts")
    channel = asked.find_writable()
    message = asked.find_own(channel, "cant_delete_message")
    stream = asked.slack.stream_of(channel, message["ts"])
    if stream is not None and stream.running:
        raise SlackError("cant_delete_message")
    remove(channel, message)
    return {"channel": channel.id, "ts": message["ts"]}


def remove(channel: Channel, message: Json) -> None:
    """Remove a message; a root with replies leaves a tombstone, removed with the last reply."""
    root = channel.find(message.get("thread_ts"))
    if message.get("reply_count"):
        message.update(subtype="tombstone", text="This message was deleted.", hidden=True)
        for key in ("bot_id", "blocks", "metadata", "files"):
            message.pop(key, None)
        return
    channel.messages.remove(message)
    if root is None or root is message:
        return
    root["reply_count"] -= 1
    if root["reply_count"] == 0:
        for key in ("thread_ts", "reply_count", "latest_reply"):
            root.pop(key, None)
        if root.get("subtype") == "tombstone":
            channel.messages.remove(root)


def post_ephemeral(asked: Asked) -> Json:
    asked.need("channel", "user")
    channel = asked.find_writable()
    content = asked.content()
    if asked.text("user") not in channel.members:
        raise SlackError("user_not_in_channel")
    shown = Ephemeral(channel.id, asked.text("user"), content["text"], content.get("blocks", []), asked.thread_ts())
    asked.slack.ephemerals.append(shown)
    return {"message_ts": asked.slack.next_ts()}


# --- reading ---


def replies(asked: Asked) -> Json:
    asked.need("channel", "ts")
    channel = asked.find_channel()
    root = channel.find(asked.text("ts"))
    if root is None:
        raise SlackError("thread_not_found")
    return _page(asked, channel.thread(str(root.get("thread_ts", root["ts"]))))


def history(asked: Asked) -> Json:
    asked.need("channel")
    channel = asked.find_channel()
    if asked.by.bot_user_id not in channel.members:
        raise SlackError("not_in_channel")
    roots = [one for one in channel.messages if one.get("thread_ts", one["ts"]) == one["ts"]]
    return _page(asked, roots[::-1])


def _page(asked: Asked, messages: list[Json]) -> Json:
    for name in ("latest", "oldest"):
        if asked.text(name) and not (is_ts(asked.text(name)) or asked.text(name).isdigit()):
            raise SlackError(f"invalid_ts_{name}")
    cursor = asked.text("cursor") or "0"
    if not cursor.isdigit():
        raise SlackError("invalid_cursor")
    found = [one for one in messages if _is_between(asked, one)]
    begin, size = int(cursor), min(int(asked.text("limit") or asked.slack.page_size), asked.slack.page_size)
    hidden = set() if asked.flag("include_all_metadata") else {"metadata"}
    page = [{key: one[key] for key in one if key not in hidden} for one in found[begin : begin + size]]
    has_more = begin + size < len(found)
    more: Json = {"response_metadata": {"next_cursor": str(begin + size)}} if has_more else {}
    return {"messages": page, "has_more": has_more, **more}


def _is_between(asked: Asked, message: Json) -> bool:
    at, latest, oldest = float(message["ts"]), asked.text("latest"), asked.text("oldest")
    if asked.flag("inclusive"):
        return (not latest or at <= float(latest)) and (not oldest or at >= float(oldest))
    return (not latest or at < float(latest)) and (not oldest or at > float(oldest))


def channel_info(asked: Asked) -> Json:
    asked.need("channel")
    return {"channel": _shown_channel(asked, asked.find_channel())}


def _shown_channel(asked: Asked, channel: Channel) -> Json:
    shown: Json = {
        "id": channel.id,
        "is_channel": channel.kind == "channel",
        "is_group": channel.kind == "group",
        "is_im": channel.kind == "im",
        "is_mpim": channel.kind == "mpim",
        "is_private": channel.kind != "channel",
        "is_archived": False,
        "context_team_id": channel.team_id,
    }
    if channel.kind == "im":
        shown["user"] = next(iter(channel.members - {asked.by.bot_user_id}), "")
    else:
        shown |= {"name": channel.id[2:].lower(), "is_member": asked.by.bot_user_id in channel.members}
    return shown


def open_conversation(asked: Asked) -> Json:
    users = [one.strip() for one in asked.text("users").split(",") if one.strip()]
    if asked.text("channel"):
        return {"channel": {"id": asked.find_channel().id}}
    if not users:
        raise SlackError("users_list_not_supplied")
    if any(one not in asked.slack.users for one in users):
        raise SlackError("user_not_found")
    if len(users) > 1:
        channel = asked.slack.channel(f"G{asked.slack.next_number():08d}", asked.slack.teams_of(asked.by)[0])
        channel.kind = "mpim"
        channel.members |= set(users)
        return {"channel": {"id": channel.id}}
    return {"channel": {"id": _direct_messages(asked, users[0]).id}}


def user_info(asked: Asked) -> Json:
    user = asked.slack.users.get(asked.text("user"))
    if user is None:
        raise SlackError("user_not_found")
    shown: Json = {
        "id": user.id,
        "team_id": asked.by.team_id,
        "name": user.name,
        "real_name": user.name.title(),
        "is_admin": user.is_admin,
        "is_bot": user.is_bot,
        "deleted": False,
        "tz": "Europe/Berlin",
        "profile": {"display_name": user.name, "real_name": user.name.title()},
    }
    if asked.flag("include_locale"):
        shown["locale"] = user.locale
    return {"user": shown}


# --- reactions ---


def _marked(asked: Asked) -> tuple[Json, Json | None]:
    """Return the message, and its reaction with this emoji, None if there is none."""
    channel = asked.find_channel()
    message = channel.find(asked.text("timestamp"))
    if message is None:
        raise SlackError("message_not_found")
    found = message.setdefault("reactions", [])
    return message, next((one for one in found if one["name"] == asked.text("name")), None)


def add_reaction(asked: Asked) -> Json:
    asked.need("name", "channel", "timestamp")
    message, reaction = _marked(asked)
    if reaction is None:
        reaction = {"name": asked.text("name"), "users": [], "count": 0}
        message["reactions"].append(reaction)
    if asked.by.bot_user_id in reaction["users"]:
        raise SlackError("already_reacted")
    reaction["users"].append(asked.by.bot_user_id)
    reaction["count"] += 1
    return {}


def remove_reaction(asked: Asked) -> Json:
    asked.need("name")
    if not asked.text("channel"):
        raise SlackError("no_item_specified")
    if not asked.text("timestamp"):
        raise SlackError("bad_timestamp")
    message, reaction = _marked(asked)
    if reaction is None or asked.by.bot_user_id not in reaction["users"]:
        raise SlackError("no_reaction")
    reaction["users"].remove(asked.by.bot_user_id)
    reaction["count"] -= 1
    message["reactions"] = [one for one in message["reactions"] if one["count"]]
    return {}
