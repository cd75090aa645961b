"""The node that asks the next sub-questions of a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agentprm.budget import READING, SearchBudget
from agentprm.errors import InputError
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit_proposed
from agentprm.questions.comparing import is_comparison, without_heading
from agentprm.questions.plan_text import plan_references
from agentprm.retrievers.titles import Titles, titles_of
from agentprm.routines import wait_in_thread
from agentprm.state import ReasoningState, Step, documents_of, new_step, next_id, path_to
from agentprm.text import one_line

__all__ = ["FollowPlan"]


class FollowPlan(SearchNode):
    """Proposes what the plan asks next after each step of the frontier; goes where `ProposeSteps` does.

    The step at depth `n` of a path is for the n-th sub-question of `prm_plan`; `#n` in a later one is
    replaced by what was found for it, under the title by which the index knows it. Where a search goes on
    from a step again, the same is asked again, and the reader gives its next best finding.

    Args:
        together: Propose sub-questions that need nothing of each other together, one below the other, so that
            they are worked on side by side; for a search that keeps one finding of each. Where several are
            gone on from, a sub-question comes after each of them.
        titles: What is searched, if it keeps titles, as `FaissStore` and retrievers around one do; findings
            are then looked up in it.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        titles: Any = None,
        *,
        together: bool = True,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "propose",
    ) -> None:
        self.titles: Titles | None = titles_of(titles)
        self.together = together
        super().__init__(name=name, reads=("prm_plan",), keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        if ended := state.get("prm_stop_reason"):
            raise InputError(
                f"{self.name} cannot go on with a search that has ended ({ended}). Let StartSearch and "
                "PlanQuestion run at the beginning of each question."
            )
        if short := self.short(state, but=READING):
            return {"prm_stop_reason": short}
        steps = state.get("prm_steps", [])
        proposed: list[Step] = []
        for end in state.get("prm_frontier", []) or [""]:
            path = path_to(steps, end or None)
            if not path or path[-1]["final_answer"] is None:
                proposed += yield from wait_in_thread(self._next, state, path)
        emit_proposed(proposed)
        return {"prm_steps": proposed}

    def _next(self, state: ReasoningState, path: list[Step]) -> list[Step]:
        """The steps for the sub-questions whose references are all answered by `path`."""
        plan = state.get("prm_plan") or [one_line(state["question"])]
        found = [self._named(state, step) for step in path]
        chain: list[Step] = []
        parent = path[-1] if path else None
        for asked in plan[len(path) :]:
            numbers = plan_references(asked)
            # What cannot be looked up is compared from what is known.
            looked_up = not (is_comparison(asked) and len(numbers) > 1)
            needs = any(number > len(path) for number in numbers)
            if chain and (needs or not looked_up or not self.together):
                break
            query = asked if looked_up else without_heading(asked) or one_line(state["question"])
            step = new_step(next_id(state, parent), parent, filled(query, found))
            step["retrieve"] = looked_up
            chain.append(step)
            parent = step
        return chain

    def _named(self, state: ReasoningState, step: Step) -> str:
        """What a step found, by the title that the index has for it."""
        finding = one_line(step["thought"]).rstrip(".")
        if self.titles is None:
            return finding
        quote = step.get("quote")
        if quote is None:
            return self.titles.resolve(finding)
        source = next(iter(documents_of(state, [quote["doc_id"]])), None)
        return self.titles.resolve(finding, source, quote["start"], quote["end"])


def filled(asked: str, found: list[str]) -> str:
    """A sub-question with what was found in the place of its references."""

    def finding(match: re.Match[str]) -> str:
        place = int(match[1])
        return found[place - 1] if 1 <= place <= len(found) else match[0]

    return re.sub(r"#(\d{1,3})(?!\d)", finding, asked)
