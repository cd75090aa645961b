"""The node that begins a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentprm.nodes.node import NodeRoutine, SearchNode, cleared_search
from agentprm.state import ReasoningState, as_messages, open_question

__all__ = ["StartSearch"]


class StartSearch(SearchNode):
    """Plants an empty search tree, and clears what the search for an earlier question has left.

    Goes before `ProposeSteps` in a search of your own; without it the second question of a thread
    finds the tree of the first. The question is the last human message if nobody has answered it yet,
    else `question`.

    Args:
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
    """

    plants = True

    def __init__(self, *, keys: Mapping[str, str] | None = None, name: str = "start") -> None:
        super().__init__(
            name=name,
            reads=("prm_plan", "prm_weak", "prm_widths", "prm_examples"),
            writes=("documents", "answer", "citations"),
            keys=keys,
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        yield from ()
        asked = open_question(as_messages(state.get("messages")))
        return {**cleared_search(), "question": asked or state["question"]}

    def _write(self, update: dict[str, Any], usage: Any, state: ReasoningState) -> dict[str, Any]:
        return {self._keys.get(channel, channel): value for channel, value in update.items()}
