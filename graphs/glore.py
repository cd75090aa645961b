"""A draft, refined locally and globally where it is weak, and the best of the three (GLoRe)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget
from agentprm.graphs.state import ReasoningGraphState, Searched, answering, graph_in_a_row
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import (
    AnswerFromSteps,
    CompleteSteps,
    ProposeSteps,
    RefineDraft,
    RetrieverLike,
    RetrieveSteps,
    ReviewDrafts,
    ScoreSteps,
)
from agentprm.nodes.answer import ResponseFormat
from agentprm.nodes.node import begin_search
from agentprm.nodes.select_steps import after_selection
from agentprm.nodes.settings import checked_setting
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards import ProcessRewardModel, as_reward, default_reward

__all__ = ["create_glore_graph"]


def create_glore_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    reward: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    outcome: ProcessRewardModel | Callable[..., Any] | None = None,
    threshold: float | Literal["reward"] | None = "reward",
    explainer: LanguageModel | BaseChatModel | str | None = None,
    candidates: int = 2,
    max_steps: int = 5,
    min_steps: int = 1,
    passages: int = 1,
    temperature: float = 0.7,
    seed: int | None = 0,
    budget: SearchBudget | Mapping[str, Any] | None = None,
    prompts: Prompts = PROMPTS,
    max_tokens: int = 48,
    form: str | None = None,
    language: str | None = None,
    response_format: ResponseFormat | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds propose → retrieve → complete → score → review, and once more from a refined draft.

    A draft is searched step by step. As a whole it is judged; a weak one is refined from its first wrong
    step on and from its beginning, and the best of draft, local and global refinement answers.

    Args:
        model: Proposes, reads, refines and answers.
        retriever: As for `create_reasoning_graph`.
        reward: Scores steps: which candidate is taken, and where a draft goes wrong.
        outcome: Judges whole drafts: when to refine, and which draft is taken; see `ReviewDrafts`.
        threshold: Value up to which a draft is refined; see `ReviewDrafts`.
        explainer: The explanation model; `None` means `model`.
        candidates: Steps proposed at a time; the best of them is taken.
        max_steps: Most steps of a draft.
        min_steps: Steps before a model that continues a prefix is led to conclude.
        passages: Passages that are found for a step, and read.
        temperature: Of the proposals.
        seed: Same seed, inputs and machine: same tree.
        budget: Bounds of a run; reaching one ends the search with the best draft so far.
        prompts: Templates.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words.
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, as for `create_reasoning_graph`.

    Returns:
        The uncompiled graph; input and output as of `create_reasoning_graph`.
    """
    language_model = as_language_model(model)
    if reward is None:
        reward = default_reward(language_model, passages=passages, prompts=prompts)
    reward = as_reward(reward)
    checked_setting("n", candidates, "candidates")
    sampling: dict[str, Any] = {
        "temperature": temperature,
        "seed": seed,
        "prompts": prompts,
        "budget": budget,
    }
    nodes: list[Any] = [
        ProposeSteps(language_model, n=candidates, max_steps=max_steps, min_steps=min_steps, **sampling),
        RetrieveSteps(retriever, k=passages, budget=budget),
        CompleteSteps(language_model, passages=passages, prompts=prompts, budget=budget),
        ScoreSteps(reward, budget=budget),
        ReviewDrafts(reward, outcome=outcome, threshold=threshold, max_steps=max_steps, budget=budget),
    ]
    builder = graph_in_a_row(ReasoningGraphState, Searched, begin_search, nodes)
    builder.add_node("refine", RefineDraft(language_model, explainer=explainer, **sampling))
    builder.add_edge("refine", "retrieve")
    written = answering(prompts, max_tokens, form, language, response_format)
    builder.add_node("answer", AnswerFromSteps(language_model, speak=True, budget=budget, **written))
    builder.add_conditional_edges("review", after_selection)
    builder.add_edge("answer", END)
    return builder
