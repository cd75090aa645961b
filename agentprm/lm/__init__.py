"""Language models that sample and score, behind one contract."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel

from agentprm.errors import ConfigurationError
from agentprm.lm.base import Capabilities, Completion, LanguageModel, Prompt, Role, SamplingParams, require
from agentprm.lm.chat import ChatLM

if TYPE_CHECKING:
    from agentprm.lm.transformers import TransformersLM

__all__ = [
    "Capabilities",
    "ChatLM",
    "Completion",
    "LanguageModel",
    "Prompt",
    "Role",
    "SamplingParams",
    "TransformersLM",
    "as_language_model",
    "require",
]


def as_language_model(model: LanguageModel | BaseChatModel | str | Path) -> LanguageModel:
    """The language model behind whatever a user passes.

    Args:
        model: A `LanguageModel`, which is returned as it is; a LangChain chat model, which is wrapped
            in `ChatLM`; or a Hugging Face name or folder, which `TransformersLM` loads.

    Raises:
        ConfigurationError: If it is none of these.
        MissingDependencyError: For a name or folder without the extra `transformers`.
    """
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, BaseChatModel):
        return ChatLM(model)
    if isinstance(model, str | Path):
        from agentprm.lm.transformers import TransformersLM

        return TransformersLM(model)
    raise ConfigurationError(
        f"A {type(model).__name__} is no language model. Pass an agentprm.lm.LanguageModel, a LangChain "
        "chat model, or the name or folder of a Hugging Face model."
    )


def __getattr__(name: str) -> Any:
    # torch is heavy and optional: it is imported when the local backend is first named.
    if name == "TransformersLM":
        from agentprm.lm.transformers import TransformersLM

        return TransformersLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
