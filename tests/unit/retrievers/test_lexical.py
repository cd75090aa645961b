from __future__ import annotations

import math
import sys

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.retrievers import FaissStore, HybridRetriever, LexicalIndex

pytest.importorskip("bm25s")

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


def test_mistakes(monkeypatch):
    index = LexicalIndex(DOCUMENTS)
    for broken in (
        lambda: index.search("a b", k=0),
        lambda: index.search_with_feedback("banana", method="rm4"),
        lambda: index.search_with_feedback("banana", depth=0),
    ):
        with pytest.raises(ConfigurationError):
            broken()
    with pytest.raises(InputError):
        LexicalIndex([])
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependencyError, match=r"agentprm\[lexical\]"):
        LexicalIndex(DOCUMENTS)
