"""State and run context of the ready-made graphs, and how their nodes are put in a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.messages import AnyMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget, Usage, add_usage
from agentprm.documents import Citation, merge_documents
from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.condense_question import CondenseQuestion
from agentprm.nodes.node import Node
from agentprm.nodes.settings import Accept, checked_setting
from agentprm.prompts import Prompts
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
    "answering",
    "condensing",
    "graph_in_a_row",
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


def answering(
    prompts: Prompts,
    max_tokens: int,
    form: str | None,
    language: str | None,
    response_format: ResponseFormat | None,
) -> dict[str, Any]:
    """What a graph is told of its answer, as arguments of the node that writes it."""
    return {
        "prompts": prompts,
        "max_tokens": max_tokens,
        "form": form,
        "language": language,
        "response_format": response_format,
    }


def condensing(condense: Any, model: LanguageModel, **settings: Any) -> list[Node]:
    """The node that makes follow-ups questions that stand alone, if a graph is to have it.

    Args:
        condense: `False` for none, `True` for one with `model`, or another model.
        model: The graph's model.
        settings: Further arguments of `CondenseQuestion`.
    """
    if condense is False:
        return []
    return [CondenseQuestion(model if condense is True else condense, **settings)]


def graph_in_a_row(
    state: type[Any],
    output: type[Any],
    begin: Callable[..., Any],
    nodes: Sequence[Any],
    forks: Collection[str] = (),
) -> StateGraph[Any, Any, Any, Any]:
    """A graph that begins and goes through nodes one after the other; the last one has no edge yet.

    All nodes see the whole state: with the cost so far among it, they share one budget.

    Args:
        state: Schema of the state.
        output: Schema of the output.
        begin: Takes the question in.
        nodes: The nodes, in order.
        forks: Names of those from which an edge of their own leads on.
    """
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(
        state, context_schema=SearchContext, input_schema=Question, output_schema=output
    )
    builder.add_node("begin", begin, input_schema=state)
    builder.add_edge(START, "begin")
    previous = "begin"
    for node in nodes:
        builder.add_node(node.name, node, input_schema=state)
        if previous not in forks:
            builder.add_edge(previous, node.name)
        previous = node.name
    return builder
