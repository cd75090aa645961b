"""What to label and what to train on: balance of classes, hard steps, questions and domains that pay."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from agentprm.errors import ConfigurationError, InputError
from agentprm.training.data import StepCounts, StepLabelRecord

__all__ = ["annotator", "balanced", "choose_questions", "domain_weights", "step_class", "value_and_depth"]


def step_class(place: int, label: float) -> Hashable:
    """Right or wrong: the classes that ReARTeR and class-balanced verifiers have equally often."""
    return label > 0.5


def value_and_depth(place: int, label: float) -> Hashable:
    """Value and depth of a step: HNC has as many steps of each."""
    return place, round(label, 3)


def balanced(
    records: Sequence[StepLabelRecord],
    *,
    by: Callable[[int, float], Hashable] = step_class,
    seed: int = 0,
) -> list[StepLabelRecord]:
    """As many labelled steps of each class as there are of the rarest; chosen at random, others lose labels.

    Args:
        records: Labelled trajectories.
        by: The class of a step, from its place and its label: `step_class` or `value_and_depth`.
        seed: Decides which labels stay.

    Returns:
        The records that have a label left, in order.
    """
    classes: dict[Hashable, list[tuple[int, int]]] = {}
    for row, record in enumerate(records):
        for place, label in enumerate(record.labels):
            if label is not None:
                classes.setdefault(by(place, label), []).append((row, place))
    least = min((len(steps) for steps in classes.values()), default=0)
    draw = random.Random(seed)
    kept = {step for steps in classes.values() for step in draw.sample(steps, least)}
    found = []
    for row, record in enumerate(records):
        labels = [label if (row, place) in kept else None for place, label in enumerate(record.labels)]
        if any(label is not None for label in labels):
            found.append(record.model_copy(update={"labels": labels}))
    return found


def annotator(
    weak: StepCounts, strong: StepCounts | None = None
) -> Literal["weak", "stronger", "strong", "none"]:
    """ReARTeR: whose completions label the steps of a question.

    A question that the weak generator always solves has no step to find fault with, and one that it never
    solves is tried again by a stronger one; what is still always or never solved is left out.

    Args:
        weak: The weak generator's completions from the question alone.
        strong: Those of the stronger one, if it has tried.

    Returns:
        `weak` or `strong`: use its completions. `stronger`: let the stronger generator try. `none`: leave
        the question out.
    """
    if not weak.rollouts:
        raise InputError("A question without completions cannot be assigned; complete it first.")
    if 0 < weak.correct < weak.rollouts:
        return "weak"
    if weak.correct:
        return "none"
    if strong is None:
        return "stronger"
    return "strong" if 0 < strong.correct < strong.rollouts else "none"


def choose_questions(
    results: Mapping[str, tuple[int, int]],
    count: int,
    *,
    mean: float = 1.0,
    deviation: float = 1.0,
    prior: tuple[float, float] = (1.0, 1.0),
) -> list[str]:
    """MPTS: the questions whose predicted risk of failure, or its uncertainty, is highest.

    The acquisition is `mean * E[risk] + deviation * sd[risk]`. The paper predicts the risk with a variational
    model over descriptions of tasks; here it is the posterior of a question's own failures, a Beta
    distribution, as in the same group's prompt selection.

    Args:
        results: Per question its id, and how many of its attempts succeeded out of how many, so far.
        count: How many to choose.
        mean: Weight of the expected risk.
        deviation: Weight of its standard deviation.
        prior: Failures and successes that are assumed before any attempt.

    Returns:
        Ids, best first; ties keep the order of `results`.
    """
    if min(prior) <= 0:
        raise ConfigurationError(f"prior must be two positive numbers, not {prior}.")

    def acquisition(right: int, tried: int) -> float:
        if not 0 <= right <= tried:
            raise InputError(f"{right} of {tried} attempts cannot have succeeded.")
        a, b = prior[0] + tried - right, prior[1] + right
        return mean * a / (a + b) + deviation * math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))

    scores = {name: acquisition(*result) for name, result in results.items()}
    return sorted(scores, key=lambda name: -scores[name])[:count]


def domain_weights(
    weights: Mapping[str, float],
    gradients: Mapping[str, npt.ArrayLike],
    meta_gradient: npt.ArrayLike,
    rate: float,
) -> dict[str, float]:
    """DreamPRM: one step of the weights of domains towards what helps on held-out (meta) data.

    Training minimises `sum_d w_d L_d`. After one step of it, the meta loss changes with w_d by
    `-lr <grad L_meta, grad L_d>`, so that a domain whose gradient points the same way gains:
    `w_d <- max(0, w_d + rate <grad L_meta, grad L_d>)`. The weights are then scaled to a mean of 1, so that
    only their ratios change; the paper's own projection is not known to us.

    Args:
        weights: The weights so far; 1 each to begin with.
        gradients: Per domain the gradient of its loss (d).
        meta_gradient: The gradient of the meta loss (d).
        rate: Learning rate of the weights times that of the model.

    Raises:
        InputError: If domains or dimensions do not match, or all weights vanish.
    """
    if set(weights) != set(gradients):
        raise InputError("weights and gradients must name the same domains.")
    meta = np.asarray(meta_gradient, dtype=np.float64).ravel()
    moved: dict[str, float] = {}
    for name, weight in weights.items():
        gradient = np.asarray(gradients[name], dtype=np.float64).ravel()
        if gradient.shape != meta.shape:
            raise InputError(f"The gradient of {name!r} has {gradient.size} numbers, not {meta.size}.")
        moved[name] = max(0.0, weight + rate * float(meta @ gradient))
    total = sum(moved.values())
    if not total > 0 or not math.isfinite(total):
        raise InputError("No domain has a positive weight left; use a smaller rate.")
    return {name: weight * len(moved) / total for name, weight in moved.items()}
