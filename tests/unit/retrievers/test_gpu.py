"""The path to a GPU, with a stand-in for FAISS's GPU functions: there is no GPU where tests run."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers import FaissStore, ShardedFaissStore
from agentprm.retrievers.gpu import gpu_count


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that are the CPU; gives the devices that were asked for."""
    used = []

    def clone(resources, device, index):
        used.append(device)
        return faiss.clone_index(index)

    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", clone, raising=False)
    return used


def filled(store, vectors):
    names = [f"d{i}" for i in range(len(vectors))]
    store.add_embeddings(names, vectors, [{"n": i} for i in range(len(vectors))], ids=names)
    return store


def ids(rows):
    return [[d.id for d, _ in row] for row in rows]


@pytest.mark.skipif(hasattr(faiss, "StandardGpuResources"), reason="a GPU build of FAISS is installed")
def test_a_cpu_build_says_what_is_missing(embedding, vectors):
    assert gpu_count() == 0
    with pytest.raises(CapabilityError, match="faiss-gpu"):
        filled(FaissStore(embedding), vectors).to_gpu()


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,SQ8"])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_clone_answers_until_the_next_change(embedding, vectors, gpus, factory, metric):
    store = filled(FaissStore(embedding, factory=factory, metric=metric, nprobe=4), vectors)
    before = store.search_vectors(vectors[:20], 5)
    store.to_gpu(1)
    assert gpus == [1]
    clone = store._cores[0]._gpu
    calls = []
    search = clone.search
    clone.search = lambda *a: calls.append(1) or search(*a)
    after = store.search_vectors(vectors[:20], 5)
    assert calls
    assert ids(after) == ids(before)
    np.testing.assert_allclose(
        [[s for _, s in r] for r in after], [[s for _, s in r] for r in before], atol=1e-5
    )
    filtered = store.search_vectors(vectors[:5], 3, {"n": {"$gte": 300}})
    assert len(calls) == 1
    assert all(int(i[1:]) >= 300 for row in ids(filtered) for i in row)
    store.delete(["d0"])
    assert "d0" not in ids(store.search_vectors(vectors[:1], 5))[0]
    assert len(calls) == 1


def test_shards_are_spread_over_the_gpus(embedding, vectors, gpus):
    store = filled(ShardedFaissStore(embedding, shards=3), vectors)
    before = ids(store.search_vectors(vectors[:10], 4))
    store.to_gpu()
    assert gpus == [0, 1, 0]
    assert ids(store.search_vectors(vectors[:10], 4)) == before


def test_mistakes(embedding, vectors, gpus, monkeypatch):
    store = filled(FaissStore(embedding), vectors)
    with pytest.raises(ConfigurationError, match="device"):
        store.to_gpu(-1)

    def refuse(*arguments):
        raise RuntimeError("This index type is not implemented on GPU.")

    monkeypatch.setattr(faiss, "index_cpu_to_gpu", refuse)
    with pytest.raises(CapabilityError, match="not implemented"):
        store.to_gpu()
    assert ids(store.search_vectors(vectors[:1], 1)) == [["d0"]]
    FaissStore(embedding).to_gpu()  # nothing to clone yet
