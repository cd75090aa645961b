"""Defects of the FAISS store in langchain-community, one test each: ours does not have them."""

from __future__ import annotations

import numpy as np
import pytest

from agentprm.retrievers import FaissStore


def fill(store, vectors, count=200):
    ids = [f"d{i}" for i in range(count)]
    store.add_embeddings(
        [f"t{i}" for i in range(count)], vectors[:count], [{"n": i} for i in range(count)], ids=ids
    )
    return store


def test_no_pickle_and_no_flag_to_load(tmp_path, embedding, vectors):
    fill(FaissStore(embedding), vectors).save(tmp_path)
    for path in tmp_path.rglob("*"):
        assert path.suffix not in (".pkl", ".pickle")
        assert path.is_dir() or not path.read_bytes().startswith(b"\x80")
    FaissStore.load(tmp_path, embedding)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_metric_is_saved(tmp_path, embedding, vectors, metric):
    store = fill(FaissStore(embedding, metric=metric), vectors * 2)
    store.save(tmp_path)
    loaded = FaissStore.load(tmp_path, embedding)
    assert loaded.metric == metric
    assert loaded.search_vectors(vectors[:3], 5) == store.search_vectors(vectors[:3], 5)


def test_l2_scores_are_distances_and_not_their_squares(embedding, vectors):
    hit = fill(FaissStore(embedding, metric="l2"), vectors).search_hits(vectors[:1] + 0.5, 1)[0][0]
    found = vectors[int(hit.document.id[1:])]
    assert hit.distance == pytest.approx(float(np.linalg.norm(found - vectors[0] - 0.5)), rel=1e-4)
    assert hit.score == -hit.distance


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_the_exact_match_is_the_most_relevant(embedding, vectors, metric):
    store = fill(
        FaissStore(embedding, metric=metric), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    )
    relevance = store._select_relevance_score_fn()
    found = store.search_vectors(store.vectors_for(["d9"]), 200)[0]
    assert found[0][0].id == "d9"
    values = [relevance(score) for _, score in found]
    assert values == sorted(values, reverse=True)
    assert 0 <= values[-1] < values[0] <= 1


def test_cosine_ignores_lengths(embedding, vectors):
    scaled = vectors[:200] * np.linspace(0.1, 9, 200)[:, None].astype(np.float32)
    plain, other = fill(FaissStore(embedding), vectors), fill(FaissStore(embedding), scaled)
    for row, scaled_row in zip(
        plain.search_vectors(vectors[:9], 5), other.search_vectors(vectors[:9], 5), strict=True
    ):
        assert [d.id for d, _ in row] == [d.id for d, _ in scaled_row]


def test_filters_find_what_lies_far_down_the_list(embedding, vectors):
    store = fill(FaissStore(embedding), vectors)
    worst = [d.id for d, _ in store.search_vectors(vectors[:1], 200)[0][-4:]]
    found = store.search_vectors(vectors[:1], 4, lambda d: d.id in worst)[0]
    assert {d.id for d, _ in found} == set(worst)
    assert len(store.search_vectors(vectors[:1], 50, lambda d: True)[0]) == 50


def test_mmr_with_a_filter_ranks_by_the_right_vectors(embedding, vectors):
    store = fill(FaissStore(embedding), vectors)
    only = {"n": {"$gte": 100}}
    for lambda_mult in (1.0, 0.5):
        found = store.max_marginal_relevance_search_by_vector(
            vectors[0].tolist(), k=5, fetch_k=50, lambda_mult=lambda_mult, filter=only
        )
        assert all(d.metadata["n"] >= 100 for d in found)
        assert found[0].id == store.search_vectors(vectors[:1], 1, only)[0][0][0].id
    nearest = store.search_vectors(vectors[:1], 5, only)[0]
    plain = store.max_marginal_relevance_search_by_vector(vectors[0].tolist(), 5, 50, 1.0, only)
    assert [d.id for d in plain] == [d.id for d, _ in nearest]


def test_adding_an_existing_id_replaces_it(embedding, vectors):
    store = fill(FaissStore(embedding), vectors)
    store.add_embeddings(["new"], vectors[300:301], ids=["d5"])
    assert len(store) == 200
    assert store.search_vectors(vectors[300:301], 1)[0][0][0].page_content == "new"
    assert all(len(row) == 200 for row in store.search_vectors(vectors[:2], 500))


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16", "SQ8", "IVF8,PQ2x4", "HNSW16_SQ8"])
def test_after_a_delete_every_hit_is_still_the_right_document(embedding, vectors, factory):
    store = fill(FaissStore(embedding, factory=factory, nprobe=8), vectors)
    store.delete([f"d{i}" for i in range(0, 100, 3)])
    for i in (1, 50, 101, 150, 199):
        document = store.search_vectors(vectors[i : i + 1], 1)[0][0][0]
        assert (document.id, document.metadata["n"]) == (f"d{i}", i)
    assert len(store.max_marginal_relevance_search_by_vector(vectors[1].tolist(), k=3)) == 3
    assert len(store.vectors_for(["d1"])) == 1


def test_many_queries_in_one_call(embedding, vectors):
    store = fill(FaissStore(embedding), vectors)
    queries = [f"query {i}" for i in range(30)]
    for query, row in zip(queries, store.search_batch(queries, 3), strict=True):
        single = store.similarity_search_with_score(query, 3)
        assert [d for d, _ in row] == [d for d, _ in single]
        assert [s for _, s in row] == pytest.approx([s for _, s in single], abs=1e-5)
