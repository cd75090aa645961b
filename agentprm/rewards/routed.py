"""A mixture of experts: each question is scored by the reward that fits it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from agentprm.errors import ConfigurationError
from agentprm.rewards.base import Memory, ProcessRewardModel, RemarkingReward, Trajectory
from agentprm.rewards.likelihood import common_space
from agentprm.routines import Routine, wait, wait_in_thread

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

__all__ = ["NearestType", "RoutedReward"]


class RoutedReward(RemarkingReward):
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
        self.space = common_space(list(experts.values()), "RoutedReward")
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

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        expert = yield from wait_in_thread(self.expert, question)  # it may embed the question
        return (yield from wait(expert.score, expert.ascore, question, trajectories))

    def _remarking(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[str]]:
        expert = yield from wait_in_thread(self.expert, question)
        return (yield from wait(expert.remarks, expert.aremarks, question, trajectories))


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
