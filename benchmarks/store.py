"""Compares `FaissStore` with raw FAISS, and with other stores that are installed.

    python benchmarks/store.py --cache CACHE_FOLDER [--rows 100000] [--synthetic] [--skip-others]

Real vectors are those that `benchmarks/feedback.py` left in the cache, repeated with noise; synthetic
ones are random clusters. langchain-community, milvus-lite and lancedb take part when they are installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
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

K = 10
BATCH = 100
SHARES = (0.01, 0.1, 0.5)


class Fixed(Embeddings):
    """Stands for a model: the stores get their vectors ready-made."""

    def __init__(self, size: int) -> None:
        self.size = size

    def embed_query(self, text: str) -> list[float]:
        return np.random.default_rng(len(text)).normal(size=self.size).tolist()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def vectors_of(arguments: argparse.Namespace) -> np.ndarray:
    rng = np.random.default_rng(0)
    if arguments.synthetic:
        centres = rng.normal(size=(2000, 384)).astype(np.float32)
        out = np.empty((arguments.rows, 384), np.float32)
        for start in range(0, arguments.rows, 50_000):
            part = out[start : start + 50_000]
            part[:] = centres[rng.integers(2000, size=len(part))]
            part += 0.6 * rng.normal(size=part.shape).astype(np.float32)
    else:
        real = np.concatenate([np.load(path) for path in sorted(arguments.cache.glob("*-corpus-*.npy"))])
        out = real[rng.integers(len(real), size=arguments.rows)]
        out = out + 0.02 * rng.normal(size=out.shape).astype(np.float32)
    return np.ascontiguousarray(out / np.linalg.norm(out, axis=1, keepdims=True), dtype=np.float32)


def seconds(work: Callable[[], Any], repeat: int = 3) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(repeat):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def report(store: str, what: str, value: float, note: str = "") -> None:
    print(f"{store:28} {what:34} {1000 * value:10.2f} ms  {note}", flush=True)


def recall(found: list[list[int]], truth: list[list[int]]) -> str:
    hits = [len(set(f) & set(t)) / max(1, len(t)) for f, t in zip(found, truth, strict=True)]
    return f"recall@{K} {np.mean(hits):.4f}"


def exact(vectors: np.ndarray, queries: np.ndarray, allowed: np.ndarray | None = None) -> list[list[int]]:
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    _, places = faiss.knn(queries, np.ascontiguousarray(vectors[rows]), K, metric=faiss.METRIC_INNER_PRODUCT)
    return [rows[p].tolist() for p in places]


def raw(vectors: np.ndarray, queries: np.ndarray) -> None:
    index = faiss.IndexFlatIP(vectors.shape[1])
    report("raw FAISS Flat", "build", seconds(lambda: index.add(vectors), 1)[0])
    report("raw FAISS Flat", "one search", seconds(lambda: index.search(queries[:1], K), 10)[0])
    report("raw FAISS Flat", f"batch of {BATCH}", seconds(lambda: index.search(queries, K))[0])


def ours(vectors: np.ndarray, queries: np.ndarray, factory: str, truth: list[list[int]]) -> None:
    name = f"FaissStore {factory}"
    embedding = Fixed(vectors.shape[1])
    count = len(vectors)
    texts, ids = [f"text {i}" for i in range(count)], [str(i) for i in range(count)]
    metadatas = [{"bucket": i % 100} for i in range(count)]
    store = FaissStore(embedding, factory=factory)
    build = lambda: store.add_embeddings(texts, vectors, metadatas, ids=ids)  # noqa: E731
    report(name, "build", seconds(build, 1)[0])
    with tempfile.TemporaryDirectory() as folder:
        report(name, "save", seconds(lambda: store.save(folder), 1)[0])
        opened, store = seconds(lambda: FaissStore.load(folder, embedding))
        report(name, "open", opened)
        report(name, "open in a fresh process", *fresh(folder, vectors.shape[1]))
        numbers = lambda found: [[int(str(d.id)) for d, _ in row] for row in found]  # noqa: E731
        report(name, "one search", seconds(lambda: store.search_vectors(queries[:1], K), 10)[0])
        took, found = seconds(lambda: store.search_vectors(queries, K))
        report(name, f"batch of {BATCH}", took, recall(numbers(found), truth))
        for share in SHARES:
            spec = {"bucket": {"$lt": int(100 * share)}}
            wanted = exact(vectors, queries, np.arange(count) % 100 < int(100 * share))
            first, _ = seconds(lambda spec=spec: store.search_vectors(queries[:1], K, spec), 1)
            took, found = seconds(lambda spec=spec: store.search_vectors(queries, K, spec))
            note = f"{recall(numbers(found), wanted)}, first use {first:.2f} s"
            report(name, f"batch, filter keeps {share:.0%}", took, note)
        gone = [str(i) for i in range(0, count, 100)]
        report(name, f"delete {len(gone)}", seconds(lambda: store.delete(gone), 1)[0])
        back = np.arange(0, count, 100)
        again = lambda: store.add_embeddings([texts[i] for i in back], vectors[back], ids=gone)  # noqa: E731
        report(name, "add them again", seconds(again, 1)[0])
        found = numbers(store.search_vectors(queries, K))
        report(name, f"batch of {BATCH} after that", seconds(lambda: store.search_vectors(queries, K))[0],
               recall(found, truth))  # fmt: skip


def fresh(folder: str, size: int) -> tuple[float, str]:
    """Seconds to open an index and the memory that this takes, in a process of its own."""
    code = (
        "import sys, time, resource, json; sys.path[:0] = json.loads(sys.argv[3])\n"
        "from store import Fixed, FaissStore\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = time.perf_counter(); FaissStore.load(sys.argv[1], Fixed(int(sys.argv[2])))\n"
        "took = time.perf_counter() - start\n"
        "print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))"
    )
    paths = json.dumps([str(Path(__file__).parent), *sys.path])
    output = subprocess.run(
        [sys.executable, "-c", code, folder, str(size), paths], capture_output=True, check=True, text=True
    )
    took, kilobytes = json.loads(output.stdout)
    return took, f"{kilobytes / 1024:.1f} MiB more memory"


def community(vectors: np.ndarray, queries: np.ndarray, truth: list[list[int]]) -> None:
    from langchain_community.docstore.in_memory import InMemoryDocstore
    from langchain_community.vectorstores import FAISS
    from langchain_community.vectorstores.utils import DistanceStrategy

    name = "langchain-community FAISS"
    embedding = Fixed(vectors.shape[1])
    store = FAISS(
        embedding, faiss.IndexFlatIP(vectors.shape[1]), InMemoryDocstore(), {},
        distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
    )  # fmt: skip
    pairs = [(f"text {i}", vector) for i, vector in enumerate(vectors)]
    metadatas = [{"bucket": i % 100, "n": i} for i in range(len(vectors))]
    ids = [str(i) for i in range(len(vectors))]
    report(name, "build", seconds(lambda: store.add_embeddings(pairs, metadatas, ids), 1)[0])
    with tempfile.TemporaryDirectory() as folder:
        report(name, "save", seconds(lambda: store.save_local(folder), 1)[0])
        load = lambda: FAISS.load_local(  # noqa: E731
            folder, embedding, allow_dangerous_deserialization=True,
            distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
        )  # fmt: skip
        report(name, "open", seconds(load)[0])
    one = lambda i, **o: store.similarity_search_with_score_by_vector(queries[i].tolist(), K, **o)  # noqa: E731
    report(name, "one search", seconds(lambda: one(0), 10)[0])
    took, found = seconds(lambda: [one(i) for i in range(BATCH)], 1)
    report(
        name, f"{BATCH} searches", took, recall([[d.metadata["n"] for d, _ in row] for row in found], truth)
    )
    for share in SHARES:
        wanted = exact(vectors, queries, np.arange(len(vectors)) % 100 < int(100 * share))
        keep = lambda metadata, share=share: metadata["bucket"] < int(100 * share)  # noqa: E731
        took, found = seconds(lambda keep=keep: [one(i, filter=keep) for i in range(BATCH)], 1)
        note = recall([[d.metadata["n"] for d, _ in row] for row in found], wanted)
        report(name, f"{BATCH} searches, filter keeps {share:.0%}", took, note)


def milvus(vectors: np.ndarray, queries: np.ndarray, truth: list[list[int]]) -> None:
    from pymilvus import MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(f"{folder}/milvus.db")
        client.create_collection("c", dimension=vectors.shape[1], metric_type="IP")

        def build() -> None:
            for start in range(0, len(vectors), 5000):
                block = vectors[start : start + 5000]
                client.insert("c", [{"id": start + i, "vector": v, "bucket": (start + i) % 100}
                                    for i, v in enumerate(block)])  # fmt: skip

        report("milvus-lite", "build", seconds(build, 1)[0])
        search = lambda **o: client.search("c", queries.tolist(), limit=K, **o)  # noqa: E731
        took, found = seconds(search, 1)
        report("milvus-lite", f"batch of {BATCH}", took, recall([[h["id"] for h in r] for r in found], truth))
        for share in SHARES:
            took, found = seconds(lambda share=share: search(filter=f"bucket < {int(100 * share)}"), 1)
            wanted = exact(vectors, queries, np.arange(len(vectors)) % 100 < int(100 * share))
            note = recall([[h["id"] for h in r] for r in found], wanted)
            report("milvus-lite", f"batch, filter keeps {share:.0%}", took, note)


def lance(vectors: np.ndarray, queries: np.ndarray, truth: list[list[int]]) -> None:
    import lancedb
    import pyarrow

    with tempfile.TemporaryDirectory() as folder:
        table = pyarrow.table({
            "id": np.arange(len(vectors)),
            "bucket": np.arange(len(vectors)) % 100,
            "vector": pyarrow.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]),
        })  # fmt: skip
        took, made = seconds(lambda: lancedb.connect(folder).create_table("t", table, mode="overwrite"), 1)
        report("lancedb", "build", took)
        one = lambda v, **o: made.search(v).distance_type("dot").limit(K)  # noqa: E731
        took, found = seconds(lambda: [one(q).to_list() for q in queries], 1)
        report("lancedb", f"{BATCH} searches", took, recall([[h["id"] for h in r] for r in found], truth))
        for share in SHARES:
            where = f"bucket < {int(100 * share)}"
            took, found = seconds(lambda where=where: [one(q).where(where).to_list() for q in queries], 1)
            wanted = exact(vectors, queries, np.arange(len(vectors)) % 100 < int(100 * share))
            note = recall([[h["id"] for h in r] for r in found], wanted)
            report("lancedb", f"{BATCH} searches, filter keeps {share:.0%}", took, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder with the vectors of benchmarks/feedback.py")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--synthetic", action="store_true", help="random clusters instead of real vectors")
    parser.add_argument("--factories", nargs="+", default=["Flat", "IVF1024,Flat", "HNSW32", "IVF1024,SQ8"])
    parser.add_argument("--skip-others", action="store_true")
    arguments = parser.parse_args()
    if not arguments.synthetic and arguments.cache is None:
        parser.error("--cache is needed for real vectors; or pass --synthetic")
    vectors = vectors_of(arguments)
    noise = np.random.default_rng(1).normal(size=(BATCH, 384)).astype(np.float32)
    queries = vectors[:BATCH] + 0.03 * noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = exact(vectors, queries)
    threads = faiss.omp_get_max_threads()
    print(f"{len(vectors)} x {vectors.shape[1]}, FAISS {faiss.__version__}, {threads} threads")
    raw(vectors, queries)
    for factory in arguments.factories:
        ours(vectors, queries, factory, truth)
    for package, run in (("langchain_community", community), ("milvus_lite", milvus), ("lancedb", lance)):
        if arguments.skip_others:
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: left out")
        else:
            run(vectors, queries, truth)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
