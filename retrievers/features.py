"""PromptPRF: query-independent features of passages, extracted offline by a language model.

Keywords, entities, a summary or a short essay of each passage are written once, stored in a file
beside the index, and used at query time as feedback text or as feedback vectors (arXiv 2503.14887;
the prompts here are ours).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.replies import without_thought
from agentprm.retrievers.feedback import Merge, rocchio
from agentprm.retrievers.selectors import Selection, TopSelector
from agentprm.retrievers.vectors import FloatArray, RankedList, VectorIndex
from agentprm.text import clean_text

__all__ = ["FEATURE_PROMPTS", "FeatureFeedback", "FeatureStore", "extract_features"]

_logger = logging.getLogger(__name__)

FEATURE_PROMPTS: dict[str, str] = {
    "keywords": "List the ten most important keywords of this passage, separated by commas.\n\n{passage}",
    "entities": "List the people, places, works and organisations named in this passage, separated by "
    "commas.\n\n{passage}",
    "summary": "Summarise this passage in one or two sentences.\n\n{passage}",
    "essay": "Write a short essay of about 80 words on the subject of this passage.\n\n{passage}",
}
"""Prompts by kind of feature; `{passage}` stands for the passage's text."""


class FeatureStore:
    """Features of passages in a SQLite file, found again by the passage's text.

    Args:
        path: The file; made when missing.

    Raises:
        IndexCorruptError: The file is no feature store.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS features (passage TEXT, kind TEXT, feature TEXT, "
                    "PRIMARY KEY (passage, kind))"
                )
        except sqlite3.DatabaseError as error:
            raise IndexCorruptError(f"{self._path} is no feature store ({error}); remove it.") from None

    def get(self, texts: Sequence[str], kind: str) -> list[str | None]:
        """Feature of each passage, `None` where there is none."""
        sql = "SELECT feature FROM features WHERE passage = ? AND kind = ?"
        with closing(self._connect()) as connection:
            rows = [connection.execute(sql, (_digest(text), kind)).fetchone() for text in texts]
        return [str(row[0]) if row else None for row in rows]

    def put(self, texts: Sequence[str], kind: str, features: Sequence[str]) -> None:
        """Stores features, all or none."""
        rows = [(_digest(text), kind, _text(feature)) for text, feature in zip(texts, features, strict=True)]
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=30)


def extract_features(
    documents: Iterable[Document],
    generate: Callable[[list[str]], Sequence[str]],
    store: FeatureStore,
    *,
    kinds: Sequence[str] = ("keywords",),
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes the features of documents that have none yet; a run that was killed goes on from there.

    Args:
        documents: The passages.
        generate: Gives one answer for each prompt, for instance
            `lambda prompts: [m.text for m in chat_model.batch(prompts)]`.
        store: Where the features go.
        kinds: Keys of `FEATURE_PROMPTS`.
        batch_size: Prompts per call of `generate`, and features per commit.
        progress: Called after each batch with the passages seen and the features written.

    Returns:
        How many features were written. Thinking is left out; an empty answer is stored as such and not
        asked for again.

    Raises:
        ConfigurationError: A kind is unknown, or `generate` gives another number of answers.
    """
    unknown = [kind for kind in kinds if kind not in FEATURE_PROMPTS]
    if unknown or not kinds or batch_size < 1:
        raise ConfigurationError(
            f"kinds must be among {', '.join(FEATURE_PROMPTS)} and batch_size at least 1, "
            f"not {list(kinds)} and {batch_size}."
        )
    seen = written = 0
    iterator = iter(documents)
    while batch := [document.page_content for document in islice(iterator, batch_size)]:
        for kind in kinds:
            known = store.get(batch, kind)
            todo = [t for t, f in zip(batch, known, strict=True) if f is None]
            texts = list(dict.fromkeys(todo))
            if not texts:
                continue
            answers = generate([FEATURE_PROMPTS[kind].replace("{passage}", text) for text in texts])
            if len(answers) != len(texts):
                raise ConfigurationError(f"generate gave {len(answers)} answers for {len(texts)} prompts.")
            store.put(texts, kind, [without_thought(str(answer)).strip() for answer in answers])
            written += len(texts)
        seen += len(batch)
        if progress is not None:
            progress(seen, written)
    return written


class FeatureFeedback:
    """Feedback with stored features instead of whole passages.

    Args:
        features: The features.
        kind: Which of them.
        mode: `text` embeds query and features as one text; `vectors` embeds each feature and moves the
            query's vector, the feature of rank r with weight 1 / log2(r + 1).
        alpha: With `vectors`, the weight of the query; the features get the rest.
    """

    merge: Merge = "rrf"

    def __init__(
        self,
        features: FeatureStore,
        kind: str = "keywords",
        *,
        mode: Literal["text", "vectors"] = "vectors",
        alpha: float = 0.7,
    ) -> None:
        if mode not in ("text", "vectors") or not 0 <= alpha <= 1:
            raise ConfigurationError(
                f"mode must be 'text' or 'vectors' and alpha lie in [0, 1], not {mode!r} and {alpha}."
            )
        self._features = features
        self._kind = kind
        self._mode = mode
        self._alpha = alpha

    def expand(
        self,
        query: str,
        vector: FloatArray,
        hits: RankedList,
        index: VectorIndex,
        *,
        k: int,
        selection: Selection | None = None,
        filter: Any = None,
    ) -> list[tuple[Document, float]]:
        """Second list; see `FeedbackMethod`. Passages without a feature are passed over."""
        chosen = selection or TopSelector().select(query, hits)
        found = self._features.get([hits[p][0].page_content for p in chosen.positives], self._kind)
        ranked = [(rank, text) for rank, text in enumerate(found, 1) if text]
        if not ranked:
            _logger.warning("No %s are stored for the feedback passages; the first list stands.", self._kind)
            return list(hits)
        if self._mode == "text":
            moved = index.embed_query(" ".join([query, *(text for _, text in ranked)]))
        else:
            vectors = np.vstack([index.embed_query(text) for _, text in ranked])
            weights = [1 / np.log2(rank + 1) for rank, _ in ranked]
            moved = rocchio(vector, vectors, None, self._alpha, 1 - self._alpha, weights=weights)
        return index.search_vectors(moved[None, :], k, filter)[0]


def _text(feature: Any) -> str:
    if not isinstance(feature, str):
        raise InputError(f"A feature is a {type(feature).__name__} and not a string.")
    return clean_text(feature)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
