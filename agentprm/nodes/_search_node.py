"""What the nodes of a search share: they work on a tree, and say what each step cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from agentprm.budget import SearchBudget, Usage, add_usage, share_usage
from agentprm.errors import InputError
from agentprm.nodes._node import Node, emit
from agentprm.state import ReasoningState, Step

__all__ = ["SearchNode", "emit_proposed"]

_TREE = ("prm_steps", "prm_documents", "prm_frontier", "prm_usage", "prm_stop_reason")


class SearchNode(Node):
    """Base of the nodes that grow, value or read a search tree.

    A tree exists only where a search made it: `StartSearch` plants it, `ProposeSteps` grows it, and
    nothing else does. Where there is none, these nodes say so instead of taking a plain answer for one.
    Bounds count from the start of the search.

    Args:
        name: Name of the node.
        reads: Channels that it reads, besides the question and the tree.
        writes: Channels that it writes, besides its cost.
        keys: Own names for channels.
        budget: Bounds of the search.
        settings: Names of attributes that the run's `context` may override.
    """

    #: Whether the node may be the first to work on a tree.
    plants: ClassVar[bool] = False
    #: Whether the cost of a run is shared out over the steps that it returns.
    shares_usage: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        super().__init__(
            name=name, reads=(*reads, *_TREE), writes=writes, keys=keys, budget=budget, settings=settings
        )

    def _read(self, input: Any) -> ReasoningState:
        state = super()._read(input)
        begun = state.get("prm_steps") or "prm_frontier" in state or state.get("prm_stop_reason")
        if not begun and not self.plants:
            raise InputError(
                f"{self.name} works on a search tree, and this state has none. In a search of your own let "
                "StartSearch and ProposeSteps run before it. To work on a plain question, its documents and "
                "its answer use Retrieve, Rerank, Answer and JudgeAnswer."
            )
        return state

    def _write(self, update: dict[str, Any], usage: Usage) -> dict[str, Any]:
        steps: list[Step] = update.get("prm_steps", [])
        if steps and self.shares_usage:
            update["prm_steps"] = [
                {**step, "usage": add_usage(step["usage"], share)}
                for step, share in zip(steps, share_usage(usage, len(steps)), strict=True)
            ]
        return super()._write(update, usage)


def emit_proposed(steps: Sequence[Step]) -> None:
    """Sends an event for each step that was proposed."""
    for step in steps:
        emit(
            {
                "type": "agentprm.step_proposed",
                "step_id": step["id"],
                "parent_id": step["parent_id"],
                "query": step["query"],
                "final_answer": step["final_answer"],
                "status": step["status"],
            }
        )
