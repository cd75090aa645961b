"""How the scoring nodes ask a reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence

from langchain_core.runnables import RunnableLambda

from agentprm.plans import Plan, wait
from agentprm.rewards import ProcessRewardModel, Trajectory, check_scores

__all__ = ["last_scores"]


def last_scores(
    reward: ProcessRewardModel, question: str, trajectories: Sequence[Trajectory]
) -> Plan[list[float | None]]:
    """The score of the last step of each trajectory; `None` where the reward has none (NaN)."""
    # As a run of its own, a reward shows in callbacks and traces.
    run: RunnableLambda[Sequence[Trajectory], list[list[float]]] = RunnableLambda(
        lambda given: reward.score(question, given),
        lambda given: reward.ascore(question, given),
        name=type(reward).__name__,
    )
    rows = yield from wait(run.invoke, run.ainvoke, trajectories)
    checked = check_scores(reward, rows, trajectories)
    return [None if math.isnan(row[-1]) else row[-1] for row in checked]
