"""A change or a save that is interrupted anywhere: the old documents or the new ones, nothing else."""

from __future__ import annotations

import linecache
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document

import agentprm.retrievers
from agentprm.errors import IndexCorruptError, InputError, StorageError
from agentprm.forking import ForkSafeLock
from agentprm.retrievers import FaissStore, ShardedFaissStore, fsck, roll_back

INTERRUPTS = int(os.environ.get("AGENTPRM_INTERRUPTS", "120"))
SIZE = 16
PACKAGE = str(Path(agentprm.retrievers.__file__).resolve().parent)
KINDS = [
    (FaissStore, "Flat"),
    (FaissStore, "HNSW8"),
    (FaissStore, "IVF4,Flat"),
    (ShardedFaissStore, "Flat"),
    (ShardedFaissStore, "HNSW8"),
]


def vector(name: str, version: int) -> np.ndarray:
    return np.random.default_rng([int(name[1:]), version]).normal(size=SIZE).astype(np.float32)


def put(store, names, version):
    vectors = np.array([vector(name, version) for name in names])
    titles = [{"v": version, "title": f"Town {name}"} for name in names]
    store.add_embeddings([f"{name} {version}" for name in names], vectors, titles, ids=list(names))


def filled(kind, factory, embedding):
    options = {"shards": 3} if kind is ShardedFaissStore else {}
    store = kind(embedding, factory=factory, **options)
    put(store, [f"d{i}" for i in range(30)], 0)
    _ = store.mentions
    store.delete([f"d{i}" for i in range(20, 30)])
    return store


def state(store):
    return {str(d.id): (d.page_content, d.metadata["v"]) for d in store}


OPERATIONS = {
    "upsert": lambda store: put(store, [*(f"d{i}" for i in range(5)), "d50", "d51"], 1),
    "first": lambda store: put(store, [f"d{i}" for i in range(20)], 1),
    "delete": lambda store: store.delete([f"d{i}" for i in range(7)]),
    "delete all": lambda store: store.delete(None),
    "compact": lambda store: store.compact(),
}


def in_package(frame) -> bool:
    return os.path.realpath(frame.f_code.co_filename).startswith(PACKAGE)


def interrupted(work, place: int, error: BaseException) -> bool:
    """Raises the error before a line of the package that `work` runs, by number; whether it ran so many."""
    left = place

    def line(frame, event, arg):
        nonlocal left
        if event == "line":
            left -= 1
            # A tracer may stop a `with` before it lets go of a lock, which no signal can.
            if left < 0 and not linecache.getline(
                frame.f_code.co_filename, frame.f_lineno
            ).lstrip().startswith("with "):
                sys.settrace(None)
                raise error
        return line

    sys.settrace(lambda frame, event, arg: line if in_package(frame) else None)
    try:
        work()
    except (type(error), InputError):
        pass  # memory that ends within FAISS is an InputError
    finally:
        sys.settrace(None)
    return left < 0


def lines_of(work) -> int:
    """How many lines of the package `work` runs."""
    count = 0

    def line(frame, event, arg):
        nonlocal count
        count += event == "line"
        return line

    sys.settrace(lambda frame, event, arg: line if in_package(frame) else None)
    work()
    sys.settrace(None)
    return count


def check(store, allowed):
    """The store answers as one of the states does, by id, by vector and by title."""
    found = state(store)
    assert found in allowed
    assert len(store) == len(found)
    if not found:
        assert store.search_vectors(np.ones((1, SIZE)), 3) == [[]]
        return
    names = list(found)
    queries = np.array([vector(name, found[name][1]) for name in names])
    for name, row in zip(names, store.search_vectors(queries, 1), strict=True):
        assert row[0][0].id == name
    assert len(store.search_vectors(queries[:1], len(found) + 1)[0]) == len(found)
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose(store.vectors_for(names), units, atol=1e-6)
    for name in (names[0], "d1", "d25"):
        mentioned = {i for m in store.mentions.find(f"in Town {name}") for i in m.ids}
        assert (name in mentioned) == (name in found)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("kind", "factory"), KINDS)
def test_an_interrupted_change_is_whole_or_absent(tmp_path, embedding, kind, factory, operation, error):
    faiss.omp_set_num_threads(1)
    work = OPERATIONS[operation]

    def fresh():
        if operation != "first":
            return filled(kind, factory, embedding)
        return kind(embedding, factory=factory, **({"shards": 3} if kind is ShardedFaissStore else {}))

    store = fresh()
    old = state(store)
    work(store)
    new = state(store)
    store = fresh()
    lines = lines_of(lambda: work(store))
    rng = random.Random(f"{factory} {operation} {kind.__name__}")
    share = max(3, INTERRUPTS // (len(KINDS) * len(OPERATIONS) * 2))
    for number in range(share):
        store = fresh()
        if number % 2:
            store.save(tmp_path / "index")
            store = kind.load(tmp_path / "index", embedding)
        interrupted(lambda store=store: work(store), rng.randrange(lines), error())
        if rng.random() < 0.5:
            check(store, [old, new])
        store.save(tmp_path / "index")
        report = fsck(tmp_path / "index")
        assert report.problems == []
        loaded = kind.load(tmp_path / "index", embedding)
        check(loaded, [old, new])
        check(store, [state(loaded)])
        work(store)  # the same again leads where it should have led
        check(store, [new])


@pytest.mark.parametrize(("kind", "factory"), [(FaissStore, "HNSW8"), (ShardedFaissStore, "Flat")])
def test_an_interrupted_save_can_be_repeated(tmp_path, embedding, kind, factory):
    """Even right after the switch: the writer knows the new generation for its own."""
    store = filled(kind, factory, embedding)
    store.save(tmp_path)
    lines = lines_of(lambda: store.save(tmp_path))
    rng = random.Random(0)
    for number in range(max(20, INTERRUPTS // 4)):
        before = state(kind.load(tmp_path, embedding))
        put(store, ["d3", f"d{60 + number % 30}"], number)
        after = state(store)
        # the last lines are the ones that matter most
        place = rng.randrange(lines) if number % 2 else lines - 1 - rng.randrange(min(lines, 200))
        interrupted(lambda: store.save(tmp_path, lock_timeout_s=1), place, KeyboardInterrupt())
        assert fsck(tmp_path).problems == []
        check(kind.load(tmp_path, embedding), [before, after])
        store.save(tmp_path, lock_timeout_s=1)
        check(kind.load(tmp_path, embedding), [after])
    assert fsck(tmp_path).leftovers == []


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer")
@pytest.mark.parametrize(("kind", "factory"), [(FaissStore, "Flat"), (ShardedFaissStore, "HNSW8")])
def test_ctrl_c_at_any_time(tmp_path, embedding, kind, factory):
    """The same with real signals, which can come within locks and between any two instructions."""

    def stop(number, frame):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, stop)
    rng = random.Random(0)
    try:
        store = filled(kind, factory, embedding)
        start = time.perf_counter()
        put(store, [f"d{i}" for i in range(20)], 0)
        store.delete(["d0"])
        usual = time.perf_counter() - start
        for number in range(1, max(20, INTERRUPTS // 2)):
            old = state(store)
            kept = {name: value for name, value in old.items() if name != f"d{number % 20}"}
            names = [f"d{i}" for i in range(20)]
            full = {**old, **{name: (f"{name} {number}", number) for name in names}}
            gone = {name: value for name, value in full.items() if name != f"d{number % 20}"}
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1.5 * usual))
                put(store, names, number)
                store.delete([f"d{number % 20}"])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            other = threading.Thread(target=len, args=(store,), daemon=True)
            assert state(store) in (old, full, gone, kept)
            store.compact()
            other.start()
            other.join(10)
            assert not other.is_alive(), "a lock was kept"
            store.save(tmp_path)
            check(kind.load(tmp_path, embedding), [state(store)])
    finally:
        signal.signal(signal.SIGALRM, previous)


def test_a_batch_that_cannot_be_embedded_changes_nothing(embedding, make_embedding):
    class Failing(make_embedding):
        def embed_documents(self, texts):
            if "bad" in texts:
                raise RuntimeError("no answer")
            return super().embed_documents(texts)

    store = FaissStore.from_texts(["a"], Failing(), ids=["1"])
    with pytest.raises(RuntimeError):
        store.add_texts(["b", "bad"], ids=["1", "2"])
    with pytest.raises(InputError, match="1 vectors for 2 texts"):
        store.add_embeddings(["b", "c"], np.ones((1, SIZE), np.float32))
    assert [(d.id, d.page_content) for d in store] == [("1", "a")]


@pytest.mark.parametrize("part", ["keys", "vectors", "documents"])
def test_a_store_that_contradicts_itself_is_not_saved(tmp_path, embedding, part):
    store = filled(FaissStore, "Flat", embedding)
    store.save(tmp_path)
    core = store._cores[0]
    if part == "documents":
        core.documents._removed.add(1)
        core.documents._records.pop(1, None)
    else:
        table = getattr(core, part)
        setattr(core, part, table.extended(table.take(np.array([0]))))
    with pytest.raises(IndexCorruptError, match="nothing was saved"):
        store.save(tmp_path)
    assert len(FaissStore.load(tmp_path, embedding)) == 20


@pytest.mark.parametrize(("kind", "factory"), [(FaissStore, "HNSW8"), (ShardedFaissStore, "Flat")])
def test_going_back_to_the_last_whole_generation(tmp_path, embedding, kind, factory):
    store = filled(kind, factory, embedding)
    store.save(tmp_path)
    good = state(store)
    assert roll_back(tmp_path) == 20  # nothing to do
    put(store, ["d3"], 7)
    store.save(tmp_path)
    for path in sorted((tmp_path / "gen-000002").rglob("*.npy")):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IndexCorruptError):
        kind.load(tmp_path, embedding)
    assert roll_back(tmp_path) == 20
    loaded = kind.load(tmp_path, embedding)
    check(loaded, [good])
    put(loaded, ["d3"], 8)
    loaded.save(tmp_path)
    report = fsck(tmp_path)
    assert (report.problems, report.leftovers) == ([], [])
    for path in tmp_path.rglob("documents.sqlite"):
        path.write_bytes(b"")
    with pytest.raises(IndexCorruptError, match="no whole generation"):
        roll_back(tmp_path)
    with pytest.raises(InputError):
        roll_back(tmp_path / "nowhere")


@pytest.mark.parametrize("place", ["gen", "CURRENT"])
def test_a_full_disk_is_said_and_leaves_the_index(tmp_path, embedding, monkeypatch, place):
    store = filled(FaissStore, "Flat", embedding)
    store.save(tmp_path)
    put(store, ["d77"], 1)

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    if place == "gen":
        monkeypatch.setattr("agentprm.retrievers.index_files.np.save", full)
    else:
        monkeypatch.setattr("agentprm.retrievers.generations.os.replace", full)
    with pytest.raises(
        StorageError, match=r"is full: free some space and try again\. The index there is as it was"
    ):
        store.save(tmp_path)
    monkeypatch.undo()
    assert "d77" not in state(FaissStore.load(tmp_path, embedding))
    store.save(tmp_path)
    check(FaissStore.load(tmp_path, embedding), [state(store)])


def test_titles_survive_an_interrupt(embedding):
    """Titles that were half changed are collected anew."""
    store = FaissStore(embedding)
    store.add_documents([Document(id="a", page_content="x", metadata={"title": "Lund"})])
    titles = store.mentions

    def stop(document):
        raise KeyboardInterrupt

    titles.add = stop
    with pytest.raises(KeyboardInterrupt):
        store.add_documents([Document(id="a", page_content="y", metadata={"title": "Oslo"})])
    assert [d.page_content for d in store] == ["y"]
    assert [m.ids for m in store.mentions.find("from Lund to Oslo")] == [("a",)]


def test_a_lock_outlives_an_interrupt_as_it_is_taken():
    """What happens when Ctrl-C comes after the lock was taken and before its block began."""
    lock = ForkSafeLock()
    lock.__enter__()
    with lock:
        pass
    other = threading.Thread(target=lock.__enter__, daemon=True)
    other.start()
    other.join(10)
    assert not other.is_alive()
