"""A store's exact search on a GPU gives what the CPU gives; needs a GPU build of FAISS."""

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from agentprm.retrievers import FaissStore
from agentprm.retrievers.gpu import gpu_count

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not gpu_count(), reason="FAISS sees no GPU: the CPU build, or none here")
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("queries", [1, 40])
def test_exact_search(metric, queries):
    vectors = np.random.default_rng(0).standard_normal((5000, 48)).astype("float32")
    names = [f"d{i}" for i in range(len(vectors))]
    store = FaissStore(DeterministicFakeEmbedding(size=48), metric=metric)
    store.add_embeddings(names, vectors, [{} for _ in names], ids=names)
    here = store.search_vectors(vectors[:queries], 10)
    store.to_gpu()
    there = store.search_vectors(vectors[:queries], 10)
    assert [[d.id for d, _ in row] for row in there] == [[d.id for d, _ in row] for row in here]
    scores = [[[s for _, s in row] for row in rows] for rows in (there, here)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)
