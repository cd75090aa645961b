"""LangChain's own test suite for vector stores, on each kind of FAISS index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from agentprm.retrievers import FaissStore


class Suite(VectorStoreIntegrationTests):
    factory = ""

    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        return FaissStore(self.get_embeddings(), factory=self.factory)


class TestFlat(Suite):
    factory = "Flat"


class TestIvf(Suite):
    factory = "IVF1,Flat"


class TestHnsw(Suite):
    factory = "HNSW8"


class TestScalarQuantizer(Suite):
    factory = "SQ8"


class TestProductQuantizerTrainedBefore(Suite):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:
        store = FaissStore(self.get_embeddings(), factory="IVF4,PQ2x4")
        store.train(np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
        return store


del Suite
