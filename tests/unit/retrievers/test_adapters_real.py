"""Adapters against the real embedded engines; each runs where its package is installed."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from agentprm.retrievers import (
    FaissStore,
    FeedbackRetriever,
    LinkFeedback,
    MentionIndex,
    VectorFeedback,
    vector_index,
)


class Unit(DeterministicFakeEmbedding):
    """Vectors of unit length, as most models give them."""

    def embed_query(self, text):
        vector = np.array(super().embed_query(text))
        return (vector / np.linalg.norm(vector)).tolist()

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


EMBEDDING = Unit(size=16)
IDS = [str(uuid.UUID(int=i)) for i in range(40)]
DOCUMENTS = [
    Document(id=IDS[i], page_content=f"text {i}", metadata={"title": f"Title {i}"}) for i in range(40)
]


def chroma(folder):
    module = pytest.importorskip("langchain_chroma")
    return module.Chroma(
        "passages", EMBEDDING, persist_directory=str(folder), collection_metadata={"hnsw:space": "cosine"}
    )


def qdrant(folder):
    module = pytest.importorskip("langchain_qdrant")
    client = pytest.importorskip("qdrant_client")
    models = client.models
    connection = client.QdrantClient(path=str(folder))
    connection.create_collection(
        "c", vectors_config=models.VectorParams(size=16, distance=models.Distance.COSINE)
    )
    return module.QdrantVectorStore(connection, "c", EMBEDDING)


def milvus(folder):
    pytest.importorskip("milvus_lite")
    module = pytest.importorskip("langchain_milvus")
    return module.Milvus(
        EMBEDDING,
        connection_args={"uri": str(folder / "milvus.db")},
        index_params={"index_type": "FLAT", "metric_type": "COSINE"},
        auto_id=False,
        consistency_level="Strong",
    )


def lance(folder):
    pytest.importorskip("lancedb")
    module = pytest.importorskip("langchain_community.vectorstores")
    return module.LanceDB(uri=str(folder), embedding=EMBEDDING, distance="cosine")


def postgres(folder):
    pytest.importorskip("langchain_postgres")
    server = pytest.importorskip("pgserver").get_server(folder / "data")
    address = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    from langchain_postgres import PGVector

    return PGVector(EMBEDDING, connection=address, collection_name="c")


@pytest.mark.parametrize("make", [chroma, qdrant, milvus, lance, postgres])
def test_feedback_over_the_engine_equals_feedback_over_ours(tmp_path, make):
    theirs = make(tmp_path)
    theirs.add_texts(
        [d.page_content for d in DOCUMENTS], [d.metadata for d in DOCUMENTS], ids=[d.id for d in DOCUMENTS]
    )
    ours = FaissStore(EMBEDDING)
    ours.add_documents(DOCUMENTS)
    index = vector_index(theirs)
    query = ours.embed_query("text 7 and more")
    mine = ours.search_vectors(query[None, :], 5)[0]
    found = index.search_vectors(query[None, :], 5)[0]
    assert [d.id for d, _ in found] == [d.id for d, _ in mine]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in mine], atol=1e-5)
    stored = index.vectors_for([IDS[3], IDS[9]])
    stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    np.testing.assert_allclose(stored, ours.vectors_for([IDS[3], IDS[9]]), atol=1e-5)
    for method in (VectorFeedback(), LinkFeedback(MentionIndex.from_documents(DOCUMENTS))):
        lists = [
            FeedbackRetriever(store, method, merge="replace", k=6, depth=40).invoke("about Title 12")
            for store in (theirs, ours)
        ]
        if method.merge == "replace":
            assert lists[0][0].id == IDS[12]
        assert [d.id for d in lists[0]][:4] == [d.id for d in lists[1]][:4]
