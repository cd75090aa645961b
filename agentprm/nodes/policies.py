"""LangGraph's policies for nodes: when a failed one is tried again, and what a cached result is found by."""

from __future__ import annotations

import hashlib
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import CachePolicy, RetryPolicy

from agentprm.errors import AgentPRMError, TransientModelError
from agentprm.nodes.node import state_mapping

__all__ = ["cache_policy", "is_transient", "retry_policy"]

# Too many requests, and the server's own faults. 4xx otherwise means that repeating is pointless.
_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


def is_transient(error: Exception) -> bool:
    """Whether `error` may go away by itself: connection faults, time-outs, rate limits, 5xx."""
    if isinstance(error, TransientModelError | ConnectionError | TimeoutError):
        return True
    if isinstance(error, AgentPRMError):
        return False
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int):
        return status in _STATUS
    # httpx, openai and others name their connection faults without sharing a base class.
    return any(
        word in type(error).__name__ for word in ("Timeout", "ConnectError", "ConnectionError", "ReadError")
    )


def retry_policy(max_attempts: int = 3) -> RetryPolicy:
    """A LangGraph retry policy for nodes that call models: transient faults only, with backoff.

    LangGraph's own default misses rate limits of httpx-based clients and some connection faults.

    Example:
        `builder.add_node("answer", Answer(model), retry_policy=retry_policy())`
    """
    return RetryPolicy(max_attempts=max_attempts, retry_on=is_transient)


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
