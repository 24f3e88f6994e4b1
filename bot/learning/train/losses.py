"""What is made small: of answers, of pairs of a better and a worse answer, of answers with a thumb up or down.

Knows: the formulas, as TRL 1.16 has them. Does not know: networks; everything is a function of log-probabilities.
`logps` are sums over an answer's tokens, one for each row; `reference` are those of the model before this stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional


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
