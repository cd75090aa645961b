"""Sub-goals chosen by critics: reason, ask or look up, one at a time (CR-Planner)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget
from agentprm.graphs.state import ReasoningGraphState, Searched, answering, graph_in_a_row
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import AnswerFromSteps, ChooseExecution, ChooseSubgoal, ExpandSubgoal, RetrieverLike
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.node import begin_search
from agentprm.nodes.settings import checked_setting
from agentprm.nodes.subgoals import Reward
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards import Relevance, default_reward
from agentprm.state import Subgoal

__all__ = ["create_cr_planner_graph"]


def create_cr_planner_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    subgoal_reward: Reward | None = None,
    rewards: Mapping[Subgoal, Reward] | Reward | None = None,
    *,
    candidates: int = 3,
    max_steps: int = 10,
    k: int | None = 3,
    passages: int = 3,
    temperature: float = 0.7,
    seed: int | None = 0,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds choose a sub-goal → expand → choose a candidate, until answered (CR-Planner).

    Two decisions alternate. A critic chooses what comes next, to reason, to ask or to look up, among what
    the action mask leaves; then a critic of that sub-goal chooses among its candidates: sampled
    rationales or queries, or the passages found for the last query.

    Args:
        model: Reasons, asks and answers.
        retriever: As for `create_reasoning_graph`.
        subgoal_reward: The critic of sub-goals; by default the default reward of `model`, which was
            not made for that: train one, or give a function, see `agentprm.rewards.FunctionReward`.
        rewards: The critics of rationales, queries and passages, by `reason`, `query` and `retrieve`;
            or one for all. By default the default reward of `model`, and for queries and passages
            `Relevance`, if it has log-likelihoods.
        candidates: Samples of a rationale or a query; 3 in the paper, where more gain nothing.
        max_steps: Most steps of the path; the last one concludes.
        k: Passages found for a query, each a candidate; one of them is taken.
        passages: Most passages that a rationale is shown.
        temperature: Of the samples.
        seed: Same seed, inputs and machine: same tree.
        budget: Bounds of a run; reaching one ends the search with the best answer so far.
        prompts: Templates; those of rationales and queries are settings of `ExpandSubgoal`.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words.
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, as for `create_reasoning_graph`.

    Returns:
        The uncompiled graph; input and output as of `create_reasoning_graph`.
    """
    language_model = as_language_model(model)
    plain = default_reward(language_model, passages=passages, prompts=prompts)
    if rewards is None:
        relevance = Relevance(language_model) if language_model.capabilities.loglikelihood else plain
        rewards = {"reason": plain, "query": relevance, "retrieve": relevance}
    nodes: list[Any] = [
        ChooseSubgoal(
            plain if subgoal_reward is None else subgoal_reward, max_steps=max_steps, budget=budget
        ),
        ExpandSubgoal(
            language_model,
            retriever,
            n=checked_setting("n", candidates, "candidates"),
            k=k,
            passages=passages,
            temperature=temperature,
            seed=seed,
            prompts=prompts,
            budget=budget,
        ),
        ChooseExecution(rewards, budget=budget),
    ]
    builder = graph_in_a_row(ReasoningGraphState, Searched, begin_search, nodes)
    written = answering(prompts, max_tokens, form, language, response_format)
    builder.add_node("answer", AnswerFromSteps(language_model, speak=True, budget=budget, **written))
    builder.add_conditional_edges("choose_execution", _on)
    builder.add_edge("answer", END)
    return builder


def _on(state: ReasoningGraphState) -> Literal["choose_subgoal", "answer"]:
    return "answer" if state.get("prm_stop_reason") else "choose_subgoal"
