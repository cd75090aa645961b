from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from agentprm.errors import CapabilityError, ConfigurationError, InputError
from agentprm.rerank import JudgeSelector
from agentprm.retrievers import (
    BridgeFeedback,
    EncoderFeedback,
    FaissStore,
    FeatureFeedback,
    FeatureStore,
    FeedbackRetriever,
    HybridRetriever,
    LinkFeedback,
    MarginSelector,
    MentionIndex,
    SelfSearch,
    TextFeedback,
    TopSelector,
    VectorFeedback,
    VectorIndex,
    average,
    extract_features,
    rocchio,
    vector_index,
)
from agentprm.retrievers.feedback import borda, combine_scores
from agentprm.retrievers.retrieving import rrf, weighted
from agentprm.testing import ScriptedChatModel


@pytest.fixture
def store(embedding, vectors):
    store = FaissStore(embedding)
    store.add_embeddings(
        [f"text {i}" for i in range(100)],
        vectors[:100],
        [{"n": i} for i in range(100)],
        ids=[f"d{i}" for i in range(100)],
    )
    return store


def ids(documents):
    return [d.id for d in documents]


def second_search(store, vector, k=10):
    return [d.id for d, _ in store.search_vectors(vector[None, :], k)[0]]


def test_vector_feedback_equals_the_formulas(store):
    query = store.embed_query("q")
    top = store.vectors_for(ids(store.similarity_search("q", k=3)))
    worst = store.vectors_for(ids(store.similarity_search("q", k=100)[-2:]))
    for method, selector, vector in [
        (VectorFeedback("average"), None, average(query, top)),
        (VectorFeedback(alpha=0.9, beta=0.1), TopSelector(3), rocchio(query, top, alpha=0.9, beta=0.1)),
        (
            VectorFeedback(alpha=0.4, beta=0.6, gamma=0.5),
            TopSelector(3, worst=2),
            rocchio(query, top, worst, 0.4, 0.6, 0.5),
        ),
    ]:
        retriever = FeedbackRetriever(store=store, method=method, selector=selector, merge="replace", k=10)
        assert ids(retriever.invoke("q")) == second_search(store, vector)
        assert ids(asyncio.run(retriever.ainvoke("q"))) == second_search(store, vector)
    twice = FeedbackRetriever(
        store=store, method=VectorFeedback("average", iterations=2), merge="replace", k=10
    )
    once = average(query, top)
    again = average(once, store.vectors_for(second_search(store, once, 3)))
    assert ids(twice.invoke("q")) == second_search(store, again)


def test_merging(store):
    plain = ids(store.similarity_search("q", k=30))
    moved = second_search(store, average(store.embed_query("q"), store.vectors_for(plain[:3])), 100)
    kept = FeedbackRetriever(store=store, method=VectorFeedback("average"), merge="keep", keep=4, k=30)
    assert ids(kept.invoke("q")) == plain[:4] + [i for i in moved if i not in plain[:4]][:26]
    fused = FeedbackRetriever(store=store, method=VectorFeedback("average"), merge="rrf", k=1)
    assert fused.invoke("q")[0].id in {plain[0], moved[0]}


def test_a_list_that_is_kept_costs_no_second_search(store, monkeypatch):
    searches = []
    monkeypatch.setattr(VectorFeedback, "expand", lambda *args, **kwargs: searches.append(1) or [])
    kept = FeedbackRetriever(store, VectorFeedback(), merge="keep", keep=10)
    assert kept.invoke("q", k=10) == store.similarity_search("q", k=10)
    assert not searches
    assert kept.invoke("q", k=11) == store.similarity_search("q", k=11)
    assert searches == [1]


@pytest.mark.parametrize(
    "make", [VectorFeedback, TextFeedback, BridgeFeedback, EncoderFeedback, FeatureFeedback]
)
def test_every_method_acts_on_the_first_hits_and_loses_none_of_them(store, embedding, tmp_path, make):
    features = FeatureStore(tmp_path / "features.sqlite")
    extract_features(store, lambda prompts: [f"of {p[-9:]}" for p in prompts], features)
    own = {EncoderFeedback: [embedding], FeatureFeedback: [features]}.get(make, [])
    retriever = FeedbackRetriever(store, make(*own))
    changed = 0
    for question in map(str, range(30)):
        plain = ids(store.similarity_search(question, k=100))
        changed += ids(retriever.invoke(question)) != plain[:5]
        assert set(plain[:60]) <= set(ids(retriever.invoke(question, k=100)))
    assert changed


class Reranker(BaseDocumentCompressor):
    """Keeps even documents, and says so in the metadata."""

    with_scores: bool = True

    def compress_documents(self, documents, query, callbacks=None):
        even = [d for d in documents if d.metadata["n"] % 2 == 0]
        return [
            Document(
                id=d.id, page_content="", metadata={"rerank": {"score": 1.0}} if self.with_scores else {}
            )
            for d in even
        ]


@pytest.mark.parametrize(
    "judge",
    [
        lambda q, docs: [float(d.metadata["n"] % 2 == 0) for d in docs],
        Reranker(),
        Reranker(with_scores=False),
    ],
)
def test_judges_choose_positives_and_negatives(store, judge):
    hits = store.search_vectors(store.embed_query("q")[None, :], 20)[0]
    selection = JudgeSelector(judge, depth=20, most=2).select("q", hits)
    even = [i for i, (d, _) in enumerate(hits) if d.metadata["n"] % 2 == 0]
    assert selection.positives == even[:2]
    assert sorted(selection.negatives) == [i for i in range(20) if i not in even]


def test_a_failing_judge_costs_nothing_but_a_warning(store, caplog):
    def broken(query, documents):
        raise RuntimeError("no answer")

    for judge in (broken, lambda q, docs: [1.0]):
        retriever = FeedbackRetriever(
            store=store, method=VectorFeedback(), selector=JudgeSelector(judge), k=7
        )
        with caplog.at_level(logging.WARNING):
            assert retriever.invoke("q") == store.similarity_search("q", k=7)
    assert "no answer" in caplog.text
    nothing = FeedbackRetriever(
        store=store,
        method=TextFeedback(),
        selector=JudgeSelector(lambda q, d: [0.0] * len(d)),
        merge="replace",
        k=7,
    )
    assert nothing.invoke("q") == store.similarity_search("q", k=7)


def test_judges_cannot_change_the_hits(store):
    def vandal(query, documents):
        for document in documents:
            document.page_content = "gone"
            document.metadata.clear()
        return [1.0] * len(documents)

    found = FeedbackRetriever(
        store=store, method=VectorFeedback(), selector=JudgeSelector(vandal), k=5
    ).invoke("q")
    assert all(d.page_content != "gone" and d.metadata for d in found)


def test_margin_selector():
    hits = [(Document(id=str(i), page_content=""), s) for i, s in enumerate([0.9, 0.88, 0.7, 0.69])]
    assert MarginSelector(0.05).select("q", hits).positives == [0, 1]
    assert MarginSelector(1.0, depth=3).select("q", hits).positives == [0, 1, 2]


def test_text_variants():
    passages = ["a b c d", "e f g h"]
    assert TextFeedback("concatenate", words=6).texts("q r", passages) == ["q r a b c d"]
    assert TextFeedback("aggregate").texts("q", passages) == ["q a b c d", "q e f g h"]
    assert TextFeedback("window", window=4).texts("q", passages) == ["q a b c d", "q c d e f", "q e f g h"]
    assert TextFeedback("window", window=20).texts("q", passages) == ["q a b c d e f g h"]
    assert TextFeedback().texts("q", []) == []


@pytest.mark.parametrize("variant", ["concatenate", "aggregate", "window"])
@pytest.mark.parametrize("aggregation", ["average", "max", "borda"])
def test_text_feedback_searches_with_the_texts(store, variant, aggregation):
    method = TextFeedback(variant, aggregation=aggregation)
    retriever = FeedbackRetriever(store=store, method=method, merge="replace", k=5)
    passages = [d.page_content for d in store.similarity_search("q", k=3)]
    lists = store.search_batch(method.texts("q", passages), k=100)
    assert ids(retriever.invoke("q")) == [d.id for d, _ in combine_scores(lists, aggregation)][:5]


def test_bridge_and_encoder_feedback(store, embedding):
    bridge = FeedbackRetriever(store=store, method=BridgeFeedback(), k=100)
    assert set(ids(bridge.invoke("q"))) == {f"d{i}" for i in range(100)}
    encoder = FeedbackRetriever(
        store=store, method=EncoderFeedback(embedding), selector=TopSelector(2), merge="replace", k=5
    )
    texts = [d.page_content for d in store.similarity_search("q", k=2)]
    assert ids(encoder.invoke("q")) == second_search(
        store, store.embed_query(" [SEP] ".join(["q", *texts])), 5
    )


def test_fusion_against_hand_computed_values():
    d = {name: Document(id=name, page_content=name) for name in "abc"}
    one, two = [(d["a"], 9.0), (d["b"], 5.0)], [(d["b"], 0.4), (d["c"], 0.2)]
    assert [(x.id, pytest.approx(s)) for x, s in rrf([one, two])] == [
        ("b", 1 / 62 + 1 / 61), ("a", 1 / 61), ("c", 1 / 62),
    ]  # fmt: skip
    assert [(x.id, s) for x, s in weighted([one, two], [0.7, 0.3])] == [("a", 0.7), ("b", 0.3), ("c", 0.0)]
    assert [(x.id, s) for x, s in borda([one, two])] == [("b", 1.5), ("a", 1.0), ("c", 0.5)]
    assert [x.id for x, _ in combine_scores([one, two], "max")] == ["a", "b", "c"]
    assert {x.id: s for x, s in combine_scores([one, two], "average")} == {
        "a": pytest.approx(4.6), "b": pytest.approx(2.7), "c": pytest.approx(2.6),
    }  # fmt: skip


def test_mistakes(store):
    for broken in (
        lambda: FeedbackRetriever(store=store, k=0),
        lambda: FeedbackRetriever(store=store, method="rocchio"),
        lambda: FeedbackRetriever(store=store, selector=lambda q, d: d),
        lambda: VectorFeedback("mean"),
        lambda: VectorFeedback(alpha=-1),
        lambda: VectorFeedback(iterations=0),
        lambda: TextFeedback("all"),
        lambda: TextFeedback(aggregation="sum"),
        lambda: TopSelector(0),
        lambda: JudgeSelector(len, depth=0),
    ):
        with pytest.raises(ConfigurationError):
            broken()
    with pytest.raises(CapabilityError):
        FeedbackRetriever(store="store")
    assert FeedbackRetriever(store=FaissStore(store.embeddings)).invoke("q") == []


@pytest.mark.parametrize("k", [0, -1, True, 2.5])
@pytest.mark.parametrize(
    "retriever",
    [HybridRetriever, FeedbackRetriever, lambda _: SelfSearch(ScriptedChatModel(script={"": "a"}))],
)
def test_a_call_asks_for_at_least_one_document(store, retriever, k):
    with pytest.raises(ConfigurationError, match="k must be an integer of at least 1"):
        retriever(store).invoke("q", k=k)


def test_in_memory_store_is_adapted():
    memory = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    memory.add_texts([f"t{i}" for i in range(20)], ids=[f"d{i}" for i in range(20)])
    index = vector_index(memory)
    assert isinstance(index, VectorIndex)
    assert vector_index(index) is index
    np.testing.assert_allclose(index.vectors_for(["d3"])[0], memory.store["d3"]["vector"], rtol=1e-6)
    found = index.search_vectors(index.embed_query("t4")[None, :], 3, lambda d: d.id != "d5")[0]
    assert found[0][0].id == "d4"
    assert found[0][1] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InputError):
        index.vectors_for(["nobody"])
    assert FeedbackRetriever(memory, VectorFeedback(), k=4).invoke("t4")[0].id == "d4"
    with pytest.raises(ConfigurationError, match="method"):
        FeedbackRetriever(memory)
    with pytest.raises(CapabilityError, match="MentionIndex"):
        FeedbackRetriever(store=memory, method=LinkFeedback())
    titles = MentionIndex.from_documents(
        [Document(id="d9", page_content="", metadata={"title": "Nine Lives"})]
    )
    linked = FeedbackRetriever(store=memory, method=LinkFeedback(titles), k=4)
    assert linked.invoke("about Nine Lives")[0].id == "d9"


class TextsOnly(VectorStore):
    """A store that searches by vector and gives no vectors back."""

    def __init__(self, memory):
        self.memory = memory

    @property
    def embeddings(self):
        return self.memory.embeddings

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, **kwargs):
        raise AssertionError

    def similarity_search(self, query, k=4, **kwargs):
        return self.memory.similarity_search(query, k)

    def similarity_search_by_vector(self, embedding, k=4, **kwargs):
        return self.memory.similarity_search_by_vector(embedding, k)

    def get_by_ids(self, ids, /):
        return self.memory.get_by_ids(ids)


def test_last_resort_is_embedding_again_and_says_so_once(caplog):
    memory = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
    memory.add_texts([f"t{i}" for i in range(20)], ids=[f"d{i}" for i in range(20)])
    with caplog.at_level(logging.WARNING):
        retriever = FeedbackRetriever(TextsOnly(memory), VectorFeedback(), merge="replace", k=4)
        same = FeedbackRetriever(memory, VectorFeedback(), merge="replace", k=4)
        for query in ("t1", "t2"):
            assert ids(retriever.invoke(query)) == ids(same.invoke(query))
    assert caplog.text.count("embeds the passages again") == 1
    with pytest.raises(InputError):
        vector_index(TextsOnly(memory)).vectors_for(["nobody"])


def test_features_are_resumable_and_used(tmp_path, store):
    features = FeatureStore(tmp_path / "features.sqlite")
    asked = []

    def generate(prompts):
        if len(asked) >= 40:
            raise KeyboardInterrupt
        asked.extend(prompts)
        return [f"keywords of {p.split(chr(10))[-1]}" for p in prompts]

    documents = list(store)
    with pytest.raises(KeyboardInterrupt):
        extract_features(documents, generate, features, batch_size=10)
    first = len(asked)
    asked.clear()
    steps = []
    written = extract_features(
        documents[:70], generate, features, batch_size=10, progress=lambda *step: steps.append(step)
    )
    assert (first, written, len(asked)) == (40, 30, 30)
    assert steps[-1] == (70, 30)
    assert features.get(["text 3", "text 99"], "keywords") == ["keywords of text 3", None]
    query, top = store.embed_query("text 3"), ids(store.similarity_search("text 3", k=3))
    texts = {d.id: d.page_content for d in documents}
    extract_features(documents[70:], lambda p: [f"keywords of {x.split(chr(10))[-1]}" for x in p], features)
    stored = [store.embed_query(f"keywords of {texts[i]}") for i in top]
    moved = rocchio(query, stored, None, 0.7, 0.3, weights=[1 / np.log2(r + 1) for r in (1, 2, 3)])
    retriever = FeedbackRetriever(store=store, method=FeatureFeedback(features), merge="replace", k=5)
    assert ids(retriever.invoke("text 3")) == second_search(store, moved, 5)
    text = FeedbackRetriever(store=store, method=FeatureFeedback(features, mode="text"), merge="replace", k=5)
    joined = " ".join(["text 3", *(f"keywords of {texts[i]}" for i in top)])
    assert ids(text.invoke("text 3")) == second_search(store, store.embed_query(joined), 5)
    with pytest.raises(ConfigurationError):
        extract_features(documents, generate, features, kinds=["poems"])
    with pytest.raises(ConfigurationError, match="answers"):
        extract_features([Document(page_content="new")], lambda p: [], features)


def test_thinking_is_no_feature(tmp_path):
    store = FeatureStore(tmp_path / "features.sqlite")
    extract_features([Document(page_content="a")], lambda prompts: ["<think>b\nc</think>\n\nd, e"], store)
    assert store.get(["a"], "keywords") == ["d, e"]
