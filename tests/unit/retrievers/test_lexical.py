from __future__ import annotations

import math

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from agentprm.errors import CapabilityError, ConfigurationError, InputError
from agentprm.retrievers import FaissStore, HybridRetriever, LexicalIndex, ShardedFaissStore
from agentprm.retrievers.lexical import Bm25Index

TEXTS = [
    "apple banana apple",
    "banana cherry",
    "cherry date fig",
    "grape",
    "apple fig",
    *["filler text"] * 30,
]
DOCUMENTS = [Document(id=str(i), page_content=text) for i, text in enumerate(TEXTS)]


def bm25(query, place):
    words = [t.split() for t in TEXTS]
    mean = sum(map(len, words)) / len(words)
    score = 0.0
    for term in query.split():
        df = sum(term in w for w in words)
        tf = words[place].count(term)
        idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
        score += idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * len(words[place]) / mean))
    return score


def test_scores_equal_the_formula():
    found = LexicalIndex(DOCUMENTS).search("apple cherry", k=10)
    assert {d.id for d, _ in found} == {"0", "1", "2", "4"}
    for document, score in found:
        assert score == pytest.approx(bm25("apple cherry", int(document.id)), rel=1e-4)


def test_feedback_words_bring_new_documents():
    index = LexicalIndex(DOCUMENTS)
    assert {d.id for d, _ in index.search("banana")} == {"0", "1"}
    for method in ("rm3", "rocchio"):
        expanded = index.search_with_feedback("banana", method=method)
        assert {d.id for d, _ in expanded} == {"0", "1", "2", "4"}
        assert {d.id for d, _ in expanded[:2]} == {"0", "1"}
    assert index.search_with_feedback("nothing") == []
    one = index.search_with_feedback("banana", query_weight=1.0)
    assert [d.id for d, s in one if s > 0][:2] == [d.id for d, _ in index.search("banana")]


def test_hybrid_fuses_both(embedding):
    store = FaissStore(embedding)
    store.add_documents(DOCUMENTS)
    lexical = LexicalIndex(DOCUMENTS)
    assert HybridRetriever(store=store, lexical=lexical, dense_weight=0.0, k=1).invoke("grape")[0].id == "3"
    for fusion in ("rrf", "weighted"):
        dense = HybridRetriever(store=store, lexical=lexical, fusion=fusion, dense_weight=1.0, k=3).invoke(
            "grape"
        )
        assert dense == store.similarity_search("grape", k=3)
    with pytest.raises(ConfigurationError):
        HybridRetriever(store=store, lexical=lexical, dense_weight=2)


def test_mistakes():
    index = LexicalIndex(DOCUMENTS)
    for broken in (
        lambda: index.search("a b", k=0),
        lambda: index.search_with_feedback("banana", method="rm4"),
        lambda: index.search_with_feedback("banana", depth=0),
    ):
        with pytest.raises(ConfigurationError):
            broken()
    for documents in ([], [Document(page_content="no id")], [DOCUMENTS[0], DOCUMENTS[0]]):
        with pytest.raises(InputError):
            LexicalIndex(documents)


def test_changes_leave_what_a_new_index_holds():
    """Random additions and removals, through merges of segments, against an index of what is left."""
    random = np.random.default_rng(0)
    index, texts = Bm25Index(str.split), {}
    for round_ in range(60):
        fresh = {f"{round_}-{i}": " ".join(random.choice(list("abcdefgh"), 5)) for i in range(7)}
        index.add(fresh.items())
        texts |= fresh
        gone = {i: texts.pop(i) for i in random.choice(list(texts), 3, replace=False)}
        index.remove(gone.items())
        index.add([(i, "a a b") for i in list(gone)[:1]])  # the same id again, another text
        texts |= dict.fromkeys(list(gone)[:1], "a a b")
    whole = Bm25Index(str.split)
    whole.add(texts.items())
    assert len(index) == len(texts)
    for word in "abcdefgh":
        assert index.frequency(word) == whole.frequency(word)
    query = {"a": 1.0, "b": 0.5, "h": 2.0}
    assert dict(index.best(query, 1000)) == pytest.approx(dict(whole.best(query, 1000)))
    assert [s for _, s in index.best(query, 10)] == pytest.approx([s for _, s in whole.best(query, 10)])
    assert Bm25Index(str.split).best(query, 3) == []


def test_removing_a_text_does_not_look_at_the_others():
    looked = []

    class Name(str):
        def __hash__(self):
            looked.append(self)
            return str.__hash__(self)

    index = Bm25Index(str.split)
    index.add((Name(i), f"word{i} all") for i in range(500))
    index.remove([("0", "word0 all")])
    looked.clear()
    index.remove([("1", "word1 all")])
    assert looked == ["1"]
    assert index.frequency("all") == len(index) == 498
    assert index.best({"word1": 1.0}, 3) == []


def test_a_filter_reaches_as_deep_as_it_must():
    documents = [Document(id=str(i), page_content="word", metadata={"n": i}) for i in range(500)]
    index = LexicalIndex(documents)
    assert [d.id for d, _ in index.search("word", 3, {"n": {"$gte": 490}})] == ["490", "491", "492"]
    assert index.search("word", 3, lambda d: False) == []
    for method in ("rm3", "rocchio"):
        found = index.search_with_feedback("word", 3, method, filter={"n": 7})
        assert [d.id for d, _ in found] == ["7"]


@pytest.mark.parametrize("kind", [FaissStore, ShardedFaissStore])
def test_a_store_keeps_its_words_up_to_date(embedding, kind):
    store = kind(embedding)
    store.add_documents(DOCUMENTS)
    assert [d.id for d, _ in store.lexical.search("grape")] == ["3"]
    kept = HybridRetriever(store, dense_weight=0.0, k=1)
    store.add_documents([Document(id="3", page_content="melon"), Document(id="new", page_content="grape")])
    store.delete(["4"])
    assert [d.id for d, _ in store.lexical.search("grape")] == ["new"]
    assert {d.id for d, _ in store.lexical.search("fig melon")} == {"2", "3"}
    assert kept.invoke("grape")[0].id == "new"
    assert len(kept.invoke("grape", k=3)) == 3


def test_a_filter_holds_for_both_parts_of_a_hybrid(embedding):
    store = FaissStore(embedding)
    store.add_documents([d.model_copy(update={"metadata": {"n": int(d.id)}}) for d in DOCUMENTS])
    for fusion in ("rrf", "weighted"):
        found = HybridRetriever(store, fusion=fusion, k=50, filter={"n": {"$gte": 3}}).invoke(
            "apple fig grape"
        )
        assert {int(d.id) for d in found} == set(range(3, 35))
    with pytest.raises(CapabilityError, match="LexicalIndex"):
        HybridRetriever(InMemoryVectorStore(embedding))
    strange = HybridRetriever, InMemoryVectorStore(embedding), LexicalIndex(DOCUMENTS)
    with pytest.raises(CapabilityError, match="filter"):
        strange[0](*strange[1:], filter="n >= 3")
