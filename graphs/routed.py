"""Three ways to an answer, and the graph that chooses among them; rungs from cheap to dear."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, cast

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.constants import TAG_NOSTREAM
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget, add_usage, empty_usage
from agentprm.documents import Citation
from agentprm.errors import ConfigurationError
from agentprm.graphs.gathering import create_goal_graph
from agentprm.graphs.state import RagGraphState, RagOutput, graph_in_a_row
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import MODES, Answer, JudgeAnswer, Reason, RetrieverLike, Route
from agentprm.nodes.answer import spoken
from agentprm.nodes.node import begin
from agentprm.rewards import ProcessRewardModel
from agentprm.state import ReasoningState

__all__ = ["LadderState", "RoutedState", "create_ladder_graph", "create_routed_graph"]


class RoutedState(RagGraphState, total=False):
    """`RagGraphState` with the mode that was chosen."""

    route: str


class RoutedAnswer(RagOutput, total=False):
    """Output: the mode as well."""

    route: str


def create_routed_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    *,
    router: LanguageModel | BaseChatModel | str | Callable[[str], str] | None = None,
    default: str = "agentic",
    modes: Mapping[str, Runnable[Any, Any]] | None = None,
    when: Mapping[str, str] = MODES,
    budget: SearchBudget | Mapping[str, Any] | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds route → instant, reasoning or agentic (A^2FM).

    Args:
        model: Answers in all modes, and routes unless `router` does.
        retriever: As for `create_rag_graph`; the agentic mode searches.
        router: What chooses the mode: a language model, or a function from the question to its name.
        default: The mode where the router does not say.
        modes: Nodes or compiled graphs by name, instead of the default ones: `Answer` from memory, `Reason`,
            and `create_goal_graph`.
        when: When each mode is right, as the router is told.
        budget: Bounds of a run; those of a compiled graph among the modes count from its own beginning.

    Returns:
        The uncompiled graph: input `question` or `messages`, output as of `create_rag_graph`, and `route`.

    Raises:
        ConfigurationError: If `modes` and `when` do not name the same modes.

    Example:
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> model = ScriptedChatModel(script={"Which mode?": "instant", "France": "Paris"})
        >>> graph = create_routed_graph(model, fake_store(["Paris lies on the Seine."])).compile()
        >>> result = graph.invoke({"question": "What is the capital of France?"})
        >>> result["route"], result["answer"]
        ('instant', 'Paris')
    """
    language_model = as_language_model(model)
    ways: dict[str, Any] = dict(modes or {})
    if modes is None:
        ways = {
            "instant": Answer(language_model, speak=True, budget=budget),
            "reasoning": Reason(language_model, speak=True, budget=budget),
            "agentic": create_goal_graph(language_model, retriever, budget=budget).compile(),
        }
    if set(ways) != set(when):
        raise ConfigurationError(
            f"modes has {sorted(ways)}, but when has {sorted(when)}; name the same ones."
        )
    route = Route(router or language_model, modes=when, default=default, budget=budget)

    def follow(state: RoutedState) -> str:
        return state["route"]

    builder = graph_in_a_row(RoutedState, RoutedAnswer, begin, [route])
    for name, way in ways.items():
        builder.add_node(name, way, input_schema=RoutedState)
        builder.add_edge(name, END)
    builder.add_conditional_edges(route.name, follow, list(ways))
    return builder


class LadderState(RagGraphState, total=False):
    """`RagGraphState` with the rung that the best answer came from.

    Attributes:
        rung: Its name.
        score: The judge's score of the answer.
        prm_rungs: What each rung answered, in order.
    """

    rung: str
    score: float | None
    prm_rungs: list[dict[str, Any]]


class Climbed(RagOutput, total=False):
    """Output: the rung and its score as well."""

    rung: str
    score: float | None
    prm_rungs: list[dict[str, Any]]


def create_ladder_graph(
    rungs: Mapping[str, Runnable[Any, Any]],
    judge: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any],
    *,
    threshold: float | None = None,
    start: Callable[[str], str] | LanguageModel | BaseChatModel | str | None = None,
    when: Mapping[str, str] | None = None,
    budget: SearchBudget | Mapping[str, Any] | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds rung → judge, upwards until an answer is good: depth that adapts to the question.

    The prompts of Hierarchical Prompting, from a bare question to decomposition, are such rungs, and so
    are graphs that search deeper. The best answer stays, also where a later rung is worse.

    Args:
        rungs: Nodes or compiled graphs that answer `{"question": …}`, by name, from cheap to dear.
        judge: Scores answers, as `JudgeAnswer` takes it.
        threshold: Score from which on an answer is good; by default the judge's own, that of its
            calibration or family, else .5 for probabilities and 0 for logits.
        start: Which rung to begin with: a language model that judges how hard the question is, or a
            function from the question to the name of a rung; by default the first one.
        when: For a model: when each rung is right; by default only their order.
        budget: Bounds of a run: where one is reached, no further rung is tried. Bounds of a rung are its own.

    Returns:
        The uncompiled graph: input `question` or `messages`, output as of `create_rag_graph`, and `rung`,
        `score` and `prm_rungs`.

    Raises:
        ConfigurationError: If there is no rung.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> cheap, dear = (ScriptedChatModel(script={"": said}) for said in ("Bath", "Portsmouth"))
        >>> rungs = {"cheap": Answer(cheap), "dear": Answer(dear)}
        >>> graph = create_ladder_graph(rungs, lambda q, steps: float("Ports" in steps[-1]["thought"]))
        >>> result = graph.compile().invoke({"question": "Where was Brunel born?"})
        >>> result["answer"], result["rung"], [one["answer"] for one in result["prm_rungs"]]
        ('Portsmouth', 'dear', ['Bath', 'Portsmouth'])
    """
    names = list(rungs)
    if not names:
        raise ConfigurationError("A ladder needs a rung at least.")
    limits = SearchBudget.of(budget)
    judging = JudgeAnswer(judge, budget=budget)
    good_from = judging.reward.gate if threshold is None else threshold
    places = when or {name: f"question {place} in difficulty" for place, name in enumerate(names, 1)}

    def begin_climbing(state: LadderState) -> dict[str, Any]:
        return {**begin(state), "prm_rungs": [], "rung": "", "score": None}

    def after(state: LadderState) -> str:
        done = state["prm_rungs"]
        score = done[-1]["score"]
        place = names.index(done[-1]["rung"]) + 1
        good = score is not None and score >= good_from
        if good or place == len(names) or limits.exhausted(state.get("prm_usage")):
            return "best"
        return names[place]

    def best(state: LadderState) -> dict[str, Any]:
        done = state["prm_rungs"]
        # Of equals the later one, which had more to go by.
        chosen = max(reversed(done), key=lambda one: float("-inf") if one["score"] is None else one["score"])
        update = {key: chosen[key] for key in ("answer", "citations", "documents", "rung", "score")}
        message = AIMessage(chosen["answer"], id=chosen["message_id"])
        return {
            **update,
            "messages": spoken(cast("ReasoningState", state), message),
            "prm_stop_reason": "answered" if chosen["answer"] else "no answer",
        }

    builder = graph_in_a_row(LadderState, Climbed, begin_climbing, [])
    builder.add_node("best", best)
    builder.add_edge("best", END)
    for name, rung in rungs.items():
        builder.add_node(name, _rung(name, rung, judging), input_schema=LadderState)
        builder.add_conditional_edges(name, after, [*names, "best"])
    if start is None or len(names) == 1:
        builder.add_edge("begin", names[0])
    else:
        route = Route(start, modes=places, default=names[0], budget=budget, keys={"route": "rung"})
        builder.add_node("start", route, input_schema=LadderState)
        builder.add_edge("begin", "start")

        def follow(state: LadderState) -> str:
            return state["rung"]

        builder.add_conditional_edges("start", follow, names)
    return builder


def _rung(name: str, rung: Runnable[Any, Any], judging: JudgeAnswer) -> Runnable[LadderState, dict[str, Any]]:
    """A rung and the judgement of its answer, as one node."""

    def judged(state: LadderState, found: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "question": state["question"],
            "answer": found.get("answer", ""),
            "documents": found.get("documents", []),
        }

    def update(state: LadderState, found: Mapping[str, Any], score: Mapping[str, Any]) -> dict[str, Any]:
        citations: list[Citation] = found.get("citations", [])
        entry = {
            "rung": name,
            "answer": found.get("answer", ""),
            "citations": citations,
            "documents": found.get("documents", []),
            "score": score["score"],
            "message_id": next((m.id for m in reversed(found.get("messages") or []) if m.type == "ai"), None),
        }
        costs = [one["prm_usage"] for one in (found, score) if one.get("prm_usage")]
        return {
            "prm_rungs": [*state.get("prm_rungs", []), entry],
            "prm_usage": reduce(add_usage, costs, empty_usage()),
        }

    def work(state: LadderState, config: RunnableConfig) -> dict[str, Any]:
        found = rung.invoke({"question": state["question"]}, _silent(config))
        return update(state, found, judging.invoke(judged(state, found), config))

    async def awork(state: LadderState, config: RunnableConfig) -> dict[str, Any]:
        found = await rung.ainvoke({"question": state["question"]}, _silent(config))
        return update(state, found, await judging.ainvoke(judged(state, found), config))

    return RunnableLambda(work, awork, name=name)


def _silent(config: RunnableConfig) -> RunnableConfig:
    """A config under which no tokens are streamed: the answer of a rung may not be the answer."""
    return {**config, "tags": [*(config.get("tags") or []), TAG_NOSTREAM]}
