"""The state of a search: JSON-plain records and their reducers.

A search tree is a flat list of `Step` records that refer to their parent and to documents by id, so a
checkpoint stays small and a resumed run is exact; what several nodes ask of it stands here too. Keys with
a reducer carry the prefix `prm_`; plain keys (`question`, `documents`, `answer`, …) are the ecosystem's.

A conversation in `messages` may end in anything: in a supervisor's graph the last message is often a tool's.
A human message is open until an AI message with text, and without calls of tools, stands after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, convert_to_messages
from typing_extensions import TypedDict

from agentprm.budget import Usage, add_usage, empty_usage
from agentprm.documents import Citation, merge_documents
from agentprm.errors import InputError

__all__ = [
    "Judgement",
    "Quote",
    "RagState",
    "ReasoningState",
    "Reranking",
    "Step",
    "StepStatus",
    "Subgoal",
    "ancestors",
    "as_messages",
    "documents_of",
    "evidence_ids",
    "last_answer",
    "last_question",
    "merge_steps",
    "new_step",
    "next_id",
    "open_question",
    "open_steps",
    "path_to",
    "text_of",
]

StepStatus = Literal[
    "proposed",  # has a query or a conclusion, no finished thought yet
    "completed",  # thought finished, not scored
    "scored",  # has a score of its own
    "open",  # kept by the strategy: it may be gone on from
    "committed",  # on the path to the answer
    "rejected",  # lost against a sibling
    "simulated",  # looked ahead at, never a candidate
    "unparsed",  # the model's output had no usable form
]


Subgoal = Literal["reason", "query", "retrieve"]


class Quote(TypedDict):
    """A place in a passage.

    Attributes:
        doc_id: The passage's id.
        start: First character in its text.
        end: The character after the last one.
    """

    doc_id: str
    start: int
    end: int


class Reranking(TypedDict):
    """How a reranker ordered passages.

    Attributes:
        method: Name of what did it.
        before: The passages' ids in the order in which they were found.
        scores: What it gave each passage that it kept, best first; `None` where it gives none.
    """

    method: str
    before: list[str]
    scores: list[float | None]


class Step(TypedDict):
    """One reasoning step of the search tree.

    Attributes:
        id: Path-like and deterministic: `1.2` is the second child of `1`, `1~1` a look-ahead from
            `1`, `1.2r` the refinement of `1.2`.
        parent_id: The step before it; `None` for a first step.
        depth: 1 for a first step.
        query: The sub-question; empty for a concluding step.
        retrieve: Whether the query is searched for in the index.
        doc_ids: Passages given to the step, best first.
        thought: What the step found; empty until it is finished.
        final_answer: The answer to the whole question, if the step concludes.
        score: The reward model's score of this step.
        value: What selection compares: the score, or the value function's estimate.
        status: See `StepStatus`.
        usage: The step's share of the cost of the nodes that worked on it.
        cited_ids: The passages that support the thought.
        remarks: What the reward said of the step besides its score: critiques, evidence of checkers.
        subgoal: What the step is for, in a search that chooses this first.
        fault: Where the fault of the step that this one refines lies, if the critique says so.
        critique: What was wrong with the step that this one refines.
        refines: Id of the step that this one refines.
        output: The model's raw text, kept where it could not be parsed.
        quote: Where in a passage the thought stands, if it was read off word for word.
        confidence: Probability that a reader gives the thought among all answers and none.
        begun: The first tokens of the thought, by which early rejection judged it.
        early_score: What early rejection gave for the query alone, or for what was begun.
        samples: How many proposals said the same and were merged into this one; missing for one.
        reranking: How its passages were reordered; missing where they were not.
    """

    id: str
    parent_id: str | None
    depth: int
    query: str
    retrieve: bool
    doc_ids: list[str]
    thought: str
    final_answer: str | None
    score: float | None
    value: float | None
    status: StepStatus
    usage: Usage
    cited_ids: NotRequired[list[str]]
    remarks: NotRequired[str]
    subgoal: NotRequired[Subgoal]
    fault: NotRequired[str]
    critique: NotRequired[str]
    refines: NotRequired[str]
    output: NotRequired[str]
    quote: NotRequired[Quote]
    confidence: NotRequired[float]
    begun: NotRequired[str]
    early_score: NotRequired[float]
    samples: NotRequired[int]
    reranking: NotRequired[Reranking]


class Judgement(TypedDict):
    """What a judge said of one answer.

    Attributes:
        id: Its own; judging the same answer again gives another one.
        judge: Name of the node.
        question: The question asked.
        answer: The answer judged.
        doc_ids: The passages it was judged by, in their order.
        score: The score; `None` where the reward has none, or there was no answer.
        reason: Why there is no score; empty if there is one.
    """

    id: str
    judge: str
    question: str
    answer: str
    doc_ids: list[str]
    score: float | None
    reason: str


def merge_steps(left: list[Step] | None, right: list[Step] | None) -> list[Step]:
    """Reducer of `prm_steps`: appends new ids, updates known ones field by field, keeps the order.

    The usage of a known step is updated field by field as well.
    """
    merged: dict[str, Step] = {step["id"]: step for step in left or []}
    for step in right or []:
        known = merged.get(step["id"])
        if known is None:
            merged[step["id"]] = step
            continue
        grown: Step = {**known, **step}
        if (before := known.get("usage")) and (now := step.get("usage")):
            grown["usage"] = {**before, **now}
        merged[step["id"]] = grown
    return list(merged.values())


class RagState(TypedDict, total=False):
    """State of plain retrieve-and-read."""

    question: str
    documents: list[Document]
    answer: str
    citations: list[Citation]
    prm_usage: Annotated[Usage, add_usage]
    prm_stop_reason: str


class ReasoningState(RagState, total=False):
    """State of a search over reasoning steps.

    Attributes:
        prm_steps: The search tree.
        prm_documents: Every passage that a step refers to.
        examples: How similar questions went, for the prompts of nodes that plan.
        prm_examples: Steps of earlier questions that are analogous to the next one, by the step of the
            frontier that it follows, "" for the question itself.
        prm_frontier: Ids of the steps to go on from, "" for the question itself; at the end, of the step
            that the answer is taken from. An empty list stands for the root.
        prm_widths: How many children steps of the frontier are to get, where a strategy wants other
            numbers than the proposer's own.
        prm_plan: The sub-questions that the search follows, where it follows a plan; `#n` in one stands
            for what was found for the n-th.
        prm_weak: Ids of the steps to be refined before anything is committed.
        prm_subgoal: What the next step is for: a `Subgoal`, or `conclude`.
        prm_stop_reason: Why the search ended; empty while it runs.
    """

    prm_steps: Annotated[list[Step], merge_steps]
    prm_documents: Annotated[list[Document], merge_documents]
    examples: str
    prm_examples: dict[str, str]
    prm_frontier: list[str]
    prm_plan: list[str]
    prm_widths: dict[str, int]
    prm_weak: list[str]
    prm_subgoal: str


def path_to(steps: Iterable[Step], step_id: str | None) -> list[Step]:
    """The steps from the root down to `step_id`, both ends included; empty for `None`.

    Raises:
        InputError: If an id on the way is unknown.
    """
    by_id = {step["id"]: step for step in steps}
    path: list[Step] = []
    while step_id is not None:
        if step_id not in by_id or len(path) > len(by_id):
            raise InputError(f"The search tree has no path to step {step_id!r}.")
        path.append(by_id[step_id])
        step_id = path[-1]["parent_id"]
    return path[::-1]


def evidence_ids(path: Sequence[Step]) -> list[str]:
    """Ids of the passages that a path read, what its findings stand in first.

    The others follow by their ranks: the first of each step, then the second of each, so that no step's
    passages push out another's.

    Example:
        >>> steps = [{"doc_ids": ["a", "b"]}, {"doc_ids": ["c", "d"], "cited_ids": ["d"]}]
        >>> evidence_ids(steps)
        ['d', 'a', 'c', 'b']
    """
    cited = [i for step in path for i in step.get("cited_ids", [])]
    ranks = zip_longest(*(step["doc_ids"] for step in path))
    return list(dict.fromkeys([*cited, *(i for rank in ranks for i in rank if i is not None)]))


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


def ancestors(state: ReasoningState, step: Step) -> list[Step]:
    """The steps before `step`, from the root."""
    return path_to(state.get("prm_steps", []), step["parent_id"])


def documents_of(state: ReasoningState, ids: Sequence[str]) -> list[Document]:
    """The passages with these ids, in this order; unknown ids are left out."""
    if not ids:
        return []
    by_id = {d.id: d for d in [*state.get("documents", []), *state.get("prm_documents", [])]}
    return [by_id[i] for i in ids if i in by_id]


def open_steps(steps: Iterable[Step] | None, *statuses: StepStatus) -> list[Step]:
    """The steps whose status is one of `statuses`, in tree order."""
    return [step for step in steps or [] if step["status"] in statuses]


def as_messages(value: Any) -> list[BaseMessage]:
    """Messages in any of LangChain's forms as messages.

    Raises:
        InputError: If one of them is none.
    """
    try:
        return convert_to_messages(value or [])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"The messages of the state cannot be read ({str(error).splitlines()[0]}). Give LangChain "
            'messages, ("user", text) pairs or {"role": "user", "content": text}.'
        ) from error


def last_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message, wherever it stands; empty if there is none."""
    return next((m.text for m in reversed(messages) if isinstance(m, HumanMessage)), "")


def open_question(messages: Sequence[BaseMessage]) -> str:
    """Text of the last human message if nobody has answered it yet, else empty."""
    return "" if last_answer(messages) else last_question(messages)


def last_answer(messages: Sequence[BaseMessage]) -> str:
    """Text of the last AI message after the last human one; empty if that is still to be answered."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return ""
        if isinstance(message, AIMessage) and not message.tool_calls and message.text.strip():
            return str(message.text)
    return ""


def text_of(value: Any, key: str = "answer") -> str:
    """The text of an answer or a question: of a text, a message, or a message's content.

    Raises:
        InputError: If it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, BaseMessage):
        return str(value.text)
    if isinstance(value, list) and all(isinstance(part, str | dict) for part in value):
        return str(AIMessage(value).text)
    raise InputError(
        f"{key!r} holds a {type(value).__name__}, not a text or a message. Put its text there, or let "
        "keys={...} name the key that holds it."
    )
