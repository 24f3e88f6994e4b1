"""Answer rules: texts that must or must not occur, and patterns that must match.

Case is ignored, and every pattern has a time limit (ReDoS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

from bot.errors import InvalidInput

KINDS = ("must_contain", "must_not_contain", "must_match")
MAX_RULES = 50
MAX_RULE_CHARACTERS = 500
MAX_ANSWER_CHARACTERS = 20_000
PATTERN_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """Texts that must, or must not, occur somewhere in an answer, and regular expressions that must match in it."""

    must_contain: tuple[str, ...] = ()
    must_not_contain: tuple[str, ...] = ()
    must_match: tuple[str, ...] = ()

    def broken(self, answer: str) -> list[str]:
        """Return a sentence for every rule that the answer breaks.

        A pattern that takes longer than `PATTERN_SECONDS` counts as broken, so that it can't hold up the gate.
        """
        said = _fold(answer[:MAX_ANSWER_CHARACTERS])
        missing = [f'must contain "{text}"' for text in self.must_contain if _fold(text) not in said]
        forbidden = [f'must not contain "{text}"' for text in self.must_not_contain if _fold(text) in said]
        unmatched = [complaint for pattern in self.must_match if (complaint := _unmatched(pattern, answer))]
        return missing + forbidden + unmatched

    def as_json(self) -> dict[str, list[str]]:
        """Return the stored form, which `parse_rules` reads; kinds without a rule are left out."""
        return {kind: list(getattr(self, kind)) for kind in KINDS if getattr(self, kind)}


def parse_rules(value: object) -> AnswerRules:
    """Parse `{"must_contain": [...], "must_not_contain": [...], "must_match": [...]}` with at least one rule.

    Raises `InvalidInput` with the reason.
    """
    if not isinstance(value, Mapping) or not value:
        raise InvalidInput(f'"rules" must be an object with one of {", ".join(KINDS)}', field="rules")
    for name in value:
        if name not in KINDS:
            raise InvalidInput(f'"rules" has no "{name}"; it takes {", ".join(KINDS)}', field="rules")
    rules = AnswerRules(**{kind: _texts(kind, value.get(kind, [])) for kind in KINDS})
    if not rules.as_json():
        raise InvalidInput('"rules" must hold at least one rule', field="rules")
    return rules


def _texts(kind: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_RULES:
        raise InvalidInput(f'"{kind}" must be a list of at most {MAX_RULES} texts', field="rules")
    for text in value:
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_RULE_CHARACTERS:
            raise InvalidInput(f'"{kind}" must hold texts of 1 to {MAX_RULE_CHARACTERS} characters', field="rules")
        if kind == "must_match":
            _compile(text)
    return tuple(value)


def _compile(pattern: str) -> Any:
    try:
        return regex.compile(pattern, regex.IGNORECASE)
    except (regex.error, RecursionError) as error:
        raise InvalidInput(f'"must_match" holds {pattern!r}, which is no regular expression: {error}') from error


def _unmatched(pattern: str, answer: str) -> str | None:
    try:
        found = _compile(pattern).search(answer[:MAX_ANSWER_CHARACTERS], timeout=PATTERN_SECONDS)
    except TimeoutError:
        return f"must match {pattern!r}, which took too long: write a simpler pattern"
    return None if found else f"must match {pattern!r}"


def _fold(text: str) -> str:
    """Fold case, white space and both forms of an apostrophe."""
    return " ".join(text.replace("\u2019", "'").casefold().split())
