"""File uploads: a URL first, then the content, then the channel.

Source: docs.slack.dev/messaging/working-with-files.
"""

from __future__ import annotations

from tests.fakes.slack.calls import Asked, SlackError
from tests.fakes.slack.records import Json, UploadedFile


def get_upload_url(asked: Asked) -> Json:
    asked.need("filename", "length")
    key = f"F{asked.slack.next_number():08d}"
    asked.slack.files[key] = UploadedFile(asked.text("filename"), int(asked.text("length")), asked.text("alt_txt"))
    return {"upload_url": asked.slack.url.removesuffix("/api/") + f"/upload/{key}", "file_id": key}


def complete_upload(asked: Asked) -> Json:
    wanted = asked.parsed("files")
    if not isinstance(wanted, list) or not wanted:
        raise SlackError("invalid_arguments")
    channel = asked.find_writable("channel_id").id if asked.text("channel_id") else ""
    for one in wanted:
        file = asked.slack.files.get(str(one.get("id")))
        if file is None or not file.content:
            raise SlackError("file_not_found")
        file.channel = channel
    return {"files": [{"id": one["id"], "title": one.get("title", "")} for one in wanted]}
