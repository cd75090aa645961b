"""The contract of a process reward model."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from agentprm.budget import record
from agentprm.errors import InputError
from agentprm.memory import Memory

__all__ = ["PrefixReward", "ProcessRewardModel", "RewardStep", "Trajectory"]


class RewardStep(TypedDict):
    """One reasoning step as a reward model sees it.

    Attributes:
        query: The sub-question of the step; empty for a concluding step.
        passages: Texts of the passages that the step was given; empty without retrieval.
        thought: What the step found.
        final_answer: The answer to the whole question, if the step concludes.
        cited: Which of the passages the finding cites, as indices; missing where that is not known.
    """

    query: str
    passages: list[str]
    thought: str
    final_answer: str | None
    cited: NotRequired[list[int]]


Trajectory = Sequence[RewardStep]


def check_trajectories(trajectories: Sequence[Trajectory]) -> None:
    """Tells plain texts and a single trajectory from a list of trajectories.

    Raises:
        InputError: If `trajectories` is no list of lists of steps.
    """
    for trajectory in trajectories:
        steps = [] if isinstance(trajectory, str | Mapping) else trajectory
        if steps is not trajectory or not all(isinstance(step, Mapping) for step in steps):
            raise InputError(
                "A reward model scores a list of trajectories, each a list of steps: "
                "score(question, [as_trajectory(solution)])."
            )


class ProcessRewardModel(ABC):
    """Scores every step of reasoning trajectories. Outcome models and judges share the interface.

    Attributes:
        space: `probability` (scores in [0, 1]) or `logit` (any real number).
        calibrated: Whether a score of .8 means right in about 80 % of the cases.
    """

    space: Literal["probability", "logit"] = "probability"
    calibrated: bool = False

    @abstractmethod
    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Scores each step given the steps before it.

        Args:
            question: The question that all trajectories answer.
            trajectories: Any number of trajectories, of any lengths.

        Returns:
            For each trajectory exactly one float per step. Other trajectories of the call never
            change a score.
        """

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; by default it runs in a thread."""
        return await asyncio.to_thread(self.score, question, trajectories)


class PrefixReward(ProcessRewardModel):
    """Base of rewards that score a step from its prefix alone, and remember what they scored.

    A trajectory that extends a scored one costs its new steps only. Subclasses implement
    `score_prefixes`; its items are distinct and none was scored before (unless it was evicted).

    Args:
        cache_size: Number of prefixes whose scores are kept; the least recently used go first.
    """

    def __init__(self, cache_size: int = 10_000) -> None:
        self._scores = Memory[str, float](cache_size)

    @abstractmethod
    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """Score of the last step of each prefix, in order."""

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        check_trajectories(trajectories)
        prefixes = [[list(t[: i + 1]) for i in range(len(t))] for t in trajectories]
        keys = [[repr((question, prefix)) for prefix in row] for row in prefixes]
        wanted = {
            key: prefix
            for ks, ps in zip(keys, prefixes, strict=True)
            for key, prefix in zip(ks, ps, strict=True)
        }
        known = self._scores.known(wanted)
        missing = {key: prefix for key, prefix in wanted.items() if key not in known}
        if missing:
            new = self.score_prefixes(question, list(missing.values()))
            record(reward_calls=len(missing))
            known.update(zip(missing, (float(s) for s in new), strict=True))
        self._scores.keep({key: known[key] for key in wanted})
        return [[known[key] for key in row] for row in keys]
