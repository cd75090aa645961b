from __future__ import annotations

import errno
import os
import sqlite3

import pytest
from langchain_core.documents import Document

from agentprm.errors import (
    ConfigurationError,
    IndexCorruptError,
    IndexMismatchError,
    InputError,
    StorageError,
)
from agentprm.retrievers import FaissStore, build_index, fsck
from agentprm.retrievers.building import holds_only_index


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


@pytest.mark.parametrize(("factory", "metric"), [("Flat", "cosine"), ("IVF4,Flat", "l2")])
def test_only_what_changed_is_embedded(tmp_path, embedding, factory, metric):
    """Texts keep their vectors, under other ids and with other metadata too; what went is dropped."""
    options = {"factory": factory, "metric": metric, "batch_size": 7}
    build_index(tmp_path, documents(50), embedding, **options)
    changed = documents(50)[10:]
    changed[0].page_content = "new text"
    changed[1].id = "renamed"
    changed[2].metadata = {"n": "other"}
    second, seen = Counting(embedding), []
    store = build_index(tmp_path, changed, second, progress=seen.append, **options)
    assert [t for t in second.texts if "text" in t] == ["new text"]
    assert (seen[-1].seen, seen[-1].embedded, seen[-1].resumed) == (40, 1, 39)
    reference = FaissStore(embedding, metric=metric)
    reference.add_documents(changed)
    assert list(store) == list(reference)
    for text in ("new text", "text 11", "text 49"):
        mine, theirs = (s.search_batch([text], k=1)[0][0] for s in (store, reference))
        assert mine[0] == theirs[0]
        assert mine[1] == pytest.approx(theirs[1], abs=1e-6)
    assert fsck(tmp_path).clean


def test_vectors_of_another_index_are_not_taken(tmp_path, embedding, make_embedding):
    build_index(tmp_path, documents(5), embedding)
    for options in ({"metric": "l2"}, {}):
        again = Counting(embedding)
        build_index(tmp_path, documents(5), again, **options)
        assert len([t for t in again.texts if "text" in t]) == 5
    other = Counting(make_embedding(salt="other"))
    other.model_name = "other"
    build_index(tmp_path, documents(5), other)
    assert len([t for t in other.texts if "text" in t]) == 5
    (tmp_path / "CURRENT").write_text("damaged")
    again = Counting(embedding)
    assert len(build_index(tmp_path, documents(5), again)) == 5


def test_changed_metadata_of_a_killed_build(tmp_path, embedding):
    with pytest.raises(Killed):
        build_index(tmp_path, documents(20), Counting(embedding, "text 15"), batch_size=5)
    changed = documents(20)
    changed[3].metadata = {"n": "other"}
    second = Counting(embedding)
    store = build_index(tmp_path, changed, second, batch_size=5)
    assert len([t for t in second.texts if "text" in t]) == 5
    assert store.get_by_ids(["d3"])[0].metadata == {"n": "other"}


class Full(sqlite3.Connection):
    """A database on a disk that is nearly full."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.execute("PRAGMA max_page_count = 8")


@pytest.mark.parametrize("where", ["vectors", "table"])
def test_a_full_disk_loses_nothing(tmp_path, embedding, monkeypatch, where):
    count = 400
    if where == "vectors":
        calls = []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) == 4:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("agentprm.retrievers.building.os.fsync", full)
    else:
        connect = sqlite3.connect
        monkeypatch.setattr(
            "agentprm.retrievers.building.sqlite3.connect", lambda *a, **o: connect(*a, factory=Full, **o)
        )
    first = Counting(embedding)
    with pytest.raises(StorageError, match=r"is full: free some space.*the same call goes on") as caught:
        build_index(tmp_path, documents(count), first, batch_size=20)
    assert "damaged" not in str(caught.value)
    monkeypatch.undo()
    assert holds_only_index(tmp_path)
    second = Counting(embedding)
    assert len(build_index(tmp_path, documents(count), second, batch_size=20)) == count
    texts = [[t for t in c.texts if t.startswith("text")] for c in (first, second)]
    assert len(texts[0]) > 20
    assert len(texts[0]) + len(texts[1]) == count + 20  # the batch that did not fit


def test_a_failing_disk_is_no_damage_and_damage_is_none_of_the_disk(tmp_path, embedding, monkeypatch):
    with pytest.raises(Killed):
        build_index(tmp_path, documents(20), Counting(embedding, "text 15"), batch_size=5)

    class Failing(sqlite3.Connection):
        def execute(self, *args):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = 10 | 1 << 8
            raise error

    connect = sqlite3.connect
    monkeypatch.setattr(
        "agentprm.retrievers.building.sqlite3.connect", lambda *a, **o: connect(*a, factory=Failing, **o)
    )
    with pytest.raises(StorageError, match=r"disk I/O error.*check the disk") as caught:
        build_index(tmp_path, documents(20), embedding)
    assert "remove" not in str(caught.value)
    monkeypatch.undo()
    (tmp_path / "building" / "documents.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(IndexCorruptError, match="remove that folder"):
        build_index(tmp_path, documents(20), embedding)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
@pytest.mark.parametrize(
    "name", ["building", "building/vectors.f32", "building/documents.sqlite", ".build.lock"]
)
def test_a_build_writes_through_no_link(tmp_path, embedding, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    link = tmp_path / "index" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if name == "building" else outside / "file")
    with pytest.raises(IndexCorruptError, match="is a link"):
        build_index(tmp_path / "index", documents(3), embedding)
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"
