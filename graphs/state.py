"""State and run context of the ready-made graphs."""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, convert_to_messages
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget, Usage, add_usage, empty_usage
from agentprm.errors import InputError
from agentprm.search.selection import Accept
from agentprm.state import Citation, RagState, ReasoningState, Step, merge_documents, merge_steps

__all__ = [
    "Answered",
    "Question",
    "RagGraphState",
    "ReasoningGraphState",
    "SearchContext",
    "Searched",
    "begin",
    "begin_search",
]


class RagGraphState(RagState, total=False):
    """`RagState` of a graph that also converses: give `question`, or `messages` that end in it."""

    messages: Annotated[list[AnyMessage], add_messages]


class ReasoningGraphState(ReasoningState, total=False):
    """`ReasoningState` of a graph that also converses."""

    messages: Annotated[list[AnyMessage], add_messages]


class Question(TypedDict, total=False):
    """Input of the graphs: one of the two."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]


class Answered(TypedDict, total=False):
    """Output of the graphs."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]
    answer: str
    citations: list[Citation]
    documents: list[Document]
    prm_usage: Annotated[Usage, add_usage]
    prm_stop_reason: str


class Searched(Answered, total=False):
    """Output of a search: the tree as well."""

    prm_steps: Annotated[list[Step], merge_steps]
    prm_documents: Annotated[list[Document], merge_documents]


class SearchContext(TypedDict, total=False):
    """Settings of one run, given as `context`; they override those of the nodes."""

    budget: SearchBudget
    k: int
    n: int
    max_steps: int
    min_steps: int
    temperature: float
    seed: int
    threshold: float
    accept: Accept


def begin(state: RagGraphState) -> dict[str, Any]:
    """Settles the question and clears what an earlier one on the same thread has left.

    A human message that nobody has answered is the question; otherwise `question` is.

    Raises:
        InputError: If there is neither.
    """
    last = convert_to_messages(state.get("messages") or [])[-1:]
    question = last[0].text if last and last[0].type == "human" else state.get("question", "")
    if not isinstance(question, str) or not question.strip():
        raise InputError("Ask something: give a question that is not empty, or a human message.")
    return {
        "question": question,
        "documents": [],
        "answer": "",
        "citations": [],
        "prm_usage": Overwrite(empty_usage()),
        "prm_stop_reason": "",
    }


def begin_search(state: RagGraphState) -> dict[str, Any]:
    """`begin`, with an empty search tree."""
    return {
        **begin(state),
        "prm_steps": Overwrite([]),
        "prm_documents": Overwrite([]),
        "prm_frontier": [],
        "prm_weak": [],
    }
