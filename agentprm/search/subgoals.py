"""Sub-goals of CR-Planner (Li et al., 2024): which may come next, and what each critic is shown.

Two decisions alternate: which sub-goal comes next (`reason`, `query` or `retrieve`), and which of its
candidates is taken. What they are taken from is a pure function of the committed steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from agentprm.state import Step, Subgoal

__all__ = ["SENTENCES", "SUBGOALS", "allowed_subgoals", "critic_context", "pending_query"]

SUBGOALS: tuple[Subgoal, ...] = get_args(Subgoal)

#: What the sub-goal critic scores in the place of a step: a sentence, not the bare name of the sub-goal.
SENTENCES: Mapping[Subgoal, str] = MappingProxyType(
    {
        "reason": "The next step is to reason: what follows from what is known so far?",
        "query": "The next step is to ask for something that is not known yet, in a question to search for.",
        "retrieve": "The next step is to look up a passage for the last question.",
    }
)


def pending_query(path: Sequence[Step]) -> Step | None:
    """The last query of a path if nothing was looked up for it yet."""
    for step in reversed(path):
        if step.get("subgoal") == "retrieve":
            return None
        if step.get("subgoal") == "query":
            return step
    return None


def allowed_subgoals(
    path: Sequence[Step], failed: Sequence[str] = (), *, retrievals: bool = True
) -> list[Subgoal]:
    """The action mask: the sub-goals that may come after `path`, in the order of `SUBGOALS`.

    The paper lets its critic choose any of the three at any time. Here passages are looked up for a
    query only, each query is looked up once, and it is looked up or given up before the next one is
    asked; reasoning may always come next.

    Args:
        path: The committed steps.
        failed: Sub-goals that gave no candidate at this place.
        retrievals: Whether the budget leaves one; without any, neither a query nor a look-up is of use.
    """
    waiting = pending_query(path) is not None
    mask = {"reason": True, "query": retrievals and not waiting, "retrieve": retrievals and waiting}
    return [subgoal for subgoal in SUBGOALS if mask[subgoal] and subgoal not in failed]


def critic_context(path: Sequence[Step], subgoal: Subgoal) -> list[Step]:
    """What of `path` the execution critic of a sub-goal is shown before a candidate.

    The critic of rationales sees all rationales, that of queries the last rationale only, and that of
    passages the last rationale and the query. (The critic of sub-goals sees the whole path.)
    """
    rationales = [step for step in path if step.get("subgoal") == "reason"]
    if subgoal == "reason":
        return rationales
    # A candidate passage carries its query itself.
    return rationales[-1:]
