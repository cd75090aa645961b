from __future__ import annotations

import contextlib
import pickle  # noqa: TID251  (writes the files of the old store)
import sys
import types

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.errors import AgentPRMError, ConfigurationError, IndexCorruptError, InputError
from agentprm.retrievers import import_langchain_faiss


class InMemoryDocstore:
    def __init__(self, documents):
        self._dict = documents


InMemoryDocstore.__module__ = "langchain_community.docstore.in_memory"
InMemoryDocstore.__qualname__ = "InMemoryDocstore"


@pytest.fixture
def old(tmp_path, vectors, monkeypatch):
    """A folder as the old store's `save_local` leaves it."""
    for name in (
        "langchain_community",
        "langchain_community.docstore",
        "langchain_community.docstore.in_memory",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["langchain_community.docstore.in_memory"].InMemoryDocstore = InMemoryDocstore
    index = faiss.IndexFlatL2(16)
    index.add(vectors[:20])
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    documents = {f"u{i}": Document(page_content=f"t{i}", metadata={"n": i}) for i in range(20)}
    ids = {i: f"u{19 - i}" for i in range(20)}
    for protocol in (2, 4):
        (tmp_path / "index.pkl").write_bytes(pickle.dumps((InMemoryDocstore(documents), ids), protocol))
    return tmp_path


def test_import(old, embedding, vectors):
    store = import_langchain_faiss(old, embedding, trust_index_file=True)
    assert (store.metric, len(store)) == ("l2", 20)
    found = store.search_vectors(vectors[3:4], k=1)[0][0][0]
    assert (found.id, found.page_content, found.metadata) == ("u16", "t16", {"n": 16})
    assert import_langchain_faiss(old, embedding, trust_index_file=True, metric="cosine").metric == "cosine"


def test_the_flag_is_needed(old, embedding):
    with pytest.raises(ConfigurationError, match="trust_index_file"):
        import_langchain_faiss(old, embedding)


class Evil:
    def __reduce__(self):
        return (eval, ("open('/tmp/agentprm-was-here', 'w')",))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_the_pickle_never_runs(old, embedding, protocol):
    (old / "index.pkl").write_bytes(pickle.dumps((Evil(), {}), protocol))
    with pytest.raises(InputError, match="eval"):
        import_langchain_faiss(old, embedding, trust_index_file=True)


def test_damage(old, embedding):
    whole = (old / "index.pkl").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (old / "index.pkl").write_bytes(data)
        with contextlib.suppress(AgentPRMError):
            import_langchain_faiss(old, embedding, trust_index_file=True)
    (old / "index.pkl").write_bytes(whole)
    index = (old / "index.faiss").read_bytes()
    (old / "index.faiss").write_bytes(index[:100])
    with pytest.raises(IndexCorruptError):
        import_langchain_faiss(old, embedding, trust_index_file=True)
    (old / "index.faiss").unlink()
    with pytest.raises(InputError, match=r"index\.faiss"):
        import_langchain_faiss(old, embedding, trust_index_file=True)
