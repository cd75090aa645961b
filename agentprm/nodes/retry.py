"""When a failed node may be tried again."""

from __future__ import annotations

from langgraph.types import RetryPolicy

from agentprm.errors import AgentPRMError, TransientModelError

__all__ = ["is_transient", "retry_policy"]

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
