"""Parts by name: what `--model`, `--reward`, `--reranker`, `--retriever` and `--feedback` mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agentprm.cli.options import FEEDBACKS, RETRIEVERS
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.lm import ChatLM, LanguageModel, Prompt, SamplingParams, as_language_model

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from agentprm.nodes import Planner
    from agentprm.readers import Reader
    from agentprm.retrievers import FaissStore

__all__ = [
    "Models",
    "embeddings_from_provider",
    "is_reward_of_model",
    "model_called",
    "planner_called",
    "reader_called",
    "reranker_called",
    "retriever_called",
    "reward_called",
]


# `openai:gpt-5-mini`, `http://localhost:8000/v1`: models that answer from elsewhere, no drive letter.
_ELSEWHERE = re.compile(r"[a-z][a-z0-9_-]+:.+")


def embeddings_from_provider(name: str) -> Embeddings | None:
    """The embeddings that LangChain calls `provider:model`; `None` for a name of another kind.

    Raises:
        ConfigurationError: If they cannot be had.
        MissingDependencyError: Without the extra `agents` or the provider's package.
    """
    if not _elsewhere(name):
        return None
    try:
        from langchain.embeddings import init_embeddings
    except ImportError as error:
        raise MissingDependencyError.for_extra("langchain", "agents") from error
    try:
        return init_embeddings(name)
    except ImportError as error:  # the message names the provider's package
        raise MissingDependencyError(f"{name!r} needs a package that is not installed: {error}") from error
    except Exception as error:  # every provider has its own for a wrong name or a missing key
        raise ConfigurationError(f"{name!r} are no embeddings that can be used: {_said(error)}") from error


class Models(NamedTuple):
    """What answers, scores, orders passages, reads, plans and criticises; `None` for the graph's default."""

    model: LanguageModel
    reward: Any = None
    reranker: Any = None
    reader: Reader | None = None
    planner: Any = None
    explainer: LanguageModel | None = None


def model_called(name: str | None) -> LanguageModel:
    """The language model behind a name, as `as_language_model` reads it.

    Args:
        name: `provider:model` for a chat model, the address of a server, a folder, or a name on the
            Hugging Face hub; `None` for the packaged model.

    Raises:
        ConfigurationError: If there is no such model, or one that runs elsewhere does not answer.
    """
    if name is None:
        from agentprm.packaged import default_language_model

        return default_language_model()
    model = as_language_model(name)
    return _answering(model, name) if isinstance(model, ChatLM) or _elsewhere(name) else model


def reader_called(name: str | None, *, packaged_model: bool) -> Reader | None:
    """The reader behind a name; `None` where the language model reads.

    Args:
        name: `packaged`, `none`, or a folder that `agentprm train reader` wrote.
        packaged_model: Whether the language model is the packaged one, which reads so much worse than the
            packaged reader that this is then the default.
    """
    from agentprm.packaged import default_reader, packaged_reader_folder

    if name is None:
        return default_reader() if packaged_model and packaged_reader_folder().is_dir() else None
    if name == "none":
        return None
    if name == "packaged":
        return default_reader()
    from agentprm.readers import SpanReader

    return SpanReader(name)


def planner_called(name: str | None, model: LanguageModel) -> Planner:
    """The planner behind a name.

    Args:
        name: `syntax`, the default; `model`, the language model that answers, by example; or a model by name
            that was trained to plan.
        model: The language model that answers.
    """
    from agentprm.nodes import TrainedPlanner
    from agentprm.questions.decomposing import decompose

    if name is None or name == "syntax":
        return decompose
    return model if name == "model" else TrainedPlanner(model_called(name))


_OF_MODEL = {
    "grounding": "Grounding",
    "judge": "VerdictReward",
    "relevance": "Relevance",
    "self-judgement": "SelfJudgement",
}


def is_reward_of_model(name: str) -> bool:
    """Whether a reward of this name is computed with the language model that answers."""
    return name in _OF_MODEL


def reward_called(name: str | None, model: LanguageModel, reader: Reader | None = None) -> Any:
    """The reward behind a name.

    Args:
        name: `reader`, the reader's own probabilities; `grounding`, `relevance`, `self-judgement` or
            `judge`, which are computed with `model`;
            `provider:model` or an address for a model that judges in words; or a published reward
            model's name or folder.
        model: The language model that answers.
        reader: The reader, if there is one.
    """
    from agentprm import rewards

    if name is None:
        return None
    if name == "reader":
        if reader is None:
            raise ConfigurationError("--reward reader needs a reader; name one with --reader.")
        return rewards.ReaderGrounding(reader)
    if is_reward_of_model(name):
        return getattr(rewards, _OF_MODEL[name])(model)
    if _elsewhere(name):
        return rewards.VerdictReward(model_called(name))
    try:
        return rewards.load_reward(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Or give one of {', '.join(_OF_MODEL)}.") from error


def reranker_called(name: str | None, model: LanguageModel) -> Any:
    """The reranker behind a name.

    Args:
        name: `pairwise`, for which `model` compares the passages; `provider:model` or an address for
            another one that does; or a cross-encoder's name or folder.
        model: The language model that answers.
    """
    from agentprm.rerank import CrossEncoderReranker, PairwiseReranker

    if name is None:
        return None
    if name == "pairwise":
        return PairwiseReranker(model=model)
    if _elsewhere(name):
        return PairwiseReranker(model=model_called(name))
    return CrossEncoderReranker(model=name)


def retriever_called(retriever: str | None, feedback: str | None, store: FaissStore) -> Any:
    """The retriever over an index that two names ask for.

    Args:
        retriever: One of `RETRIEVERS`; `None` and `default` take the best one for the index.
        feedback: One of `FEEDBACKS`; `None` takes what the retriever brings, `none` nothing.
        store: The index.

    Raises:
        ConfigurationError: If a name is unknown, or the two do not go together.
    """
    from agentprm import retrievers

    for name, known in ((retriever, RETRIEVERS), (feedback, FEEDBACKS)):
        if name is not None and name not in known:
            raise ConfigurationError(f"{name!r} is none of {', '.join(known)}.")
    if retriever in (None, "default") and feedback is None:
        return store  # the graphs search a store by the default
    if retriever == "words":
        if feedback not in (None, "none"):
            raise ConfigurationError("The retriever 'words' takes no feedback; use 'hybrid' or 'vectors'.")
        return _words_of(store)
    hybrid = retriever != "vectors"
    first: Any = retrievers.HybridRetriever(store) if hybrid else store
    if feedback in (None, "none"):
        return first if hybrid else store.as_retriever()
    methods: dict[str, Any] = {
        "links": retrievers.LinkFeedback,
        "bridge": retrievers.BridgeFeedback,
        "rocchio": lambda: retrievers.VectorFeedback("rocchio"),
        "average": lambda: retrievers.VectorFeedback("average"),
    }
    method = methods[feedback]() if feedback in methods else retrievers.TextFeedback(feedback)  # type: ignore[arg-type]
    return retrievers.FeedbackRetriever(first, method)


def _words_of(store: FaissStore) -> Any:
    def search(query: str, k: int = 5) -> list[Any]:
        return [document for document, _ in store.lexical.search(query, k)]

    return search


def _elsewhere(name: str) -> bool:
    return _ELSEWHERE.fullmatch(name) is not None and not Path(name).exists()


def _answering(model: LanguageModel, name: str) -> LanguageModel:
    """`model`, after it was greeted: a wrong name, key or address shows here, not after an hour's work."""
    try:
        model.sample([Prompt((("user", "Say OK."),))], 1, SamplingParams(max_tokens=16, temperature=0.0))
    except Exception as error:
        raise ConfigurationError(
            f"The model {name!r} does not answer: {_said(error)} Check its name, its key and whether its "
            "server runs."
        ) from error
    return model


def _said(error: Exception) -> str:
    """The first line of an error, as a sentence."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else f"{line}."
