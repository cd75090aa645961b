from __future__ import annotations

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, IndexMismatchError, InputError
from agentprm.retrievers import FaissStore, build_index, fsck


class Killed(Exception):
    pass


class Counting:
    """Embeddings that count, and may die at a given text."""

    def __init__(self, inner, die_at=None):
        self.inner, self.die_at, self.texts = inner, die_at, []

    def embed_query(self, text):
        return self.inner.embed_query(text)

    def embed_documents(self, texts):
        if self.die_at in texts:
            raise Killed
        self.texts += texts
        return self.inner.embed_documents(texts)


def documents(count):
    return [Document(page_content=f"text {i}", metadata={"n": i}, id=f"d{i}") for i in range(count)]


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_a_killed_build_goes_on(tmp_path, embedding, factory):
    seen = []
    with pytest.raises(Killed):
        build_index(tmp_path, documents(100), Counting(embedding, "text 91"), batch_size=10, factory=factory)
    assert not (tmp_path / "CURRENT").exists()
    second = Counting(embedding)
    store = build_index(
        tmp_path, documents(100), second, batch_size=10, factory=factory, progress=seen.append
    )
    assert [t for t in second.texts if t.startswith("text")] == [f"text {i}" for i in range(90, 100)]
    assert (seen[-1].seen, seen[-1].embedded, seen[-1].resumed) == (100, 10, 90)
    reference = FaissStore(embedding)
    reference.add_documents(documents(100))
    assert [list(store), store.search_batch(["text 5"], k=1)] == [
        list(reference),
        reference.search_batch(["text 5"], k=1),
    ]
    assert fsck(tmp_path).clean
    assert not (tmp_path / "building").exists()


def test_changed_dropped_and_torn_input(tmp_path, embedding):
    with pytest.raises(Killed):
        build_index(tmp_path, documents(20), Counting(embedding, "text 15"), batch_size=5)
    with (tmp_path / "building" / "vectors.f32").open("ab") as file:
        file.write(b"torn write of a batch that was never committed")
    changed = documents(20)[3:]
    changed[0].page_content = "new text"
    store = build_index(tmp_path, changed, embedding, batch_size=5)
    assert [d.page_content for d in store] == ["new text", *(f"text {i}" for i in range(4, 20))]
    assert store.similarity_search("new text", k=1)[0].id == "d3"


def test_documents_without_ids_and_repetitions(tmp_path, embedding):
    twice = [Document(page_content="same"), Document(page_content="same"), Document(page_content="other")]
    store = build_index(tmp_path, iter(twice), embedding, batch_size=1)
    assert sorted(d.page_content for d in store) == ["other", "same"]
    again = build_index(tmp_path, twice, embedding)
    assert {d.id for d in again} == {d.id for d in store}


def test_mistakes(tmp_path, embedding, make_embedding):
    with pytest.raises(ConfigurationError):
        build_index(tmp_path, [], embedding, batch_size=0)
    assert len(build_index(tmp_path / "empty", [], embedding)) == 0
    with pytest.raises(InputError, match="train"):
        build_index(tmp_path / "few", documents(3), embedding, factory="IVF4,Flat")
    with pytest.raises(IndexMismatchError):
        build_index(tmp_path / "few", documents(3), make_embedding(salt="other"))
    assert len(build_index(tmp_path / "few", documents(3), embedding)) == 3
