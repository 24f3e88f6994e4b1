"""Grammar of steering lines: `train 200`, `promote bot-v3 because ...`, `canary stop`.

The grammar is English; verbs and `because` have Chinese names, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bot.errors import InvalidInput

Verb = Literal["train", "status", "stop", "evaluate", "compare", "promote", "canary", "rollback", "versions"]
START = "/myna"
USAGE: dict[Verb, str] = {
    "train": "train [ROWS] [--rows N] [--search N] [--name NAME]",
    "status": "status",
    "stop": "stop [JOB]",
    "evaluate": "evaluate VERSION",
    "compare": "compare [VERSION]",
    "promote": "promote VERSION [because ...]",
    "canary": "canary VERSION [10%] [because ...], or canary stop",
    "rollback": "rollback [because ...]",
    "versions": "versions",
}
DEFAULT_SHARE = 0.1
MAX_REASON_CHARS = 500

_VERBS: dict[str, Verb] = {
    **{verb: verb for verb in USAGE},
    "训练": "train",
    "状态": "status",
    "停止": "stop",
    "评估": "evaluate",
    "比较": "compare",
    "发布": "promote",
    "灰度": "canary",
    "回滚": "rollback",
    "版本": "versions",
}
_REASONED = ("promote", "canary", "rollback")
_BECAUSE = re.compile(r"(?:^|\s)(?:--)?because(?:\s+|$)|(?:^|\s)因为\s*", re.IGNORECASE)
_CONFIRM = re.compile(r"(?:^|\s)confirm\s+(?P<code>[0-9a-f]{6})\s*$", re.IGNORECASE)
_JOB = re.compile(r"[0-9a-f]{4,32}", re.IGNORECASE)
_VERSION = re.compile(r"\d+|v\d+|bot-v[\w.-]*|base|stop")
_WORD = re.compile(r"[\w.-]{1,80}")
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%|(0?\.\d+)")


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line. `target` is a version, a job, or `stop` for a canary; `share` is from 0 to 1."""

    verb: Verb
    target: str = ""
    rows: int | None = None
    search: int | None = None
    name: str | None = None
    share: float = DEFAULT_SHARE
    because: str | None = None
    code: str | None = None

    def __str__(self) -> str:
        """Return the canonical form without the code, which a confirmation signs."""
        parts: list[str] = [self.verb, *([self.target] if self.target else [])]
        if self.verb == "canary" and self.target != "stop":
            parts.append(f"{self.share * 100:.6g}%")
        parts += [f"--{name} {value}" for name in ("rows", "search", "name") if (value := getattr(self, name))]
        return " ".join([*parts, *([f"because {self.because}"] if self.because else [])])


def is_steering(text: str) -> bool:
    """Return True if a chat message starts with the word `/myna`, and so is a command."""
    return text.split(maxsplit=1)[:1] == [START]


def begins_with_verb(text: str) -> bool:
    """Return True if a text starts with a verb, after an optional `/myna`, whatever follows."""
    return any(first in _VERBS for first in text.lower().strip().removeprefix(START).split(maxsplit=1)[:1])


def is_line(text: str) -> bool:
    """Return True for a complete line with well-formed names of jobs and versions: not for `compare prices`."""
    try:
        line = parse(text)
    except InvalidInput:
        return False
    return not line.target or bool((_JOB if line.verb == "stop" else _VERSION).fullmatch(line.target))


def parse(text: str) -> Line:
    """Parse a line, with or without `/myna` before it. Raises `InvalidInput` with the usage."""
    # Phones and macOS turn two hyphens into a dash.
    said = " ".join(text.replace("—", "--").replace("–", "--").split()).removeprefix(START).strip()
    first, _, rest = said.partition(" ")
    verb = _VERBS.get(first.lower())
    if verb is None:
        raise InvalidInput(f'"{first[:40]}" is not known. There is: {", ".join(USAGE)}.')
    line, words = _without_ending(verb, rest)
    try:
        return _read(line, words)
    except ValueError:
        raise InvalidInput(f"Write it like this: {USAGE[verb]}") from None


def _without_ending(verb: Verb, rest: str) -> tuple[Line, list[str]]:
    """Parse the end of a line (`because ...`, `confirm CODE`), and return it with the words before."""
    line = Line(verb)
    if verb in (*_REASONED, "stop") and (found := _CONFIRM.search(rest)):
        line, rest = replace(line, code=found["code"].lower()), rest[: found.start()]
    if verb in _REASONED and (found := _BECAUSE.search(rest)):
        because, rest = rest[found.end() :].strip(), rest[: found.start()]
        if not because or len(because) > MAX_REASON_CHARS:
            raise InvalidInput(f"The reason behind `because` must have 1 to {MAX_REASON_CHARS} characters.")
        line = replace(line, because=because)
    return line, rest.split()


def _read(line: Line, words: Sequence[str]) -> Line:
    """Add the words to the line. Raises `ValueError` for words that don't fit the verb."""
    if line.verb == "train":
        return _read_train(line, list(words))
    if line.verb == "canary" and len(words) == 2 and words[0].lower() != "stop":
        return replace(line, target=_word(words[0]), share=read_share(words[1]))
    at_most = 0 if line.verb in ("status", "versions", "rollback") else 1
    at_least = 1 if line.verb in ("evaluate", "promote", "canary") else 0
    if not at_least <= len(words) <= at_most:
        raise ValueError
    target = _word(words[0]) if words else ""
    return replace(line, target="stop" if line.verb == "canary" and target.lower() == "stop" else target)


def _read_train(line: Line, words: list[str]) -> Line:
    if words and not words[0].startswith("--"):
        line = replace(line, rows=int(words.pop(0)))
    while words:
        option, _, value = words.pop(0).partition("=")
        value = value or (words.pop(0) if words else "")
        if option == "--rows" and line.rows is None:
            line = replace(line, rows=int(value))
        elif option == "--search":
            line = replace(line, search=int(value))
        elif option == "--name":
            line = replace(line, name=_word(value))
        else:
            raise ValueError
    return line


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError
    return text


def read_share(text: str) -> float:
    """Read a share of the conversations, such as `10%` or `0.1`. Raises `ValueError`."""
    found = _SHARE.fullmatch(text)
    if found is None:
        raise ValueError
    return float(found[1]) / 100 if found[1] else float(found[2])
