"""Calibration: scores that mean what they say, and the threshold that belongs to them.

A reward model's scores are seldom probabilities that a step is right, and the published thresholds (.5,
0, a value tuned on GSM8K, a difference) hold for one model and template only. `Calibration.fit` learns
both from labelled steps; `Calibrated` applies them and is saved as one JSON file.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards.base import ProcessRewardModel, RemarkingReward, Trajectory, logit, sigmoid
from agentprm.rewards.separation import best_threshold
from agentprm.routines import Routine, wait

__all__ = ["Calibrated", "Calibration", "CalibrationMethod"]

CalibrationMethod = Literal["temperature", "platt", "isotonic"]

_FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """A monotone map from a reward's scores to probabilities, with the threshold that goes with it.

    Attributes:
        method: `temperature` (Guo et al., 2017: logits divided by one number; it keeps .5 where it is),
            `platt` (Platt, 1999: scale and shift, for rewards that lean to one side) or `isotonic`
            (Zadrozny & Elkan, 2002: any ascending steps, here joined by straight lines; needs some
            hundred labels).
        space: The space of the scores that go in.
        scale: Factor of the logit (`temperature`: 1 / T).
        shift: Added to the scaled logit.
        knots: `(score, probability)` points of `isotonic`, ascending.
        threshold: Calibrated probability below which a step is held wrong.
        rise: Rise of the calibrated probability from one step to the next below which the next one is
            rather wrong; `None` where there were no trajectories of several steps to fit it on.
        steps: Number of labelled steps that it was fitted on.
        reward: Name of the reward's class, checked when it is loaded for another.
    """

    method: CalibrationMethod
    space: Literal["probability", "logit"]
    scale: float = 1.0
    shift: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    threshold: float = 0.5
    rise: float | None = None
    steps: int = 0
    reward: str = ""

    def __post_init__(self) -> None:
        if self.method not in get_args(CalibrationMethod):
            raise ConfigurationError(
                f"Unknown calibration {self.method!r}; use one of {list(get_args(CalibrationMethod))}."
            )
        if self.space not in ("probability", "logit"):
            raise ConfigurationError(f"The space is 'probability' or 'logit', not {self.space!r}.")
        if not (_finite(self.scale) and _finite(self.shift) and self.scale > 0):
            raise ConfigurationError("scale and shift must be finite numbers, and the scale above 0.")
        if not (_finite(self.threshold) and 0 <= self.threshold <= 1):
            raise ConfigurationError(f"The threshold is a probability, not {self.threshold!r}.")
        if self.rise is not None and not (_finite(self.rise) and -1 <= self.rise <= 1):
            raise ConfigurationError(f"rise is a difference of probabilities, not {self.rise!r}.")
        ordered = all(a[0] < b[0] and a[1] <= b[1] for a, b in zip(self.knots, self.knots[1:], strict=False))
        if not ordered or not all(_finite(x) and _finite(y) and 0 <= y <= 1 for x, y in self.knots):
            raise ConfigurationError("Knots must ascend from (score, probability) to (score, probability).")
        if (self.method == "isotonic") != bool(self.knots):
            raise ConfigurationError("The method 'isotonic' has knots, and only it.")

    def __call__(self, score: float) -> float:
        """The probability that a step with this score is right; NaN for a step that has no score (NaN)."""
        if math.isnan(score):
            return score
        if self.method == "isotonic":
            return _interpolated(self.knots, score)
        odds = score if self.space == "logit" else logit(score)
        return sigmoid(self.scale * odds + self.shift)

    @classmethod
    def fit(
        cls,
        scores: Sequence[float],
        labels: Sequence[bool],
        *,
        method: CalibrationMethod = "temperature",
        space: Literal["probability", "logit"] = "probability",
        threshold: float | Literal["balanced"] = "balanced",
        reward: str = "",
    ) -> Calibration:
        """Fits a calibration on labelled steps. The steps must not be those that it is judged on.

        Args:
            scores: One per step, in the reward's own space.
            labels: Whether each step is right.
            method: See the class. `temperature` and `platt` minimise the log loss.
            space: The reward's `space`.
            threshold: `balanced` takes the one with the greatest harmonic mean of the accuracies on
                right and on wrong steps, as ProcessBench does for solutions; or a probability.
            reward: Name of the reward's class.

        Raises:
            InputError: If lengths differ, scores do not fit the space, or a kind of step is missing.
        """
        values = np.asarray(scores, dtype=np.float64)
        truth = np.asarray(labels, dtype=bool)
        if values.ndim != 1 or values.shape != truth.shape or not np.isfinite(values).all():
            raise InputError("Calibration needs one finite score and one label a step.")
        if truth.all() or not truth.any():
            raise InputError("Calibration needs right steps and wrong ones.")
        if space == "probability" and ((values < 0) | (values > 1)).any():
            raise InputError("Scores outside 0 to 1 are no probabilities; pass space='logit'.")
        scale, shift = 1.0, 0.0
        knots: tuple[tuple[float, float], ...] = ()
        if method == "isotonic":
            knots = _pool_adjacent_violators(values, truth)
        else:
            logits = values if space == "logit" else np.array([logit(float(v)) for v in values])
            scale, shift = _fit_logistic(logits, truth, with_shift=method == "platt")
        fitted = cls(method, space, scale, shift, knots, steps=len(values), reward=reward)
        if threshold == "balanced":
            threshold = _between([[fitted(float(v))] for v in values], truth.tolist(), 0.0)
        return replace(fitted, threshold=threshold)

    def to_json(self) -> str:
        """The calibration as JSON; `from_json` reads it back exactly."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Reads what `to_json` wrote.

        Raises:
            ConfigurationError: If it is no such JSON.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"A calibration must be JSON ({error}).") from error
        if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
            raise ConfigurationError("This is no calibration of a known format; fit it again.")
        return cls(**_checked(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a JSON file; a file that exists is replaced as a whole."""
        target = Path(path)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.to_json())
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Reads a file that `save` wrote.

        Raises:
            InputError: If the file cannot be read.
            ConfigurationError: If it holds no calibration.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The calibration {path} cannot be read: {error}.") from error


class Calibrated(RemarkingReward):
    """A reward whose scores are calibrated probabilities.

    Example:
        >>> from agentprm.rewards import Calibrated, Calibration
        >>> from agentprm.testing import FakeReward
        >>> calibration = Calibration.fit([0.2, 0.6, 0.7, 0.9], [False, True, False, True])
        >>> reward = Calibrated(FakeReward(), calibration)
        >>> reward.calibrated, reward.threshold == calibration.threshold
        (True, True)

    Args:
        reward: The reward.
        calibration: A `Calibration`, or the path of one that was saved.

    Attributes:
        threshold: Score below which a step is held wrong.
        rise: Least rise that keeps a look-ahead going.

    Raises:
        ConfigurationError: If the calibration was fitted for another space or class of reward.
    """

    calibrated = True

    def __init__(self, reward: ProcessRewardModel, calibration: Calibration | str | os.PathLike[str]) -> None:
        if not isinstance(calibration, Calibration):
            calibration = Calibration.load(calibration)
        if calibration.space != reward.space:
            raise ConfigurationError(
                f"The calibration is for scores in {calibration.space} space; {type(reward).__name__} scores "
                f"in {reward.space} space. Fit one on this reward's scores."
            )
        if calibration.reward and calibration.reward != type(reward).__name__:
            raise ConfigurationError(
                f"The calibration was fitted for {calibration.reward}, not for {type(reward).__name__}. Fit "
                "one on this reward's scores."
            )
        self.reward, self.calibration = reward, calibration
        self.threshold, self.aggregation = calibration.threshold, reward.aggregation
        self.rise = calibration.rise

    @classmethod
    def fit(
        cls,
        reward: ProcessRewardModel,
        questions: Sequence[str],
        trajectories: Sequence[Trajectory],
        labels: Sequence[Sequence[bool | None]],
        *,
        method: CalibrationMethod = "temperature",
        threshold: float | Literal["balanced"] = "balanced",
    ) -> Calibrated:
        """Scores labelled trajectories and calibrates the reward on them.

        The threshold is fitted on single steps, `rise` on how the score changes from each step to the next:
        it separates the rises before right steps from those before wrong ones.

        Args:
            reward: The reward.
            questions: One per trajectory.
            trajectories: The trajectories.
            labels: For each step whether it is right; `None` leaves it out, as does a score of NaN.
            method: See `Calibration`.
            threshold: See `Calibration.fit`.

        Raises:
            InputError: If the lengths differ, or as `Calibration.fit`.
        """
        if not len(questions) == len(trajectories) == len(labels):
            raise InputError("Calibration needs one question and one list of labels a trajectory.")
        scores: list[float] = []
        truth: list[bool] = []
        pairs: list[tuple[float, float, bool]] = []
        for question, trajectory, row in zip(questions, trajectories, labels, strict=True):
            if len(trajectory) != len(row):
                raise InputError(f"{len(trajectory)} steps need as many labels, not {len(row)}.")
            (values,) = reward.score(question, [trajectory])
            for value, label in zip(values, row, strict=True):
                if label is not None and not math.isnan(value):
                    scores.append(value)
                    truth.append(bool(label))
            for (before, after), label in zip(pairwise(values), row[1:], strict=True):
                if label is not None and not math.isnan(before) and not math.isnan(after):
                    pairs.append((before, after, bool(label)))
        name = type(reward).__name__
        calibration = Calibration.fit(
            scores, truth, method=method, space=reward.space, threshold=threshold, reward=name
        )
        rises = [[calibration(after) - calibration(before)] for before, after, _ in pairs]
        next_right = [label for _, _, label in pairs]
        both = any(next_right) and not all(next_right)
        return cls(reward, replace(calibration, rise=_between(rises, next_right, -1.0) if both else None))

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        rows = yield from wait(self.reward.score, self.reward.ascore, question, trajectories)
        return [[self.calibration(score) for score in row] for row in rows]

    def _remarking(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[str]]:
        return (yield from wait(self.reward.remarks, self.reward.aremarks, question, trajectories))

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`."""
        return self.reward.model_calls(steps)

    def __repr__(self) -> str:
        return f"Calibrated({self.reward!r}, {self.calibration.method!r})"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _interpolated(knots: Sequence[tuple[float, float]], score: float) -> float:
    place = bisect_right(knots, score, key=lambda knot: knot[0])
    if place in (0, len(knots)):
        return knots[0][1] if place == 0 else knots[-1][1]
    (x0, y0), (x1, y1) = knots[place - 1], knots[place]
    return y0 + (y1 - y0) * (score - x0) / (x1 - x0)


def _pool_adjacent_violators(values: np.ndarray, truth: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Least-squares ascending fit (Ayer et al., 1955); a block is kept as its two ends."""
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=truth.astype(np.float64)) / counts
    blocks: list[list[float]] = []  # first score, last score, mean, weight
    for x, y, w in zip(distinct.tolist(), means.tolist(), counts.tolist(), strict=True):
        blocks.append([x, x, y, w])
        while len(blocks) > 1 and blocks[-2][2] >= blocks[-1][2]:
            _, last, y1, w1 = blocks.pop()
            first, _, y0, w0 = blocks.pop()
            blocks.append([first, last, (y0 * w0 + y1 * w1) / (w0 + w1), w0 + w1])
    knots: list[tuple[float, float]] = []
    for first, last, mean, _ in blocks:
        knots += [(first, mean)] if first == last else [(first, mean), (last, mean)]
    return tuple(knots)


def _fit_logistic(logits: np.ndarray, truth: np.ndarray, *, with_shift: bool) -> tuple[float, float]:
    """Scale above 0 (and shift) that minimise the log loss, by damped Newton steps on the log of the scale.

    Platt's targets (not quite 0 and 1) keep the optimum finite where the data can be told apart.
    """
    good, bad = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(parameters: np.ndarray) -> float:
        z = np.exp(parameters[0]) * logits + parameters[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    parameters, damping = np.zeros(2), 1.0
    best = loss(parameters)
    for _ in range(200):
        scaled = np.exp(parameters[0]) * logits
        p = 1 / (1 + np.exp(-np.clip(scaled + parameters[1], -700, 700)))
        columns = np.stack([scaled, np.ones_like(scaled)], axis=1)[:, : 2 if with_shift else 1]
        gradient = columns.T @ (p - target)
        # Gauss-Newton: without the term of the exponential's second derivative it is always convex.
        hessian = (columns * (p * (1 - p))[:, None]).T @ columns
        hessian += damping * np.diag(np.diag(hessian) + 1e-12)
        move = np.zeros(2)
        move[: len(gradient)] = np.linalg.solve(hessian, -gradient)
        tried = parameters + np.clip(move, -2, 2)
        tried[0] = np.clip(tried[0], -12, 12)
        value = loss(tried)
        if value < best:
            done = best - value < 1e-12 * max(1.0, best)
            parameters, best, damping = tried, value, damping / 4
            if done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return float(np.exp(parameters[0])), float(parameters[1])


def _between(scores: Sequence[Sequence[float]], right: Sequence[bool], least: float) -> float:
    """What separates right from wrong best, by the harmonic mean of both accuracies, each alone."""
    found, _ = best_threshold(scores, [-1 if label else 0 for label in right])
    return min(max(found, least), 1.0)


def _checked(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a calibration read from JSON, each of its type."""
    known = {field.name for field in fields(Calibration)}
    if set(data) != known:
        raise ConfigurationError(
            f"A calibration has the fields {sorted(known)}, not {sorted(map(str, data))}; fit it again."
        )
    types = {"method": str, "space": str, "reward": str, "steps": int, "knots": list}
    for name, value in data.items():
        if name == "rise" and value is None:
            continue
        wanted = types.get(name)
        if (not isinstance(value, wanted) if wanted else not _finite(value)) or isinstance(value, bool):
            raise ConfigurationError(f"The field {name!r} of the calibration is {value!r}; fit it again.")
    knots = data["knots"]
    if not all(isinstance(knot, list) and len(knot) == 2 and all(map(_finite, knot)) for knot in knots):
        raise ConfigurationError("The knots of the calibration are no pairs of numbers; fit it again.")
    return {**data, "knots": tuple((float(x), float(y)) for x, y in knots)}
