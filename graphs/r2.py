"""A tree search that learns from solved questions at two levels (R2-LLMs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langgraph.graph import StateGraph

from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.lm import LanguageModel
from agentprm.nodes import RecallExperience, RecallSteps, RetrieverLike
from agentprm.rewards import ProcessRewardModel
from agentprm.search import Strategy

__all__ = ["create_r2_graph"]


def create_r2_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    reward: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    experience: RecallExperience | bool = True,
    analogies: RecallSteps | bool = True,
    strategy: Strategy | str = "uct",
    **settings: Any,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds the search of R2-LLMs (retrieval-augmented MCTS): `create_reasoning_graph` with its parts.

    Once, questions of the same template are recalled with their steps and answers, and shown in the prompts
    of the whole search; at each expansion, steps that are analogous to the next one are recalled for that
    prompt alone. The paper's constants are not published, so they are those of the parts. Fill the store
    with solved questions (`agentprm.nodes.add_experience`), or let it fill with those that are asked.

    Args:
        model: Proposes, reads, refines and answers.
        retriever: As for `create_reasoning_graph`.
        reward: The process reward model; by default that of `create_reasoning_graph`.
        experience: The coarse level; by default `RecallExperience(by="template", same_question=False)`.
        analogies: The fine level; by default `RecallSteps(same_question=False)`.
        strategy: Where the search goes on; MCTS in the paper.
        settings: Further settings of `create_reasoning_graph`.

    Returns:
        The uncompiled graph; input and output as of `create_reasoning_graph`. Compile it with a store.
    """
    if experience is True:
        experience = RecallExperience(by="template", same_question=False)
    if analogies is True:
        analogies = RecallSteps(same_question=False)
    return create_reasoning_graph(
        model,
        retriever,
        reward,
        experience=experience,
        analogies=analogies,
        strategy=strategy,
        **settings,
    )
