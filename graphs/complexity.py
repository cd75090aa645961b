"""Prompts and depth that adapt to how complex a question is: hierarchical prompts, recursive plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langgraph.graph import END, StateGraph

from agentprm.budget import SearchBudget
from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.graphs.routed import create_ladder_graph
from agentprm.graphs.state import RagGraphState, RagOutput, graph_in_a_row
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import Reason, RecursivePlanner, Retrieve, RetrieverLike
from agentprm.nodes.node import begin
from agentprm.prompts import PROMPTS, ChatTemplate, Prompts
from agentprm.retrievers import SelfSearch
from agentprm.rewards import ProcessRewardModel, default_reward

__all__ = ["create_hpt_graph", "create_prs_graph", "hierarchical_prompts"]

#: Solved questions that the third level shows; give your own where they should be of your subject.
EXAMPLES = """\
Question: Which is longer, the Thames or the Severn?
Let us think. The Thames is 346 km long. The Severn is 354 km long, which is more.
Final answer: the Severn

Question: Who was king when the author of Emma died?
Let us think. Jane Austen wrote Emma. She died in 1817. George III was king from 1760 to 1820.
Final answer: George III

Question: Is Bath west of London?
Let us think. Bath lies in Somerset. Somerset is in the west of England, and London in the east.
Final answer: yes"""


def hierarchical_prompts(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    *,
    k: int = 5,
    examples: str | None = None,
    prompts: Prompts = PROMPTS,
    budget: SearchBudget | Mapping[str, Any] | None = None,
) -> dict[str, Runnable[Any, Any]]:
    """The five levels of the Hierarchical Prompting Taxonomy as rungs of a ladder, all reading passages.

    `role`: the model is told that it knows the subject. `chain-of-thought`: it thinks first. `few-shot`: it
    is shown how, with `examples`. `least-to-most`: the question is split and answered part by part.
    `generated-knowledge`: it writes down what it knows itself, and answers from that.

    Args:
        model: Answers.
        retriever: As for `create_rag_graph`.
        k: Passages that are found and read, but for `least-to-most`, which has its own numbers.
        examples: Solved questions for `few-shot`; by default three of ours.
        prompts: Templates.
        budget: Bounds of each rung.
    """
    language_model = as_language_model(model)
    shared: dict[str, Any] = {"k": k, "budget": budget}
    expert = replace(prompts, answer=_expert(prompts.answer))
    plan = create_reasoning_graph(
        language_model, retriever, mode="plan", planner=language_model, prompts=prompts, budget=budget
    )
    known = create_rag_graph(language_model, SelfSearch(language_model), prompts=prompts, budget=budget)
    return {
        "role": create_rag_graph(language_model, retriever, prompts=expert, **shared).compile(),
        "chain-of-thought": _thinking(language_model, retriever, "", **shared),
        "few-shot": _thinking(language_model, retriever, examples or EXAMPLES, **shared),
        "least-to-most": plan.compile(),
        "generated-knowledge": known.compile(),
    }


def create_hpt_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    judge: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    threshold: float | None = None,
    start: Callable[[str], str] | LanguageModel | BaseChatModel | str | None = None,
    k: int = 5,
    examples: str | None = None,
    prompts: Prompts = PROMPTS,
    budget: SearchBudget | Mapping[str, Any] | None = None,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds a ladder of `hierarchical_prompts`: from a role to generated knowledge, until an answer is good.

    The authors climb until the answer equals the gold one, which measures how hard a set is; to answer,
    somebody must judge, so here `judge` does.

    Args:
        model: Answers.
        retriever: As for `create_rag_graph`.
        judge: Scores answers; by default the default reward of `model`.
        threshold: As for `create_ladder_graph`, as are the others.
        start: Which level to begin with: the adaptive variant, where a model says how hard a question is.
        k: As for `hierarchical_prompts`.
        examples: As for `hierarchical_prompts`.
        prompts: Templates.
        budget: Bounds of the run, and of each rung.

    Returns:
        The uncompiled graph: input and output as of `create_ladder_graph`.
    """
    language_model = as_language_model(model)
    rungs = hierarchical_prompts(
        language_model, retriever, k=k, examples=examples, prompts=prompts, budget=budget
    )
    judge = default_reward(language_model, passages=k, prompts=prompts) if judge is None else judge
    return create_ladder_graph(rungs, judge, threshold=threshold, start=start, budget=budget)


def create_prs_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    reward: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    complexity: int = 4,
    depth: int = 2,
    max_steps: int = 12,
    **settings: Any,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds the search along a plan that is as deep as the question is complex (Prompt Recursive Search).

    Args:
        model: Judges how complex questions are, plans, reads and answers.
        retriever: As for `create_reasoning_graph`.
        reward: As for `create_reasoning_graph`.
        complexity: From 1 to 10: from which on a question is split.
        depth: How often a sub-question may be split again.
        max_steps: Most sub-questions of the whole plan.
        settings: Further settings of `create_reasoning_graph`.

    Returns:
        The uncompiled graph; input and output as of `create_reasoning_graph`.
    """
    language_model = as_language_model(model)
    planner = RecursivePlanner(language_model, threshold=complexity, depth=depth)
    return create_reasoning_graph(
        language_model, retriever, reward, mode="plan", planner=planner, max_steps=max_steps, **settings
    )


def _expert(template: ChatTemplate) -> ChatTemplate:
    role = "You are an expert on what the question is about."
    return replace(template, system=f"{role} {template.system}".strip())


def _thinking(
    model: LanguageModel,
    retriever: RetrieverLike,
    examples: str,
    *,
    k: int,
    budget: SearchBudget | Mapping[str, Any] | None,
) -> Runnable[Any, Any]:
    """Retrieve, think, answer."""
    reason = Reason(model, passages=k, examples=examples, budget=budget, speak=True)
    nodes = [Retrieve(retriever, k=k, budget=budget), reason]
    builder = graph_in_a_row(RagGraphState, RagOutput, begin, nodes)
    builder.add_edge(reason.name, END)
    return builder.compile()
