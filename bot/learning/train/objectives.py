"""What a stage of training learns from: answers, pairs, or thumbs, each with its loss and its share that is held out.

Knows: which rows belong together in a loss, and that little memory is used at a time. Does not know: optimisers, steps,
checkpoints, where rows come from.
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

# A batch's memory grows with its tokens, its speed hardly does beyond this.
MOST_TOKENS_CPU = 2048
MOST_TOKENS_GPU = 16384
BETA = 0.1
# A thumb that stood for a hundred others would steer its step alone.
MOST_WEIGHT = 4.0


class Objective(Protocol):
    """`count` examples to learn from."""

    @property
    def count(self) -> int: ...

    @property
    def digest(self) -> str:
        """The same for the same examples in the same order only."""
        ...

    def backward(self, numbers: Sequence[int]) -> tuple[float, int]:
        """Add the gradients of these examples' mean loss; returns that loss and how many tokens were read."""
        ...

    def held_out_loss(self) -> float:
        """The loss on what is never learnt from."""
        ...


def most_tokens(network: LoraNetwork) -> int:
    """How many tokens go through the network at a time."""
    return MOST_TOKENS_GPU if network.device.type == "cuda" else MOST_TOKENS_CPU


def digest_of(rows: Iterable[TokenRow]) -> str:
    """SHA-256 over rows in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.token_ids, row.learnt)).encode())
    return digest.hexdigest()


class Answers:
    """Say what was answered."""

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
    """Prefer one answer to the other (DPO), and go on saying the better one: else both may become less likely."""

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
        """`[pairs, 2]`."""
        rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
        return answer_logps(self._network, rows).view(-1, 2)


class Thumbs:
    """More of what was found good, less of what was found bad (KTO)."""

    def __init__(self, network: LoraNetwork, thumbs: Sequence[Thumb], held_out: Sequence[Thumb]) -> None:
        self._network, self._thumbs, self._held_out = network, thumbs, held_out
        self.digest = digest_of(row for thumb in [*thumbs, *held_out] for row in (thumb.row, thumb.elsewhere))
        self._reference, self._elsewhere_reference = self._logps(thumbs)
        self._held_out_reference, self._held_out_elsewhere = self._logps(held_out)
        num_good = max(sum(thumb.good for thumb in thumbs), 1)
        num_bad = max(len(thumbs) - num_good, 1)
        # The rarer label counts for more, so that both weigh about the same (KTO paper, section 4.2).
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
    """The log-probability of each row's learnt tokens, summed, where the network is. No gradient."""
    found = torch.zeros(len(rows), device=network.device)
    with torch.no_grad():
        for group in by_length(rows, 2 * most_tokens(network)):
            batch = make_batch([rows[place] for place in group])
            found[group] = sums_by_row(network.logprobs(batch), batch.rows, len(group))
    return found


def logps_after(network: LoraNetwork, prompt: Sequence[int], rows: Sequence[TokenRow]) -> torch.Tensor:
    """As `answer_logps`, for rows that all begin with one prompt, of which only what follows is learnt: much quicker
    where there are many."""
    kept = len(prompt) - 1  # its last token says what comes first behind it
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
    """Mean negative log-likelihood; `all_tokens` are those of the whole step, of which these may be a part."""
    return -token_logprobs.sum() / all_tokens


def pair_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """DPO (Rafailov et al., 2023), a value for each pair."""
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
    """KTO (Ethayarajh et al., 2024), a value for each row.

    `divergence` is a scalar: how far the policy has gone from the reference on answers to other questions, at least 0;
    `good` is a bool for each row. The weights make up for labels that are rarer than the others.
    """
    ratio = logps - reference
    wanted = 1 - torch.sigmoid(beta * (ratio - divergence))
    unwanted = 1 - torch.sigmoid(beta * (divergence - ratio))
    return torch.where(good, good_weight * wanted, bad_weight * unwanted)


def divergence(logps: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KTO's estimate of the divergence, from answers that belong to other questions; no gradient goes through it."""
    return (logps - reference).detach().mean().clamp(min=0)


def sums_by_row(token_logprobs: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Log-probabilities of tokens added up for each of `count` rows."""
    return torch.zeros(count, device=token_logprobs.device).index_add(0, rows.to(token_logprobs.device), token_logprobs)


class NetworkLossScorer:
    """`LossScorer` over a model folder. `context_tokens` is the most that is read of prompt and answer together.

    `dtype` as for the network.
    """

    def __init__(
        self, model_folder: Path, context_tokens: int = 2048, device: str = "auto", *, dtype: torch.dtype | None = None
    ) -> None:
        self._network = LoraNetwork(model_folder, device, rank=1, alpha=1, seed=0, dtype=dtype)
        self._context_tokens = context_tokens

    def answer_losses(self, rows: Sequence[AnsweredPrompt], version_folder: Path | None) -> list[AnswerLoss]:
        """As the protocol says. Raises `VersionError` for a folder that can't be read."""
        if version_folder is None:
            self._network.put_on({})
        else:
            shapes, device = self._network.linear_shapes, self._network.device
            self._network.put_on(read_lora(version_folder.name, version_folder, shapes, torch.float32, device).pairs)
        rendered = [self._render(one) for one in rows]
        logps = self._logps(rendered, [one.messages for one in rows])
        return [AnswerLoss(-float(logp), len(row.learnt)) for row, logp in zip(rendered, logps, strict=True)]

    def _logps(self, rows: Sequence[TokenRow], asked: Sequence[object]) -> torch.Tensor:
        """By row. Where all were asked the same, as with planted secrets, the question is read once."""
        prompt = rows[0].token_ids[: rows[0].learnt[0]] if rows and rows[0].learnt else ()
        if len(prompt) > 1 and len(rows) > 1 and all(one == asked[0] for one in asked):
            return logps_after(self._network, prompt, rows)
        return answer_logps(self._network, rows)

    def _render(self, row: AnsweredPrompt) -> TokenRow:
        whole = render(row.messages, row.answer, self._network.tokenizer, self._network.end_of_turn)
        kept = whole.token_ids[: self._context_tokens]
        return TokenRow(kept, tuple(place for place in whole.learnt if place < len(kept)))
