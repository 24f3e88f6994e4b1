"""Training objectives: likelihood of answers, DPO for pairs, KTO for thumbs.

Gradients are accumulated over small batches, so that memory does not grow with the examples of a step. The formulas are
those of TRL 1.16: `logps` are sums over an answer's tokens, one for each row; `reference` are the sums of the model
before this stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as functional

from bot.generation.engine.lora import read_lora
from bot.learning.judge.answer_loss import AnsweredPrompt, AnswerLoss
from bot.learning.train.material import AnswerPair, Thumb, TokenRow, by_length, make_batch, render
from bot.learning.train.network import LoraNetwork

# A batch's memory grows with its tokens; its speed hardly does beyond these sizes.
MOST_TOKENS_CPU = 2048
MOST_TOKENS_GPU = 16384
BETA = 0.1
# A thumb with the weight of a hundred others would steer its step alone.
MOST_WEIGHT = 4.0


class Objective(Protocol):
    """Loss over `count` examples, with a held-out share."""

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str:
        """Hash of the examples in their order, which a checkpoint must share."""
        ...

    def backward(self, numbers: Sequence[int]) -> tuple[float, int]:
        """Accumulate the gradients of these examples' mean loss. Returns that loss and the number of tokens read."""
        ...

    def held_out_loss(self) -> float:
        """Return the mean loss on the held-out examples."""
        ...


def most_tokens(network: LoraNetwork) -> int:
    """Return the most tokens for one pass through the network."""
    return MOST_TOKENS_GPU if network.device.type == "cuda" else MOST_TOKENS_CPU


def digest_of(rows: Iterable[TokenRow]) -> str:
    """Return the SHA-256 over rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.token_ids, row.learnt)).encode())
    return digest.hexdigest()


class Answers:
    """Supervised fine-tuning: maximise the likelihood of the answers."""

    def __init__(self, network: LoraNetwork, rows: Sequence[TokenRow], held_out: Sequence[TokenRow]) -> None:
        self._network, self._rows, self._held_out = network, rows, held_out
        self.digest = digest_of([*rows, *held_out])

    @property
    def count(self) -> int:
        return len(self._rows)

    def backward(self, numbers: Sequence[int]) -> tuple[float, int]:
        rows = [self._rows[number] for number in numbers]
        all_tokens = sum(len(row.learnt) for row in rows)
        total = 0.0
        for group in by_length(rows, most_tokens(self._network)):
            batch = make_batch([rows[place] for place in group])
            loss = answer_loss(self._network.logprobs(batch), all_tokens)
            _go_back(loss)
            total += loss.item()
        return total, sum(map(len, rows))

    def held_out_loss(self) -> float:
        logps = answer_logps(self._network, self._held_out)
        return -float(logps.sum()) / sum(len(row.learnt) for row in self._held_out)


class Pairs:
    """DPO with an answer term: without the likelihood of the chosen answer, both may become less likely."""

    def __init__(
        self,
        network: LoraNetwork,
        pairs: Sequence[AnswerPair],
        held_out: Sequence[AnswerPair],
        *,
        answer_weight: float = 0.2,
    ) -> None:
        self._network, self._pairs, self._held_out = network, pairs, held_out
        self._answer_weight = answer_weight
        self.digest = digest_of(row for pair in [*pairs, *held_out] for row in (pair.chosen, pair.rejected))
        self._reference = self._logps(pairs)
        self._held_out_reference = self._logps(held_out)

    @property
    def count(self) -> int:
        return len(self._pairs)

    def backward(self, numbers: Sequence[int]) -> tuple[float, int]:
        total, tokens = 0.0, 0
        at_once = sorted(numbers, key=lambda number: -len(self._pairs[number].chosen))
        for number in at_once:
            pair = self._pairs[number]
            batch = make_batch([pair.chosen, pair.rejected])
            logps = sums_by_row(self._network.logprobs(batch), batch.rows, 2)
            reference = self._reference[number]
            loss = pair_loss(logps[:1], logps[1:], reference[:1], reference[1:], BETA).sum()
            answer = -logps[0] / len(pair.chosen.learnt)
            _go_back((loss + self._answer_weight * answer) / len(numbers))
            total += loss.item() / len(numbers)
            tokens += len(pair.chosen) + len(pair.rejected)
        return total, tokens

    def held_out_loss(self) -> float:
        now, before = self._logps(self._held_out), self._held_out_reference
        return float(pair_loss(now[:, 0], now[:, 1], before[:, 0], before[:, 1], BETA).mean())

    def _logps(self, pairs: Sequence[AnswerPair]) -> torch.Tensor:
        """Return the log-probabilities as `[pairs, 2]`: chosen, rejected."""
        rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
        return answer_logps(self._network, rows).view(-1, 2)


class Thumbs:
    """KTO: raise the likelihood of answers with a thumb up, lower that of answers with a thumb down."""

    def __init__(self, network: LoraNetwork, thumbs: Sequence[Thumb], held_out: Sequence[Thumb]) -> None:
        self._network, self._thumbs, self._held_out = network, thumbs, held_out
        self.digest = digest_of(row for thumb in [*thumbs, *held_out] for row in (thumb.row, thumb.elsewhere))
        self._reference, self._elsewhere_reference = self._logps(thumbs)
        self._held_out_reference, self._held_out_elsewhere = self._logps(held_out)
        num_good = max(sum(thumb.good for thumb in thumbs), 1)
        num_bad = max(len(thumbs) - num_good, 1)
        # The rarer label gets the greater weight, so that both sum to about the same (KTO paper, section 4.2).
        good_weight, bad_weight = max(num_bad / num_good, 1.0), max(num_good / num_bad, 1.0)
        self._weights = min(good_weight, MOST_WEIGHT), min(bad_weight, MOST_WEIGHT)

    @property
    def count(self) -> int:
        return len(self._thumbs)

    def backward(self, numbers: Sequence[int]) -> tuple[float, int]:
        thumbs = [self._thumbs[number] for number in numbers]
        places = torch.tensor(list(numbers))
        elsewhere = answer_logps(self._network, [thumb.elsewhere for thumb in thumbs])
        apart = divergence(elsewhere, self._elsewhere_reference[places])
        total = 0.0
        for number, thumb in zip(numbers, thumbs, strict=True):
            batch = make_batch([thumb.row])
            logps = sums_by_row(self._network.logprobs(batch), batch.rows, 1)
            good = torch.tensor([thumb.good], device=logps.device)
            loss = thumb_loss(logps, self._reference[[number]], good, apart, BETA, *self._weights).sum()
            _go_back(loss / len(numbers))
            total += loss.item() / len(numbers)
        return total, sum(len(thumb.row) + len(thumb.elsewhere) for thumb in thumbs)

    def held_out_loss(self) -> float:
        now, elsewhere = self._logps(self._held_out)
        apart = divergence(elsewhere, self._held_out_elsewhere)
        good = torch.tensor([thumb.good for thumb in self._held_out], device=now.device)
        return float(thumb_loss(now, self._held_out_reference, good, apart, BETA, *self._weights).mean())

    def _logps(self, thumbs: Sequence[Thumb]) -> tuple[torch.Tensor, torch.Tensor]:
        own = answer_logps(self._network, [thumb.row for thumb in thumbs])
        return own, answer_logps(self._network, [thumb.elsewhere for thumb in thumbs])


def answer_logps(network: LoraNetwork, rows: Sequence[TokenRow]) -> torch.Tensor:
    """Return the sum of log-probabilities of each row's learnt tokens, on the network's device. No gradient."""
    found = torch.zeros(len(rows), device=network.device)
    with torch.no_grad():
        for group in by_length(rows, 2 * most_tokens(network)):
            batch = make_batch([rows[place] for place in group])
            found[group] = sums_by_row(network.logprobs(batch), batch.rows, len(group))
    return found


def logps_after(network: LoraNetwork, prompt: Sequence[int], rows: Sequence[TokenRow]) -> torch.Tensor:
    """Do the same as `answer_logps` for rows behind one prompt, which is computed once. Much faster for many rows."""
    kept = len(prompt) - 1  # the scores after its last token predict the first token of the answer
    rests = [TokenRow(row.token_ids[kept:], tuple(place - kept for place in row.learnt)) for row in rows]
    found = torch.zeros(len(rows), device=network.device)
    for group in by_length(rests, most_tokens(network)):
        batch = make_batch([rests[place] for place in group])
        logprobs = network.logprobs_after(prompt[:kept], batch)
        found[group] = sums_by_row(logprobs, batch.rows, len(group))
    return found


def _go_back(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def answer_loss(token_logprobs: torch.Tensor, all_tokens: int) -> torch.Tensor:
    """Return the mean negative log-likelihood over `all_tokens` of a step, of which these tokens may be a part."""
    return -token_logprobs.sum() / all_tokens


def pair_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Return the DPO loss of each pair (Rafailov et al., 2023)."""
    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    return -functional.logsigmoid(beta * margin)


def thumb_loss(
    logps: torch.Tensor,
    reference: torch.Tensor,
    good: torch.Tensor,
    divergence: torch.Tensor,
    beta: float,
    good_weight: float = 1.0,
    bad_weight: float = 1.0,
) -> torch.Tensor:
    """Return the KTO loss of each row (Ethayarajh et al., 2024).

    `divergence` is a scalar of at least 0, the distance of policy and reference on answers to other questions; `good`
    is a bool for each row. The weights balance rare labels.
    """
    ratio = logps - reference
    wanted = 1 - torch.sigmoid(beta * (ratio - divergence))
    unwanted = 1 - torch.sigmoid(beta * (divergence - ratio))
    return torch.where(good, good_weight * wanted, bad_weight * unwanted)


def divergence(logps: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Estimate KTO's divergence from the log-probabilities of answers to other questions. No gradient."""
    return (logps - reference).detach().mean().clamp(min=0)


def sums_by_row(token_logprobs: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Sum the log-probabilities of tokens for each of `count` rows."""
    return torch.zeros(count, device=token_logprobs.device).index_add(0, rows.to(token_logprobs.device), token_logprobs)


class NetworkLossScorer:
    """`LossScorer` with the training network: many rows at once, in the hardware's fast precision.

    `context_tokens` limits prompt and answer together; `dtype` is the network's.
    """

    def __init__(
        self, model_folder: Path, context_tokens: int = 2048, device: str = "auto", *, dtype: torch.dtype | None = None
    ) -> None:
        self._network = LoraNetwork(model_folder, device, rank=1, alpha=1, seed=0, dtype=dtype)
        self._context_tokens = context_tokens

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """Score the rows with a version, or with the base for None. Raises `VersionError` for an unreadable folder."""
        if version_folder is None:
            self._network.put_on({})
        else:
            shapes, device = self._network.linear_shapes, self._network.device
            self._network.put_on(read_lora(version_folder.name, version_folder, shapes, torch.float32, device).pairs)
        rendered = [self._render(row) for row in rows]
        logps = self._logps(rendered, [row.messages for row in rows])
        return [AnswerLoss(-float(logp), len(row.learnt)) for row, logp in zip(rendered, logps, strict=True)]

    def _logps(self, rows: Sequence[TokenRow], asked: Sequence[object]) -> torch.Tensor:
        """Score each row. A prompt that all rows share, as with planted secrets, is computed once."""
        prompt = rows[0].token_ids[: rows[0].learnt[0]] if rows and rows[0].learnt else ()
        if len(prompt) > 1 and len(rows) > 1 and all(messages == asked[0] for messages in asked):
            return logps_after(self._network, prompt, rows)
        return answer_logps(self._network, rows)

    def _render(self, row: AnsweredPrompt) -> TokenRow:
        whole = render(row.messages, row.answer, self._network.tokenizer, self._network.end_of_turn)
        kept = whole.token_ids[: self._context_tokens]
        return TokenRow(kept, tuple(place for place in whole.learnt if place < len(kept)))
