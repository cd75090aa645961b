"""A writer that dies at any moment, two writers at once, and damaged files."""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import shutil
import signal
import threading
import time

import faiss
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.errors import AgentPRMError
from agentprm.retrievers import FaissStore, ShardedFaissStore, WriterConflictError, build_index, fsck
from agentprm.retrievers.building import holds_only_index
from agentprm.retrievers.files import FolderLock

KILLS = int(os.environ.get("AGENTPRM_CRASH_KILLS", "40"))
MUTATIONS = int(os.environ.get("AGENTPRM_MUTATIONS", "600"))
SIZE = 16

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def state(version: int) -> dict[str, int]:
    """Documents of the version, as id -> the version that last wrote it."""
    documents = {}
    for v in range(version + 1):
        documents.update({f"d{(7 * v + i) % 40}": v for i in range(5)})
        for i in range(2):
            documents.pop(f"d{(3 * v + i) % 40}", None)
    return documents


def vector(name: str, version: int) -> np.ndarray:
    return np.random.default_rng([int(name[1:]), version]).normal(size=SIZE).astype(np.float32)


def advance(store: FaissStore | ShardedFaissStore, version: int) -> None:
    names = [f"d{(7 * version + i) % 40}" for i in range(5)]
    store.add_embeddings(
        [f"{n} {version}" for n in names],
        np.array([vector(n, version) for n in names]),
        [{"v": version}] * 5,
        ids=names,
    )
    store.delete([f"d{(3 * version + i) % 40}" for i in range(2)])
    if version % 4 == 0:
        store.compact()


def write_forever(kind, folder, embedding, acknowledged: int) -> None:
    store = kind.load(folder, embedding)
    version = max(d.metadata["v"] for d in store)
    while True:
        version += 1
        advance(store, version)
        store.save(folder)
        os.write(acknowledged, version.to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("kind", "factory"), [(FaissStore, "Flat"), (FaissStore, "HNSW8"), (ShardedFaissStore, "Flat")]
)
def test_killed_writers_leave_the_last_committed_state(tmp_path, embedding, kind, factory):
    faiss.omp_set_num_threads(1)
    rng = random.Random(0)
    store = kind(embedding, factory=factory)
    _ = store.mentions
    advance(store, 0)
    start = time.perf_counter()
    store.save(tmp_path)
    cycle = time.perf_counter() - start
    committed = 0
    for _ in range(-(-KILLS // 3)):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_forever(kind, tmp_path, embedding, writing)
            finally:
                os._exit(1)
        os.close(writing)
        if rng.random() < 0.6:  # else it may die before or within its first save
            select.select([reading], [], [], 30)
        time.sleep(rng.uniform(0, 2 * cycle))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the writer failed by itself"
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        if told:
            committed = int.from_bytes(told[-4:], "big")
        report = fsck(tmp_path)
        assert report.problems == []
        found = {str(d.id): d.metadata["v"] for d in kind.load(tmp_path, embedding)}
        # The pointer may have been switched just before the writer could tell.
        assert found in (state(committed), state(committed + 1))
        committed = max(found.values())
        loaded = kind.load(tmp_path, embedding)
        for name, version in found.items():
            unit = vector(name, version) / np.linalg.norm(vector(name, version))
            np.testing.assert_allclose(loaded.vectors_for([name])[0], unit, atol=1e-6)
    assert committed > 0
    final = kind.load(tmp_path, embedding)
    advance(final, committed + 1)
    final.save(tmp_path)
    assert fsck(tmp_path).leftovers == []


class Slow(Embeddings):
    """Embeddings that take their time and write down what they were asked."""

    def __init__(self, inner, log):
        self.inner, self.log = inner, log

    def embed_query(self, text):
        return self.inner.embed_query(text)

    def embed_documents(self, texts):
        time.sleep(0.002)
        with self.log.open("a") as file:
            file.writelines(f"{text}\n" for text in texts if text.startswith("text"))
        return self.inner.embed_documents(texts)


def test_killed_builds_lose_one_batch_at_most(tmp_path, embedding):
    """Builds over the index before them: killed anywhere, repeated until they are done."""
    faiss.omp_set_num_threads(1)
    rng = random.Random(0)
    index, log = tmp_path / "index", tmp_path / "log"

    def documents(number):  # a quarter of the texts is new in each round
        texts = [(f"d{i}", f"text {i} {(number + i) // 4}") for i in range(100)]
        return [Document(id=name, page_content=text, metadata={"n": number}) for name, text in texts]

    start = time.perf_counter()
    build_index(index, documents(0), Slow(embedding, log), batch_size=5)
    usual = time.perf_counter() - start
    kills = rounds = 0
    while kills < -(-KILLS // 4):
        rounds += 1
        before, wanted = ({d.id: d.page_content for d in documents(n)} for n in (rounds - 1, rounds))
        log.write_text("")
        found, mine = before, 0
        while found != wanted or (index / "building").exists():
            child = os.fork()
            if child == 0:
                try:
                    build_index(index, documents(rounds), Slow(embedding, log), batch_size=5)
                finally:
                    os._exit(0)
            time.sleep(rng.uniform(0, 1.5 * usual))
            os.kill(child, signal.SIGKILL)
            mine += os.WIFSIGNALED(os.waitpid(child, 0)[1])
            assert holds_only_index(index)
            found = {d.id: d.page_content for d in FaissStore.load(index, embedding)}
            assert found in (before, wanted)
        asked = log.read_text().splitlines()
        new = set(wanted.values()) - set(before.values())
        assert set(asked) >= new
        assert len(asked) <= len(new) + 5 * mine
        kills += mine
        assert fsck(index).clean


def test_the_lock_makes_a_second_writer_wait_or_fail(tmp_path, embedding):
    store = FaissStore.from_texts(["a"], embedding)
    store.save(tmp_path)
    with FolderLock(tmp_path / ".lock", 1):
        start = time.monotonic()
        with pytest.raises(WriterConflictError, match="Another process"):
            store.save(tmp_path, lock_timeout_s=0.1)
        assert time.monotonic() - start < 5
        waiting = threading.Thread(target=store.save, args=(tmp_path,))
        waiting.start()
        time.sleep(0.1)
        assert waiting.is_alive()
    waiting.join(10)
    assert not waiting.is_alive()
    assert fsck(tmp_path).clean


def replace_often(folder, embedding, name: str) -> None:
    for i in range(15):
        FaissStore.from_texts([f"{name} {j}" for j in range(i + 1)], embedding).save(folder)


def test_two_processes_that_write_at_once_never_mix(tmp_path, embedding):
    context = multiprocessing.get_context("fork")
    writers = [
        context.Process(target=replace_often, args=(tmp_path, embedding, name)) for name in ("one", "two")
    ]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "CURRENT").exists():
            texts = {d.page_content.split()[0] for d in FaissStore.load(tmp_path, embedding)}
            assert len(texts) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert fsck(tmp_path).clean


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,SQ8"])
def test_mutated_files_give_typed_errors_or_load(tmp_path, embedding, factory):
    rng = random.Random(factory)
    store = FaissStore(embedding, factory=factory)
    texts = [f"t{i}" for i in range(30)]
    store.add_embeddings(
        texts, np.random.default_rng(0).normal(size=(30, SIZE)).astype(np.float32), ids=texts
    )
    index, copy = tmp_path / "index", tmp_path / "copy"
    store.save(index)
    shutil.copytree(index, copy)
    files = [p for p in index.rglob("*") if p.is_file() and p.name != ".lock"]
    outcomes = {"error": 0, "loaded": 0}
    for _ in range(MUTATIONS // 3):
        source = rng.choice(files)
        target = copy / source.relative_to(index)
        data = bytearray(source.read_bytes())
        for _ in range(rng.choice([1, 1, 2, 8])):
            place = rng.randrange(len(data)) if data else 0
            match rng.randrange(4):
                case 0:
                    data[place : place + 1] = bytes([rng.randrange(256)])
                case 1:
                    del data[place : place + rng.randrange(1, 9)]
                case 2:
                    data[place:place] = rng.randbytes(rng.randrange(1, 9))
                case _:
                    data = data[:place]
        target.write_bytes(data)
        try:
            loaded = FaissStore.load(copy, embedding)
            assert sorted(d.id for d in loaded) == sorted(texts)
            assert loaded.search_batch(["t3"], k=5) == store.search_batch(["t3"], k=5)
            outcomes["loaded"] += 1
        except AgentPRMError:
            outcomes["error"] += 1
            assert not fsck(copy).clean
        target.write_bytes(source.read_bytes())
    assert outcomes["error"] > 0.8 * sum(outcomes.values())
    assert fsck(copy).clean


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,SQ8"])
def test_mutations_behind_right_checksums_never_crash(tmp_path, embedding, factory):
    """A manifest whose checksums were recomputed by whoever changed it: still typed errors only."""
    import hashlib
    import json

    rng = random.Random(factory)
    store = FaissStore(embedding, factory=factory)
    texts = [f"t{i}" for i in range(30)]
    store.add_embeddings(
        texts, np.random.default_rng(0).normal(size=(30, SIZE)).astype(np.float32), ids=texts
    )
    store.save(tmp_path)
    folder = tmp_path / "gen-000001"
    original = json.loads((folder / "manifest.json").read_bytes())
    odd = [None, -1, 0, 10**12, "x", [], {}, True, 1.5, "../../x", 31, 17, "Flat", "HNSW8", "l2", "ip"]
    for _ in range(max(60, MUTATIONS // 10)):
        manifest = json.loads(json.dumps(original))
        keys = rng.sample([*original, "nothing"], k=rng.choice([1, 2]))
        for key in keys:
            if rng.random() < 0.2:
                manifest.pop(key, None)
            elif key == "embedding" and rng.random() < 0.7:
                manifest[key][rng.choice(["name", "probe"])] = rng.choice([*odd, ["a"], [None] * SIZE])
            elif key == "files" and rng.random() < 0.7:
                manifest[key][rng.choice(list(original["files"]))] = rng.choice(
                    [*odd, {"size": -1, "sha256": ""}, {"size": True}]
                )
            else:
                manifest[key] = rng.choice(odd)
        raw = json.dumps(manifest).encode()
        (folder / "manifest.json").write_bytes(raw)
        (tmp_path / "CURRENT").write_text(f"gen-000001 {hashlib.sha256(raw).hexdigest()}\n")
        try:
            FaissStore.load(tmp_path, embedding).search_batch(["t3"], k=5)
        except AgentPRMError:
            fsck(tmp_path)
