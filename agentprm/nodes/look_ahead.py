"""The node that simulates what would follow a candidate, to value it better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from langchain_core.runnables import Runnable

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError
from agentprm.nodes.node import NodeRoutine, SearchNode, apply_update
from agentprm.nodes.reporting import emit
from agentprm.nodes.score_steps import ScoreSteps
from agentprm.routines import wait
from agentprm.search.value import TD, ValueFunction, check_space
from agentprm.state import ReasoningState, Step, open_steps, path_to

__all__ = ["LookAhead"]


class LookAhead(SearchNode):
    """Values each scored candidate by the rewards of steps simulated after it.

    All candidates go ahead side by side, one step at a time; the stop rule of the value function is
    evaluated in between, so that a rollout that is not worth continuing costs nothing more. A rollout
    also ends where its step concludes, could not be parsed, or the budget ends.

    Args:
        rollout: Nodes that propose, retrieve, complete and score one further step. The proposing one
            should have `n=1` and `look_ahead=True`.
        value: Value function; it sets the horizon.
        shallow: Deepest candidates that are looked ahead from, since early steps are the ones that a
            reward model misjudges (3 in ReARTeR). Deeper ones are valued by their own score.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run.
    """

    shares_usage: ClassVar[bool] = False  # the nodes of the rollout have shared it out already

    def __init__(
        self,
        rollout: Sequence[Runnable[Any, dict[str, Any]]],
        *,
        value: ValueFunction | None = None,
        shallow: int = 3,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "look_ahead",
    ) -> None:
        self.value = value if value is not None else TD()
        if not rollout and self.value.horizon:
            raise ConfigurationError(
                "LookAhead needs the nodes of a rollout: ProposeSteps(n=1, look_ahead=True), Retrieve, "
                "CompleteSteps and ScoreSteps."
            )
        self.rollout = list(rollout)
        for node in self.rollout:
            if isinstance(node, ScoreSteps):
                check_space(self.value, node.reward.space)
        self.shallow = shallow
        super().__init__(
            name=name,
            keys=keys,
            budget=budget,
            settings=("shallow",),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        steps = state.get("prm_steps", [])
        looked_ahead = {s["parent_id"] for s in steps if "~" in s["id"]}
        candidates = [s for s in open_steps(steps, "scored") if s["id"] not in looked_ahead]
        if not candidates:
            return {}
        rollouts = {c["id"]: [c] for c in candidates}
        local: dict[str, Any] = {**state, "question": state["question"]}
        shallow = self.setting("shallow")
        ended = bool(state.get("prm_stop_reason"))
        active = [c["id"] for c in candidates if c["depth"] <= shallow and not ended]
        while active := [i for i in active if self._goes_on(rollouts[i])]:
            leaves = {rollouts[i][-1]["id"]: i for i in active}
            # The nodes see the paths to the leaves only, so that nothing else is worked on.
            paths = [s for leaf in leaves for s in path_to(local["prm_steps"], leaf)]
            view: dict[str, Any] = {
                **local,
                "prm_steps": list({s["id"]: s for s in paths}.values()),
                "prm_frontier": list(leaves),
            }
            for node in self.rollout:
                update = yield from wait(node.invoke, node.ainvoke, view)
                view = apply_update(view, update)
                local = apply_update(local, update)
            active = []
            for step in view["prm_steps"]:
                if step["parent_id"] in leaves and "~" in step["id"] and step["status"] == "scored":
                    candidate = leaves.pop(step["parent_id"])
                    rollouts[candidate].append(step)
                    active.append(candidate)
            if local.get("prm_stop_reason"):
                break
        known = {s["id"] for s in steps}
        grown: list[Step] = [s for s in local["prm_steps"] if s["id"] not in known]
        simulated: list[Step] = [
            s if s["status"] == "unparsed" else {**s, "status": "simulated"} for s in grown
        ]
        if ended or local.get("prm_stop_reason"):
            # Values with a look-ahead and without one do not compare: all stand by their own scores.
            rollouts = {s["id"]: [s] for s in open_steps(steps, "scored")}
        valued = [self._valued(steps, rollout) for rollout in rollouts.values()]
        update = {"prm_steps": [*valued, *simulated], "prm_documents": local.get("prm_documents", [])}
        if local.get("prm_stop_reason"):
            update["prm_stop_reason"] = local["prm_stop_reason"]
        return update

    def _goes_on(self, rollout: list[Step]) -> bool:
        if rollout[-1]["final_answer"] is not None:
            return False
        return not self.value.stop([step["score"] or 0.0 for step in rollout])

    def _valued(self, steps: Sequence[Step], rollout: list[Step]) -> Step:
        candidate = rollout[0]
        parents = path_to(steps, candidate["parent_id"])
        parent = parents[-1]["score"] if parents else None
        value = self.value.value([step["score"] or 0.0 for step in rollout], parent)
        emit(
            {
                "type": "agentprm.step_scored",
                "step_id": candidate["id"],
                "score": candidate["score"],
                "value": value,
            }
        )
        return {**candidate, "value": float(value)}
