from __future__ import annotations

import numpy as np
import pytest
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.retrievers import FaissStore, ShardedFaissStore


class TestStandardSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return ShardedFaissStore(self.get_embeddings(), shards=3)


def fill(store, vectors):
    ids = [f"id{i}" for i in range(len(vectors))]
    store.add_embeddings(
        [f"t{i}" for i in range(len(vectors))], vectors, [{"n": i} for i in range(600)], ids=ids
    )
    return store


def test_shards_answer_like_one_store(tmp_path, embedding, vectors):
    one = fill(FaissStore(embedding, metric="l2"), vectors)
    many = fill(ShardedFaissStore(embedding, shards=5, metric="l2"), vectors)
    assert sum(len(s) > 0 for s in many.shards) == 5
    for store in (one, many):
        store.delete(["id3", "id77"])
    spec = {"n": {"$gte": 50}}
    many.save(tmp_path)
    loaded = ShardedFaissStore.load(tmp_path, embedding)
    for store in (many, loaded):
        assert len(store) == 598
        for filter in (None, spec):
            mine = store.search_vectors(vectors[:15], k=9, filter=filter)
            theirs = one.search_vectors(vectors[:15], k=9, filter=filter)
            assert [[d for d, _ in row] for row in mine] == [[d for d, _ in row] for row in theirs]
        ids = ["id9", "id1", "id500"]
        np.testing.assert_array_equal(store.vectors_for(ids), one.vectors_for(ids))
        assert store.get_by_ids([*ids, "none"]) == one.get_by_ids(ids)
    assert {d.id for d in loaded} == {d.id for d in one}
    many.delete()
    assert len(many) == 0


def test_mistakes(tmp_path, embedding, vectors):
    with pytest.raises(ConfigurationError):
        ShardedFaissStore(embedding, shards=0)
    with pytest.raises(InputError):
        ShardedFaissStore.load(tmp_path / "none", embedding)
    with pytest.raises(IndexCorruptError):
        ShardedFaissStore.load(tmp_path, embedding)
    fill(ShardedFaissStore(embedding, shards=2), vectors).save(tmp_path)
    with pytest.raises(ConfigurationError, match="another folder"):
        ShardedFaissStore(embedding, shards=3).save(tmp_path)
    with pytest.raises(InputError):
        ShardedFaissStore.load(tmp_path, embedding).vectors_for(["nobody"])
