"""The words of the admin page: each in both languages, and none missing."""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent.parent.parent / "adapters" / "admin" / "static"


def test_both_languages_have_every_word_that_is_used() -> None:
    text = (STATIC / "strings.js").read_text(encoding="utf-8")
    english, chinese = text.split("const zh = {")
    names = [set(re.findall(r"^  (\w+): ['\"]", part, re.M)) for part in (english, chinese.split("\n};")[0])]
    assert names[0] == names[1]
    used = {
        name for path in STATIC.glob("*.js") for name in re.findall(r"\bt\('(\w+)'", path.read_text(encoding="utf-8"))
    }
    assert used - names[0] == set()
