"""How good a reward model is: the measures of the published benchmarks, by their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agentprm.errors import InputError
from agentprm.rewards.aggregation import Aggregation, first_error
from agentprm.rewards.aggregation import aggregate as _aggregate
from agentprm.rewards.base import sigmoid
from agentprm.rewards.separation import as_arrays, auc, best_threshold, same_length

__all__ = [
    "BestOfNAccuracy",
    "PrmScore",
    "ProcessBenchScore",
    "auc",
    "average_processbench_f1",
    "best_of_n_accuracy",
    "best_threshold",
    "brier_score",
    "expected_calibration_error",
    "final_minimum_share",
    "first_error_accuracy",
    "prm_score",
    "processbench_f1",
    "processbench_predictions",
    "step_accuracy",
]

PlacedLabels = Sequence[int] | Mapping[Any, int]


class ProcessBenchScore(NamedTuple):
    """ProcessBench on one subset; shares between 0 and 1.

    Attributes:
        f1: Harmonic mean of the other two; 0 if both are.
        error_accuracy: Of the solutions with an error, how many have it located exactly.
        correct_accuracy: Of the solutions without one, how many are accepted.
        errors: Number of solutions with an error.
        correct: Number of solutions without.
    """

    f1: float
    error_accuracy: float
    correct_accuracy: float
    errors: int
    correct: int


class PrmScore(NamedTuple):
    """PRMBench on one class of items; shares between 0 and 1.

    Attributes:
        score: Mean of both F1; without a wrong step in the data, `f1` alone.
        f1: F1 of the right steps.
        negative_f1: F1 of the wrong steps.
    """

    score: float
    f1: float
    negative_f1: float


class BestOfNAccuracy(NamedTuple):
    """Accuracy of picking one of n candidates, one number a question and way of picking.

    A number is 1 or 0, or between where several candidates are equally good: the share of right ones
    among them, so that the order of the candidates changes nothing. `bootstrap_interval` and
    `bootstrap_difference` say how sure a difference is. `random` is the share of right candidates.
    """

    best: list[float]
    majority: list[float]
    weighted_majority: list[float]
    oracle: list[float]
    random: list[float]


def processbench_predictions(scores: Sequence[Sequence[float]], threshold: float = 0.5) -> list[int]:
    """Index of the first step below `threshold` of each solution, or -1."""
    return [first_error(row, threshold) for row in scores]


def processbench_f1(predictions: Sequence[int], labels: Sequence[int]) -> ProcessBenchScore:
    """The F1 of ProcessBench (Zheng et al., 2024, section 4).

    Args:
        predictions: Index of the first wrong step per solution, -1 for none.
        labels: The same, annotated.

    Raises:
        InputError: If the lengths differ, or the labels lack solutions of either kind.
    """
    same_length(predictions, labels)
    wrong = [p == t for p, t in zip(predictions, labels, strict=True) if t != -1]
    right = [p == t for p, t in zip(predictions, labels, strict=True) if t == -1]
    if not wrong or not right:
        raise InputError(
            "ProcessBench's F1 needs solutions with an error and solutions without; use the whole subset."
        )
    found, accepted = sum(wrong) / len(wrong), sum(right) / len(right)
    return ProcessBenchScore(_harmonic(found, accepted), found, accepted, len(wrong), len(right))


def average_processbench_f1(subsets: Sequence[ProcessBenchScore]) -> float:
    """Unweighted mean of the subsets' F1, as ProcessBench reports it.

    Raises:
        InputError: If there is no subset.
    """
    if not subsets:
        raise InputError("There is no subset to average.")
    return math.fsum(subset.f1 for subset in subsets) / len(subsets)


def step_accuracy(predictions: Sequence[PlacedLabels], labels: Sequence[PlacedLabels]) -> float:
    """Share of all labelled steps that got their label (AgentProcessBench, micro average).

    Args:
        predictions: Per trajectory the predicted labels (+1, 0, -1), in order or keyed by message.
            A step that was not predicted counts as missed; one that nobody labelled does not count.
        labels: The annotated labels, likewise.

    Raises:
        InputError: If the numbers of trajectories differ, or nothing is labelled.
    """
    same_length(predictions, labels)
    hits = [
        predicted.get(key) == label
        for predicted, wanted in zip(map(_keyed, predictions), map(_keyed, labels), strict=True)
        for key, label in wanted.items()
    ]
    if not hits:
        raise InputError("No step is labelled.")
    return sum(hits) / len(hits)


def first_error_accuracy(predictions: Sequence[PlacedLabels], labels: Sequence[PlacedLabels]) -> float:
    """Share of trajectories whose first step labelled -1 is the predicted one (AgentProcessBench).

    A trajectory without such a step is right if none was predicted either.

    Args:
        predictions: As in `step_accuracy`; keys that are strings are read as numbers.
        labels: Likewise.

    Raises:
        InputError: If the numbers of trajectories differ, or there is none.
    """
    same_length(predictions, labels)
    if not labels:
        raise InputError("There is no trajectory.")
    hits = [_first_negative(p) == _first_negative(t) for p, t in zip(predictions, labels, strict=True)]
    return sum(hits) / len(hits)


def prm_score(predictions: Sequence[Sequence[bool]], labels: Sequence[Sequence[bool]]) -> PrmScore:
    """PRMBench's PRMScore of one class of items (Song et al., 2025, section 4.2).

    Steps of all items are pooled. Where the official script marks an F1 without a hit with -1, this is
    0, so that a class that a model misses altogether does not lower a mean below what is possible.

    Args:
        predictions: Per item, for each step whether it is held right.
        labels: Per item, for each step whether it is right.

    Raises:
        InputError: If the lengths differ, or there is no step.
    """
    same_length(predictions, labels)
    pairs = [
        (bool(p), bool(t))
        for row, wanted in zip(predictions, labels, strict=True)
        for p, t in zip(same_length(row, wanted), wanted, strict=True)
    ]
    if not pairs:
        raise InputError("There is no step.")
    both = pairs.count((True, True))
    neither = pairs.count((False, False))
    mixed = len(pairs) - both - neither
    # 2 P R / (P + R) with P = both / predicted and R = both / labelled.
    f1 = 2 * both / (2 * both + mixed) if both else 0.0
    negative = 2 * neither / (2 * neither + mixed) if neither else 0.0
    has_wrong = any(not t for _, t in pairs)
    return PrmScore((f1 + negative) / 2 if has_wrong else f1, f1, negative)


def brier_score(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Mean squared difference of probability and outcome (Brier, 1950); 0 is best.

    Raises:
        InputError: If there is no score, the lengths differ, or a score is no probability.
    """
    values, truth = as_arrays(scores, labels, probabilities=True)
    return float(np.mean((values - truth) ** 2))


def expected_calibration_error(scores: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Mean difference of confidence and accuracy over equal-width bins, weighted by their sizes (ECE).

    Args:
        scores: Probabilities that the step is right.
        labels: Whether it is.
        bins: Number of bins; a score on an edge belongs to the bin above it.

    Raises:
        InputError: If there is no score, the lengths differ, a score is no probability, or `bins` < 1.
    """
    values, truth = as_arrays(scores, labels, probabilities=True)
    if bins < 1:
        raise InputError(f"ECE needs at least one bin, not {bins}.")
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    gaps = np.bincount(places, weights=values - truth, minlength=bins)
    return float(np.abs(gaps).sum() / values.size)


def best_of_n_accuracy(
    scores: Sequence[Sequence[Sequence[float]]],
    correct: Sequence[Sequence[bool]],
    answers: Sequence[Sequence[Any]],
    how: Aggregation,
    *,
    threshold: float = 0.5,
    normalize: Callable[[Any], Hashable] = lambda answer: answer,
) -> BestOfNAccuracy:
    """Which candidate a reward picks, beside voting, chance and the best that could be picked.

    Args:
        scores: Per question and candidate, the step scores.
        correct: Per question and candidate, whether its answer is right.
        answers: Per question and candidate, its answer, `None` if it has none.
        how: Aggregation of step scores; see `agentprm.rewards.aggregation`.
        threshold: Of the aggregation `first_error`.
        normalize: What makes two answers equal.

    Returns:
        One number per question and way of picking. The weighted vote takes the aggregated scores as
        weights, or their sigmoids if one of them is negative.

    Raises:
        InputError: If the lengths differ, or a question has no candidate.
    """
    same_length(scores, correct)
    same_length(scores, answers)
    result = BestOfNAccuracy([], [], [], [], [])
    for rows, right, texts in zip(scores, correct, answers, strict=True):
        same_length(rows, right)
        same_length(rows, texts)
        if not rows:
            raise InputError("A question without candidates cannot be answered; leave it out.")
        weights = [_aggregate(row, how, threshold=threshold) if row else 0.0 for row in rows]
        if min(weights, default=0.0) < 0:
            weights = [sigmoid(w) for w in weights]
        values = [_aggregate(row, how, threshold=threshold) if row else -math.inf for row in rows]
        groups: dict[Hashable, list[int]] = {}
        for index, text in enumerate(texts):
            if text is not None:
                groups.setdefault(normalize(text), []).append(index)
        votes = list(groups.values()) or [[index] for index in range(len(texts))]
        result.best.append(_share(values, [[i] for i in range(len(values))], right))
        result.majority.append(_share([len(group) for group in votes], votes, right))
        totals = [math.fsum(weights[i] for i in group) for group in votes]
        result.weighted_majority.append(_share(totals, votes, right))
        result.oracle.append(float(any(right)))
        result.random.append(sum(right) / len(right))
    return result


def _share(values: Sequence[float], groups: Sequence[Sequence[int]], right: Sequence[bool]) -> float:
    """How often a member of the best group is right, if chance decides between equals."""
    best = max(values)
    shares = [
        sum(map(bool, (right[i] for i in group))) / len(group)
        for value, group in zip(values, groups, strict=True)
        if value == best
    ]
    return sum(shares) / len(shares)


def final_minimum_share(scores: Sequence[Sequence[float]]) -> float:
    """Share of trajectories whose lowest score is that of the final step.

    A large share says that a process reward judges outcomes instead (Lessons, figure 8: 9 % to 55 %).
    Trajectories of one step do not count; of equal minima the first counts.

    Raises:
        InputError: If no trajectory has two steps.
    """
    rows = [row for row in scores if len(row) > 1]
    if not rows:
        raise InputError("No trajectory has two steps or more.")
    return sum(min(range(len(row)), key=lambda i: row[i]) == len(row) - 1 for row in rows) / len(rows)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _keyed(labels: PlacedLabels) -> dict[str, int]:
    items = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    return {str(key): int(label) for key, label in items}


def _first_negative(labels: PlacedLabels) -> int:
    return min((int(key) for key, label in _keyed(labels).items() if label == -1), default=-1)
