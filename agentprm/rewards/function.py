"""Functions and runnables as rewards."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable

from agentprm.errors import ConfigurationError, check_choice
from agentprm.lm import LanguageModel
from agentprm.rewards.base import PrefixReward, ProcessRewardModel, RewardStep, Trajectory, as_score

__all__ = ["FunctionReward", "as_reward"]


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
        check_choice("space", space, "probability", "logit")
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
        return [as_score(value, self) for value in found]

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


def twins(
    function: Callable[..., Any] | Runnable[Any, Any], *names: str
) -> tuple[Callable[..., Any], Callable[..., Awaitable[Any]]]:
    """A user's function, async or not, or a runnable of these inputs, as a function and its async twin."""
    if isinstance(function, Runnable):
        runnable = function
        return (
            lambda *values: runnable.invoke(dict(zip(names, values, strict=True))),
            lambda *values: runnable.ainvoke(dict(zip(names, values, strict=True))),
        )

    def sync(*values: Any) -> Any:
        found = function(*values)
        if inspect.isawaitable(found):
            getattr(found, "close", lambda: None)()  # no warning that it was never awaited
            raise ConfigurationError(
                f"{getattr(function, '__name__', function)} is async. Rank with acompress_documents (ainvoke "
                "of a graph), or pass a function that is not."
            )
        return found

    async def on_loop(*values: Any) -> Any:
        # An async function only makes its coroutine in the thread; a sync one does its work there.
        found = await asyncio.to_thread(function, *values)
        return await found if inspect.isawaitable(found) else found

    return sync, on_loop


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
        "to the score of the last step; agentprm.rewards.load_reward(name) loads a published one."
    )
