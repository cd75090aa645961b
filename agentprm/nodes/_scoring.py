"""How the scoring nodes ask a reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentprm.nodes._models import reported
from agentprm.plans import Plan
from agentprm.rewards import ProcessRewardModel, Trajectory, check_scores

__all__ = ["last_scores"]


def last_scores(
    reward: ProcessRewardModel, question: str, trajectories: Sequence[Trajectory]
) -> Plan[list[float | None]]:
    """The score of the last step of each trajectory; `None` where the reward has none (NaN)."""
    rows, _ = yield from reported(
        type(reward).__name__,
        question,
        lambda: reward.score(question, trajectories),
        lambda: reward.ascore(question, trajectories),
    )
    checked = check_scores(reward, rows, trajectories)
    return [None if math.isnan(row[-1]) else row[-1] for row in checked]
