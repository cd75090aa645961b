"""A reward model's score corrected by tools that checked the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards.base import (
    PrefixMemory,
    ProcessRewardModel,
    RemarkingReward,
    Trajectory,
    check_trajectories,
    logit,
    sigmoid,
    step_key,
)
from agentprm.rewards.checkers.base import Checker, CheckResult
from agentprm.routines import Routine, wait, wait_in_thread

__all__ = ["DEFAULT_WEIGHTS", "Checked", "check_weights"]

# Log-odds of (supported, refuted). Arithmetic on ProcessBench (GSM8K and MATH), counted by
# benchmarks/checker_verdicts.py: false equations in 60 of 801 first wrong steps and in 1 of 5,135 right
# ones; true equations in 26 % of both. That would be a weight of -5.3; it is kept at -4, as the parser was
# adjusted on these texts. The others are cautious guesses.
DEFAULT_WEIGHTS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"arithmetic": (0.0, -4.0), "python": (2.0, -2.0), "table": (2.0, -2.0), "entailment": (3.0, -3.0)}
)
_OTHERS = (1.0, -2.0)


class Checked(RemarkingReward):
    """Fuses a reward with checkers: each verdict shifts the log-odds of the step.

    As in GroundedPRM (Zhang et al., 2025) a tool's verdict stands beside a model's judgement. Here it
    counts as much as it was found to be worth: a verdict adds the logarithm of how much more frequent it is
    on right steps than on wrong ones (naive Bayes, so correlated checkers count twice). A step on which
    all checkers are silent keeps its score.

    Args:
        reward: The reward to correct; without one every step starts from .5.
        checkers: Checkers of distinct names.
        weights: Log-odds of `supported` and `refuted` by the checker's name; the first is at least 0,
            the second at most 0. `DEFAULT_WEIGHTS` fills in, (1, -2) for unknown names.
        cache_size: Prefixes whose verdicts are remembered.

    Raises:
        ConfigurationError: If there is no checker, or an argument does not fit.
    """

    def __init__(
        self,
        reward: ProcessRewardModel | None,
        checkers: Sequence[Checker],
        *,
        weights: Mapping[str, tuple[float, float]] | None = None,
        cache_size: int = 10_000,
    ) -> None:
        names = [checker.name for checker in checkers]
        if not checkers or len(set(names)) != len(names):
            raise ConfigurationError(f"Checked needs checkers of distinct names, not {names}.")
        if unknown := set(weights or ()) - set(names):
            raise ConfigurationError(
                f"There are weights for {sorted(unknown)}, but the checkers are {names}."
            )
        self.weights = {name: (weights or {}).get(name, DEFAULT_WEIGHTS.get(name, _OTHERS)) for name in names}
        for name, (supported, refuted) in self.weights.items():
            if not (0 <= supported < math.inf and -math.inf < refuted <= 0):
                raise ConfigurationError(
                    f"The weights of {name!r} must be finite, supported at least 0 and refuted at most 0, "
                    f"not {(supported, refuted)}."
                )
        self.reward, self.checkers = reward, list(checkers)
        self.space = "probability" if reward is None else reward.space
        if reward is not None:
            self.threshold, self.aggregation = reward.threshold, reward.aggregation
        self._known = PrefixMemory[list[CheckResult]](cache_size)

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        check_trajectories(trajectories)
        if self.reward is None:
            rows = [[0.5] * len(trajectory) for trajectory in trajectories]
        else:
            rows = yield from wait(self.reward.score, self.reward.ascore, question, trajectories)
        checks = yield from wait_in_thread(self._checks, question, trajectories)
        return [
            [self._shifted(score, results) for score, results in zip(row, checked, strict=True)]
            for row, checked in zip(rows, checks, strict=True)
        ]

    def _remarking(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[str]]:
        """The evidence of the checkers that came to a verdict, and what the reward says."""
        inner = [""] * len(trajectories)
        if self.reward is not None:
            inner = yield from wait(self.reward.remarks, self.reward.aremarks, question, trajectories)
        checks = yield from wait_in_thread(self._checks, question, trajectories)
        return [
            "; ".join(filter(None, [*map(_said, rows[-1]), remark]))
            for rows, remark in zip(checks, inner, strict=True)
        ]

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`; those of a checker's writer are not known."""
        return 0 if self.reward is None else self.reward.model_calls(steps)

    def __repr__(self) -> str:
        return f"Checked({self.reward!r}, {list(self.weights)})"

    def checks(self, question: str, trajectory: Trajectory) -> list[list[CheckResult]]:
        """For each step what each checker says, in the order of the checkers; for critiques and traces."""
        return self._checks(question, [trajectory])[0]

    def _shifted(self, score: float, results: Sequence[CheckResult]) -> float:
        shift = 0.0
        for verdict in results:
            supported, refuted = self.weights[verdict.checker]
            shift += {"supported": supported, "refuted": refuted, "unknown": 0.0}[verdict.label]
        if not shift or math.isnan(score):
            return score
        if self.space == "logit":
            return score + shift
        return sigmoid(logit(score) + shift)

    def _checks(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[list[CheckResult]]]:
        recall = self._known.recall(question, [[step_key(step) for step in row] for row in trajectories])
        prefixes = [trajectories[i][: k + 1] for i, k in recall.new.values()]
        return self._known.settle(recall, [[c.check(question, p) for c in self.checkers] for p in prefixes])


def _said(result: CheckResult) -> str:
    return "" if result.label == "unknown" else f"{result.label} by {result.checker}: {result.evidence}"


def check_weights(
    results: Sequence[Sequence[CheckResult]], labels: Sequence[bool]
) -> dict[str, tuple[float, float]]:
    """Weights for `Checked` from verdicts on labelled steps.

    The weight of a verdict is the logarithm of its share among right steps over its share among wrong
    ones, both with one step added (Laplace), kept on its own side of 0: a checker whose support says
    nothing gets 0 for it.

    Args:
        results: For each step what all checkers said.
        labels: Whether each step is right.

    Raises:
        InputError: If the lengths differ or a kind of step is missing.
    """
    if len(results) != len(labels):
        raise InputError(f"{len(results)} steps need as many labels, not {len(labels)}.")
    right = sum(map(bool, labels))
    wrong = len(labels) - right
    if not right or not wrong:
        raise InputError("Weights need right steps and wrong ones.")
    counts: dict[tuple[str, str, bool], int] = {}
    names = {verdict.checker for row in results for verdict in row}
    for row, label in zip(results, labels, strict=True):
        for verdict in row:
            key = (verdict.checker, verdict.label, bool(label))
            counts[key] = counts.get(key, 0) + 1

    def log_ratio(name: str, kind: str) -> float:
        among_right = (counts.get((name, kind, True), 0) + 1) / (right + 3)
        among_wrong = (counts.get((name, kind, False), 0) + 1) / (wrong + 3)
        return math.log(among_right / among_wrong)

    return {
        name: (max(0.0, log_ratio(name, "supported")), min(0.0, log_ratio(name, "refuted")))
        for name in sorted(names)
    }
