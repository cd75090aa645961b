"""Fake embeddings, a fake store and a fake reward: deterministic, and sensible enough to search with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.budget import record
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import ProcessRewardModel, RewardStep, Trajectory
from agentprm.text import terms

__all__ = ["FakeEmbeddings", "FakeReward", "fake_store"]


class FakeEmbeddings(Embeddings):
    """Hashed bags of words: texts that share words are near, so that search finds what one expects.

    Args:
        dimension: Length of the vectors.
    """

    def __init__(self, dimension: int = 256) -> None:
        self.dimension = dimension
        self.model_name = f"agentprm-fake-{dimension}"

    def embed_query(self, text: str) -> list[float]:
        """Unit vector of the text's words."""
        vector = [0.0] * self.dimension
        for word in set(terms(text)):
            if len(word) > 2 or not word.isascii():
                digest = hashlib.sha256(word.encode()).digest()
                vector[int.from_bytes(digest[:4], "big") % self.dimension] += 1.0
        norm = math.sqrt(sum(x * x for x in vector))
        return [x / norm for x in vector] if norm else [1.0, *vector[1:]]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of several texts."""
        return [self.embed_query(text) for text in texts]


def fake_store(passages: Sequence[str | Document]) -> Any:
    """A `FaissStore` over `passages` with fake embeddings; strings get the ids `d1`, `d2`, …"""
    from agentprm.retrievers import FaissStore

    documents = [
        passage if isinstance(passage, Document) else Document(id=f"d{i}", page_content=passage)
        for i, passage in enumerate(passages, 1)
    ]
    return FaissStore.from_documents(documents, FakeEmbeddings())


class FakeReward(ProcessRewardModel):
    """Scores steps by a function, .5 by default, and counts what it scored.

    Args:
        function: From the question and a trajectory's prefix to the score of its last step.
    """

    def __init__(self, function: Callable[[str, Sequence[RewardStep]], float] | None = None) -> None:
        self.function = function or (lambda question, prefix: 0.5)
        self.calls = 0
        self._lock = ForkSafeLock()

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        with self._lock:
            self.calls += len(trajectories)
        record(reward_calls=len(trajectories))
        return [
            [float(self.function(question, list(t[: i + 1]))) for i in range(len(t))] for t in trajectories
        ]
