"""From step scores to one score of a trajectory, and from scored trajectories to one answer.

Which aggregation fits depends on what the reward model was trained on; `DEFAULT_AGGREGATION` says what
its authors found best. Differences of one or two points are usual (Zhang et al., "The Lessons of
Developing Process Reward Models", figure 9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeVar, get_args

from agentprm.errors import ConfigurationError, InputError

__all__ = [
    "DEFAULT_AGGREGATION",
    "Aggregation",
    "TrainingType",
    "aggregate",
    "best_of_n",
    "first_error",
    "majority",
    "weighted_majority",
]

T = TypeVar("T")

Aggregation = Literal["min", "max", "product", "last", "mean", "geometric_mean", "sum", "first_error"]

TrainingType = Literal["monte_carlo", "human", "judge", "outcome", "generative", "implicit"]

DEFAULT_AGGREGATION: Mapping[TrainingType, Aggregation] = MappingProxyType(
    {
        # Labels from rollouts say how likely the rest succeeds, so the last one knows most; labels of
        # single steps say that this step is right, and all must be (Lessons, section 3.2.4).
        "monte_carlo": "last",
        "human": "product",
        "judge": "product",
        # Trained on whole answers; only the last position was ever labelled (Multi-RM).
        "outcome": "last",
        # A written verdict about the whole prefix, sampled k times (Multi-RM).
        "generative": "mean",
        # Log-ratios add up over steps; the authors take the smallest step (ImplicitPRM).
        "implicit": "min",
    }
)

# A probability of 0 would make every longer trajectory that holds one equally bad.
_FLOOR = 1e-12


def aggregate(scores: Sequence[float], how: Aggregation, *, threshold: float = 0.5) -> float:
    """One score of a trajectory from the scores of its steps.

    Args:
        scores: One finite number per step, in order; at least one.
        how: `min`, `max`, `last`, `mean` and `sum` of scores in any space. `product` and
            `geometric_mean` of probabilities, computed as logarithms with a floor of 1e-12 per step;
            the product favours short trajectories, the geometric mean does not. `first_error`: the
            share of the steps that stand before the first one below `threshold`, 1 without such a step.
        threshold: Of `first_error`; the reward model's own if it is not calibrated.

    Raises:
        ConfigurationError: If `how` is unknown.
        InputError: If there is no score, one is not finite, or a product is asked of scores that are
            not probabilities.
    """
    if how not in get_args(Aggregation):
        raise ConfigurationError(f"Unknown aggregation {how!r}; use one of {list(get_args(Aggregation))}.")
    if not scores:
        raise InputError("A trajectory without steps has no score; leave it out or give it one of your own.")
    values = [float(score) for score in scores]
    if not all(map(math.isfinite, values)):
        raise InputError(
            f"Step scores must be finite numbers, not {values}. Steps that a judge could not score (NaN) are "
            "left out or replaced first."
        )
    if how in ("product", "geometric_mean"):
        if not all(0 <= value <= 1 for value in values):
            raise InputError(
                f"A {how.replace('_', ' ')} needs probabilities between 0 and 1, not {values}. Use min, "
                "last, mean or sum for logits, or calibrate the reward first."
            )
        logs = math.fsum(math.log(max(value, _FLOOR)) for value in values)
        return math.exp(logs if how == "product" else logs / len(values))
    if how == "first_error":
        position = first_error(values, threshold)
        return 1.0 if position < 0 else position / len(values)
    simple: dict[str, Callable[[list[float]], float]] = {
        "min": min,
        "max": max,
        "last": lambda row: row[-1],
        "sum": math.fsum,
        "mean": lambda row: math.fsum(row) / len(row),
    }
    return simple[how](values)


def first_error(scores: Sequence[float], threshold: float = 0.5) -> int:
    """Index of the first step that scores below `threshold`, or -1 if none does."""
    return next((i for i, score in enumerate(scores) if score < threshold), -1)


def best_of_n(scores: Sequence[Sequence[float]], how: Aggregation, *, threshold: float = 0.5) -> int:
    """Index of the trajectory with the best aggregated score; the first of equals.

    Args:
        scores: Step scores of each candidate. One without steps loses against every other.
        how: See `aggregate`.
        threshold: See `aggregate`.

    Raises:
        InputError: If there is no candidate, or as `aggregate`.
    """
    if not scores:
        raise InputError("There is no candidate to choose from.")
    values = [aggregate(row, how, threshold=threshold) if row else -math.inf for row in scores]
    return max(range(len(values)), key=lambda i: (values[i], -i))


def majority(
    answers: Sequence[T | None], *, normalize: Callable[[T], Hashable] = lambda answer: answer
) -> int:
    """Index of the first answer of the largest group of equal answers.

    Args:
        answers: One per candidate; `None` where a candidate has none. Those never win a vote unless
            all are `None`.
        normalize: What makes answers equal, for instance
            `agentprm.evaluation.normalize_answer` or a number parser.

    Raises:
        InputError: If there is no candidate.
    """
    return _vote(answers, [1.0] * len(answers), normalize)


def weighted_majority(
    answers: Sequence[T | None],
    weights: Sequence[float],
    *,
    normalize: Callable[[T], Hashable] = lambda answer: answer,
) -> int:
    """Index of the best-weighted answer of the group of equal answers with the greatest total weight.

    Math-Shepherd, section 3.4: each candidate votes with its aggregated score. Groups of equal weight
    are told apart by their size, then by which came first.

    Args:
        answers: As in `majority`.
        weights: One per candidate, at least 0: an aggregated probability. For logits take their
            sigmoid, as the authors of the implicit reward do.
        normalize: As in `majority`.

    Raises:
        InputError: If there is no candidate, or the weights do not fit.
    """
    return _vote(answers, [float(weight) for weight in weights], normalize)


def _vote(answers: Sequence[T | None], weights: Sequence[float], normalize: Callable[[T], Hashable]) -> int:
    if not answers:
        raise InputError("There is no candidate to choose from.")
    if len(weights) != len(answers):
        raise InputError(f"{len(answers)} answers need as many weights, not {len(weights)}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise InputError(
            f"Weights of a vote must be finite and at least 0, not {list(weights)}. "
            "Take the sigmoid of logits."
        )
    groups: dict[Hashable, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            groups.setdefault(normalize(answer), []).append(index)
    if not groups:
        return max(range(len(weights)), key=lambda i: (weights[i], -i))
    winner = max(
        groups.values(), key=lambda group: (math.fsum(weights[i] for i in group), len(group), -group[0])
    )
    return max(winner, key=lambda i: (weights[i], -i))
