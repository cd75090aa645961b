"""Cross-encoders: models trained to score a query and a passage together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.errors import ConfigurationError, MissingDependencyError, check_least
from agentprm.model_names import model_name
from agentprm.rerank.asking import passage_text
from agentprm.rerank.judging import Assessor
from agentprm.rerank.pointwise import PointwiseReranker

__all__ = ["CrossEncoderReranker"]


class CrossEncoderReranker(PointwiseReranker):
    """Ranks passages by the score of a cross-encoder.

    Args:
        model: LangChain's `BaseCrossEncoder`, a sentence-transformers `CrossEncoder`, or the name or
            folder of one (never with code of its own). One that gives several numbers for a pair, as
            classifiers do, is refused.
        batch_size: Pairs of one forward pass; bounds memory.
        max_chars: Where a passage is cut, besides the model's own limit of tokens.

    Raises:
        MissingDependencyError: For a name or folder without the extra `transformers`.
        ConfigurationError: If the model is none of these, cannot be loaded, or gives several numbers
            for a pair.
    """

    model: Any
    batch_size: int = 32
    max_chars: int = 4000
    _score: Callable[[list[tuple[str, str]]], Sequence[Any]] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_least(1, batch_size=self.batch_size)
        model = _load(str(self.model)) if isinstance(self.model, str | Path) else self.model
        if isinstance(model, BaseCrossEncoder):
            self._score = model.score
        elif callable(getattr(model, "predict", None)):
            self._score = self._predictor(model)
        else:
            raise ConfigurationError(
                f"A {type(model).__name__} is no cross-encoder. Pass LangChain's BaseCrossEncoder, a "
                "sentence-transformers CrossEncoder, or the name or folder of one."
            )
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return "cross-encoder"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""

        def score(documents: list[Document]) -> list[float]:
            pairs = [(query, passage_text(document, self.max_chars)) for document in documents]
            scores = []
            for at in range(0, len(pairs), self.batch_size):
                scores += [_one_number(value) for value in self._score(pairs[at : at + self.batch_size])]
            return scores

        return Assessor(score)

    def _predictor(self, model: Any) -> Callable[[list[tuple[str, str]]], Sequence[Any]]:
        labels = getattr(model, "num_labels", 1)
        if isinstance(labels, int) and labels != 1:
            raise ConfigurationError(
                f"This cross-encoder gives {labels} numbers for a pair; ranking needs one with num_labels=1."
            )

        def predict(pairs: list[tuple[str, str]]) -> Sequence[Any]:
            scores: Sequence[Any] = model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
            return scores

        return predict


def _load(name: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingDependencyError.for_extra("sentence-transformers", "transformers") from error
    name = model_name(name)
    try:
        return CrossEncoder(name, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"The cross-encoder {name!r} cannot be loaded ({error}). Give the name or folder of a "
            "sentence-transformers CrossEncoder or of a sequence classifier with one label."
        ) from error


def _one_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The cross-encoder gave {value!r} for a pair; ranking needs one number for each."
        ) from error
