"""The reasoning search with ReARTeR's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langgraph.graph import StateGraph

from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.lm import LanguageModel
from agentprm.nodes import RetrieverLike
from agentprm.rewards import ProcessRewardModel
from agentprm.search import TD, ValueFunction

__all__ = ["create_rearter_graph"]


def create_rearter_graph(
    model: LanguageModel | BaseChatModel | str,
    retriever: RetrieverLike,
    reward: ProcessRewardModel | Callable[..., Any] | None = None,
    *,
    explainer: LanguageModel | BaseChatModel | str | None = None,
    value: ValueFunction | str | None = None,
    threshold: float | Literal["reward"] | None = "reward",
    recall: bool = True,
    **settings: Any,
) -> StateGraph[Any, Any, Any, Any]:
    """Builds the search of ReARTeR (Sun et al., 2025): `create_reasoning_graph` with the paper's parts.

    Three candidates a step, look-ahead from the first three steps, an explanation of each weak step with
    a refinement, and steps that may do without a search. Unlike there, a refinement is taken only if it is
    better (`accept="always"` takes each), and an action that does not parse never ends the search.

    Args:
        model: Proposes, reads, refines and answers.
        retriever: As for `create_reasoning_graph`.
        reward: The process reward model; by default that of `create_reasoning_graph`.
        explainer: The explanation model; `None` means `model`.
        value: Value function; by default `TD()`, its look-ahead, in the authors' code's settings, but with
            the reward's own `rise` as beta if it is calibrated.
        threshold: Gate of the refinement; by default the reward's own, .5 in the paper.
        recall: Steps may be answered from what is known, and refinements may flip this.
        settings: Further settings of `create_reasoning_graph`.

    Returns:
        The uncompiled graph; input and output as of `create_reasoning_graph`.
    """
    return create_reasoning_graph(
        model,
        retriever,
        reward,
        explainer=explainer,
        value=_looking_ahead(reward) if value is None else value,
        threshold=threshold,
        recall=recall,
        **settings,
    )


def _looking_ahead(reward: ProcessRewardModel | Callable[..., Any] | None) -> TD:
    rise = reward.rise if isinstance(reward, ProcessRewardModel) else None
    return TD() if rise is None else TD(beta=rise)
