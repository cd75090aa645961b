"""The node that decides where the search goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langgraph.config import get_config
from langgraph.types import interrupt
from typing_extensions import TypedDict

from agentprm.budget import READING, SearchBudget
from agentprm.errors import ConfigurationError
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, stopped_by
from agentprm.nodes.settings import Accept
from agentprm.rewards import ProcessRewardModel
from agentprm.search.named import strategy_called
from agentprm.search.strategies import FirstPath
from agentprm.search.strategy import Strategy, Tree, Voting, step_value
from agentprm.state import ReasoningState, Step, StepStatus, open_steps

__all__ = ["SelectSteps", "after_selection"]


class SelectSteps(SearchNode):
    """Asks a strategy which of the valued steps to go on from; by default commits the best of the siblings.

    Writes the new `prm_frontier` with the number of children that its steps are to get, `prm_widths`; or
    `prm_weak` if candidates are to be refined first; or `prm_stop_reason` if the search ends here, and
    then `prm_frontier` is the step that the answer is taken from.

    Args:
        strategy: A strategy of `agentprm.search` or its name.
        reward: The reward whose scores these are: it says their space, how the scores of a path make
            one, and the gate.
        threshold: Gate of the refinement: siblings whose best value is at most this much are weak. .5 in
            the paper; `"reward"` takes the reward's own, `None` never refines.
        accept: Whether a refined step must be better (`if_better`) or is taken always (the paper).
        max_steps: Most steps of a path.
        human: Ask a human first which of the fresh candidates stay: the graph stops by LangGraph's
            `interrupt` with the candidates, and goes on with `Command(resume=id)` or a list of ids.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run.

    Raises:
        ConfigurationError: If a setting is wrong, or the threshold lies outside the reward's space; while
            running, if a human is to choose and there is no checkpointer.
    """

    def __init__(
        self,
        strategy: Strategy | str = "greedy",
        *,
        reward: ProcessRewardModel | None = None,
        threshold: float | Literal["reward"] | None = 0.5,
        accept: Accept = "if_better",
        max_steps: int = 5,
        human: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "select",
    ) -> None:
        self.strategy, self.reward = strategy_called(strategy), reward
        if threshold == "reward":
            if reward is None:
                raise ConfigurationError('threshold="reward" needs the reward; give it as reward=….')
            threshold = reward.gate
        self.threshold, self.accept, self.max_steps, self.human = threshold, accept, max_steps, human
        super().__init__(
            name=name,
            reads=("prm_widths",),
            writes=("prm_weak", "prm_widths"),
            keys=keys,
            budget=budget,
            settings=("threshold", "accept", "max_steps"),
        )
        if reward is not None and reward.space == "probability" and not 0 <= (self.threshold or 0) <= 1:
            raise ConfigurationError(
                f"A threshold of {self.threshold:g} parts no scores of this reward, which are probabilities: "
                "give one between 0 and 1, or None, which never refines."
            )

    def tree(self, steps: list[Step]) -> Tree:
        """The steps as the strategy sees them."""
        reward = self.reward
        return Tree(
            steps,
            max_steps=self.setting("max_steps"),
            space=reward.space if reward else "probability",
            aggregation=(reward.aggregation if reward else None) or "last",
        )

    def _strategy(self, budget: SearchBudget) -> Strategy:
        """The strategy, which finishes one path first if it looks for several and may be cut off."""
        if budget != SearchBudget() and isinstance(self.strategy, Voting):
            return FirstPath(self.strategy)
        return self.strategy

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        yield from ()
        steps = state.get("prm_steps", [])
        fresh = open_steps(steps, "scored")
        # Whether a step that needs no search may come, is for who proposes to say.
        short = self.short(state, but=READING)
        cut = state.get("prm_stop_reason", "")
        weak = [] if cut or short else _weak_steps(fresh, steps, self.setting("threshold"))
        if weak:
            return {"prm_weak": [step["id"] for step in weak]}
        out = _replaced(fresh, self.setting("accept"))
        if self.human and not (cut or short):
            out |= _left_out(state["question"], [step for step in fresh if step["id"] not in out])
        tree = self.tree([{**s, "status": "rejected"} if s["id"] in out else s for s in steps])
        asked = self._strategy(self.setting("budget")).ask(tree)
        # An answer among candidates that the budget cut short is not the search's own.
        found = asked.stop if asked.stop == "answered" else ""
        stop = cut or found or short or asked.stop
        end = self.strategy.answer(tree) if stop else None
        committed = {*asked.committed, *(step["id"] for step in (tree.path(end) if end else []))}
        out = (out | set(asked.rejected)) - committed
        changed: list[Step] = []
        for step in steps:
            status: StepStatus = step["status"]
            if step["id"] in committed:
                status = "committed"
            elif step["id"] in out:
                status = "rejected"
            elif status == "scored":
                status = "open"
            if status != step["status"]:
                changed.append({**step, "status": status})
            if status == "committed" != step["status"]:
                emit({"type": "agentprm.step_committed", "step_id": step["id"], "value": step["value"]})
        update: dict[str, Any] = {"prm_weak": [], **({"prm_steps": changed} if changed else {})}
        if stop:
            return stopped_by({**update, "prm_frontier": [end["id"]] if end else []}, stop)
        frontier = [expansion.parent or "" for expansion in asked.expand]
        emit({"type": "agentprm.steps_selected", "frontier": frontier, "rejected": sorted(out)})
        widths = {e.parent or "": e.children for e in asked.expand if e.children is not None}
        return {**update, "prm_frontier": frontier, "prm_widths": widths}


class _Selected(TypedDict, total=False):
    prm_stop_reason: str
    prm_weak: list[str]


def after_selection(state: _Selected) -> Literal["propose", "refine", "answer"]:
    """Where a search goes on after a selection or a review; a conditional edge of LangGraph."""
    if state.get("prm_stop_reason"):
        return "answer"
    return "refine" if state.get("prm_weak") else "propose"


def _weak_steps(fresh: Sequence[Step], steps: Iterable[Step], threshold: float | None) -> list[Step]:
    """The best of each group of siblings, where even that is weak and none was refined yet (ReARTeR).

    Args:
        fresh: Valued candidates that no strategy has seen.
        steps: The whole tree: a choice is refined once, also if nothing usable came of it.
        threshold: A best value of at most this much is weak; `None` switches refinement off.
    """
    if threshold is None:
        return []
    settled = {step["parent_id"] for step in steps if "refines" in step}
    # Of a plan several steps may be done at once, one below the other.
    settled |= {step["id"] for step in fresh}
    groups: dict[str | None, list[Step]] = {}
    for step in fresh:
        groups.setdefault(step["parent_id"], []).append(step)
    best = [max(group, key=step_value) for parent, group in groups.items() if parent not in settled]
    return [step for step in best if step_value(step) <= threshold]


def _replaced(fresh: Sequence[Step], accept: Accept) -> set[str]:
    """Ids of the candidates that a refinement takes the place of.

    Args:
        fresh: Valued candidates, refinements of one another included.
        accept: `if_better` lets both stand, and their values decide; with `always` the refinement is
            taken whatever its value, as the paper does.
    """
    if accept == "if_better":
        return set()
    refined = {step["parent_id"] for step in fresh if "refines" in step}
    return {step["id"] for step in fresh if step["parent_id"] in refined and "refines" not in step}


def _left_out(question: str, fresh: list[Step]) -> set[str]:
    """Ids of the candidates that a human does not want to keep."""
    known = {step["id"] for step in fresh}
    if len(known) < 2:
        return set()
    # LangGraph would end the run here without an answer; every checkpointer wants a thread's id.
    if "thread_id" not in get_config().get("configurable", {}):
        raise ConfigurationError(
            "human=True stops the search until a human has chosen, so there must be something to go on from: "
            "compile the graph with a checkpointer, for instance compile(checkpointer=InMemorySaver()), and "
            'invoke it with config={"configurable": {"thread_id": "1"}}.'
        )
    shown = ("id", "parent_id", "query", "thought", "final_answer", "score", "value")
    request: dict[str, Any] = {
        "type": "agentprm.choose_steps",
        "question": question,
        "candidates": [{key: step[key] for key in shown} for step in fresh],  # type: ignore[literal-required]
        "error": "",
    }
    while True:
        chosen = interrupt(request)
        kept = [chosen] if isinstance(chosen, str) else chosen
        if isinstance(kept, list) and kept and all(isinstance(i, str) and i in known for i in kept):
            return known - set(kept)
        said = f"Resume with the id of a candidate, or a list of ids, out of {sorted(known)}, not {chosen!r}."
        request = {**request, "error": said}
