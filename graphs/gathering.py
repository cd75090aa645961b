"""Loops that gather evidence in rounds: a note, a pool of facts, or goals and whether they were reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage
from langgraph.graph import END, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Overwrite

from agentprm.budget import SearchBudget
from agentprm.documents import merge_documents
from agentprm.graphs.state import RagOutput, answering, condensing, graph_in_a_row
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import (
    AnswerFromRounds,
    CommitExperience,
    DistilFacts,
    GatherNode,
    ImproveNote,
    JudgeFacts,
    PlanGap,
    PlanQueries,
    RecallExperience,
    Reflect,
    RetrieverLike,
    RetrieveRound,
    SetGoal,
    Sufficiency,
    VisitSummaries,
)
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.node import begin
from agentprm.prompts import PROMPTS, Prompts
from agentprm.retrievers import SummaryTree
from agentprm.rounds import GatheringState, Round, merge_rounds

__all__ = [
    "GatheringGraphState",
    "create_evidence_graph",
    "create_goal_graph",
    "create_note_graph",
    "create_summary_graph",
]

Model = LanguageModel | BaseChatModel | str


class GatheringGraphState(GatheringState, total=False):
    """`GatheringState` of a graph that also converses."""

    messages: Annotated[list[AnyMessage], add_messages]


class Gathered(RagOutput, total=False):
    """Output: the rounds as well."""

    prm_rounds: Annotated[list[Round], merge_rounds]
    prm_documents: Annotated[list[Document], merge_documents]


def begin_gathering(state: GatheringGraphState) -> dict[str, Any]:
    """`begin`, without rounds."""
    return {**begin(state), "prm_rounds": Overwrite([]), "prm_documents": Overwrite([])}


def create_note_graph(
    model: Model,
    retriever: RetrieverLike,
    *,
    judge: Model | None = None,
    k: int = 5,
    queries: int = 2,
    max_rounds: int = 4,
    max_failures: int = 1,
    max_documents: int = 15,
    condense: Model | bool = False,
    experience: RecallExperience | bool = False,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds plan → retrieve → note, until the note gets no better → answer (Adaptive-Note).

    Each round searches for what the note lacks and writes it anew; the new note is kept only if a judge who
    sees both in both orders finds it better. The answer is read from the best note alone.

    Args:
        model: Writes queries, notes and the answer.
        retriever: Any LangChain retriever or vector store, or a function from a query to documents.
        judge: Compares notes; by default `model`.
        k: Most new passages of a round.
        queries: Queries of a round after the first.
        max_rounds: Most rounds.
        max_failures: Rounds, in all, that may leave the note as it was.
        max_documents: Most distinct passages.
        condense: Make a follow-up of a conversation a question that stands alone; see `CondenseQuestion`.
        experience: Show how similar questions went, and keep how this one goes, in the store that the graph
            is compiled with: `True`, or a `RecallExperience` of your own.
        budget: Bounds of a run; reaching one ends the loop with the best note so far.
        prompts: Templates.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema.

    Returns:
        The uncompiled graph: input `question` or `messages`, output `answer`, `citations`, `documents`,
        `messages`, the rounds `prm_rounds` with `prm_documents`, `prm_usage` and `prm_stop_reason`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> script = {"keep a note": "Brunel was born in Portsmouth.", "Text:": "Portsmouth", "": "none"}
        >>> store = fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."])
        >>> graph = create_note_graph(ScriptedChatModel(script=script), store, max_rounds=1).compile()
        >>> graph.invoke({"question": "Where was Brunel born?"})["answer"]
        'Portsmouth'
    """
    language_model = as_language_model(model)
    loop: list[GatherNode] = [
        PlanQueries(language_model, queries=queries, budget=budget),
        RetrieveRound(retriever, k=k, budget=budget),
        ImproveNote(
            language_model,
            judge,
            max_rounds=max_rounds,
            max_failures=max_failures,
            max_documents=max_documents,
            budget=budget,
        ),
    ]
    written = answering(prompts, max_tokens, form, language, response_format)
    return _loop(language_model, loop, condense, experience, budget, written)


def create_evidence_graph(
    model: Model,
    retriever: RetrieverLike,
    *,
    judge: Model | Sufficiency | None = None,
    k: int = 5,
    facts: int = 3,
    threshold: float = 0.5,
    max_rounds: int = 4,
    max_failures: int = 2,
    condense: Model | bool = False,
    experience: RecallExperience | bool = False,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds gap → retrieve → distil → judge, until the pool is enough → answer (RFM-RAG).

    Each round asks for what the pool of facts lacks, and copies what the passages say about it into the
    pool, every fact with its passage. The answer is read from the pool alone.

    Args:
        model: Writes queries, facts and the answer.
        retriever: As for `create_note_graph`.
        judge: Says whether the pool is enough: another model, or a function from the question and the facts
            to a truth value or a probability. By default `model`, though whoever filled the pool judges it
            too kindly.
        k: Most new passages of a round, each of which is read by itself.
        facts: Most facts of a passage.
        threshold: Probability from which on the pool is enough.
        max_rounds: Most rounds.
        max_failures: Rounds, in all, that may bring no new fact.
        condense: As for `create_note_graph`.
        experience: As for `create_note_graph`.
        budget: Bounds of a run; reaching one ends the loop with the facts so far.
        prompts: Templates.
        max_tokens: As for `create_note_graph`.
        form: As for `create_note_graph`.
        language: As for `create_note_graph`.
        response_format: As for `create_note_graph`.

    Returns:
        The uncompiled graph, with the input and output of `create_note_graph`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> script = {"Copy from": "Brunel was born in Portsmouth.", "enough": "Yes", "": "Portsmouth"}
        >>> store = fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."])
        >>> graph = create_evidence_graph(ScriptedChatModel(script=script), store, k=1).compile()
        >>> result = graph.invoke({"question": "Where was Brunel born?"})
        >>> result["answer"], result["prm_stop_reason"], result["prm_rounds"][0]["facts"]
        ('Portsmouth', 'sufficient', [{'text': 'Brunel was born in Portsmouth.', 'doc_id': 'd1'}])
    """
    language_model = as_language_model(model)
    loop: list[GatherNode] = [
        PlanGap(language_model, budget=budget),
        RetrieveRound(retriever, k=k, budget=budget),
        DistilFacts(language_model, facts=facts, budget=budget),
        JudgeFacts(
            language_model if judge is None else judge,
            threshold=threshold,
            max_rounds=max_rounds,
            max_failures=max_failures,
            budget=budget,
        ),
    ]
    written = answering(prompts, max_tokens, form, language, response_format)
    return _loop(language_model, loop, condense, experience, budget, written)


def create_goal_graph(
    model: Model,
    retriever: RetrieverLike,
    *,
    judge: Model | None = None,
    k: int = 3,
    threshold: float = 0.5,
    max_rounds: int = 5,
    condense: Model | bool = False,
    experience: RecallExperience | bool = False,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds goal → retrieve → reflect, until the model concludes → answer (RE-Searcher).

    Each round says what evidence is wanted before it searches, and afterwards whether it was found; where
    it was not, the next round is told so.

    Args:
        model: Sets goals, reads passages and writes the answer.
        retriever: As for `create_note_graph`.
        judge: Says whether a goal is reached; by default `model`.
        k: Most new passages of a round.
        threshold: Probability from which on a goal is reached.
        max_rounds: Most rounds.
        condense: As for `create_note_graph`.
        experience: As for `create_note_graph`.
        budget: Bounds of a run; reaching one ends the loop with the findings so far.
        prompts: Templates.
        max_tokens: As for `create_note_graph`.
        form: As for `create_note_graph`.
        language: As for `create_note_graph`.
        response_format: As for `create_note_graph`.

    Returns:
        The uncompiled graph, with the input and output of `create_note_graph`.
    """
    language_model = as_language_model(model)
    loop: list[GatherNode] = [
        SetGoal(language_model, budget=budget),
        RetrieveRound(retriever, k=k, budget=budget),
        Reflect(
            language_model, judge, threshold=threshold, max_rounds=max_rounds, prompts=prompts, budget=budget
        ),
    ]
    written = answering(prompts, max_tokens, form, language, response_format)
    return _loop(language_model, loop, condense, experience, budget, written)


def create_summary_graph(
    model: Model,
    tree: SummaryTree,
    embeddings: Embeddings,
    *,
    judge: Model | Sufficiency | None = None,
    threshold: float = 0.5,
    patience: int = 2,
    max_rounds: int = 8,
    condense: Model | bool = False,
    experience: RecallExperience | bool = False,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds visit → judge, down a tree of summaries until they are enough → answer (PECAN).

    Args:
        model: Judges and writes the answer.
        tree: Summaries over the documents, `agentprm.retrievers.SummaryTree`.
        embeddings: Say which part of the tree is most like the question.
        judge: Says whether what was read is enough; by default `model`.
        threshold: Probability from which on it is.
        patience: How often the judge must find so before the answer is written; more is dearer and surer.
        max_rounds: Most rounds; the first reads the top, each further one a node more.
        condense: As for `create_note_graph`.
        experience: As for `create_note_graph`.
        budget: Bounds of a run; reaching one ends the reading with what was read so far.
        prompts: Templates.
        max_tokens: As for `create_note_graph`.
        form: As for `create_note_graph`.
        language: As for `create_note_graph`.
        response_format: As for `create_note_graph`.

    Returns:
        The uncompiled graph, with the input and output of `create_note_graph`.
    """
    language_model = as_language_model(model)
    loop: list[GatherNode] = [
        VisitSummaries(tree, embeddings, budget=budget),
        JudgeFacts(
            language_model if judge is None else judge,
            threshold=threshold,
            patience=patience,
            max_rounds=max_rounds,
            budget=budget,
        ),
    ]
    written = answering(prompts, max_tokens, form, language, response_format)
    return _loop(language_model, loop, condense, experience, budget, written)


def _loop(
    model: LanguageModel,
    loop: Sequence[GatherNode],
    condense: Model | bool,
    experience: RecallExperience | bool,
    budget: SearchBudget | Mapping[str, Any] | None,
    written: dict[str, Any],
) -> StateGraph[Any, Any, Any, Any]:
    """The nodes in a row, again and again until one of them says why not, and then the answer."""
    recall = RecallExperience(budget=budget) if experience is True else experience
    answering_node = AnswerFromRounds(model, speak=True, budget=budget, **written)
    way: list[Any] = condensing(condense, model, budget=budget)
    way += [*([recall] if recall else []), *loop, answering_node]
    first, last, answer = loop[0].name, loop[-1].name, answering_node.name
    if recall and recall.by == "thought":
        first = recall.name  # thoughts change
    if recall:
        way.append(CommitExperience(store=recall.own_store, namespace=recall.namespace))

    def after(state: GatheringGraphState) -> str:
        return answer if state.get("prm_stop_reason") else first

    builder = graph_in_a_row(GatheringGraphState, Gathered, begin_gathering, way, [last])
    builder.add_conditional_edges(last, after, [first, answer])
    builder.add_edge(way[-1].name, END)
    return builder
