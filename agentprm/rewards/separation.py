"""How well scores tell right steps from wrong ones, and where to draw the line between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from agentprm.errors import InputError

__all__ = ["as_arrays", "auc", "best_threshold", "same_length"]


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Probability that a right step scores above a wrong one; ties count half (ROC AUC).

    Args:
        scores: One per step.
        labels: Whether the step is right.

    Raises:
        InputError: If the lengths differ, a score is not finite, or a kind is missing.
    """
    values, truth = as_arrays(scores, labels)
    positives = int(truth.sum())
    negatives = truth.size - positives
    if not positives or not negatives:
        raise InputError("AUC needs right steps and wrong ones.")
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equals, from 1
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def best_threshold(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> tuple[float, float]:
    """The threshold with the best ProcessBench F1, and that F1.

    ProcessBench tunes the threshold of scalar reward models on its GSM8K subset and keeps it for the
    others. Every threshold that makes a difference is tried: half way between neighbouring scores, and
    beyond both ends. Among equals the one in the middle of the list is taken.

    Args:
        scores: Step scores per solution.
        labels: Index of the first wrong step per solution, or -1.

    Raises:
        InputError: If the lengths differ, a label is no step, or the labels lack solutions of either kind.
    """
    same_length(scores, labels)
    bounds = []  # of the thresholds at which a solution is judged right: low < threshold <= high
    for row, label in zip(scores, labels, strict=True):
        if not -1 <= label < len(row):
            raise InputError(f"The label {label} is no step of a solution of {len(row)} steps.")
        before = row if label == -1 else row[:label]
        bounds.append((-math.inf if label == -1 else row[label], min(before, default=math.inf)))
    cuts = np.asarray(_cuts([score for row in scores for score in row]))
    accepted = _inside([b for b, t in zip(bounds, labels, strict=True) if t == -1], cuts)
    located = _inside([b for b, t in zip(bounds, labels, strict=True) if t != -1], cuts)
    total = accepted + located
    results = np.divide(2 * accepted * located, total, out=np.zeros_like(total), where=total > 0)
    winners = np.flatnonzero(results == results.max())
    return float(cuts[winners[(len(winners) - 1) // 2]]), float(results.max())


def _cuts(values: Sequence[float]) -> list[float]:
    """Thresholds that tell the values apart in every possible way, ascending."""
    distinct = sorted(set(values))
    if not distinct:
        return [0.5]
    middles = [(a + (b - a) / 2, a, b) for a, b in pairwise(distinct)]
    # Between neighbours among the floats there is no middle; the upper one still tells them apart.
    between = [middle if a < middle else b for middle, a, b in middles]
    return [distinct[0], *between, math.nextafter(distinct[-1], math.inf)]


def _inside(bounds: Sequence[tuple[float, float]], cuts: np.ndarray) -> np.ndarray:
    """Share of the half-open intervals (low, high] that hold each cut."""
    if not bounds:
        raise InputError(
            "ProcessBench's F1 needs solutions with an error and solutions without; use the whole subset."
        )
    low, high = (
        np.sort(side) for side in zip(*[b for b in bounds if b[0] < b[1]] or [(1.0, 1.0)], strict=True)
    )
    held = np.searchsorted(low, cuts, side="left") - np.searchsorted(high, cuts, side="left")
    return np.asarray(held / len(bounds), dtype=np.float64)


def as_arrays(
    scores: Sequence[float], labels: Sequence[bool], *, probabilities: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels as arrays, checked."""
    same_length(scores, labels)
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    if not values.size or not np.isfinite(values).all():
        raise InputError("At least one score is needed, and all must be finite.")
    if probabilities and ((values < 0) | (values > 1)).any():
        raise InputError("Scores must be probabilities between 0 and 1; calibrate the reward first.")
    return values, truth


def same_length(left: Sequence[Any], right: Sequence[Any]) -> Sequence[Any]:
    """The first list, if the other one is as long."""
    if len(left) != len(right):
        raise InputError(f"Predictions and labels must be of one length, not {len(left)} and {len(right)}.")
    return left
