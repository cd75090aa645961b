"""Several rewards as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentprm.errors import ConfigurationError
from agentprm.rewards.base import ProcessRewardModel, Trajectory

__all__ = ["Fused"]


class Fused(ProcessRewardModel):
    """Geometric mean of several rewards: a step must please all of them.

    Args:
        rewards: Rewards whose scores are probabilities.

    Raises:
        ConfigurationError: If there is none, or one that scores in another space.
    """

    def __init__(self, rewards: Sequence[ProcessRewardModel]) -> None:
        if not rewards:
            raise ConfigurationError("Fused needs at least one reward.")
        for reward in rewards:
            if reward.space != "probability":
                raise ConfigurationError(
                    f"Fused multiplies probabilities; {type(reward).__name__} scores in {reward.space} space."
                )
        self.rewards = list(rewards)

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        parts = [reward.score(question, trajectories) for reward in self.rewards]
        return self._fuse(parts)

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`."""
        return self._fuse([await reward.ascore(question, trajectories) for reward in self.rewards])

    @staticmethod
    def _fuse(parts: list[list[list[float]]]) -> list[list[float]]:
        return [
            [math.prod(scores) ** (1 / len(parts)) for scores in zip(*rows, strict=True)]
            for rows in zip(*parts, strict=True)
        ]
