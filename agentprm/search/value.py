"""Value functions: from the scores of a candidate's rollout to the value that selection compares.

`scores[0]` is the reward of the candidate step, `scores[1:]` are those of the steps simulated after
it. A value function also says when simulating further cannot help, so that the stop rule saves the
calls instead of discarding their results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentprm.errors import ConfigurationError, InputError, check_count

__all__ = ["PAV", "TD", "Plain", "Snell", "ValueFunction", "check_space"]

Space = Literal["probability", "logit"]

_LEAST = 1e-6  # probabilities nearer to 0 or 1 have the log-odds of this one


class ValueFunction(Protocol):
    """Maps the scores of a rollout (and the parent's score) to a value in the scores' space.

    Attributes:
        horizon: Most steps that are simulated after the candidate; 0 means no look-ahead.
    """

    @property
    def horizon(self) -> int:
        """Most steps simulated after the candidate."""
        ...

    def stop(self, scores: Sequence[float]) -> bool:
        """Whether the rollout with `scores` so far should not be continued."""
        ...

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        """Value of the candidate; `parent` is the score of the step before it, `None` at the root."""
        ...


def check_space(value: ValueFunction, space: Space) -> None:
    """Refuses a value function that cannot work on scores in this space.

    Raises:
        ConfigurationError: If it needs probabilities and the reward gives logits.
    """
    if isinstance(value, TD) and value.log_odds and space != "probability":
        raise ConfigurationError(
            "TD(log_odds=True) makes logits of probabilities, but the reward scores in logit space already. "
            'Use TD.code("logit").'
        )
    if isinstance(value, PAV) and space != "probability":
        raise ConfigurationError(
            "PAV needs scores that are probabilities, but the reward scores in logit space. Calibrate it "
            "(agentprm.rewards.Calibrated), or use Plain, TD or Snell."
        )


def _first(scores: Sequence[float]) -> float:
    if not scores:
        raise InputError("A value needs at least the score of the candidate step.")
    return float(scores[0])


@dataclass(frozen=True)
class Plain:
    """The step's own score; no look-ahead.

    Example:
        >>> Plain().value([0.4, 0.9])
        0.4
    """

    horizon: int = 0

    def __post_init__(self) -> None:
        if self.horizon != 0:
            raise ConfigurationError("Plain does not look ahead; use TD or Snell for a horizon.")

    def stop(self, scores: Sequence[float]) -> bool:
        """Always: nothing after the step is looked at."""
        return True

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        """The first score."""
        return _first(scores)


@dataclass(frozen=True)
class TD:
    """Temporal-difference look-ahead (ReARTeR, section on TD-based look-ahead search).

    `r_t += alpha * (r_{t+1} - r_t)`, swept backwards from the end of the rollout with the already
    updated successor, which is what the authors' code computes. The rollout ends when the score rises
    by less than `beta`, or after `horizon` steps; the rule is evaluated while simulating.

    Args:
        alpha: Step size in [0, 1]. The paper gives no value; .5 is the authors' code's.
        beta: Least rise that keeps the rollout going, .05 in the paper, in the units of the scores.
        horizon: Steps simulated after the candidate. The authors' code uses 2, the paper says 3.
        log_odds: Sweep over the log-odds of probabilities, and give a probability back.

    Example:
        >>> TD(alpha=0.5).value([0.2, 0.6, 1.0])
        0.5
    """

    alpha: float = 0.5
    beta: float = 0.05
    horizon: int = 2
    log_odds: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigurationError(f"alpha must lie in [0, 1], not {self.alpha}.")
        if math.isnan(self.beta):
            raise ConfigurationError("beta must be a number.")
        check_count("horizon", self.horizon)

    @classmethod
    def paper(cls, space: Space = "probability") -> TD:
        """The paper's settings: three steps ahead, as long as the score rises by .05.

        Args:
            space: Of the reward. The paper's scores are probabilities; near the middle .2 in logits is as
                much as their .05.
        """
        return cls(alpha=0.5, beta=0.05 if space == "probability" else 0.2, horizon=3)

    @classmethod
    def code(cls, space: Space = "probability") -> TD:
        """The authors' code: two steps ahead, everything in logits.

        It looks ahead from the first four steps of a path (`shallow=4`), not from three.

        Args:
            space: Of the reward; probabilities are made logits and back.
        """
        return cls(alpha=0.5, beta=0.05, horizon=2, log_odds=space == "probability")

    def stop(self, scores: Sequence[float]) -> bool:
        """After `horizon` simulated steps, or when the last one raised the score by less than `beta`."""
        _first(scores)
        if len(scores) > self.horizon:
            return True
        return len(scores) > 1 and self._scale(scores[-1]) - self._scale(scores[-2]) < self.beta

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        """Score of the candidate after the backward sweep."""
        _first(scores)
        estimate = self._scale(scores[-1])
        for score in map(self._scale, reversed(scores[:-1])):
            estimate = score + self.alpha * (estimate - score)
        return 0.5 * (1 + math.tanh(estimate / 2)) if self.log_odds else estimate

    def _scale(self, score: float) -> float:
        if not self.log_odds:
            return float(score)
        inside = min(max(score, _LEAST), 1 - _LEAST)
        return math.log(inside / (1 - inside))


@dataclass(frozen=True)
class Snell:
    """The score at the end of a rollout of fixed length (look-ahead search of Snell et al., 2024)."""

    horizon: int = 3

    def __post_init__(self) -> None:
        check_count("horizon", self.horizon)

    def stop(self, scores: Sequence[float]) -> bool:
        """After `horizon` simulated steps."""
        _first(scores)
        return len(scores) > self.horizon

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        """The last score."""
        _first(scores)
        return float(scores[-1])


@dataclass(frozen=True)
class PAV:
    """Process advantage under a best-of-k prover (Setlur et al., "Rewarding Progress").

    `Q + alpha * (Q_k - Q_k(parent))` with `Q_k = 1 - (1 - Q)^k`. Needs no rollouts, but calibrated
    probabilities. At the root the advantage is zero.

    Args:
        alpha: Weight of the advantage; the paper validates .5 for small and .2 for large models.
        k: Samples of the prover; 4 is best in the paper.
    """

    alpha: float = 0.5
    k: int = 4
    horizon: int = 0

    def __post_init__(self) -> None:
        if not self.alpha >= 0:
            raise ConfigurationError(f"alpha must be at least 0, not {self.alpha}.")
        check_count("k", self.k)
        if self.horizon != 0:
            raise ConfigurationError("PAV does not look ahead; its horizon is 0.")

    def stop(self, scores: Sequence[float]) -> bool:
        """Always: no rollouts."""
        return True

    def value(self, scores: Sequence[float], parent: float | None = None) -> float:
        """Effective reward of the step.

        Raises:
            InputError: If a score is not a probability.
        """
        q = _first(scores)
        if not (0 <= q <= 1 and (parent is None or 0 <= parent <= 1)):
            raise InputError("PAV needs scores that are probabilities; this reward's space is not.")
        if parent is None:
            return q
        return q + self.alpha * ((1 - (1 - q) ** self.k) - (1 - (1 - parent) ** self.k))
