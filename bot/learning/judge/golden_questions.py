"""Golden questions: prompts with answer rules that every version must keep to pass the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.access.roles import Actor
from bot.errors import InvalidInput, NotFound
from bot.learning.data.conversation_form import parse_lines, parse_messages, parse_object
from bot.learning.judge.answer_rules import AnswerRules, parse_rules
from storage import audit, golden
from storage.golden import GoldenQuestion
from storage.scope import Scope
from storage.transaction import Transaction


@dataclass(frozen=True, slots=True)
class NewQuestion:
    """A question to store: `messages` are `{"role", "content"}`, the user's last."""

    messages: tuple[Mapping[str, str], ...]
    rules: AnswerRules


class GoldenQuestions:
    """The questions of one workspace."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def add(self, actor: Actor, questions: Sequence[NewQuestion]) -> list[str]:
        """Add all questions or none, and return their ids. Needs the role trainer."""
        actor.check("trainer")
        return await self._scope.write(_add_all, actor, questions)

    async def list_all(self, actor: Actor) -> list[GoldenQuestion]:
        """List the questions in use, oldest first. Needs the role viewer."""
        actor.check("viewer")
        return await self._scope.read(golden.list_all)

    async def remove(self, actor: Actor, question_id: str) -> None:
        """Remove a question from use. Needs the role trainer; raises `NotFound`."""
        actor.check("trainer")
        if not await self._scope.write(_remove, actor, question_id):
            raise NotFound(f'There is no golden question "{question_id}".', hint="list_golden")


def _add_all(tx: Transaction, actor: Actor, questions: Sequence[NewQuestion]) -> list[str]:
    added = [golden.add(tx, question.messages, question.rules.as_json(), actor.name) for question in questions]
    for question_id in added:
        audit.record(tx, actor.name, "golden.added", question_id)
    return added


def _remove(tx: Transaction, actor: Actor, question_id: str) -> bool:
    removed = golden.remove(tx, question_id)
    if removed:
        audit.record(tx, actor.name, "golden.removed", question_id)
    return removed


def parse_questions(text: str, source: str) -> list[NewQuestion]:
    """Parse JSON lines: `{"messages": [...], "rules": {...}}`, or `{"question": text, "rules": {...}}`.

    Raises `InvalidInput` that names `source` and lists up to ten bad lines.
    """
    return parse_lines(text, source, lambda line, _number: parse_question(line))


def parse_question(line: str) -> NewQuestion:
    """Parse one such line. Raises `InvalidInput`."""
    row = parse_object(line)
    messages = row.get("messages")
    if messages is None and isinstance(row.get("question"), str):
        messages = [{"role": "user", "content": row["question"]}]
    parsed = parse_messages(messages)
    if parsed[-1]["role"] != "user":
        raise InvalidInput('the last of "messages" must be the user\'s')
    return NewQuestion(parsed, parse_rules(row.get("rules")))
