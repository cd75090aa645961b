from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agentprm.errors import IndexCorruptError, IndexMismatchError, InputError
from agentprm.retrievers import FaissStore, ShardedFaissStore, WriterConflictError


def filled(embedding, vectors, factory="Flat", metric="cosine"):
    store = FaissStore(embedding, factory=factory, metric=metric)
    store.add_embeddings(
        [f"text {i}" for i in range(len(vectors))],
        vectors,
        [{"n": i} for i in range(len(vectors))],
        ids=[f"id{i}" for i in range(len(vectors))],
    )
    return store


def state(store, vectors):
    found = store.search_vectors(vectors[:20], k=5)
    return list(store), [[(d, round(s, 5)) for d, s in row] for row in found]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "HNSW16", "IVF4,SQ8", "PQ2x4"])
def test_round_trip(tmp_path, embedding, vectors, factory, metric, mmap):
    store = filled(embedding, vectors, factory, metric)
    store.delete(["id3", "id4"])
    store.add_embeddings(["neu é"], vectors[3:4], [{"deep": {"x": [1, None]}}], ids=["id3"])
    store.save(tmp_path / "index")
    loaded = FaissStore.load(tmp_path / "index", embedding, mmap=mmap)
    assert (loaded.metric, loaded.factory, loaded.dimension) == (metric, factory, 16)
    assert state(loaded, vectors) == state(store, vectors)
    # A loaded store can be changed and saved again, any number of times.
    loaded.add_embeddings(["later"], vectors[4:5] * 1.01, ids=["later"])
    loaded.delete(["id5"])
    loaded.save(tmp_path / "index")
    once_more = FaissStore.load(tmp_path / "index", embedding, mmap=mmap)
    assert state(once_more, vectors) == state(loaded, vectors)
    assert len(once_more) == 599


def test_empty_store_round_trip(tmp_path, embedding):
    FaissStore(embedding, factory="HNSW8", metric="l2").save(tmp_path / "index")
    loaded = FaissStore.load(tmp_path / "index", embedding)
    assert (len(loaded), loaded.metric, loaded.factory) == (0, "l2", "HNSW8")
    loaded.add_texts(["a"], ids=["a"])
    loaded.save(tmp_path / "index")
    assert FaissStore.load(tmp_path / "index", embedding).similarity_search("a")[0].id == "a"


def test_readers_keep_working_during_later_saves(tmp_path, embedding, vectors):
    store = filled(embedding, vectors)
    store.save(tmp_path)
    reader = FaissStore.load(tmp_path, embedding)
    before = state(reader, vectors)
    for i in range(4):
        store.delete([f"id{i}"])
        store.save(tmp_path)
    assert state(reader, vectors) == before
    assert len([p for p in tmp_path.iterdir() if p.name.startswith("gen-")]) == 2


def test_a_stale_writer_is_told(tmp_path, embedding, vectors):
    filled(embedding, vectors).save(tmp_path)
    first, second = FaissStore.load(tmp_path, embedding), FaissStore.load(tmp_path, embedding)
    first.add_texts(["mine"], ids=["mine"])
    first.save(tmp_path)
    second.add_texts(["yours"], ids=["yours"])
    with pytest.raises(WriterConflictError, match="load it again"):
        second.save(tmp_path)
    assert FaissStore.load(tmp_path, embedding).get_by_ids(["mine", "yours"])[0].id == "mine"
    second.save(tmp_path / "elsewhere")
    filled(embedding, vectors[:5]).save(tmp_path)  # a new store replaces
    assert len(FaissStore.load(tmp_path, embedding)) == 5


def test_other_embeddings_are_refused(tmp_path, make_embedding, vectors):
    filled(make_embedding(), vectors).save(tmp_path)
    with pytest.raises(IndexMismatchError, match="8 dimensions"):
        FaissStore.load(tmp_path, make_embedding(size=8))
    with pytest.raises(IndexMismatchError, match="'other'"):
        FaissStore.load(tmp_path, make_embedding(salt="x", model_name="other"))
    FaissStore.load(tmp_path, make_embedding(model_name="same model, other path"))


def test_missing_folder_and_empty_folder(tmp_path, embedding):
    with pytest.raises(InputError, match="build the index first"):
        FaissStore.load(tmp_path / "nowhere", embedding)
    with pytest.raises(IndexCorruptError, match="no complete index"):
        FaissStore.load(tmp_path, embedding)


@pytest.mark.parametrize("factory", ["Flat", "HNSW16"])
def test_every_damaged_or_missing_file_is_found(tmp_path, embedding, vectors, factory):
    filled(embedding, vectors[:50], factory).save(tmp_path / "index")
    names = [p.relative_to(tmp_path / "index") for p in (tmp_path / "index").rglob("*") if p.is_file()]
    assert len(names) >= 7
    for name in names:
        if name.name == ".lock":
            continue
        for damage in ("remove", "flip", "cut", "grow"):
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "index", copy)
            data = bytearray((copy / name).read_bytes())
            if damage == "flip":
                data[len(data) // 2] ^= 1
            (copy / name).unlink()
            if damage != "remove":
                (copy / name).write_bytes(
                    {"flip": data, "cut": data[: len(data) // 2], "grow": data + b"xxx"}[damage]
                )
            with pytest.raises(IndexCorruptError):
                FaissStore.load(copy, embedding)
            shutil.rmtree(copy)


def test_other_format_version(tmp_path, embedding, vectors, monkeypatch):
    monkeypatch.setattr("agentprm.retrievers.generations.FORMAT_VERSION", 7)
    filled(embedding, vectors).save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(IndexCorruptError, match="format version 7"):
        FaissStore.load(tmp_path, embedding)


def test_pickled_arrays_are_never_loaded(tmp_path, embedding, vectors):
    import hashlib

    filled(embedding, vectors[:9]).save(tmp_path)
    folder = tmp_path / "gen-000001"
    np.save(folder / "ids.npy", np.array([{"a": 1}] * 9, dtype=object), allow_pickle=True)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    data = (folder / "ids.npy").read_bytes()
    manifest["files"]["ids.npy"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    raw = json.dumps(manifest).encode()
    (folder / "manifest.json").write_bytes(raw)
    (tmp_path / "CURRENT").write_text(f"gen-000001 {hashlib.sha256(raw).hexdigest()}\n")
    with pytest.raises(IndexCorruptError, match=r"ids\.npy"):
        FaissStore.load(tmp_path, embedding)


def test_failed_save_leaves_the_old_state(tmp_path, embedding, vectors, monkeypatch):
    store = filled(embedding, vectors)
    store.save(tmp_path)
    store.add_texts(["more"], ids=["more"])

    def broken(folder):
        (folder / "half").write_text("x")
        raise OSError("disk full")

    monkeypatch.setattr(store, "_write", broken)
    with pytest.raises(OSError, match="disk full"):
        store.save(tmp_path)
    monkeypatch.undo()
    assert len(FaissStore.load(tmp_path, embedding)) == 600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("tmp-")] == []
    store.save(tmp_path)
    assert len(FaissStore.load(tmp_path, embedding)) == 601


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of mapped pages")
def test_opening_reads_no_vectors(tmp_path, make_embedding, monkeypatch):
    """Above the size that is verified at once, an index is opened without touching its vectors."""

    def mapped() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Pages of a file in a tmpfs count as shared memory.
        return sum(int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem"))) / 1024

    embedding = make_embedding(size=1024)
    store = FaissStore(embedding)
    matrix = np.random.default_rng(0).normal(size=(12_000, 1024)).astype(np.float32)
    names = [str(i) for i in range(len(matrix))]
    store.add_embeddings(names, matrix, ids=names)
    store.save(tmp_path)
    monkeypatch.setattr("agentprm.retrievers.generations._QUICK_BYTES", 1 << 20)
    before = mapped()
    opened = FaissStore.load(tmp_path, embedding)
    assert mapped() - before < 8
    assert opened.search_vectors(matrix[:1], 1)[0][0][0].id == "0"
    assert mapped() - before > 40


@pytest.mark.parametrize("kind", [FaissStore, ShardedFaissStore])
@pytest.mark.parametrize("moment", ["open_current", "open_index", "KeptText"])
def test_a_reader_that_races_two_saves(tmp_path, embedding, monkeypatch, kind, moment):
    """The generation that it is opening is removed under it; it goes on with the current one."""
    store = kind(embedding)
    store.add_texts(["0"], ids=["a"])
    _ = store.mentions
    store.save(tmp_path)
    module = "generations" if moment == "open_current" else "saved_store"
    original = getattr(importlib.import_module(f"agentprm.retrievers.{module}"), moment)
    saves = iter(range(1, 5))

    def raced(*args, **options):
        result = original(*args, **options) if moment == "open_current" else None
        for number in saves:
            store.add_texts([f"{number}"], ids=["a"])
            store.save(tmp_path)
            if number % 2 == 0:
                break
        return result or original(*args, **options)

    monkeypatch.setattr(f"agentprm.retrievers.{module}.{moment}", raced)
    assert [d.page_content for d in kind.load(tmp_path, embedding)] == ["4"]


def test_an_unreadable_file_is_no_raw_error(tmp_path, embedding, monkeypatch):
    FaissStore.from_texts(["a"], embedding).save(tmp_path)

    def fail(*args, **options):
        raise FileNotFoundError(2, "No such file", "x")

    monkeypatch.setattr("agentprm.retrievers.saved_store.open_index", fail)
    with pytest.raises(IndexCorruptError, match="No such file"):
        FaissStore.load(tmp_path, embedding)


@pytest.mark.parametrize("kind", [FaissStore, ShardedFaissStore])
def test_words_are_saved_and_kept_up_to_date(tmp_path, embedding, monkeypatch, kind):
    """A process that opens the index collects nothing; later changes are in the next generation."""
    store = kind(embedding)
    names = [f"d{i}" for i in range(30)]
    store.add_texts([f"the ferry number {i} to Lund" for i in range(30)], ids=names)
    _ = store.lexical
    store.delete(names[:5])
    store.save(tmp_path)
    first, second = kind.load(tmp_path, embedding), kind.load(tmp_path, embedding)
    monkeypatch.setattr("agentprm.retrievers.kept_text._texts", None)
    for query in ("number 17", "ferry to Lund", "number 3", "nothing"):
        mine, theirs = (s.lexical.search(query, 40) for s in (first, store))
        assert [(d.id, pytest.approx(score)) for d, score in mine] == [(d.id, score) for d, score in theirs]
    monkeypatch.undo()
    second.add_texts(["a bridge"], ids=["d7"])  # before its words were ever read
    second.save(tmp_path)
    again = kind.load(tmp_path, embedding)
    assert [d.id for d, _ in again.lexical.search("bridge", 3)] == ["d7"]
    assert "d7" not in [d.id for d, _ in again.lexical.search("ferry", 40)]
    assert len(again.lexical.search("ferry", 40)) == 24
    assert [d.id for d, _ in first.lexical.search("number 7", 1)] == ["d7"]
    empty = kind(embedding)
    _ = empty.lexical
    empty.save(tmp_path / "empty")
    assert kind.load(tmp_path / "empty", embedding).lexical.search("x", 3) == []


@pytest.mark.parametrize("kind", [FaissStore, ShardedFaissStore])
def test_a_saved_store_without_titles_knows_its_words_and_its_guesses(tmp_path, embedding, kind):
    """An index of titles that has none is not one that was never collected."""
    texts = [
        "We measured cells.",
        "In mice, cells grow.",
        "It is known that cells die.",
        "Brunel was an engineer.",
    ]
    store = kind(embedding)
    store.add_texts(texts, ids=["a", "b", "c", "d"])
    assert len(store.mentions) == 0
    store.save(tmp_path)
    opened = kind.load(tmp_path, embedding)
    for some in (store, opened):
        some.add_texts(["Lund is a town.", "Portsmouth is a port."], ids=["e", "f"])
    assert len(store.mentions) == 3  # half of them open with a name now
    assert opened.mentions.to_json() == store.mentions.to_json()
