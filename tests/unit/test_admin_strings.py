"""The words of the admin page: each in both languages, and none missing."""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent.parent.parent / "adapters" / "admin" / "static"


def test_both_languages_have_every_word_that_is_used() -> None:
    english, chinese = (_keys(STATIC / f"strings_{language}.js") for language in ("en", "zh"))
    assert english == chinese
    texts = [path.read_text(encoding="utf-8") for path in STATIC.glob("*.js")]
    used = {("", word) for text in texts for word in re.findall(r"\bt\('(\w+)'", text)}
    used |= set(re.findall(r"\bword\('(\w+)', '(\w+)'", "\n".join(texts)))
    assert len(used) > 400
    assert used - english == set()


def _keys(path: Path) -> set[tuple[str, str]]:
    """Every word with the kind of name that it is; "" for the words of the page itself."""
    words, names = path.read_text(encoding="utf-8").split("export const names = {")
    found = {("", key) for key in re.findall(r"^  (\w+): ['\"]", words, re.M)}
    for kind, entries in re.findall(r"^  (\w+): \{$(.*?)^  \},$", names, re.M | re.S):
        found |= {(kind, key) for key in re.findall(r"^    (\w+): ['\"]", entries, re.M)}
    return found
