"""Modals, and the short-lived `trigger_id` and `response_url` of interactions."""

from __future__ import annotations

import secrets
from typing import Any

from tests.fakes.slack.calls import Asked, SlackError, invalid_arguments
from tests.fakes.slack.messages import remove
from tests.fakes.slack.records import Ephemeral, Json, ResponseUrl, View
from tests.fakes.slack.state import State

TRIGGER_SECONDS = 3.0
RESPONSE_URL_SECONDS = 30 * 60.0
RESPONSE_URL_USES = 5
LARGEST_VIEW = 250_000


def open_view(asked: Asked) -> Json:
    asked.need("trigger_id", "view")
    trigger = asked.slack.triggers.get(asked.text("trigger_id"))
    if trigger is None or trigger.team_id not in asked.slack.teams_of(asked.by):
        raise SlackError("invalid_trigger_id")
    if trigger.used:
        raise SlackError("exchanged_trigger_id")
    if asked.slack.clock.now() > trigger.at + TRIGGER_SECONDS:
        raise SlackError("expired_trigger_id")
    content = _read_view(asked)
    trigger.used = True
    view = add_view(asked.slack, content, trigger.user, trigger.team_id)
    return {"view": view.content}


def update_view(asked: Asked) -> Json:
    asked.need("view")
    view = asked.slack.views.get(asked.text("view_id"))
    if view is None and asked.text("external_id"):
        wanted = asked.text("external_id")
        view = next((one for one in asked.slack.views.values() if one.content["external_id"] == wanted), None)
    if view is None or not view.open:
        raise SlackError("not_found")
    if asked.text("hash") not in ("", view.content["hash"]):
        raise SlackError("hash_conflict")
    replace_content(asked.slack, view, _read_view(asked))
    return {"view": view.content}


def _read_view(asked: Asked) -> Json:
    view = asked.parsed("view")
    if not isinstance(view, dict):
        raise invalid_arguments("must be a valid view [json-pointer:/view]")
    if len(str(view)) > LARGEST_VIEW:
        raise SlackError("view_too_large")
    problem = _problem_of(view)
    if problem:
        raise invalid_arguments(problem)
    taken = {one.content["external_id"] for one in asked.slack.views.values() if one.open}
    if view.get("external_id") and view["external_id"] in taken and not asked.given.get("view_id"):
        raise SlackError("duplicate_external_id")
    return view


def _problem_of(view: Json) -> str:
    blocks, title = view.get("blocks"), view.get("title")
    if view.get("type") != "modal":
        return "unsupported type [json-pointer:/view/type]"
    if not isinstance(blocks, list) or len(blocks) > 100:
        return "no more than 100 items allowed [json-pointer:/view/blocks]"
    if not isinstance(title, dict) or not 0 < len(str(title.get("text", ""))) <= 24:
        return "must be less than 25 characters [json-pointer:/view/title/text]"
    if any(one.get("type") == "input" for one in blocks) and "submit" not in view:
        return "a modal with inputs must have a submit [json-pointer:/view/submit]"
    return ""


def add_view(slack: State, content: Json, user: str, team_id: str) -> View:
    view_id = f"V{slack.next_number():09d}"
    by = slack.installations_of(team_id)[0]
    shown = {
        "id": view_id,
        "team_id": team_id,
        "app_id": slack.app_id,
        "app_installed_team_id": team_id,
        "bot_id": by.bot_id,
        "root_view_id": view_id,
        "previous_view_id": None,
    }
    view = View(shown, user)
    slack.views[view_id] = view
    replace_content(slack, view, content)
    return view


def replace_content(slack: State, view: View, content: Json) -> None:
    """Replace a view's content with the app's, and add Slack's own fields."""
    added: Json = {
        "private_metadata": "",
        "callback_id": "",
        "external_id": "",
        "clear_on_close": False,
        "notify_on_close": False,
        "submit": None,
        "close": None,
    }
    view.content |= added | content
    for number, block in enumerate(view.content["blocks"]):
        block.setdefault("block_id", f"b{number}")
    view.content["hash"] = f"{int(slack.clock.now())}.{secrets.token_hex(4)}"
    view.content["state"] = {"values": {}}


def answer_submission(slack: State, view: View, answer: Any) -> None:
    """Apply the app's answer to a submitted modal."""
    action = answer.get("response_action") if isinstance(answer, dict) else None
    view.errors = answer["errors"] if action == "errors" else {}
    if action == "update":
        replace_content(slack, view, answer["view"])
    elif action == "push":
        pushed = add_view(slack, answer["view"], view.user, view.content["team_id"])
        pushed.content |= {"root_view_id": view.content["root_view_id"], "previous_view_id": view.id}
    elif action == "clear":
        for one in slack.views.values():
            if one.content["root_view_id"] == view.content["root_view_id"]:
                one.open = False
    elif action is None:
        view.open = False


# --- response_url ---


def use_response_url(slack: State, key: str, given: Json) -> tuple[int, Json]:
    """Handle a POST to a response URL; return its status and body."""
    url = slack.response_urls.get(key)
    if url is None:
        return 404, {"ok": False, "error": "invalid_url"}
    if slack.clock.now() > url.at + RESPONSE_URL_SECONDS:
        return 404, {"ok": False, "error": "expired_url"}
    if url.uses >= RESPONSE_URL_USES:
        return 404, {"ok": False, "error": "used_url"}
    url.uses += 1
    if given.get("delete_original") or given.get("replace_original"):
        return _change_original(slack, url, given)
    if not (given.get("text") or given.get("blocks")):
        return 500, {"ok": False, "error": "no_text"}
    respond(slack, url, given)
    return 200, {"ok": True}


def _change_original(slack: State, url: ResponseUrl, given: Json) -> tuple[int, Json]:
    if not url.message_ts:  # of a message that this person alone sees: the one pressed, else the last one there
        shown = url.shown or next((one for one in reversed(slack.ephemerals) if one.user == url.user), None)
        if shown is None:
            return 404, {"ok": False, "error": "message_not_found"}
        shown.text, shown.blocks = given.get("text", ""), given.get("blocks") or []
        return 200, {"ok": True}
    message = url.channel.find(url.message_ts)
    if message is None:
        return 404, {"ok": False, "error": "message_not_found"}
    if given.get("delete_original"):
        remove(url.channel, message)
    else:
        message.update({key: given[key] for key in ("text", "blocks") if key in given})
    return 200, {"ok": True}


def respond(slack: State, url: ResponseUrl, given: Json) -> None:
    """Add a response to a command or click: ephemeral, unless it says `in_channel`."""
    text, blocks = given.get("text", ""), given.get("blocks") or []
    if given.get("response_type") == "in_channel":
        by = slack.installations_of(url.channel.team_id)[0]
        content = {"text": text, **({"blocks": blocks} if blocks else {})}
        Asked(slack, by, {}).new_message(url.channel, content, str(given.get("thread_ts") or ""))
    else:
        thread_ts = str(given.get("thread_ts") or "")
        slack.ephemerals.append(Ephemeral(url.channel.id, url.user, text, blocks, thread_ts))
