"""Functions and runnables as rewards, and the check of what a reward of somebody else's gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable

from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel
from agentprm.rewards.base import PrefixReward, ProcessRewardModel, RewardStep, Trajectory

__all__ = ["FunctionReward", "as_reward", "check_scores"]

_SLACK = 1e-6  # what rounding may carry a probability beyond 0 or 1


class FunctionReward(PrefixReward):
    r"""A function as a reward: each prefix is scored once and remembered.

    Args:
        function: From the question and the steps so far to the score of the last step; `None` or NaN
            for no score. It may be async, or a runnable, which gets `{"question": …, "steps": […]}`.
        space: Of the scores.
        cache_size: Scores that are remembered.

    Example:
        >>> from agentprm.rewards import FunctionReward, as_trajectory
        >>> brief = FunctionReward(lambda question, steps: float(len(steps[-1]["thought"]) < 20))
        >>> brief.score("Who?", [as_trajectory("Brunel, an engineer of bridges.\n\nBrunel.")])
        [[0.0, 1.0]]
    """

    def __init__(
        self,
        function: Callable[[str, Sequence[RewardStep]], Any] | Runnable[Any, Any],
        *,
        space: str = "probability",
        cache_size: int = 10_000,
    ) -> None:
        super().__init__(cache_size)
        if space not in ("probability", "logit"):
            raise ConfigurationError(f"space must be 'probability' or 'logit', not {space!r}.")
        self.space = space  # type: ignore[assignment]
        self.function = function
        if not isinstance(function, Runnable) and not takes(function, "", []):
            raise ConfigurationError(
                f"{self!r} must take two arguments, the question and the list of steps so far, or be a "
                "ProcessRewardModel."
            )

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        if isinstance(self.function, Runnable):
            return self._numbers(self.function.batch(_inputs(question, prefixes)))
        found = [self.function(question, list(prefix)) for prefix in prefixes]
        if any(map(inspect.isawaitable, found)):
            for value in found:
                getattr(value, "close", lambda: None)()  # no warning that it was never awaited
            raise ConfigurationError(f"{self!r} is async; run it with ascore, or the graph with ainvoke.")
        return self._numbers(found)

    async def ascore_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """Async twin of `score_prefixes`; a function that is not async runs in a thread."""
        if isinstance(self.function, Runnable):
            return self._numbers(await self.function.abatch(_inputs(question, prefixes)))
        if inspect.iscoroutinefunction(self.function):
            return self._numbers([await self.function(question, list(prefix)) for prefix in prefixes])
        return await super().ascore_prefixes(question, prefixes)

    def _numbers(self, found: Iterable[Any]) -> list[float]:
        return [_number(value, self) for value in found]

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", None) or type(self.function).__name__
        return f"FunctionReward({name})"


def takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a function can be called with these arguments, as far as its signature says."""
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # a builtin without a signature
        return True
    except TypeError:
        return False
    return True


def _inputs(question: str, prefixes: Sequence[Trajectory]) -> list[dict[str, Any]]:
    return [{"question": question, "steps": list(prefix)} for prefix in prefixes]


def as_reward(reward: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any]) -> ProcessRewardModel:
    """The reward model behind whatever a user passes.

    Args:
        reward: A `ProcessRewardModel`, which is returned as it is; or a function or runnable, see
            `FunctionReward`.

    Raises:
        ConfigurationError: If it is none of these. A language model is none: `default_reward` makes a
            reward of it.
    """
    if isinstance(reward, ProcessRewardModel):
        return reward
    name = reward.__name__ if isinstance(reward, type) else type(reward).__name__
    if isinstance(reward, LanguageModel | BaseLanguageModel):
        raise ConfigurationError(
            f"A {name} is no reward by itself. agentprm.rewards.default_reward(model) makes one of it, as do "
            "VerdictReward(model) and Grounding(model)."
        )
    if isinstance(reward, type):
        raise ConfigurationError(f"{name} is a class; pass an object of it, {name}(…).")
    if isinstance(reward, Runnable) or callable(reward):
        return FunctionReward(reward)
    raise ConfigurationError(
        f"A {name} is no reward. Pass a ProcessRewardModel, or a function from the question and the steps "
        "to the score of the last step."
    )


def check_scores(
    reward: ProcessRewardModel, rows: Any, trajectories: Sequence[Trajectory]
) -> list[list[float]]:
    """A reward's scores as floats, NaN for a step without a score.

    Whatever calls a reward that a user may have written checks what it gives.

    Args:
        reward: The reward.
        rows: What its `score` returned.
        trajectories: What it was asked about.

    Raises:
        ConfigurationError: If it is not one number per step of each trajectory, or one is no
            probability though the reward says that it is.
    """
    name = type(reward).__name__
    wanted = "a reward model gives a list per trajectory with exactly one score per step"
    if not _is_list(rows) or not all(map(_is_list, rows)):
        raise ConfigurationError(f"{name} returned {_brief(rows)}; {wanted}: [[0.5, 0.9], [0.2]].")
    rows = [list(row) for row in rows]
    if len(rows) != len(trajectories):
        raise ConfigurationError(
            f"{name} returned {len(rows)} lists of scores for {len(trajectories)} trajectories; {wanted}."
        )
    for row, trajectory in zip(rows, trajectories, strict=True):
        if len(row) != len(trajectory):
            raise ConfigurationError(
                f"{name} returned {len(row)} scores for {len(trajectory)} steps; {wanted}."
            )
    return [[_number(value, reward) for value in row] for row in rows]


def _number(value: Any, reward: ProcessRewardModel) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigurationError(
            f"{reward!r} gave {_brief(value)} as a score; a score is a number, or None for no score."
        ) from error
    if isinstance(value, str) or math.isinf(number):
        raise ConfigurationError(f"{reward!r} gave {_brief(value)} as a score; a score is a finite number.")
    if reward.space == "probability" and not math.isnan(number):
        if not -_SLACK <= number <= 1 + _SLACK:
            raise ConfigurationError(
                f"{reward!r} gave {number:g} as a probability. Scale its scores to lie between 0 and 1, or "
                "set its space to 'logit'."
            )
        return min(max(number, 0.0), 1.0)
    return number


def _is_list(value: Any) -> bool:
    # Arrays and tensors are lists too, of no class in common.
    listed = hasattr(value, "__len__") and hasattr(value, "__iter__")
    return listed and not isinstance(value, str | bytes | dict)


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "…"
