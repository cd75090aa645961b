"""Several rewards as one: all of them asked (`Fused`), or the one that fits the question (`RoutedReward`)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from agentprm.errors import ConfigurationError, InputError
from agentprm.memory import Memory
from agentprm.rewards.base import ProcessRewardModel, Trajectory
from agentprm.rewards.separation import auc

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

__all__ = ["Fused", "Fusion", "NearestType", "RoutedReward", "reliability"]

Fusion = Literal["geometric_mean", "mean", "min"]


class Fused(ProcessRewardModel):
    """An ensemble: every reward scores, and their scores become one.

    Args:
        rewards: At least one. All score in one space, which becomes the ensemble's.
        how: `geometric_mean` (a step must please all of them; probabilities only), `mean` or `min`
            (the most sceptical decides).
        weights: Shares of the rewards in the mean, at least 0 and not all 0; equal by default.
            `reliability` measures them on labelled steps.

    Raises:
        ConfigurationError: If there is no reward, the spaces differ, or an argument does not fit.
    """

    def __init__(
        self,
        rewards: Sequence[ProcessRewardModel],
        how: Fusion = "geometric_mean",
        *,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not rewards:
            raise ConfigurationError("Fused needs at least one reward.")
        if how not in get_args(Fusion):
            raise ConfigurationError(f"Unknown fusion {how!r}; use one of {list(get_args(Fusion))}.")
        self.space = _common_space(rewards, "Fused")
        if how == "geometric_mean" and self.space != "probability":
            raise ConfigurationError(
                f"Fused multiplies probabilities; {type(rewards[0]).__name__} scores in {self.space} space. "
                "Use how='mean' or 'min', or calibrate the rewards first."
            )
        if weights is not None and how == "min":
            raise ConfigurationError("A minimum has no weights; use how='mean' or 'geometric_mean'.")
        self.rewards, self.how = list(rewards), how
        self.weights = _shares(weights, len(self.rewards))

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        return self._fuse([reward.score(question, trajectories) for reward in self.rewards])

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; the rewards are asked one after the other."""
        return self._fuse([await reward.ascore(question, trajectories) for reward in self.rewards])

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`."""
        return sum(reward.model_calls(steps) for reward in self.rewards)

    def remarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """See `ProcessRewardModel.remarks`: what all of them say."""
        return _together([reward.remarks(question, trajectories) for reward in self.rewards])

    async def aremarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """Async twin of `remarks`."""
        return _together([await reward.aremarks(question, trajectories) for reward in self.rewards])

    def __repr__(self) -> str:
        return f"Fused({self.rewards!r}, {self.how!r})"

    def _fuse(self, parts: list[list[list[float]]]) -> list[list[float]]:
        return [
            [self._one(scores) for scores in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)
        ]

    def _one(self, scores: Sequence[float]) -> float:
        if any(map(math.isnan, scores)):
            return math.nan  # a step that one of them could not score has no score
        if self.how == "min":
            return min(scores)
        if self.how == "mean":
            return math.fsum(w * s for w, s in zip(self.weights, scores, strict=True))
        return float(math.prod(s**w for w, s in zip(self.weights, scores, strict=True)))


def _together(rows: list[list[str]]) -> list[str]:
    return ["; ".join(filter(None, said)) for said in zip(*rows, strict=True)]


def reliability(
    scores: Sequence[Sequence[float]], labels: Sequence[bool], *, names: Sequence[str] | None = None
) -> list[float]:
    """Weights for `Fused` from how well each reward tells right steps from wrong ones.

    The weight of a reward is `2 AUC - 1`, what it is better than chance by; a reward that is no better
    gets 0 and could be left out.

    Args:
        scores: For each reward, its scores of the same labelled steps.
        labels: Whether each step is right.
        names: For the error message.

    Raises:
        InputError: If no reward is better than chance, or as `agentprm.rewards.separation.auc`.
    """
    weights = [max(0.0, 2 * auc(row, labels) - 1) for row in scores]
    if not any(weights):
        raise InputError(
            f"None of {list(names) if names else len(scores)} tells right steps from wrong ones better than "
            "chance on these labels, so there is nothing to weigh."
        )
    return weights


class RoutedReward(ProcessRewardModel):
    """A mixture of experts: each question is scored by the reward for its type.

    The outer layer of DMoERM (Quan, 2024): one expert per kind of task, chosen once a question. Its inner
    layer, several aspects of one task, is a `Fused` as an expert.

    Args:
        route: From a question to its type, for instance a `NearestType`. It is asked once a question.
        experts: The reward of each type. All score in one space.
        default: The type whose expert scores questions of an unknown type; without it they are errors.

    Raises:
        ConfigurationError: If there is no expert, the spaces differ, or the default is none of the types.
    """

    def __init__(
        self,
        route: Callable[[str], str],
        experts: Mapping[str, ProcessRewardModel],
        *,
        default: str | None = None,
    ) -> None:
        if not experts:
            raise ConfigurationError("Routed needs at least one expert.")
        if default is not None and default not in experts:
            raise ConfigurationError(f"The default {default!r} is none of the types {sorted(experts)}.")
        self.space = _common_space(list(experts.values()), "RoutedReward")
        self.route, self.experts, self.default = route, dict(experts), default

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`: of the expert that takes most."""
        return max(expert.model_calls(steps) for expert in self.experts.values())

    def __repr__(self) -> str:
        return f"Routed({self.experts!r})"

    def expert(self, question: str) -> ProcessRewardModel:
        """The reward that scores this question.

        Raises:
            ConfigurationError: If its type has no expert and there is no default.
        """
        kind = self.route(question)
        if kind not in self.experts:
            if self.default is None:
                raise ConfigurationError(
                    f"The question is of type {kind!r}, for which there is no expert among "
                    f"{sorted(self.experts)}. Add one, or give a default."
                )
            kind = self.default
        return self.experts[kind]

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        return self.expert(question).score(question, trajectories)

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; the route is taken in a thread, as it may embed the question."""
        expert = await asyncio.to_thread(self.expert, question)
        return await expert.ascore(question, trajectories)

    def remarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """See `ProcessRewardModel.remarks`: what the expert says."""
        return self.expert(question).remarks(question, trajectories)

    async def aremarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """Async twin of `remarks`."""
        expert = await asyncio.to_thread(self.expert, question)
        return await expert.aremarks(question, trajectories)


class NearestType:
    """A route: the type whose examples a question resembles most, by the mean of their embeddings.

    Args:
        embeddings: Any LangChain embeddings.
        examples: Some questions of each type.
        cache_size: Questions whose type is remembered; the least recently asked go first.

    Raises:
        ConfigurationError: If there is no type, or a type has no example.
    """

    def __init__(
        self, embeddings: Embeddings, examples: Mapping[str, Sequence[str]], *, cache_size: int = 1000
    ) -> None:
        if not examples or not all(examples.values()):
            raise ConfigurationError("NearestType needs at least one type, and an example of each.")
        self._embeddings = embeddings
        self._known = Memory[str, str](cache_size)
        # Examples are questions, and are embedded as such.
        self._centres = {
            kind: _unit([sum(column) for column in zip(*map(self._vector, texts), strict=True)])
            for kind, texts in examples.items()
        }

    def __call__(self, question: str) -> str:
        """The type of `question`; the first of equals."""
        kind = self._known.get(question)
        if kind is None:
            vector = self._vector(question)
            kind = max(
                self._centres,
                key=lambda name: math.fsum(a * b for a, b in zip(vector, self._centres[name], strict=True)),
            )
            self._known.keep({question: kind})
        return kind

    def _vector(self, text: str) -> list[float]:
        return _unit(self._embeddings.embed_query(text))


def _unit(vector: Sequence[float]) -> list[float]:
    norm = math.sqrt(math.fsum(float(x) ** 2 for x in vector)) or 1.0
    return [float(x) / norm for x in vector]


def _common_space(rewards: Sequence[ProcessRewardModel], name: str) -> Literal["probability", "logit"]:
    spaces = {reward.space for reward in rewards}
    if len(spaces) > 1:
        found = ", ".join(f"{type(reward).__name__}: {reward.space}" for reward in rewards)
        raise ConfigurationError(
            f"The rewards of {name} must score in one space ({found}). Calibrate those that score in "
            "logit space (agentprm.rewards.Calibrated)."
        )
    return spaces.pop()


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ConfigurationError(f"{count} rewards need as many weights, not {len(values)}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in values) or not any(values):
        raise ConfigurationError(f"Weights must be finite, at least 0 and not all 0, not {values}.")
    total = math.fsum(values)
    return [weight / total for weight in values]
