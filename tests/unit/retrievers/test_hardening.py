"""Input that no well-behaved caller gives, and what happened with it before."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, IndexCorruptError, InputError
from agentprm.rerank import JudgeSelector
from agentprm.retrievers import FaissStore, LinkFeedback, build_index, fsck
from agentprm.retrievers.filters import signature


@pytest.fixture
def store(embedding):
    made = FaissStore(embedding)
    names = [f"d{i}" for i in range(50)]
    made.add_texts(names, [{"i": i, "tags": [i, i + 1]} for i in range(50)], ids=names)
    return made


@pytest.mark.parametrize(
    "spec", [{1: 2}, {"a": 1, 2: 3}, {"$and": [{3: 4}]}], ids=["number", "mixed", "nested"]
)
def test_filter_keys_are_strings(store, spec):
    with pytest.raises(ConfigurationError, match="not a string"):
        store.similarity_search("d1", filter=spec)


def test_a_filter_that_contains_itself(store):
    spec = {}
    spec["$and"] = [spec]
    with pytest.raises(ConfigurationError, match="contains itself"):
        store.similarity_search("d1", filter=spec)


def test_remembered_filters_are_told_apart_by_type(store):
    """A list equals the stored list, a tuple does not; whichever comes first must not decide for both."""
    count = lambda value: len(store.similarity_search("d1", filter={"tags": value}))  # noqa: E731
    assert [count([1, 2]), count((1, 2)), count([1, 2]), count((1, 2))] == [1, 0, 1, 0]
    assert signature({"a": 1, "b": 2}) == signature({"b": 2, "a": 1})
    assert signature({"a": {"$in": {1, 2}}}) == signature({"a": {"$in": frozenset([2, 1])}})
    different = [{"a": 1}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": (1,)}, {"a": {"b": 1}}, {"a,b": 1}]
    assert len({signature(spec) for spec in different}) == len(different)
    assert signature({"a": object()}) is None


def test_many_threads_with_many_filters(store):
    errors = []

    def search(shift):
        try:
            for i in range(60):
                least = (i * 7 + shift) % 23
                found = store.similarity_search("x", k=50, filter={"i": {"$gt": least}})
                assert len(found) == 49 - least
        except Exception as error:  # whatever it is, it failed
            errors.append(error)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_string_is_no_list(store):
    for call in (store.add_texts, store.delete, store.get_by_ids, store.vectors_for):
        with pytest.raises(InputError, match="must be a list"):
            call("d1")
    assert len(store) == 50


@pytest.mark.parametrize(
    ("texts", "metadatas", "ids", "message"),
    [
        ([1], None, None, "not a string"),
        (["a"], [[1]], None, "not a dictionary"),
        (["a"], None, [""], "empty"),
        (["a"], None, "x", "must be a list"),
    ],
)
def test_malformed_documents(store, texts, metadatas, ids, message):
    with pytest.raises(InputError, match=message):
        store.add_texts(texts, metadatas, ids=ids)
    assert len(store) == 50


def test_metadata_that_is_missing_nested_or_large(store):
    store.add_texts(["a"], [None], ids=["none"])
    assert store.get_by_ids(["none"])[0].metadata == {}
    loop = {}
    loop["loop"] = loop
    with pytest.raises(InputError, match="contains itself"):
        store.add_texts(["a"], [loop])
    many = {f"k{i}": i for i in range(5000)}
    store.add_texts(["a"], [many], ids=["many"])
    assert store.similarity_search("a", filter={"k4999": 4999})[0].metadata == many


def test_ids_of_all_kinds_survive(tmp_path, embedding):
    ids = ["a\0b", "a", "x/../y", "é", "e\u0301", "😀", " ", "\n", "'; DROP TABLE documents; --", "0", "%"]
    store = FaissStore(embedding)
    assert store.add_texts(ids, ids=ids) == ids
    assert store.add_texts(["number"], ids=[7]) == ["7"]
    store.save(tmp_path)
    store = FaissStore.load(tmp_path, embedding)
    assert [d.id for d in store.get_by_ids(ids)] == ids
    assert [store.similarity_search(text, k=1)[0].id for text in ids] == ids
    store.delete(ids[:5])
    assert [d.id for d in store] == [*ids[5:], "7"]


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None, "3"])
def test_k_is_a_count(store, k):
    with pytest.raises(ConfigurationError, match="k must be"):
        store.similarity_search("d1", k=k)


def test_vectors_that_cannot_be_compared(embedding):
    for metric in ("ip", "l2"):
        store = FaissStore(embedding, metric=metric)
        with pytest.raises(InputError, match="overflows"):
            store.add_embeddings(["a"], np.full((1, 16), 1e30, np.float32))
    for rows in ([[1.0, 2.0], [1.0]], [None], [["x"] * 16]):
        with pytest.raises(InputError, match="matrix"):
            FaissStore(embedding).add_embeddings(["a"] * len(rows), rows)
    with pytest.raises(InputError, match="3 vectors for 0 texts"):
        FaissStore(embedding).add_embeddings([], np.ones((3, 16), np.float32))
    store = FaissStore(embedding)
    store.add_embeddings(["zero", "one"], np.array([[0] * 16, [1] * 16], np.float32), ids=["zero", "one"])
    assert {s for _, s in store.search_vectors(np.zeros((1, 16)), 2)[0]} == {0.0}


@pytest.mark.parametrize("factory", ["NSG24", "Flat,IDMap", "IDMap2,SQ8", "HNSW8_SQ8", "PCA8,IVF4,Flat"])
def test_uncommon_indexes_survive_updates(tmp_path, embedding, vectors, factory):
    names = [str(i) for i in range(300)]
    store = FaissStore(embedding, factory=factory, nprobe=4)
    store.add_embeddings(names, vectors[:300], ids=names)
    store.delete(names[:150])
    store.add_embeddings(names[:50], vectors[:50], ids=names[:50])
    store.save(tmp_path)
    for opened in (store, FaissStore.load(tmp_path, embedding, nprobe=4)):
        rows = [*range(50), *range(150, 300)]
        best = [row[0][0].id for row in opened.search_vectors(vectors[rows], 1)]
        assert np.mean([b == str(r) for b, r in zip(best, rows, strict=True)]) > 0.98
        opened.compact()
        assert len(opened.search_vectors(vectors[:1], 1000)[0]) == 200
    assert fsck(tmp_path).clean


def test_what_faiss_refuses_to_add_leaves_the_store_as_it_was(embedding, vectors, monkeypatch):
    store = FaissStore(embedding, factory="HNSW8")
    names = [str(i) for i in range(100)]
    store.add_embeddings(names, vectors[:100], ids=names)
    add = store._cores[0].index.add
    calls = []

    def fail_once(rows):
        calls.append(len(rows))
        if len(calls) == 1:
            add(rows[:3])
            raise RuntimeError("out of memory")
        add(rows)

    monkeypatch.setattr(store._cores[0].index, "add", fail_once)
    with pytest.raises(InputError, match="Nothing was added"):
        store.add_embeddings(["5", "new"], vectors[200:202], ids=["5", "new"])
    assert len(store) == 100
    assert [row[0][0].id for row in store.search_vectors(vectors[:100], 1)] == names


def test_saving_to_a_file(tmp_path, store):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="choose a folder"):
            store.save(path)


def test_titles_are_read_at_first_use_only(tmp_path, embedding, monkeypatch):
    store = FaissStore(embedding)
    store.add_documents([Document(id="a", page_content="x", metadata={"title": "Lund"})])
    assert len(store.mentions) == 1
    store.save(tmp_path)
    first = FaissStore.load(tmp_path, embedding)
    later = FaissStore.load(tmp_path, embedding)
    for _ in range(3):  # their generation is removed meanwhile
        store.add_documents([Document(id="b", page_content="x", metadata={"title": "Oslo"})])
        store.save(tmp_path)
    assert [m.ids for m in first.mentions.find("in Lund and Oslo")] == [("a",)]
    later.add_documents([Document(id="c", page_content="x", metadata={"title": "Rome"})])
    later.save(tmp_path / "copy")
    again = FaissStore.load(tmp_path / "copy", embedding)
    assert [m.ids for m in again.mentions.find("in Lund and Rome")] == [("a",), ("c",)]
    path = next((tmp_path / "copy").rglob("mentions.json"))
    opened = FaissStore.load(tmp_path / "copy", embedding)
    path.write_bytes(path.read_bytes().replace(b"rome", b"oslo"))
    assert not fsck(tmp_path / "copy").clean
    with pytest.raises(IndexCorruptError, match="titles"):
        LinkFeedback().expand(
            "Rome", np.ones(16, np.float32), opened.search_vectors(np.ones((1, 16)))[0], opened, k=3
        )


def test_a_build_keeps_titles_and_refuses_bad_vectors(tmp_path, embedding, make_embedding):
    documents = [
        Document(id=f"d{i}", page_content=f"t{i}", metadata={"title": f"Town {i}"}) for i in range(9)
    ]
    build_index(tmp_path / "a", documents, embedding)
    assert list((tmp_path / "a").rglob("mentions.json"))

    class Broken(make_embedding):
        broken = True

        def embed_documents(self, texts):
            return [[float("nan")] * 16 if self.broken and t == "t5" else self.embed_query(t) for t in texts]

    broken = Broken()
    with pytest.raises(InputError, match="NaN"):
        build_index(tmp_path / "b", documents, broken, batch_size=2)
    broken.broken = False
    assert len(build_index(tmp_path / "b", documents, broken, batch_size=2)) == 9


def test_a_judge_without_a_scale(store):
    hits = store.search_batch(["d1"], k=6)[0]
    scores = [-9.0, -2.0, -8.5, -9.5, -8.0, -9.0]
    selection = JudgeSelector(lambda query, documents: scores, threshold=None).select("d1", hits)
    assert selection.positives == [1]
    assert sorted(selection.negatives) == [0, 2, 3, 4, 5]
    same = JudgeSelector(lambda query, documents: [-1.0] * 6, threshold=None).select("d1", hits)
    assert len(same.positives) == 3
    assert same.negatives == []
