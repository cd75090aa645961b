"""Labelled steps as training rows: labels where the model is read, soft ones kept soft."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentprm.errors import InputError
from agentprm.rewards.templates import StepTemplate

if TYPE_CHECKING:
    import torch

__all__ = ["LabelledRow", "labelled_row", "step_cross_entropy"]


@dataclass(frozen=True)
class LabelledRow:
    """One trajectory to train on.

    Attributes:
        ids: Its tokens.
        positions: Where the model is read, one per labelled step: the very positions that scoring
            reads, so training and inference cannot be a token apart.
        labels: Probability that the step is right, one per position.
    """

    ids: list[int]
    positions: list[int]
    labels: list[float]


def labelled_row(
    template: StepTemplate,
    tokenizer: Any,
    question: str,
    steps: Sequence[str],
    labels: Sequence[float | bool | None],
) -> LabelledRow:
    """Tokens of a trajectory with its labels.

    Args:
        template: The template that will be scored with. Its prefixes must be beginnings of each
            other; one that closes every prefix with tokens of its own needs a row per prefix.
        tokenizer: The tokenizer.
        question: The question.
        steps: The texts of the steps.
        labels: Per step a probability in [0, 1], a bool, or `None` for a step without label.

    Raises:
        InputError: If the numbers differ, a label lies outside [0, 1], or prefixes do not nest.
    """
    if len(steps) != len(labels):
        raise InputError(f"{len(steps)} steps, but {len(labels)} labels.")
    whole = template.ids(tokenizer, question, steps) if steps else []
    positions, kept = [], []
    for k, label in enumerate(labels):
        if label is None:
            continue
        value = float(label)
        if not 0 <= value <= 1:
            raise InputError(f"The label of step {k + 1} must lie in [0, 1], not {label}.")
        ids = template.ids(tokenizer, question, steps[: k + 1])
        if whole[: len(ids)] != ids:
            raise InputError(
                f"{type(template).__name__} closes every prefix with own tokens; make a row per prefix."
            )
        positions.append(len(ids) - 1)
        kept.append(value)
    return LabelledRow(list(whole), positions, kept)


def step_cross_entropy(logits: torch.Tensor, labels: Sequence[float]) -> torch.Tensor:
    """Mean cross-entropy of two-class logits against soft labels; of 0 and 1 it is the usual one.

    Args:
        logits: `[count, 2]`, class 1 meaning right.
        labels: Probability of class 1, one per row.
    """
    import torch

    if any(math.isnan(label) for label in labels):
        raise InputError("A label is NaN; leave steps without label out.")
    wanted = torch.tensor(list(labels), dtype=torch.float32, device=logits.device)
    log = logits.float().log_softmax(dim=-1)
    return -(wanted * log[:, 1] + (1 - wanted) * log[:, 0]).mean()
