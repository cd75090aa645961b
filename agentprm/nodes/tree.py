"""Questions that several nodes ask of the search tree, and new steps of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from langchain_core.documents import Document

from agentprm.budget import empty_usage
from agentprm.documents import evidence_line
from agentprm.rewards.base import RewardStep
from agentprm.state import ReasoningState, Step, open_steps, path_to
from agentprm.text import fold, one_line

__all__ = [
    "ancestors",
    "awaiting_documents",
    "concludes",
    "documents_of",
    "new_step",
    "next_id",
    "reward_step",
    "same_text",
    "search_text",
]


def new_step(step_id: str, parent: Step | None, query: str = "") -> Step:
    """A proposed step that wants passages for its query, without findings."""
    return Step(
        id=step_id,
        parent_id=parent["id"] if parent else None,
        depth=parent["depth"] + 1 if parent else 1,
        query=query,
        retrieve=bool(query),
        doc_ids=[],
        thought="",
        final_answer=None,
        score=None,
        value=None,
        status="proposed",
        usage=empty_usage(),
    )


def next_id(state: ReasoningState, parent: Step | None) -> str:
    """The id of the next child of a step, or of the next first step."""
    parent_id = parent["id"] if parent else None
    prefix = f"{parent_id}." if parent_id else ""
    taken = [
        int(number)
        for step in state.get("prm_steps", [])
        if step["parent_id"] == parent_id
        and (number := step["id"].removeprefix(prefix).removesuffix("r")).isdecimal()
    ]
    return f"{prefix}{max(taken, default=0) + 1}"


def same_text(left: str, right: str) -> bool:
    """Whether two texts differ in case, accents, white space and final punctuation only."""
    return _compared(left) == _compared(right)


@lru_cache(maxsize=4096)  # each proposal is compared with all its siblings
def _compared(text: str) -> str:
    return fold(one_line(text)).casefold().rstrip(" ?.!\u3002\u061f\u06d4\u0964\u2026")


def concludes(state: ReasoningState, step: Step) -> bool:
    """Whether the step answers the whole question: it asks it, ends the plan, or already holds an answer."""
    plan = state.get("prm_plan")
    if step["final_answer"] is not None or (plan and step["depth"] >= len(plan)):
        return True
    return same_text(step["query"], state["question"])


def ancestors(state: ReasoningState, step: Step) -> list[Step]:
    """The steps before `step`, from the root."""
    return path_to(state.get("prm_steps", []), step["parent_id"])


def awaiting_documents(state: ReasoningState) -> list[Step]:
    """Proposed steps that want passages and have none."""
    return [s for s in open_steps(state.get("prm_steps"), "proposed") if s["retrieve"] and not s["doc_ids"]]


def search_text(state: ReasoningState, step: Step) -> str:
    """What to search for: the step's query; a conclusion also brings along what was found.

    A sub-question names what it is about. The whole question does not name what the steps before
    found, which is just what the last passage speaks of.
    """
    if not same_text(step["query"], state["question"]):
        return step["query"]
    found = [s["thought"] for s in ancestors(state, step) if s["thought"]]
    return " ".join([step["query"], *found])


def documents_of(state: ReasoningState, ids: Sequence[str]) -> list[Document]:
    """The passages with these ids, in this order; unknown ids are left out."""
    by_id = {d.id: d for d in [*state.get("documents", []), *state.get("prm_documents", [])]}
    return [by_id[i] for i in ids if i in by_id]


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
