"""App manifest: scopes, events and URLs of the Slack app.

Its form: docs.slack.dev/reference/app-manifest. `adapters.slack.doctor` compares it with that of the real app.
"""

from __future__ import annotations

from typing import Any

from adapters.slack.commands import SLASH

BOT_SCOPES = (
    "app_mentions:read",
    "assistant:write",
    "channels:history",
    "chat:write",
    "commands",
    "files:write",
    "groups:history",
    "im:history",
    "im:read",
    "im:write",
    "mpim:history",
    "users:read",
)
BOT_EVENTS = (
    "agent_session_stopped",
    "app_home_opened",
    "app_mention",
    "app_uninstalled",
    "message.channels",
    "message.groups",
    "message.im",
    "message.mpim",
    "tokens_revoked",
)
PLACEHOLDER_URL = "https://your.address"


def make_manifest(name: str, public_url: str, *, socket_mode: bool, many_workspaces: bool) -> dict[str, Any]:
    """Return the manifest for an installation at `public_url`."""
    url = public_url or PLACEHOLDER_URL

    def address(path: str, key: str = "request_url") -> dict[str, str]:
        return {} if socket_mode else {key: f"{url}{path}"}

    command = {
        "command": SLASH,
        "description": "Help, begin anew, give feedback, steer the training",
        "usage_hint": "help | new | feedback | status | train | promote ...",
    }
    oauth: dict[str, Any] = {"scopes": {"bot": list(BOT_SCOPES)}}
    if many_workspaces:
        oauth["redirect_urls"] = [f"{url}/slack/oauth_redirect"]
    return {
        "_metadata": {"major_version": 2, "minor_version": 1},
        "display_information": {"name": name[:35], "description": "Answers questions, and learns from the answers"},
        "features": {
            "agent_view": {"agent_description": "Answers your questions, in threads and directly"},
            "app_home": {
                "home_tab_enabled": False,
                "messages_tab_enabled": True,
                "messages_tab_read_only_enabled": False,
            },
            "bot_user": {"display_name": name[:80], "always_online": True},
            "slash_commands": [{**command, **address("/slack/commands", "url"), "should_escape": False}],
        },
        "oauth_config": oauth,
        "settings": {
            "event_subscriptions": {**address("/slack/events"), "bot_events": list(BOT_EVENTS)},
            "interactivity": {"is_enabled": True, **address("/slack/interactivity")},
            "org_deploy_enabled": many_workspaces,
            "socket_mode_enabled": socket_mode,
            "token_rotation_enabled": many_workspaces,
        },
    }
