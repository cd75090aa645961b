from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.retrievers import (
    FaissStore,
    FeedbackRetriever,
    LinkFeedback,
    MentionIndex,
    ShardedFaissStore,
    WriterConflictError,
    faiss_store,
    fsck,
)


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
    assert sum(size > 0 for size in many.shard_sizes) == 5
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
    with pytest.raises(InputError, match=r"ShardedFaissStore\.load"):
        FaissStore.load(tmp_path, embedding)
    FaissStore(embedding).save(tmp_path / "single")
    with pytest.raises(InputError, match=r"FaissStore\.load"):
        ShardedFaissStore.load(tmp_path / "single", embedding)
    with pytest.raises(InputError):
        ShardedFaissStore.load(tmp_path, embedding).vectors_for(["nobody"])


def test_a_save_switches_all_shards_or_none(tmp_path, embedding, vectors, monkeypatch):
    store = fill(ShardedFaissStore(embedding, shards=3), vectors)
    store.save(tmp_path)
    original = faiss_store.seal_part
    store.delete([f"id{i}" for i in range(300)])

    def fail(folder, place, write, contents):
        if place == 2:
            raise OSError("disk full")
        return original(folder, place, write, contents)

    monkeypatch.setattr(faiss_store, "seal_part", fail)
    with pytest.raises(OSError, match="disk full"):
        store.save(tmp_path)
    monkeypatch.undo()
    assert len(ShardedFaissStore.load(tmp_path, embedding)) == 600
    assert fsck(tmp_path).clean
    reader = ShardedFaissStore.load(tmp_path, embedding)
    store.save(tmp_path)
    assert len(ShardedFaissStore.load(tmp_path, embedding)) == 300
    assert len(reader) == len(reader.search_vectors(vectors[:1], 600)[0]) == 600
    with pytest.raises(WriterConflictError):
        reader.save(tmp_path)
    assert fsck(tmp_path).documents == 300


def test_damage_in_any_shard_is_found(tmp_path, embedding, vectors):
    fill(ShardedFaissStore(embedding, shards=2, factory="HNSW8"), vectors).save(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in (".lock", "CURRENT")]
    assert len({path.parent for path in files}) == 3
    for path in files:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert not fsck(tmp_path).clean, path
        with pytest.raises(IndexCorruptError):
            ShardedFaissStore.load(tmp_path, embedding)
        path.unlink()
        with pytest.raises(IndexCorruptError):
            ShardedFaissStore.load(tmp_path, embedding)
        path.write_bytes(data)
    assert fsck(tmp_path).documents == 600


def test_trained_once_and_all_or_nothing(embedding, vectors):
    store = ShardedFaissStore(embedding, shards=3, factory="IVF16,Flat", nprobe=16)
    with pytest.raises(InputError, match="at least 16"):
        store.add_embeddings(["t"] * 10, vectors[:10])
    assert len(store) == 0
    fill(store, vectors)
    exact = fill(FaissStore(embedding), vectors)
    mine, theirs = (s.search_vectors(vectors[:30], 5) for s in (store, exact))
    assert [[d.id for d, _ in row] for row in mine] == [[d.id for d, _ in row] for row in theirs]


def passage(name, text, title):
    return Document(id=name, page_content=text, metadata={"title": title})


def test_links_lead_from_shard_to_shard(tmp_path, make_embedding):
    embedding = make_embedding(size=512)
    store = ShardedFaissStore(embedding, shards=4)
    noise = [passage(f"noise{i}", f"Nothing {i}.", f"Noise {i}") for i in range(200)]
    store.add_documents([passage("film", "A film by Ana Bohm.", "The Long Way"), *noise])
    question = "Where was the director of The Long Way born?"
    retriever = FeedbackRetriever(store, LinkFeedback(), k=3)
    assert isinstance(retriever.method, LinkFeedback)
    assert "film" in {d.id for d in retriever.invoke(question)}
    store.add_documents([passage("ana", "Born in Lund.", "Ana Bohm")])
    assert {"film", "ana"} <= {d.id for d in retriever.invoke(question)}
    store.save(tmp_path)
    loaded = ShardedFaissStore.load(tmp_path, embedding)
    loaded.delete(["ana"])
    loaded.add_documents(
        [passage("film", "A film by Eva Lund.", "The Long Way"), passage("eva", "x", "Eva Lund")]
    )
    found = {d.id for d in FeedbackRetriever(loaded, LinkFeedback(), k=3).invoke(question)}
    assert {"film", "eva"} <= found
    assert "ana" not in found
    text = "Ana Bohm, Eva Lund and The Long Way"
    assert loaded.mentions.find(text) == MentionIndex.from_documents(loaded).find(text)
