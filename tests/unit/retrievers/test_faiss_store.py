from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, IndexMismatchError, InputError
from agentprm.retrievers import FaissStore, VectorIndex

FACTORIES = ["Flat", "IVF8,Flat", "HNSW16", "SQ8", "IVF8,SQ8", "PQ2x4", "PCA8,IVF4,Flat", "RaBitQ"]
EXACT = ["Flat", "IVF8,Flat", "SQ8"]


def build(embedding, vectors, factory="Flat", metric="cosine", **options):
    store = FaissStore(embedding, factory=factory, metric=metric, nprobe=64, **options)
    texts = [f"text {i}" for i in range(len(vectors))]
    metadatas = [{"n": i, "even": i % 2 == 0} for i in range(len(vectors))]
    store.add_embeddings(texts, vectors, metadatas, ids=[str(i) for i in range(len(vectors))])
    return store


def oracle(vectors, query, metric):
    if metric == "cosine":
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit @ (query / np.linalg.norm(query))
    if metric == "ip":
        return vectors @ query
    return -np.linalg.norm(vectors - query, axis=1)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("queries", [1, 30])
@pytest.mark.parametrize("factory", EXACT)
def test_search_equals_brute_force(embedding, vectors, metric, queries, factory):
    store = build(embedding, vectors, factory, metric)
    batch = vectors[:queries] + 0.1
    for query, found in zip(batch, store.search_vectors(batch, k=7), strict=True):
        truth = oracle(vectors, query, metric)
        best = np.argsort(-truth, kind="stable")[:7]
        if factory != "SQ8":
            assert [d.id for d, _ in found] == [str(i) for i in best]
        for document, score in found:
            assert type(score) is float
            assert score == pytest.approx(truth[int(document.id)], abs=2e-4)
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_index_type_survives_updates(embedding, vectors, factory):
    store = build(embedding, vectors, factory)
    gone = [str(i) for i in range(0, 300, 2)]
    store.delete(gone)
    store.add_embeddings(["new"], vectors[:1], ids=["0"])
    store.add_embeddings(["other"], vectors[5:6], [{"v": 2}], ids=["5"])
    assert len(store) == 600 - 150 + 1
    found = store.search_vectors(vectors, k=3)
    assert not {d.id for row in found for d, _ in row} & set(gone[1:])
    for i in [1, 5, 301, 455]:
        assert found[i][0][0].id == str(i)
    assert store.get_by_ids(["0", "2", "5"])[0].page_content == "new"
    assert store.get_by_ids(["5"])[0].metadata == {"v": 2}
    store.compact()
    again = store.search_vectors(vectors, k=3)
    assert np.mean([a[0][0].id == b[0][0].id for a, b in zip(found, again, strict=True)]) > 0.85
    assert again[455][0][0].id == "455"
    np.testing.assert_allclose(
        store.vectors_for(["7"])[0], vectors[7] / np.linalg.norm(vectors[7]), atol=1e-6
    )


@pytest.mark.parametrize("factory", FACTORIES)
def test_filters_always_find_what_matches(embedding, vectors, factory):
    store = build(embedding, vectors, factory)
    for spec, wanted in [
        ({"n": {"$in": [3, 77, 599]}}, {3, 77, 599}),
        ({"n": {"$lt": 4}}, {0, 1, 2, 3}),
        (lambda d: d.metadata["n"] % 100 == 5, {5, 105, 205, 305, 405, 505}),
        ({"$and": [{"even": True}, {"n": {"$gte": 594}}]}, {594, 596, 598}),
        ({"n": -1}, set()),
    ]:
        found = store.search_vectors(vectors[:12], k=10, filter=spec)
        assert all({d.metadata["n"] for d, _ in row} == wanted for row in found)
    half = store.search_vectors(vectors[:20], k=20, filter={"even": True})
    assert all(len(row) == 20 and all(d.metadata["even"] for d, _ in row) for row in half)
    store.delete([str(i) for i in range(0, 600, 2)])
    assert store.search_vectors(vectors[:1], k=5, filter={"even": True}) == [[]]


def test_hit_has_the_raw_distance(embedding, vectors):
    query = vectors[:1] + 0.3
    for metric in ("cosine", "ip", "l2"):
        hit = build(embedding, vectors, metric=metric).search_hits(query, 1)[0][0]
        assert hit.distance == pytest.approx(1 - hit.score if metric == "cosine" else -hit.score)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_relevance_is_monotone_and_bounded(embedding, vectors, metric):
    store = build(embedding, vectors * 3, metric=metric)
    rows = store.similarity_search_with_relevance_scores("anything", k=600)
    relevances = [r for _, r in rows]
    assert len(rows) == 600
    assert all(0 <= r <= 1 for r in relevances)
    assert relevances == sorted(relevances, reverse=True)


def test_exact_text_has_relevance_one(embedding):
    store = FaissStore.from_texts(["a", "b", "c"], embedding)
    assert store.similarity_search_with_relevance_scores("b", k=1)[0][1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_store_does_not_see_what_becomes_of_the_array_it_was_given(embedding, vectors, metric):
    given = vectors.copy()
    store = build(embedding, given, metric=metric)
    kept = store.vectors_for(["0", "599"])
    given[:] = 0
    np.testing.assert_array_equal(store.vectors_for(["0", "599"]), kept)
    store.add_embeddings(["more"], given[:1], ids=["more"])
    np.testing.assert_array_equal(store.vectors_for(["0", "599", "more"]), [*kept, given[0]])


@pytest.mark.parametrize("factory", ["Flat", "HNSW16"])
def test_what_is_remembered_of_a_filter_follows_every_change(tmp_path, embedding, vectors, factory):
    rng = np.random.default_rng(0)
    store = build(embedding, vectors[:60], factory)
    spec = {"n": {"$lt": 40}}
    for step in range(60):
        names = [str(i) for i in rng.integers(60, size=3)]
        work = step % 6
        if work in (0, 1):
            store.delete(names)
        elif work in (2, 3):
            numbers = rng.integers(80, size=3)
            store.add_embeddings(names, vectors[numbers], [{"n": int(n)} for n in numbers], ids=names)
        elif work == 4 and step % 12 == 4:
            store.compact()
        elif work == 5 and step % 12 == 5:
            store.save(tmp_path)
            store = FaissStore.load(tmp_path, embedding)
        for test in (spec, None):
            expected = {d.id for d in store if test is None or d.metadata["n"] < 40}
            assert {d.id for d, _ in store.search_vectors(vectors[:1], 100, test)[0]} == expected
    store.delete()
    assert store.search_vectors(vectors[:1], 100, spec) == [[]]


@pytest.mark.parametrize("saved", [False, True])
def test_after_a_change_a_filter_reads_what_has_changed(tmp_path, embedding, vectors, monkeypatch, saved):
    store = build(embedding, vectors)
    if saved:
        store.save(tmp_path)
        store = FaissStore.load(tmp_path, embedding)
    store.search_vectors(vectors[:1], 1, {"n": 7})
    store.delete(["1", "2"])
    store.add_embeddings(["a", "b", "c"], vectors[:3], [{"n": 7}] * 3, ids=["0", "a", "b"])
    read = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: read.append(text) or loads(text, **options))
    found = store.search_vectors(vectors[:1], 9, {"n": 7})[0]
    assert {d.id for d, _ in found} == {"0", "a", "b", "7"}
    assert len(read) == 3 + len(found)


def test_upsert_and_duplicates_in_one_call(embedding):
    store = FaissStore(embedding)
    assert store.add_texts(["a", "b", "c"], ids=["1", "2", "1"]) == ["1", "2", "1"]
    assert len(store) == 2
    assert store.get_by_ids(["1"])[0].page_content == "c"
    assert [d.id for d in store] == ["2", "1"]
    assert store.add_documents([Document(page_content="x"), Document(page_content="y", id="own")])[1] == "own"
    assert all(d.id for d in store)


def test_metadata_is_plain_and_never_shared(embedding):
    given = {"score": np.float32(0.5), "n": np.int64(3), "list": (1, 2), "array": np.arange(2), "none": None}
    store = FaissStore.from_texts(["a"], embedding, [given], ids=["1"])
    found = store.similarity_search("a", k=1)[0]
    assert found.metadata == {"score": 0.5, "n": 3, "list": [1, 2], "array": [0, 1], "none": None}
    assert [type(v) for v in found.metadata.values()] == [float, int, list, list, type(None)]
    found.metadata["list"].append(3)
    rows = store.search_batch(["a", "a"], k=1)
    rows[0][0][0].metadata["n"] = 0
    assert rows[1][0][0].metadata["n"] == 3
    assert store.get_by_ids(["1"])[0].metadata["list"] == [1, 2]
    json.dumps(store.get_by_ids(["1"])[0].metadata)


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({"bad": object()}, "bad"),
        ({"a": {"b": {1, 2}}}, "'b'"),
        ({1: "x"}, "1"),
        ({"n": [10**30]}, "64 bits"),
    ],
)
def test_metadata_that_cannot_be_stored_is_refused(embedding, metadata, named):
    store = FaissStore.from_texts(["old"], embedding, ids=["1"])
    # A store takes plain metadata only; a Document may carry anything.
    with pytest.raises(InputError, match=named):
        store.add_texts(["new"], [metadata], ids=["1"])
    assert store.get_by_ids(["1"])[0].page_content == "old"


def test_bad_arguments(embedding, vectors):
    store = build(embedding, vectors)
    for broken in (
        lambda: store.search_vectors(vectors[:1], k=0),
        lambda: FaissStore(embedding, metric="dot"),
        lambda: FaissStore(embedding, nprobe=0),
        lambda: FaissStore(embedding, factory="Flut").add_texts(["a"]),
        lambda: store.similarity_search("x", filter={"a": {"$near": 1}}),
        lambda: store.similarity_search("x", filter="a"),
    ):
        with pytest.raises(ConfigurationError):
            broken()
    with pytest.raises(IndexMismatchError, match="16"):
        store.search_vectors(vectors[:, :8], k=1)
    with pytest.raises(IndexMismatchError):
        store.add_embeddings(["a"], vectors[:1, :8])
    for broken in (
        lambda: store.add_texts(["a", "b"], ids=["1"]),
        lambda: store.add_texts(["a"], [{}, {}]),
        lambda: store.add_embeddings(["a"], np.full((1, 16), np.nan)),
        lambda: store.vectors_for(["nobody"]),
    ):
        with pytest.raises(InputError):
            broken()
    assert len(store) == 600


def test_too_few_points_to_train(embedding, vectors):
    store = FaissStore(embedding, factory="IVF8,PQ1x6")
    with pytest.raises(InputError, match="64 documents"):
        store.add_embeddings(["a"] * 60, vectors[:60])
    assert len(store) == 0
    store.train(vectors)
    store.add_embeddings(["a"] * 10, vectors[:10], ids=[str(i) for i in range(10)])
    assert store.search_vectors(vectors[3:4], k=1)[0][0][0].id == "3"


def test_k_beyond_the_store_and_empty_stores(embedding):
    store = FaissStore(embedding)
    assert store.similarity_search("a", k=3) == []
    assert store.max_marginal_relevance_search("a", k=3) == []
    assert store.search_batch([], k=3) == []
    assert bool(store)
    assert len(store) == 0
    store.add_texts(["a", "b"])
    assert len(store.similarity_search("a", k=50)) == 2
    store.delete()
    assert len(store) == 0
    assert store.similarity_search("a", k=3) == []
    store.add_texts(["c"], ids=["c"])
    assert store.similarity_search("zzz", k=3)[0].id == "c"


def test_mmr_prefers_variety_and_obeys_filters(embedding):
    rng = np.random.default_rng(1)
    base = rng.normal(size=16).astype(np.float32)
    near = [base + 0.01 * rng.normal(size=16) for _ in range(10)]
    far = [base + 0.9 * rng.normal(size=16) for _ in range(5)]
    store = FaissStore(embedding)
    store.add_embeddings(
        [str(i) for i in range(15)],
        np.array(near + far, dtype=np.float32),
        [{"kind": "near" if i < 10 else "far"} for i in range(15)],
    )
    kinds = [d.metadata["kind"] for d in store.max_marginal_relevance_search_by_vector(base.tolist(), k=3)]
    assert kinds.count("near") == 1
    only = store.max_marginal_relevance_search_by_vector(base.tolist(), k=20, filter={"kind": "far"})
    assert len(only) == 5


def test_async_twins_agree(embedding, vectors):
    async def both():
        store = build(embedding, vectors)
        await store.aadd_texts(["late"], ids=["late"])
        assert await store.asimilarity_search("late", k=3) == store.similarity_search("late", k=3)
        assert await store.asearch_batch(["late", "b"]) == store.search_batch(["late", "b"])
        assert await store.amax_marginal_relevance_search("q") == store.max_marginal_relevance_search("q")
        assert await store.asimilarity_search_with_relevance_scores(
            "q"
        ) == store.similarity_search_with_relevance_scores("q")
        retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "filter": {"even": True}})
        assert await retriever.ainvoke("late") == retriever.invoke("late")
        await store.adelete(["late"])
        assert await store.aget_by_ids(["late"]) == []
        many = await asyncio.gather(*(store.asimilarity_search(str(i)) for i in range(20)))
        assert many == [store.similarity_search(str(i)) for i in range(20)]

    asyncio.run(both())


def test_is_a_vector_index(embedding, vectors):
    store = build(embedding, vectors)
    assert isinstance(store, VectorIndex)
    assert np.linalg.norm(store.embed_query("q")) == pytest.approx(1, abs=1e-5)
    assert store.vectors_for([]).shape == (0, 16)
    assert store.embeddings is embedding


def test_threads_search_while_others_write(embedding, vectors):
    import threading

    store = build(embedding, vectors)
    errors = []

    def read():
        try:
            for i in range(60):
                for document, _ in store.search_vectors(vectors[i : i + 3], k=5)[0]:
                    assert document.id
        except Exception as error:
            errors.append(error)

    def write():
        for i in range(60):
            store.delete([str(i)])
            store.add_embeddings([f"w{i}"], vectors[i : i + 1], ids=[str(i)])

    threads = [threading.Thread(target=f) for f in (read, read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(store) == 600
