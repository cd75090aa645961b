"""Models by name: what `--model`, `--reward` and `--reranker` mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.lm import LanguageModel, Prompt, SamplingParams, as_language_model

__all__ = ["Models", "model_called", "reranker_called", "reward_called"]

# `openai:gpt-5-mini`, `ollama:llama3.2:1b`; no drive letter and no address.
_PROVIDED = re.compile(r"[a-z][a-z0-9_-]+:(?!//).+")


class Models(NamedTuple):
    """What answers, what scores and what orders passages; `None` where the graph's default does."""

    model: LanguageModel
    reward: Any = None
    reranker: Any = None


def model_called(name: str | None) -> LanguageModel:
    """The language model behind a name.

    Args:
        name: `provider:model` as LangChain's `init_chat_model` takes it; the address of a server; a
            folder or a name on the Hugging Face hub; `None` for the packaged model.

    Raises:
        ConfigurationError: If there is no such model, or a chat model does not answer.
    """
    if name is None:
        from agentprm.packaged import default_language_model

        return default_language_model()
    if _PROVIDED.fullmatch(name) and not Path(name).exists():
        return _answering(as_language_model(_chat_model(name)), name)
    if name.startswith(("http://", "https://")):
        return _answering(as_language_model(name), name)
    return as_language_model(name)


def reward_called(name: str | None, model: LanguageModel) -> Any:
    """The reward behind a name.

    Args:
        name: `grounding`, `relevance`, `self-judgement` or `judge`, which are computed with `model`;
            `provider:model` for a chat model as the judge; or a published reward model's name or folder.
        model: The language model that answers.
    """
    from agentprm import rewards

    if name is None:
        return None
    kinds: dict[str, Any] = {
        "grounding": rewards.Grounding,
        "judge": rewards.VerdictReward,
        "relevance": rewards.Relevance,
        "self-judgement": rewards.SelfJudgement,
    }
    if name in kinds:
        return kinds[name](model)
    if _PROVIDED.fullmatch(name) and not Path(name).exists():
        return rewards.VerdictReward(model_called(name))
    try:
        return rewards.load_reward(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Or give one of {', '.join(kinds)}.") from error


def reranker_called(name: str | None, model: LanguageModel) -> Any:
    """The reranker behind a name.

    Args:
        name: `pairwise`, for which `model` compares the passages; `provider:model` for a chat model
            that does; or a cross-encoder's name or folder.
        model: The language model that answers.
    """
    from agentprm.rerank import CrossEncoderReranker, PairwiseReranker

    if name is None:
        return None
    if name == "pairwise":
        return PairwiseReranker(model=model)
    if _PROVIDED.fullmatch(name) and not Path(name).exists():
        return PairwiseReranker(model=model_called(name))
    return CrossEncoderReranker(model=name)


def _chat_model(name: str) -> Any:
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise MissingDependencyError.for_extra("langchain", "agents") from error
    try:
        return init_chat_model(name)
    except ImportError as error:  # the message names the provider's package
        raise MissingDependencyError(_first_line(error)) from error
    except Exception as error:  # each provider has its own errors: of unknown names, of missing keys
        raise ConfigurationError(f"The chat model {name!r} cannot be had: {_first_line(error)}") from error


def _answering(model: LanguageModel, name: str) -> LanguageModel:
    """`model`, after it was greeted: a wrong name, key or address shows here, not after an hour's work."""
    try:
        model.sample([Prompt((("user", "Say OK."),))], 1, SamplingParams(max_tokens=16, temperature=0.0))
    except Exception as error:
        raise ConfigurationError(
            f"The model {name!r} does not answer: {_first_line(error)} Check its name, its key and whether "
            "its server runs."
        ) from error
    return model


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if text.endswith((".", "!", "?")) else text + "."
