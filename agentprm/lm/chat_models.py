"""Chat models as users hand them over: bare, bound, with retries or fallbacks, configurable, by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.runnables.fallbacks import RunnableWithFallbacks

from agentprm.errors import ConfigurationError, MissingDependencyError

__all__ = ["ChatRunnable", "chat_model_named", "is_chat_model", "leaves", "with_leaves"]

#: A chat model, or a Runnable around one.
ChatRunnable = Runnable[Any, Any]

_NAMED = re.compile(r"[a-z][a-z0-9_]+:[^/\\\s][^\\\s]*", re.IGNORECASE)


def is_chat_model(model: Any) -> TypeGuard[ChatRunnable]:
    """Whether this is a chat model, or bindings, retries, fallbacks and configuration around one."""
    return isinstance(model, Runnable) and next(leaves(model), None) is not None


def leaves(model: Any) -> Iterator[Any]:
    """The chat models at the bottom of `model`; a configurable one stands for what it will become."""
    if isinstance(model, BaseChatModel) or _chosen_later(model):
        yield model
    elif isinstance(model, RunnableBindingBase):
        yield from leaves(model.bound)
    elif isinstance(model, RunnableWithFallbacks):
        for runnable in model.runnables:
            yield from leaves(runnable)
    elif isinstance(model, DynamicRunnable):
        yield from leaves(model.default)


def with_leaves(
    model: Any, config: RunnableConfig, change: Callable[[BaseChatModel], ChatRunnable]
) -> ChatRunnable:
    """A copy of `model` with each chat model at its bottom replaced.

    Args:
        model: What `is_chat_model` accepts.
        config: Of the run, which configurable models go by.
        change: From a chat model to what takes its place.
    """
    if isinstance(model, BaseChatModel):
        return change(model)
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": with_leaves(model.bound, config, change)})
    if isinstance(model, RunnableWithFallbacks):
        first, *others = [with_leaves(runnable, config, change) for runnable in model.runnables]
        return model.model_copy(update={"runnable": first, "fallbacks": others})
    if isinstance(model, DynamicRunnable):
        chosen, _ = model.prepare(config)
        return with_leaves(chosen, config, change)
    if _chosen_later(model):
        return with_leaves(model._model(config), config, change)
    raise ConfigurationError(f"A {type(model).__name__} is no chat model.")


def chat_model_named(name: str) -> ChatRunnable | None:
    """The chat model of a name like `ollama:llama3.2`; `None` if the name is none of that form.

    Raises:
        MissingDependencyError: Without the extra `agents`, or the provider's package.
        ConfigurationError: If LangChain knows no such provider, or refuses the model.
    """
    if not _NAMED.fullmatch(name):
        return None
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise MissingDependencyError.for_extra("langchain", "agents") from error
    try:
        model: ChatRunnable = init_chat_model(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name!r} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise ConfigurationError(
            f"{name!r} is no chat model that can be used: {error} Names are provider:model, for instance "
            "openai:gpt-5-mini or ollama:llama3.2."
        ) from error
    return model


def _chosen_later(model: Any) -> bool:
    """Whether it is what `init_chat_model` returns for a model that the run's config chooses."""
    return type(model).__name__ == "_ConfigurableModel" and callable(getattr(type(model), "_model", None))
