"""What the result of a cached node is looked up by."""

from __future__ import annotations

import hashlib
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import CachePolicy

from agentprm.nodes.node import state_mapping

__all__ = ["cache_policy"]


def cache_policy(ttl: int | None = None) -> CachePolicy[Any]:
    """A LangGraph cache policy by all that a node reads but what was spent, which no run repeats.

    Nodes that share a budget, as those of the ready-made graphs and of a search do, read the cost so far;
    LangGraph's own policy would never find them again. Any other node takes a plain `CachePolicy()` too.

    Args:
        ttl: Seconds that a result is kept; `None` keeps it for ever.

    Example:
        `builder.add_node("propose", ProposeSteps(model), cache_policy=cache_policy())`
    """
    return CachePolicy(key_func=_key, ttl=ttl)


def _key(state: Any) -> str:
    read = {key: value for key, value in state_mapping(state, "cache").items() if key != "prm_usage"}
    if "prm_steps" in read:
        read["prm_steps"] = [{**step, "usage": None} for step in read["prm_steps"]]
    kind, data = JsonPlusSerializer().dumps_typed(dict(sorted(read.items())))
    return hashlib.sha256(kind.encode() + data).hexdigest()
