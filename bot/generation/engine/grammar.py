"""Constrained decoding: JSON schemas as token masks, by llguidance."""

from __future__ import annotations

import json
import threading
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer

from bot.errors import GeneratorFailed, InvalidInput

MAX_SCHEMA_LENGTH = 64_000
# Without flexible whitespace: models that like line breaks would write them until they run out of tokens.
OPTIONS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Vocabulary:
    """A tokenizer's tokens as bytes, and its grammar compiler. Built at the first use; safe from any thread."""

    def __init__(self, tokenizer: Any, num_scores: int, end_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._num_scores = num_scores
        self._end_ids = end_ids
        self._compiled: LLTokenizer | None = None
        self._making = threading.Lock()

    def token_bytes(self, token_id: int) -> bytes:
        """Return the exact bytes of a token, which may be only part of a character."""
        return self.prepare().decode_bytes([token_id])

    def compile(self, json_schema: str) -> Grammar:
        """Compile a JSON schema. Raises `InvalidInput` if it is none or uses keywords that can't be enforced."""
        if len(json_schema) > MAX_SCHEMA_LENGTH:
            raise InvalidInput(f"The JSON schema may have at most {MAX_SCHEMA_LENGTH} characters.", field="json_schema")
        try:
            parsed = json.loads(json_schema)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"The JSON schema is not JSON: {error}", field="json_schema") from error
        if not isinstance(parsed, dict):
            raise InvalidInput("The JSON schema must be an object.", field="json_schema")
        try:
            rules = LLMatcher.grammar_from_json_schema(parsed, OPTIONS)
        except ValueError as error:
            raise InvalidInput(f"The JSON schema can't be used: {error}", field="json_schema") from error
        matcher = LLMatcher(self.prepare(), rules, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().splitlines()[0]
            raise InvalidInput(f"The JSON schema can't be used: {reason}", field="json_schema")
        return Grammar(matcher)

    def prepare(self) -> LLTokenizer:
        """Build the vocabulary, in half a second. Raises `InvalidInput` for a tokenizer without a fast form."""
        with self._making:
            if self._compiled is None:
                size = max(self._num_scores, len(self._tokenizer))
                try:
                    self._compiled = from_tokenizer(self._tokenizer, n_vocab=size, eos_token=self._end_ids)
                except ValueError as error:
                    raise InvalidInput(
                        f"This model's tokenizer allows neither JSON schemas nor logprobs: {error}", field="logprobs"
                    ) from error
            return self._compiled


class Grammar:
    """State of one reply in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def forbidden(self, scores: torch.Tensor) -> torch.Tensor:
        """Return `[vocabulary]`, true for tokens that must not come next. After complete JSON only the end may come.

        Raises `GeneratorFailed` if the grammar broke.
        """
        if self._matcher.is_error():
            raise GeneratorFailed(f"The JSON schema could not be followed: {self._matcher.get_error()}")
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: len(scores)]
        return (allowed == 0).to(scores.device)

    def accept(self, token_id: int) -> None:
        """Advance by a token. A failure is raised by the next call of `forbidden`."""
        self._matcher.consume_token(token_id)
