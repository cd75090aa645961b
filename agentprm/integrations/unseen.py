"""Model calls of middleware that appear in no stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs, set_config_context

from agentprm.errors import MissingDependencyError

try:
    from langchain.agents.middleware.internal_call_transformer import internal_call_metadata
except ImportError as error:
    raise MissingDependencyError.for_extra("langchain (1.5 or newer)", "agents") from error

__all__ = ["aunseen", "unseen"]

R = TypeVar("R")
A = TypeVar("A")

_NOSTREAM = "nostream"  # LangGraph's tag, for stream_mode="messages"


def unseen(handler: Callable[[A], R], argument: A) -> R:
    """Calls `handler`, whose model calls are streamed to nobody."""
    with set_config_context(_marked()) as context:
        return context.run(handler, argument)


async def aunseen(handler: Callable[[A], Awaitable[R]], argument: A) -> R:
    """Async twin of `unseen`."""

    async def call() -> R:
        return await handler(argument)

    with set_config_context(_marked()) as context:
        return await asyncio.create_task(call(), context=context)


def _marked() -> RunnableConfig:
    """The current config with the marks that LangGraph's and LangChain's streams heed."""
    marks: RunnableConfig = {"tags": [_NOSTREAM], "metadata": internal_call_metadata()}
    return merge_configs(ensure_config(), marks)
