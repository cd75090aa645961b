"""Language models that sample and score, behind one contract.

What lives where, from the contract to the wire:

- `base`: the contract `LanguageModel` and its records; who listens to a text as it comes.
- `transformers`: models in this process, on `agentprm.engine`.
- `token_lm`: what `vllm` (vLLM in this process) and `server` (behind an address) have in common: token ids
  in, log-probabilities out.
- `server_chat`: the chat API of servers.
- `chat`: LangChain chat models as users hand them over; `chat_leaf` asks one of
  them as it likes.
- `reports`: how servers and clients word what went wrong, what they report, and what a model was found to
  refuse.
- `json_http`: requests, and what they stream put together; `retries`: which failures are worth another try.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel

from agentprm.errors import ConfigurationError
from agentprm.lm.base import (
    Capabilities,
    Completion,
    LanguageModel,
    Prompt,
    Role,
    SamplingParams,
    TokenLogprob,
    require,
)
from agentprm.lm.chat import ChatLM
from agentprm.lm.chat import chat_model_named as _chat_model_named
from agentprm.lm.chat import is_chat_model as _is_chat_model

if TYPE_CHECKING:
    from agentprm.lm.server import ServerLM
    from agentprm.lm.transformers import TransformersLM
    from agentprm.lm.vllm import VllmLM

__all__ = [
    "Capabilities",
    "ChatLM",
    "Completion",
    "LanguageModel",
    "Prompt",
    "Role",
    "SamplingParams",
    "ServerLM",
    "TokenLogprob",
    "TransformersLM",
    "VllmLM",
    "as_language_model",
    "require",
]


def as_language_model(model: LanguageModel | BaseChatModel | str | Path | Any) -> LanguageModel:
    """The language model behind whatever a user passes.

    Args:
        model: A `LanguageModel`, which is returned as it is; a LangChain chat model, bare or bound, with
            retries or fallbacks, or its name (`ollama:llama3.2`), which is wrapped in `ChatLM`; the
            address of a server (`http://…` or `host:port/…`), which `ServerLM` talks to; a `vllm.LLM`,
            which is wrapped in `VllmLM`; or a Hugging Face name or folder, which `TransformersLM` loads.

    Raises:
        ConfigurationError: If it is none of these.
        MissingDependencyError: For a name or folder without the extra `transformers`, for the name of a
            chat model without the extra `agents` or the provider's package.
    """
    if isinstance(model, LanguageModel):
        return model
    if _is_chat_model(model):
        return ChatLM(model)
    if isinstance(model, str | Path):
        from agentprm.lm.json_http import http_address

        if http_address(str(model)):
            from agentprm.lm.server import ServerLM

            return ServerLM(str(model))
        if not Path(model).exists() and (named := _chat_model_named(str(model))) is not None:
            return ChatLM(named)
        from agentprm.lm.transformers import TransformersLM

        return TransformersLM(model)
    from agentprm.lm.vllm import is_vllm_engine

    if is_vllm_engine(model):
        from agentprm.lm.vllm import VllmLM

        return VllmLM(model)
    raise ConfigurationError(
        f"A {type(model).__name__} is no language model. Pass an agentprm.lm.LanguageModel, a LangChain "
        "chat model, the address of a server, a vllm.LLM, or the name or folder of a Hugging Face "
        "model."
    )


_LAZY = {
    "ServerLM": "agentprm.lm.server",
    "TransformersLM": "agentprm.lm.transformers",
    "VllmLM": "agentprm.lm.vllm",
}


def __getattr__(name: str) -> Any:
    # torch is heavy and optional: a backend is imported when it is first named.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
