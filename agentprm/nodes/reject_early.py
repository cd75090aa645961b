"""The node that drops steps before they are paid for in full."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import Runnable

from agentprm.budget import READING, SearchBudget
from agentprm.errors import check_count
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit
from agentprm.nodes.score_steps import last_scores, reward_step
from agentprm.rewards import ProcessRewardModel, RewardStep, as_reward
from agentprm.state import ReasoningState, Step, ancestors, open_steps
from agentprm.text import one_line

__all__ = ["RejectEarly"]


class RejectEarly(SearchNode):
    """Keeps the best steps after each step by their beginnings, before they are paid for in full.

    What a step will be worth is judged by its query alone, between `ProposeSteps` and `RetrieveSteps`, so
    that only survivors cost a retrieval and a finding; or by the first tokens of its finding, after
    `BeginSteps`, so that only survivors are finished. They are scored again when they are finished, by the
    search's own reward.

    Args:
        reward: What judges the beginning of a step. For queries, without passages and finding: a reward
            trained on queries, or a function from the question and the steps, see
            `agentprm.rewards.FunctionReward`. For findings the search's own reward will do.
        keep: Steps that survive after each step. Where there are no more, nothing is scored.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search. What cannot be paid is not judged, and survives.
    """

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any],
        *,
        keep: int = 2,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "reject_early",
    ) -> None:
        self.reward, self.keep = as_reward(reward), check_count("keep", keep)
        super().__init__(name=name, keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        groups: dict[str | None, list[Step]] = {}
        for step in open_steps(state.get("prm_steps"), "proposed", "completed"):
            if step["status"] == "completed" and "begun" not in step:
                continue  # an answer that was proposed as such
            groups.setdefault(step["parent_id"], []).append(step)
        crowded = [step for group in groups.values() if len(group) > self.keep for step in group]
        count, calls = len(crowded), self.reward.model_calls(len(crowded))
        if not crowded or self.short(state, but=READING, reserve=1, reward_calls=count, model_calls=calls):
            return {}
        paths = [
            [*(reward_step(state, s) for s in ancestors(state, step)), _beginning(state, step)]
            for step in crowded
        ]
        scores = yield from last_scores(self.reward, state["question"], paths)
        judged: list[Step] = []
        scored = dict(zip([step["id"] for step in crowded], scores, strict=True))
        for group in groups.values():
            # Stable: of equals the earlier proposal survives, and one without a score last.
            ranked = sorted(group, key=lambda s: _score(scored.get(s["id"])), reverse=True)
            lost = {step["id"] for step in ranked[self.keep :]}
            for step in group:
                score = scored.get(step["id"])
                if score is None and step["id"] not in lost:
                    continue
                done: Step = {**step}
                if score is not None:
                    done["early_score"] = score
                if step["id"] in lost:
                    done["status"] = "rejected"
                    emit({"type": "agentprm.step_rejected", "step_id": step["id"], "score": score})
                judged.append(done)
        return {"prm_steps": judged}


def _beginning(state: ReasoningState, step: Step) -> RewardStep:
    seen = reward_step(state, step)
    return seen if seen["thought"] else {**seen, "thought": one_line(step.get("begun", ""))}


def _score(score: float | None) -> float:
    return -math.inf if score is None else score
