"""Scores steps with a process reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.runnables import Runnable

from agentprm.budget import READING, SearchBudget
from agentprm.documents import evidence_line
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, reported
from agentprm.rewards import ProcessRewardModel, RewardStep, Trajectory, as_reward, check_scores
from agentprm.routines import Routine, wait
from agentprm.state import ReasoningState, Step, StepStatus, ancestors, documents_of, open_steps
from agentprm.text import cut, one_line

__all__ = ["ScoreSteps", "last_scores", "reward_step"]

_LONGEST_REMARK = 400  # characters of a remark that a step keeps: checkpoints and prompts stay small


def reward_step(state: ReasoningState, step: Step) -> RewardStep:
    """The step as a reward model sees it."""
    documents = documents_of(state, step["doc_ids"])
    seen = RewardStep(
        query=step["query"],
        passages=[evidence_line(d) for d in documents],
        thought=step["thought"],
        final_answer=step["final_answer"],
    )
    if "cited_ids" in step:
        seen["cited"] = [i for i, d in enumerate(documents) if d.id in step["cited_ids"]]
    if "confidence" in step:
        seen["confidence"] = step["confidence"]
    return seen


def last_scores(
    reward: ProcessRewardModel, question: str, trajectories: Sequence[Trajectory]
) -> Routine[list[float | None]]:
    """The score of the last step of each trajectory; `None` where the reward has none (NaN)."""
    rows, _ = yield from reported(
        type(reward).__name__,
        question,
        lambda: reward.score(question, trajectories),
        lambda: reward.ascore(question, trajectories),
    )
    checked = check_scores(reward, rows, trajectories)
    return [None if math.isnan(row[-1]) else row[-1] for row in checked]


class ScoreSteps(SearchNode):
    """Scores each completed step in the light of the steps before it.

    Unfinished and unparsed steps are never scored. A step for which the reward has no score (NaN: no
    sample held a verdict, or it does not fit the reward model's context) becomes `unparsed` and takes
    no further part. What the reward says of a step besides its score is kept as its `remarks`.

    Args:
        reward: A process reward model; or a function from the question and the steps to the score of the
            last one, see `agentprm.rewards.FunctionReward`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any],
        *,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "score",
    ) -> None:
        self.reward = as_reward(reward)
        super().__init__(name=name, keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        steps = open_steps(state.get("prm_steps"), "completed")
        if not steps:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        wanted = len(steps)
        allowed, short = budget.affordable("reward_calls", wanted, usage), "reward_calls"
        # One call stays for the answer.
        calls = budget.affordable("model_calls", self.reward.model_calls(allowed), usage, reserve=1)
        while allowed and self.reward.model_calls(allowed) > calls:
            allowed, short = allowed - 1, "model_calls"
        spent = budget.exhausted(usage, but=READING)
        if spent or not allowed:
            return {"prm_stop_reason": f"budget: {spent or short}"}
        steps = steps[:allowed]
        trajectories = [[reward_step(state, s) for s in [*ancestors(state, step), step]] for step in steps]
        scores = yield from last_scores(self.reward, state["question"], trajectories)
        remarks = yield from wait(self.reward.remarks, self.reward.aremarks, state["question"], trajectories)
        scored: list[Step] = []
        for step, score, remark in zip(steps, scores, remarks, strict=True):
            status: StepStatus = "unparsed" if score is None else "scored"
            done: Step = {**step, "score": score, "value": score, "status": status}
            if remark:
                done["remarks"] = cut(one_line(remark), _LONGEST_REMARK)
            scored.append(done)
            emit({"type": "agentprm.step_scored", "step_id": step["id"], "score": score, "value": score})
        short_of = {"prm_stop_reason": f"budget: {short}"} if allowed < wanted else {}
        return {"prm_steps": scored, **short_of}
