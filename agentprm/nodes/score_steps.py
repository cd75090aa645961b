"""The node that scores finished steps with a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import Runnable

from agentprm.budget import SearchBudget
from agentprm.nodes._node import Node, Plan, emit
from agentprm.nodes._tree import ancestors, reward_step, with_implicit_step
from agentprm.plans import wait
from agentprm.rewards import ProcessRewardModel, as_reward, check_scores
from agentprm.state import ReasoningState, Step, StepStatus, number, open_steps

__all__ = ["ScoreSteps"]


class ScoreSteps(Node):
    """Scores each completed step in the light of the steps before it.

    Without a search tree the question, its documents and the answer are taken as the only step, so
    the node can judge the answers of any RAG graph. Unfinished and unparsed steps are never scored.
    A step for which the reward has no score (NaN: no sample held a verdict, or it does not fit the
    reward model's context) becomes `unparsed` and takes no further part.

    Args:
        reward: A process reward model; or a function from the question and the steps to the score of the
            last one, see `agentprm.rewards.FunctionReward`.
        keys: Own names for `question`, `messages`, `documents` and `answer`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any],
        *,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        name: str = "score",
    ) -> None:
        self.reward = as_reward(reward)
        super().__init__(
            name=name,
            reads=("documents", "answer", "prm_documents", "prm_frontier"),
            writes=("prm_steps", "prm_documents"),
            keys=keys,
            budget=budget,
        )

    def plan(self, state: ReasoningState) -> Plan:
        """See `Node.plan`."""
        state, documents = with_implicit_step(state)
        steps = open_steps(state.get("prm_steps"), "completed")
        if not steps:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        allowed = budget.affordable("reward_calls", len(steps), usage)
        if budget.exhausted(usage) or not allowed:
            return {"prm_stop_reason": f"budget: {budget.exhausted(usage) or 'reward_calls'}"}
        steps = steps[:allowed]
        trajectories = [[reward_step(state, s) for s in [*ancestors(state, step), step]] for step in steps]
        rows = yield from wait(self.reward.score, self.reward.ascore, state["question"], trajectories)
        scored: list[Step] = []
        for step, row in zip(steps, check_scores(self.reward, rows, trajectories), strict=True):
            score = None if math.isnan(row[-1]) else number(row[-1])
            status: StepStatus = "unparsed" if score is None else "scored"
            scored.append({**step, "score": score, "value": score, "status": status})
            emit({"type": "agentprm.step_scored", "step_id": step["id"], "score": score, "value": score})
        return {"prm_steps": scored, **({"prm_documents": documents} if documents else {})}
