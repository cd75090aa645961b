"""Embeddings from any sentence-transformers model, on this machine."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers.splitting import Measure
from agentprm.text import clean_text

__all__ = ["SentenceTransformerEmbeddings", "token_measure"]

# A chunk that begins or ends within a word may have more tokens than the text had there.
_MARGIN = 2

_logger = logging.getLogger(__name__)


class SentenceTransformerEmbeddings(Embeddings):
    """LangChain embeddings on sentence-transformers, loaded at first use.

    Prompts for queries and documents that the model declares are applied. Code that comes with a
    model is never run.

    Args:
        model_name: A name on the model hub, or the path of a model folder.
        batch_size: Texts per forward pass.
        normalize: Whether vectors get unit length.
        device: A torch device such as `cpu` or `cuda`; `None` picks one.
        local_files_only: Never ask the hub; the model must be a folder or in the hub's cache.

    Example:
        >>> embeddings = SentenceTransformerEmbeddings("path/of/a/model")
        >>> vector = embeddings.embed_query("a question")  # doctest: +SKIP
    """

    def __init__(
        self,
        model_name: str,
        *,
        batch_size: int = 64,
        normalize: bool = True,
        device: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ConfigurationError(f"batch_size must be at least 1, not {batch_size}.")
        self.model_name = model_name
        self._options = {"batch_size": batch_size, "normalize_embeddings": normalize}
        self._device = device
        self._local_files_only = local_files_only
        self._lock = ForkSafeLock()
        self._model: Any = None
        self._measure: Measure | None = None
        self._told = False

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of passages, one for each text (n x d, float32 values).

        A model reads a limited number of tokens of each text. The first time that it does not read a text
        to its end, a warning says so.
        """
        valid = [clean_text(text) for text in texts]
        self._tell_cuts(valid)
        return self._encode("encode_document", valid)

    def embed_query(self, text: str) -> list[float]:
        """Vector of a query (d)."""
        return self.embed_queries([text])[0]

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        """Vectors of queries, batched (n x d)."""
        return self._encode("encode_query", [clean_text(text) for text in texts])

    def _tell_cuts(self, texts: list[str]) -> None:
        measure = None if self._told or not texts else self.measure()
        if measure is None:
            return
        counts = measure.counts(texts)
        if any(count > measure.limit for count in counts):
            self._told = True
            _logger.warning(
                "%d of %d texts are longer than the %d tokens that %s reads, up to %d: "
                "their ends do not count in a search by vectors. Have them split: load_folder(..., "
                "embeddings=embeddings).",
                sum(count > measure.limit for count in counts),
                len(texts),
                measure.limit,
                self.model_name,
                max(counts),
            )

    def measure(self) -> Measure | None:
        """How the model's tokens are counted, and how many it reads; `None` if it does not tell."""
        self._load()
        return self._measure

    def _encode(self, method: str, texts: list[str]) -> list[list[float]]:
        if not texts:
            return []
        encode = getattr(self._load(), method)
        vectors = encode(texts, convert_to_numpy=True, show_progress_bar=False, **self._options)
        rows: list[list[float]] = vectors.astype("float32").tolist()
        return rows

    def _load(self) -> Any:
        with self._lock:
            if self._model is None:
                try:
                    from sentence_transformers import SentenceTransformer
                except ImportError:
                    raise MissingDependencyError.for_extra("sentence-transformers", "transformers") from None
                try:
                    self._model = SentenceTransformer(
                        self.model_name,
                        device=self._device,
                        local_files_only=self._local_files_only,
                        trust_remote_code=False,
                    )
                except (OSError, ValueError) as error:
                    raise ConfigurationError(
                        f"The embedding model {self.model_name!r} cannot be loaded ({error}): "
                        "check its name or path, or the connection to the model hub."
                    ) from error
                self._measure = _measure_of(self._model)
            return self._model


def token_measure(embeddings: Embeddings) -> Measure | None:
    """How many tokens of a passage a model reads, and how it counts them; `None` if it does not tell.

    Models of sentence-transformers tell, also behind LangChain's `HuggingFaceEmbeddings`.

    Args:
        embeddings: Any embeddings of LangChain.
    """
    if isinstance(embeddings, SentenceTransformerEmbeddings):
        return embeddings.measure()
    return _measure_of(getattr(embeddings, "_client", None) or getattr(embeddings, "client", None))


def _measure_of(model: Any) -> Measure | None:
    tokenizer: Any = getattr(model, "tokenizer", None)
    longest = getattr(model, "max_seq_length", None)
    if not getattr(tokenizer, "is_fast", False) or not isinstance(longest, int):
        return None
    prompts = getattr(model, "prompts", None) or {}
    prompt = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    limit = longest - len(tokenizer(prompt)["input_ids"]) - _MARGIN
    # A copy: the model's own is set to cut, and must stay so while other threads embed.
    counter = copy.deepcopy(tokenizer.backend_tokenizer)
    counter.no_truncation()
    counter.no_padding()

    def starts(text: str) -> Sequence[int]:
        return [start for start, _ in counter.encode(text, add_special_tokens=False).offsets]

    return Measure(limit, starts) if limit > 0 else None
