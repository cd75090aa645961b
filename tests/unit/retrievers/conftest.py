from __future__ import annotations

import hashlib

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings


class HashEmbeddings(Embeddings):
    """A deterministic random direction for each text: similar only to itself."""

    def __init__(self, size: int = 16, salt: str = "", model_name: str = "hash") -> None:
        self.size, self.salt, self.model_name = size, salt, model_name

    def embed_query(self, text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256((self.salt + text).encode()).digest()[:8])
        return np.random.default_rng(seed).normal(size=self.size).astype(np.float32).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


@pytest.fixture
def embedding() -> HashEmbeddings:
    return HashEmbeddings()


@pytest.fixture
def make_embedding() -> type[HashEmbeddings]:
    return HashEmbeddings


def clustered(rows: int, size: int = 16, centres: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(centres, size))
    return (middle[rng.integers(centres, size=rows)] + 0.4 * rng.normal(size=(rows, size))).astype(np.float32)


@pytest.fixture
def vectors() -> np.ndarray:
    return clustered(600)
