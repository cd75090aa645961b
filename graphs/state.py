"""State and run context of the ready-made graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph.message import add_messages
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget, Usage, add_usage
from agentprm.documents import Citation, merge_documents
from agentprm.errors import ConfigurationError
from agentprm.nodes.settings import Accept, checked_setting
from agentprm.state import RagState, ReasoningState, Step, merge_steps

__all__ = [
    "DeltaGraphState",
    "DeltaSearched",
    "Question",
    "RagGraphState",
    "RagOutput",
    "ReasoningGraphState",
    "SearchContext",
    "Searched",
    "passages_to",
]


class RagGraphState(RagState, total=False):
    """`RagState` of a graph that also converses: give `question`, or `messages` that hold it."""

    messages: Annotated[list[AnyMessage], add_messages]


class ReasoningGraphState(ReasoningState, total=False):
    """`ReasoningState` of a graph that also converses."""

    messages: Annotated[list[AnyMessage], add_messages]


class Question(BaseModel):
    """Input of the graphs: one of the two.

    A model with defaults, since LangGraph takes every key of a `TypedDict` for required where it makes a
    tool of a graph.
    """

    question: str = ""
    messages: Annotated[list[Any], add_messages] = Field([], description="LangChain messages")


class RagOutput(TypedDict, total=False):
    """Output of the graphs."""

    question: str
    messages: Annotated[list[AnyMessage], add_messages]
    answer: str
    citations: list[Citation]
    documents: list[Document]
    prm_usage: Annotated[Usage, add_usage]
    prm_stop_reason: str


class Searched(RagOutput, total=False):
    """Output of a search: the tree as well."""

    prm_steps: Annotated[list[Step], merge_steps]
    prm_documents: Annotated[list[Document], merge_documents]
    prm_plan: list[str]


def _folded(merge: Any) -> Any:
    """A reducer of one write as LangGraph's delta channels want it: of all writes of a superstep."""

    def fold(value: Any, writes: Sequence[Any]) -> Any:
        for write in writes:
            value = merge(value, write)
        return value

    return fold


_fold_steps, _fold_documents = _folded(merge_steps), _folded(merge_documents)


class DeltaGraphState(ReasoningGraphState, total=False):
    """`ReasoningGraphState` of which checkpoints hold what a superstep added, not the tree anew."""

    prm_steps: Annotated[list[Step], DeltaChannel(_fold_steps)]
    prm_documents: Annotated[list[Document], DeltaChannel(_fold_documents)]


class DeltaSearched(Searched, total=False):
    """Output of a search with `DeltaGraphState`."""

    prm_steps: Annotated[list[Step], DeltaChannel(_fold_steps)]
    prm_documents: Annotated[list[Document], DeltaChannel(_fold_documents)]


class SearchContext(TypedDict, total=False):
    """Settings of one run, given as `context`; they override those of the nodes.

    The budget may be a mapping, `{"model_calls": 3}`. Other names and wrong values are refused.
    """

    budget: SearchBudget
    k: int
    passages: int
    n: int
    max_documents: int
    max_failures: int
    max_rounds: int
    max_steps: int
    min_steps: int
    max_tokens: int
    temperature: float
    seed: int
    threshold: float
    accept: Accept


def passages_to(k: int | None, passages: int | None, *, plain: int, reranked: bool) -> tuple[int, int]:
    """How many passages are found, and how many of them are read.

    Args:
        k: Passages to find, if the user says so.
        passages: Passages to read, if the user says so.
        plain: Passages that are read where the user says nothing.
        reranked: Whether a reranker chooses among them; only then is it worth finding more.

    Raises:
        ConfigurationError: If a number is wrong, or more are to be read than found.
    """
    for name, number in (("k", k), ("passages", passages)):
        if number is not None:
            checked_setting(name, number)
    if k is not None and passages is not None and passages > k:
        raise ConfigurationError(f"passages={passages} cannot be read where k={k} are found; raise k.")
    if not reranked:
        read = passages or k or plain
        return read, read
    read = passages or min(plain, k or plain)
    return k or max(10, read), read
