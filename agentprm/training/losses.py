"""The losses of preferences and outcomes, as functions of log-probabilities.

A ratio is log π(reply) - log ref(reply), summed over the reply's tokens; an implicit reward is beta times it.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

__all__ = ["dpo_loss", "implicit_cross_entropy", "kto_loss", "pairwise_loss", "soft_cross_entropy"]


def soft_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed cross-entropy of two-class logits `[n, 2]` against probabilities of class 1 `[n]`."""
    log = logits.float().log_softmax(dim=-1)
    return -(labels * log[:, 1] + (1 - labels) * log[:, 0]).sum()


def pairwise_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Summed -log sigmoid(chosen - rejected): the ranking loss of CR-Planner's critics (Bradley-Terry)."""
    return -F.logsigmoid(chosen.float() - rejected.float()).sum()


def implicit_cross_entropy(ratios: torch.Tensor, labels: torch.Tensor, beta: float) -> torch.Tensor:
    """Summed cross-entropy of sigmoid(beta * ratio) against whether the reply was right.

    The outcome alone is labelled; the steps' rewards come out of the model that it trains (arXiv 2412.01981,
    and the reward model's update in PRIME, arXiv 2502.01456).
    """
    return F.binary_cross_entropy_with_logits(beta * ratios.float(), labels.float(), reduction="sum")


def dpo_loss(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Summed -log sigmoid(beta * (chosen - rejected)) of ratios (arXiv 2305.18290)."""
    return pairwise_loss(beta * chosen, beta * rejected)


def kto_loss(
    ratios: torch.Tensor, desirable: torch.Tensor, weights: torch.Tensor, drift: torch.Tensor, beta: float
) -> torch.Tensor:
    """Summed loss of single replies, each desirable or not (KTO, arXiv 2402.01306).

    Args:
        ratios: One per reply.
        desirable: Booleans.
        weights: One per reply. ReARTeR weighs a critique that made a step worse, from the score r1 to r2, by
            exp(r1 - r2).
        drift: How far the model has moved on replies that have nothing to do with their prompts; no gradient
            goes through it.
        beta: How far it may move.
    """
    centre = drift.detach().clamp(min=0)
    gain = torch.where(desirable, ratios - centre, centre - ratios)
    return (weights * (1 - torch.sigmoid(beta * gain.float()))).sum()
