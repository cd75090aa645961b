"""Another tenant's documents stay out, whatever a retriever does after its first search."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.retrievers import (
    BridgeFeedback,
    EncoderFeedback,
    FaissStore,
    FeedbackRetriever,
    HybridRetriever,
    LinkFeedback,
    MentionIndex,
    ShardedFaissStore,
    TextFeedback,
    VectorFeedback,
    default_retriever,
)

QUESTION = "Where was the director of The Long Way born?"
TENANTS = ("a", "b")


def documents():
    rows = [
        ("The Long Way", "A film directed by Ana Bohm."),
        ("Ana Bohm", "Ana Bohm was born in Lund."),
        ("Lund", "A town where the director of The Long Way was born."),
    ]
    return [
        Document(id=f"{t}{i}", page_content=f"{title}\n{text}", metadata={"title": title, "tenant": t})
        for t in TENANTS
        for i, (title, text) in enumerate(rows)
    ]


@pytest.fixture(params=[FaissStore, ShardedFaissStore])
def store(request, embedding):
    store = request.param(embedding)
    store.add_documents(documents())
    return store


METHODS = [
    VectorFeedback,
    TextFeedback,
    BridgeFeedback,
    LinkFeedback,
    lambda: None,
]


def retrievers(store, method, filter):
    yield FeedbackRetriever(store, method, k=6, filter=filter, merge="replace")
    yield FeedbackRetriever(store.as_retriever(search_kwargs={"k": 6, "filter": filter}), method)
    yield FeedbackRetriever(HybridRetriever(store, k=6, filter=filter), method)
    yield FeedbackRetriever(HybridRetriever(store), method, k=6, filter=filter)
    yield default_retriever(store, k=6, filter=filter)


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("tenant", TENANTS)
def test_filters_hold_through_every_stage(store, make, tenant):
    for spec in ({"tenant": tenant}, lambda d: d.metadata["tenant"] == tenant):
        for retriever in retrievers(store, make(), spec):
            for found in (retriever.invoke(QUESTION), asyncio.run(retriever.ainvoke(QUESTION))):
                assert {d.id for d in found} == {f"{tenant}{i}" for i in range(3)}


def test_the_text_of_a_document_that_the_filter_hides_leads_nowhere(embedding):
    """Only b's passage says who directed the film; a must not learn it from there."""
    store = FaissStore(embedding)
    noise = [
        Document(id=f"n{i}", page_content=f"Nothing {i}.", metadata={"title": f"Noise {i}", "tenant": "a"})
        for i in range(300)
    ]
    store.add_documents([documents()[3], documents()[1], *noise])
    retriever = FeedbackRetriever(store, LinkFeedback(), k=5, filter={"tenant": "a"})
    assert "a1" not in [d.id for d in retriever.invoke(QUESTION)]


def test_a_method_of_ones_own_cannot_bring_others_in(store, embedding):
    class Careless(VectorFeedback):
        def expand(self, query, vector, hits, index, *, k, selection=None, filter=None):
            return index.search_vectors(vector[None, :], k)[0]

    found = FeedbackRetriever(store, Careless(), merge="replace", k=6, filter={"tenant": "a"}).invoke(
        QUESTION
    )
    assert {d.metadata["tenant"] for d in found} == {"a"}
    encoder = FeedbackRetriever(
        store, EncoderFeedback(embedding), merge="replace", k=6, filter={"tenant": "a"}
    )
    assert {d.metadata["tenant"] for d in encoder.invoke(QUESTION)} == {"a"}


def test_what_cannot_hold_a_filter_is_refused(store, embedding):
    memory = InMemoryVectorStore(embedding)
    memory.add_documents(documents())
    links = LinkFeedback(MentionIndex.from_documents(documents()))
    own = FeedbackRetriever(memory, links, k=6, filter=lambda d: d.metadata["tenant"] == "a")
    assert {d.metadata["tenant"] for d in own.invoke(QUESTION)} == {"a"}
    with pytest.raises(CapabilityError, match="filter"):
        FeedbackRetriever(memory, links, filter="tenant == 'a'")
    with pytest.raises(CapabilityError, match="search_type"):
        FeedbackRetriever(store.as_retriever(search_type="mmr"))
    with pytest.raises(CapabilityError, match="score_threshold"):
        FeedbackRetriever(store.as_retriever(search_kwargs={"score_threshold": 0.5}))
    with pytest.raises(ConfigurationError, match="once"):
        FeedbackRetriever(
            store.as_retriever(search_kwargs={"filter": {"tenant": "a"}}), filter={"tenant": "b"}
        )
    with pytest.raises(CapabilityError, match="vectors"):
        FeedbackRetriever(FeedbackRetriever(store))
    with pytest.raises(ConfigurationError):
        FeedbackRetriever(store, filter={"tenant": {"$like": "a"}})


def test_a_call_may_ask_for_another_number(store):
    for retriever in (FeedbackRetriever(store), default_retriever(store, k=1)):
        assert len(retriever.invoke(QUESTION, k=4)) == 4
        assert len(asyncio.run(retriever.ainvoke(QUESTION, k=2))) == 2
    assert len(FeedbackRetriever(store.as_retriever(search_kwargs={"k": 2})).invoke(QUESTION)) == 2


def test_a_hybrid_keeps_its_numbers(store):
    retriever = FeedbackRetriever(HybridRetriever(store, k=3, depth=40))
    assert (retriever.k, retriever.depth) == (3, 40)
    retriever = FeedbackRetriever(HybridRetriever(store, k=3, depth=40), k=2, depth=50)
    assert (retriever.k, retriever.depth) == (2, 50)
