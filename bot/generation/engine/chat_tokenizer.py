"""Tokenizer with chat template, shared by serving and training.

Text inside a message never becomes a control token.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bot.errors import InvalidInput, ModelError
from bot.generation.port import ChatMessage


class ChatTokenizer:
    """Encode messages to token ids and decode them. Safe from several threads."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoTokenizer

        # `Any`: transformers has no types that mypy could follow.
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        self._lock = threading.Lock()  # a tokenizer's settings are not safe to use from two threads
        self.takes_tools = "tools" in str(self.tokenizer.chat_template)

    def encode(self, messages: Sequence[ChatMessage], tools: Sequence[str] = ()) -> tuple[int, ...]:
        """Encode a conversation up to the beginning of the assistant's next turn.

        Control tokens come from the template alone: the same strings inside a message become ordinary text. Raises
        `InvalidInput` for messages or tools that the template can't take.
        """
        if tools and not self.takes_tools:
            raise InvalidInput(
                "This model can't call functions: its chat template takes no tools. Use another model.", field="tools"
            )
        return self._apply_template(messages, tools, add_generation_prompt=True)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Encode plain text, behind the model's begin-of-text token if it has one."""
        with self._lock:
            try:
                return tuple(self.tokenizer.encode(text, split_special_tokens=True))
            except Exception as error:
                raise InvalidInput(f"The model can't read this text: {error}", field="prompt") from error

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Encode `text` as the model would write it, without the token that ends its turn."""
        with self._lock:
            return tuple(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def find_end_of_turn(self, end_ids: frozenset[int]) -> int:
        """Return the token of `end_ids` that the template writes after an assistant's turn.

        Raises `ModelError` if there is none: a model trained without it would never stop.
        """
        question = [ChatMessage("user", "a")]
        prompt = self._apply_template(question, (), add_generation_prompt=True)
        whole = self._apply_template([*question, ChatMessage("assistant", "b")], (), add_generation_prompt=False)
        after = whole[len(prompt) :] if whole[: len(prompt)] == prompt else whole
        for token_id in after:
            if token_id in end_ids:
                return token_id
        raise ModelError("This model's chat template does not end the assistant's turns, so it can't be trained.")

    def _apply_template(
        self, messages: Sequence[ChatMessage], tools: Sequence[str], *, add_generation_prompt: bool
    ) -> tuple[int, ...]:
        with self._lock:
            try:
                token_ids = self.tokenizer.apply_chat_template(
                    [_template_turn(message) for message in messages],
                    tools=[json.loads(tool) for tool in tools] or None,
                    add_generation_prompt=add_generation_prompt,
                    sanitize_control_tokens=True,
                    return_dict=False,
                )
            except Exception as error:  # a template is a program, and refuses turns in its own words
                raise InvalidInput(f"The model can't read this conversation: {error}", field="messages") from error
        return tuple(token_ids)


def _template_turn(message: ChatMessage) -> dict[str, Any]:
    """Return a message in the form that chat templates expect."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id,
                "function": {"name": call.name, "arguments": _arguments(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # written by a model, which may break JSON
        return text
