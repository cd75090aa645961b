"""The node that commits the best candidate, or asks for it to be refined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentprm.budget import SearchBudget
from agentprm.nodes.node import NodePlan, SearchNode, emit
from agentprm.search.selection import Accept, Choice, select_greedy
from agentprm.state import ReasoningState, Step, open_steps

__all__ = ["SelectSteps"]


class SelectSteps(SearchNode):
    """Commits the best of the scored siblings and rejects the others (ReARTeR's greedy step search).

    Writes the new `prm_frontier`, or `prm_weak` if the best candidate is to be refined first, or
    `prm_stop_reason` if the search ends here.

    Args:
        threshold: Gate of the refinement: a best value of at most this much is weak. .5 in the
            paper; `None` never refines.
        accept: Whether a refined step must be better (`if_better`) or is taken always (the paper).
        max_steps: Most steps of a path.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run.
    """

    def __init__(
        self,
        *,
        threshold: float | None = 0.5,
        accept: Accept = "if_better",
        max_steps: int = 5,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "select",
    ) -> None:
        self.threshold, self.accept, self.max_steps = threshold, accept, max_steps
        super().__init__(
            name=name,
            writes=("prm_weak",),
            keys=keys,
            budget=budget,
            settings=("threshold", "accept", "max_steps"),
        )

    def plan(self, state: ReasoningState) -> NodePlan:
        """See `Node.plan`."""
        yield from ()
        steps = state.get("prm_steps", [])
        candidates = open_steps(steps, "scored")
        # Each choice is refined once, also if nothing usable came of it.
        parents = {step["parent_id"] for step in candidates}
        refined = any("refines" in step and step["parent_id"] in parents for step in steps)
        stopped = state.get("prm_stop_reason", "")
        budget: SearchBudget = self.setting("budget")
        spent = budget.exhausted(state.get("prm_usage"))
        stopped = stopped or (f"budget: {spent}" if spent else "")
        # Of a plan several steps may be done at once, one below the other.
        done = {step["id"] for step in candidates}
        siblings = [step for step in candidates if step["parent_id"] not in done]
        chosen: Choice = select_greedy(
            siblings,
            threshold=None if stopped or refined else self.setting("threshold"),
            accept=self.setting("accept"),
        )
        if chosen.best is None:
            return self._stop({"prm_weak": []}, stopped or "no candidate")
        best = chosen.best
        if chosen.weak:
            return {"prm_weak": [best["id"]]}
        changed: list[Step] = []
        while chosen.best is not None:
            best = chosen.best
            for step in siblings:
                changed.append({**step, "status": "committed" if step["id"] == best["id"] else "rejected"})
            emit({"type": "agentprm.step_committed", "step_id": best["id"], "value": best["value"]})
            siblings = [step for step in candidates if step["parent_id"] == best["id"]]
            chosen = select_greedy(siblings, accept=self.setting("accept"))
        settled = {step["id"] for step in changed}
        changed += [{**step, "status": "rejected"} for step in candidates if step["id"] not in settled]
        update = {"prm_steps": changed, "prm_frontier": [best["id"]], "prm_weak": []}
        if best["final_answer"] is not None:
            # An answer among candidates that the budget cut short is not the search's own.
            return self._stop(update, state.get("prm_stop_reason") or "answered")
        if not stopped and best["depth"] >= self.setting("max_steps"):
            stopped = "max_steps"
        return self._stop(update, stopped) if stopped else update

    @staticmethod
    def _stop(update: dict[str, object], reason: str) -> dict[str, object]:
        emit({"type": "agentprm.search_stopped", "reason": reason})
        return {**update, "prm_stop_reason": reason}
