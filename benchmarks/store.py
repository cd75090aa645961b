"""Compares `FaissStore` with raw FAISS, and with other stores that are installed.

    python benchmarks/store.py --cache CACHE_FOLDER [--rows 100000] [--systems flat raw community …]
    python benchmarks/store.py --synthetic --rows 1000000 --systems raw flat ivf
    python benchmarks/store.py --synthetic --rows 3000            (a try-out of some seconds)

Real vectors are those that `benchmarks/feedback.py` left in the cache, repeated with noise; synthetic
ones are random clusters. Every system runs in a process of its own on the same vectors. Times are
medians of five, in milliseconds, and single ones of what can be done only once; memory is read from /proc.
langchain-community, milvus-lite and lancedb take part when they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from langchain_core.embeddings import Embeddings

from agentprm.retrievers import FaissStore

clock = time.perf_counter
K = 10
BATCH = 100
SHARES = (0.01, 0.1, 0.5)
FACTORIES = {"flat": "Flat", "ivf": "IVF1024,Flat", "hnsw": "HNSW32", "sq8": "IVF1024,SQ8"}
PACKAGES = {"community": "langchain_community", "milvus": "milvus_lite", "lance": "lancedb"}


class Fixed(Embeddings):
    """Stands for a model: the stores get their vectors ready-made."""

    def __init__(self, size: int) -> None:
        self.size = size

    def embed_query(self, text: str) -> list[float]:
        return np.random.default_rng(len(text)).normal(size=self.size).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def make_vectors(arguments: argparse.Namespace, path: Path) -> np.ndarray:
    """Writes the vectors, block by block, and maps them."""
    rng = np.random.default_rng(0)
    real = centres = np.empty((0, 384), np.float32)
    if arguments.synthetic:
        centres = rng.normal(size=(2000, 384)).astype(np.float32)
    else:
        real = np.concatenate([np.load(p) for p in sorted(arguments.cache.glob("*-corpus-*.npy"))])
    out = np.lib.format.open_memmap(path, "w+", np.float32, (arguments.rows, 384))
    for start in range(0, arguments.rows, 50_000):
        size = min(50_000, arguments.rows - start)
        noise = rng.normal(size=(size, 384)).astype(np.float32)
        base, scale = (centres, 0.6) if arguments.synthetic else (real, 0.02)
        part = base[rng.integers(len(base), size=size)] + scale * noise
        out[start : start + size] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()
    return np.load(path, mmap_mode="r")


class Task:
    """The vectors, the queries and the right answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.queries = np.load(folder / "queries.npy")
        self.count = len(self.vectors)
        self.texts = [f"text {i}" for i in range(self.count)]
        self.ids = [str(i) for i in range(self.count)]
        self.buckets = np.arange(self.count) % 100
        self.truth = {key: rows.tolist() for key, rows in np.load(folder / "truth.npz").items()}

    def recall(self, found: list[list[int]], share: float = 1.0) -> str:
        truth = self.truth[str(share)]
        return (
            f"recall@{K} {np.mean([len(set(f) & set(t)) / K for f, t in zip(found, truth, strict=True)]):.4f}"
        )


def answers(vectors: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    """The exact nearest rows, among all and among each share of them."""
    buckets = np.arange(len(vectors)) % 100
    out = {}
    for share in (1.0, *SHARES):
        best = np.full((len(queries), 0), 0, np.float32), np.full((len(queries), 0), 0, np.int64)
        for start in range(0, len(vectors), 50_000):
            rows = start + np.flatnonzero(buckets[start : start + 50_000] < round(100 * share))
            values, places = faiss.knn(
                queries, np.ascontiguousarray(vectors[rows]), K, metric=faiss.METRIC_INNER_PRODUCT
            )
            both = np.concatenate([best[0], values], 1), np.concatenate([best[1], rows[places]], 1)
            order = np.argsort(-both[0], axis=1, kind="stable")[:, :K]
            best = np.take_along_axis(both[0], order, 1), np.take_along_axis(both[1], order, 1)
        out[str(share)] = best[1]
    return out


def seconds(work: Callable[[], Any], repeat: int = 5) -> tuple[float, Any]:
    """Median time and the last result."""
    times, result = [], None
    for _ in range(repeat):
        start = clock()
        result = work()
        times.append(clock() - start)
    return statistics.median(times), result


def memory(name: str = "VmHWM") -> float:
    """A line of /proc/self/status, in MiB: VmHWM (peak), RssAnon (own), RssFile (mapped files)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024


def bytes_read() -> float:
    """MiB that this process has read with system calls; pages of mapped files are counted as RssFile."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar")) / 1024**2


def report(store: str, what: str, value: float, note: str = "") -> None:
    print(f"{store:28} {what:34} {1000 * value:10.2f} ms  {note}", flush=True)


def raw(task: Task, name: str) -> None:
    """FAISS alone: the vectors in memory, no documents."""
    vectors = np.ascontiguousarray(task.vectors)
    index = faiss.IndexFlatIP(vectors.shape[1])
    report(name, "build", seconds(lambda: index.add(vectors), 1)[0])
    report(name, "one search", seconds(lambda: index.search(task.queries[:1], K))[0])
    report(name, f"batch of {BATCH}", seconds(lambda: index.search(task.queries, K))[0])


def ours(task: Task, name: str, factory: str) -> None:
    size = task.vectors.shape[1]
    embedding = Fixed(size)
    store = FaissStore(embedding, factory=factory)
    metadatas = [{"bucket": int(b)} for b in task.buckets]
    build = lambda: store.add_embeddings(task.texts, task.vectors, metadatas, ids=task.ids)  # noqa: E731
    report(name, "build", seconds(build, 1)[0])
    folder = str(task.folder / "store")
    report(name, "save", seconds(lambda: store.save(folder), 1)[0])
    opened, store = seconds(lambda: FaissStore.load(folder, embedding))
    report(name, "open", opened, f"{disk(folder):.0f} MiB on disk")
    report(name, "open in a fresh process", *fresh(folder, size))
    numbers = lambda found: [[int(str(d.id)) for d, _ in row] for row in found]  # noqa: E731
    search = lambda **o: store.search_vectors(task.queries, K, **o)  # noqa: E731
    report(name, "one search", seconds(lambda: store.search_vectors(task.queries[:1], K))[0])
    took, found = seconds(search)
    report(name, f"batch of {BATCH}", took, task.recall(numbers(found)))
    if factory == "Flat":  # side by side, as other work on the machine slows both
        index = faiss.IndexFlatIP(size)
        index.add(np.ascontiguousarray(task.vectors))
        pairs = [
            (seconds(search, 1)[0], seconds(lambda: index.search(task.queries, K), 1)[0]) for _ in range(7)
        ]
        print(
            f"{name:28} batch: time of ours / of raw FAISS  {statistics.median(a / b for a, b in pairs):.2f}"
        )
        del index
    for share in SHARES:
        spec = {"bucket": {"$lt": round(100 * share)}}
        first, _ = seconds(lambda spec=spec: store.search_vectors(task.queries[:1], K, spec), 1)
        took, found = seconds(lambda spec=spec: search(filter=spec))
        report(name, f"batch, filter keeps {share:.0%}", took,
               f"{task.recall(numbers(found), share)}, first use {first:.2f} s")  # fmt: skip
    gone = task.ids[::100]
    report(name, f"delete {len(gone)}", seconds(lambda: store.delete(gone), 1)[0], ours_right(task, store))
    back = np.arange(0, task.count, 100)
    again = lambda: store.add_embeddings(  # noqa: E731
        [task.texts[i] for i in back], task.vectors[back], [metadatas[i] for i in back], ids=gone
    )
    report(name, "add them again", seconds(again, 1)[0])
    took, found = seconds(search)
    report(name, f"batch of {BATCH} after that", took, task.recall(numbers(found)))


def ours_right(task: Task, store: FaissStore) -> str:
    rows = probes(task)
    found = store.search_vectors(np.ascontiguousarray(task.vectors[rows]), 1)
    return right([str(row[0][0].id) if row else "" for row in found], rows)


def probes(task: Task) -> np.ndarray:
    """Rows that are not deleted, to be looked for by their own vectors."""
    rows = np.random.default_rng(2).integers(task.count, size=300)
    return rows[rows % 100 != 0]


def right(found: list[str], rows: np.ndarray) -> str:
    hits = sum(name == str(row) for name, row in zip(found, rows, strict=True))
    return f"{hits}/{len(rows)} documents found by their own vector"


def disk(folder: str) -> float:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1024**2


def fresh(folder: str, size: int) -> tuple[float, str]:
    """Seconds to open an index in a process of its own, what it reads, and the memory it takes."""
    code = (
        "import sys, time, json; sys.path[:0] = json.loads(sys.argv[3])\n"
        "from store import Fixed, FaissStore, memory, bytes_read\n"
        "import numpy as np\n"
        "state = lambda: np.array([bytes_read(), memory('RssAnon'), memory('RssFile')])\n"
        "clock = getattr(time, sys.argv[4])\n"
        "embedding = Fixed(int(sys.argv[2])); before = state(); start = clock()\n"
        "store = FaissStore.load(sys.argv[1], embedding); took = clock() - start\n"
        "after = state(); store.search_vectors(np.ones((1, int(sys.argv[2])), np.float32), 10)\n"
        "print(json.dumps([took, (after - before).tolist(), (state() - before).tolist()]))"
    )
    paths = json.dumps([str(Path(__file__).parent), *sys.path])
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, folder, str(size), paths, clock.__name__],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        for _ in range(3)
    ]
    took, opened, searched = sorted(json.loads(run) for run in runs)[1]
    words = "{:.1f} MiB read, {:.1f} own memory, {:.1f} mapped"
    return took, f"{words.format(*opened)}; after one search {words.format(*searched)}"


def community(task: Task, name: str) -> None:
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_community.vectorstores.utils import DistanceStrategy

    size = task.vectors.shape[1]
    embedding = Fixed(size)
    product = DistanceStrategy.MAX_INNER_PRODUCT

    def make(index: Any) -> FAISS:
        return FAISS(embedding, index, InMemoryDocstore(), {}, distance_strategy=product)

    store = make(faiss.IndexFlatIP(size))
    pairs = list(zip(task.texts, np.asarray(task.vectors), strict=True))
    metadatas = [{"bucket": int(b), "n": i} for i, b in enumerate(task.buckets)]
    report(name, "build", seconds(lambda: store.add_embeddings(pairs, metadatas, task.ids), 1)[0])
    folder = str(task.folder / "community")
    report(name, "save", seconds(lambda: store.save_local(folder), 1)[0])
    load = lambda: FAISS.load_local(  # noqa: E731
        folder, embedding, allow_dangerous_deserialization=True, distance_strategy=product
    )
    before = memory("RssAnon")
    opened, copy = seconds(load, 1)
    report(name, "open", opened, f"{memory('RssAnon') - before:.0f} MiB own memory")
    del copy
    one = lambda i, **o: store.similarity_search_with_score_by_vector(task.queries[i].tolist(), K, **o)  # noqa: E731
    report(name, "one search", seconds(lambda: one(0))[0])
    numbers = lambda found: [[d.metadata["n"] for d, _ in row] for row in found]  # noqa: E731
    took, found = seconds(lambda: [one(i) for i in range(BATCH)], 1)
    report(name, f"{BATCH} searches", took, task.recall(numbers(found)))
    for share in SHARES:
        keep = lambda metadata, share=share: metadata["bucket"] < round(100 * share)  # noqa: E731
        took, found = seconds(lambda keep=keep: [one(i, filter=keep) for i in range(BATCH)], 1)
        report(name, f"{BATCH} searches, filter keeps {share:.0%}", took, task.recall(numbers(found), share))
    gone, rows = task.ids[::100], probes(task)
    index = faiss.index_factory(size, "IVF256,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(task.vectors[: min(task.count, 50_000)]))
    index.nprobe = 256
    lists = make(index)
    lists.add_embeddings(pairs, metadatas, task.ids)
    for label, own in (("Flat", store), ("IVF256", lists)):
        found = []
        took, _ = seconds(lambda own=own: own.delete(gone), 1)
        for row in rows:
            try:
                hits = own.similarity_search_with_score_by_vector(task.vectors[row].tolist(), 1)
                found.append(str(hits[0][0].metadata["n"]) if hits else "")
            except (KeyError, ValueError):
                found.append("error")
        report(name, f"delete {len(gone)}, {label}", took, right(found, rows))
    try:
        store.add_embeddings(pairs[1:2], metadatas[1:2], task.ids[1:2])
        note = "accepted"
    except ValueError as error:
        same = store.index.ntotal == len(store.index_to_docstore_id)
        note = f"{str(error)[:60]} …; index and documents {'agree' if same else 'are out of step'}"
    print(f"{name:28} {'add an id that is there':34} {note}")


def milvus(task: Task, name: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(str(task.folder / "milvus.db"))
    client.create_collection("c", dimension=task.vectors.shape[1], metric_type="IP")

    def build() -> None:
        for start in range(0, task.count, 5000):
            block = np.asarray(task.vectors[start : start + 5000])
            client.insert("c", [{"id": start + i, "vector": v, "bucket": int((start + i) % 100)}
                                for i, v in enumerate(block)])  # fmt: skip

    report(name, "build", seconds(build, 1)[0])
    search = lambda **o: client.search("c", task.queries.tolist(), limit=K, **o)  # noqa: E731
    numbers = lambda found: [[h["id"] for h in row] for row in found]  # noqa: E731
    one = lambda: client.search("c", task.queries[:1].tolist(), limit=K)  # noqa: E731
    report(name, "one search", seconds(one, 3)[0])
    took, found = seconds(search, 1)
    report(name, f"batch of {BATCH}", took, task.recall(numbers(found)))
    for share in SHARES:
        took, found = seconds(lambda share=share: search(filter=f"bucket < {round(100 * share)}"), 1)
        report(name, f"batch, filter keeps {share:.0%}", took, task.recall(numbers(found), share))


def lance(task: Task, name: str) -> None:
    import lancedb
    import pyarrow

    table = pyarrow.table({
        "id": np.arange(task.count),
        "bucket": task.buckets,
        "vector": pyarrow.FixedSizeListArray.from_arrays(np.asarray(task.vectors).ravel(), 384),
    })  # fmt: skip
    folder = str(task.folder / "lance")
    took, made = seconds(lambda: lancedb.connect(folder).create_table("t", table, mode="overwrite"), 1)
    report(name, "build", took)
    report(name, "open", seconds(lambda: lancedb.connect(folder).open_table("t"))[0])
    one = lambda v, **o: made.search(v).distance_type("dot").limit(K)  # noqa: E731
    numbers = lambda found: [[h["id"] for h in row] for row in found]  # noqa: E731
    report(name, "one search", seconds(lambda: one(task.queries[0]).to_list(), 3)[0])
    took, found = seconds(lambda: [one(q).to_list() for q in task.queries], 1)
    report(name, f"{BATCH} searches", took, task.recall(numbers(found)))
    for share in SHARES:
        where = f"bucket < {round(100 * share)}"
        took, found = seconds(lambda where=where: [one(q).where(where).to_list() for q in task.queries], 1)
        report(name, f"{BATCH} searches, filter keeps {share:.0%}", took, task.recall(numbers(found), share))


def work(system: str, folder: Path, cpu_time: bool) -> None:
    """Measures one system, in this process."""
    global clock  # noqa: PLW0603
    if cpu_time:
        clock = time.process_time
        faiss.omp_set_num_threads(1)
    task = Task(folder)
    if system in FACTORIES:
        ours(task, f"FaissStore {FACTORIES[system]}", FACTORIES[system])
    else:
        run = {"raw": raw, "community": community, "milvus": milvus, "lance": lance}[system]
        run(task, {"raw": "raw FAISS Flat", "community": "langchain-community FAISS"}.get(system, system))
    print(f"{'':28} peak memory of this process {memory():.0f} MiB", flush=True)


def main() -> None:
    known = ["raw", *FACTORIES, *PACKAGES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder with the vectors of benchmarks/feedback.py")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--synthetic", action="store_true", help="random clusters instead of real vectors")
    parser.add_argument("--systems", nargs="+", choices=known, default=known)
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of one thread: for a machine that is not idle"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments.systems[0], arguments.work, arguments.cpu_time)
        return
    if not arguments.synthetic and arguments.cache is None:
        parser.error("--cache is needed for real vectors; or pass --synthetic")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors = make_vectors(arguments, folder / "vectors.npy")
        noise = np.random.default_rng(1).normal(size=(BATCH, 384)).astype(np.float32)
        queries = vectors[:BATCH] + 0.03 * noise
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        np.save(folder / "queries.npy", queries)
        np.savez(folder / "truth.npz", **answers(vectors, queries))
        threads = 1 if arguments.cpu_time else faiss.omp_get_max_threads()
        print(
            f"{len(vectors)} x {vectors.shape[1]}, FAISS {faiss.__version__}, {threads} threads", flush=True
        )
        for system in arguments.systems:
            package = PACKAGES.get(system)
            if package is not None and importlib.util.find_spec(package) is None:
                print(f"{package} is not installed: left out")
                continue
            own = ["--systems", system, "--work", name, *["--cpu-time"] * arguments.cpu_time]
            subprocess.run([sys.executable, __file__, *own], check=False)
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
