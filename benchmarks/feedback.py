"""Measures retrieval and feedback on data sets in the BEIR layout.

    python benchmarks/feedback.py DATA_FOLDER --cache CACHE_FOLDER [--sets scifact 2wiki …]

Passages and queries are embedded once with the packaged all-MiniLM-L6-v2 and kept in the cache.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
from langchain_core.documents import Document

from agentprm.packaged import default_embeddings
from agentprm.retrievers import (
    BridgeFeedback,
    FaissStore,
    JudgeSelector,
    LexicalIndex,
    LinkFeedback,
    MarginSelector,
    TextFeedback,
    TopSelector,
    VectorFeedback,
    load_folder,
)
from agentprm.retrievers.feedback_methods import FeedbackMethod, Merge
from agentprm.retrievers.feedback_retriever import merge_rankings
from agentprm.retrievers.fusion import rrf, weighted
from agentprm.retrievers.selectors import Selector

DEPTH = 100
SETS = ["scifact", "cranfield", "hotpotqa_tune", "musique_tune", "2wiki", "hotpotqa"]


class DataSet(NamedTuple):
    """A data set with its vectors."""

    name: str
    store: FaissStore
    queries: dict[str, str]
    query_vectors: np.ndarray
    qrels: dict[str, dict[str, int]]


def cached_vectors(texts: Sequence[str], embed: Any, cache: Path, name: str) -> np.ndarray:
    """Vectors of texts, from the cache when the same texts are there."""
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(embed(list(texts)), dtype=np.float32))
    return np.load(path)


def load(folder: Path, cache: Path) -> DataSet:
    """Reads a data set and indexes it."""
    embedding = default_embeddings()
    documents = load_folder(folder / "corpus.jsonl").documents
    texts = [d.page_content for d in documents]
    vectors = cached_vectors(texts, embedding.embed_documents, cache, f"{folder.name}-corpus")
    store = FaissStore(embedding)
    store.add_embeddings(texts, vectors, [d.metadata for d in documents], ids=[str(d.id) for d in documents])
    rows = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    queries = {str(row["_id"]): row["text"] for row in rows}
    qrels: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for query, document, score in list(csv.reader(file, delimiter="\t"))[1:]:
            if int(score) > 0:
                qrels.setdefault(query, {})[document] = int(score)
    queries = {i: text for i, text in queries.items() if i in qrels}
    embed = getattr(embedding, "embed_queries", embedding.embed_documents)
    query_vectors = cached_vectors(list(queries.values()), embed, cache, f"{folder.name}-queries")
    return DataSet(folder.name, store, queries, query_vectors, qrels)


def rows(data: DataSet, lexical: LexicalIndex) -> Iterator[tuple[str, list[list[tuple[Document, float]]]]]:
    """Name and lists of each method, on all queries."""
    texts = list(data.queries.values())
    store, vectors = data.store, data.query_vectors
    dense = store.search_vectors(vectors, DEPTH)
    yield "dense", dense
    words = [lexical.search(text, DEPTH) for text in texts]
    yield "bm25", words
    for method in ("rm3", "rocchio"):
        yield f"bm25 + {method}", [lexical.search_with_feedback(t, DEPTH, method) for t in texts]
    yield "hybrid rrf", [rrf([d, w]) for d, w in zip(dense, words, strict=True)]
    yield "hybrid weighted .5", [weighted([d, w]) for d, w in zip(dense, words, strict=True)]

    def second(
        method: FeedbackMethod, selector: Selector | None = None
    ) -> list[list[tuple[Document, float]]]:
        lists = []
        for text, vector, hits in zip(texts, vectors, dense, strict=True):
            selection = selector.select(text, hits) if selector else None
            lists.append(method.expand(text, vector, hits, store, k=DEPTH, selection=selection))
        return lists

    def merged(lists: list[list[tuple[Document, float]]], merge: Merge) -> list[list[tuple[Document, float]]]:
        return [merge_rankings(d, s, merge, 10) for d, s in zip(dense, lists, strict=True)]

    for name, method, depth in (
        ("average 3", VectorFeedback("average"), 3),
        ("rocchio 3 .9/.1", VectorFeedback(alpha=0.9, beta=0.1), 3),
        ("rocchio 3 .7/.3", VectorFeedback(alpha=0.7, beta=0.3), 3),
        ("rocchio 3 .5/.5", VectorFeedback(), 3),
        ("rocchio 5 .4/.6", VectorFeedback(alpha=0.4, beta=0.6), 5),
    ):
        yield name, second(method, TopSelector(depth))
    blind = second(VectorFeedback())
    yield "rocchio 3 .5/.5, first 10 kept", merged(blind, "keep")
    yield "rocchio 3 .5/.5, rrf 2:1", merged(blind, "rrf")
    yield "rocchio .5/.5, margin .05", second(VectorFeedback(), MarginSelector())
    truth = {text: data.qrels[query] for query, text in data.queries.items()}
    oracle = JudgeSelector(lambda q, found: [float(str(d.id) in truth[q]) for d in found])
    judged = second(VectorFeedback(), oracle)
    yield "rocchio .5/.5, perfect judge", judged
    yield "rocchio .5/.5, perfect judge, first 10 kept", merged(judged, "keep")
    negatives = second(VectorFeedback(gamma=0.1), oracle)
    yield "rocchio .5/.5/.1, perfect judge", negatives
    links = second(LinkFeedback())
    yield "links (default)", links
    yield "links, margin .05", second(LinkFeedback(), MarginSelector())
    yield (
        "links over bm25 + dense",
        [
            LinkFeedback().expand(text, vector, rrf([d, w]), store, k=DEPTH)
            for text, vector, d, w in zip(texts, vectors, dense, words, strict=True)
        ],
    )


def text_rows(data: DataSet) -> Iterator[tuple[str, list[list[tuple[Document, float]]]]]:
    """Methods that embed new texts for each query, which takes a while."""
    dense = data.store.search_vectors(data.query_vectors, DEPTH)
    pairs = list(zip(data.queries.values(), data.query_vectors, dense, strict=True))
    for name, method, merge in (
        ("text concatenate", TextFeedback("concatenate"), "replace"),
        ("text aggregate, borda", TextFeedback("aggregate"), "replace"),
        ("text aggregate, average", TextFeedback("aggregate", aggregation="average"), "replace"),
        ("text window, max", TextFeedback("window", aggregation="max"), "replace"),
        ("bridge, rrf 2:1", BridgeFeedback(), "rrf"),
    ):
        lists = [method.expand(text, vector, hits, data.store, k=DEPTH) for text, vector, hits in pairs]
        yield name, [merge_rankings(hits, s, merge, 10) for (_, _, hits), s in zip(pairs, lists, strict=True)]


def measure(data: DataSet, lists: list[list[tuple[Document, float]]]) -> dict[str, float]:
    """Mean measures: nDCG@10, MAP and R@100 by ir-measures, recall@2, recall@5 and all gold in 5."""
    run = [
        ir_measures.ScoredDoc(query, str(document.id), float(-rank))
        for query, found in zip(data.queries, lists, strict=True)
        for rank, (document, _) in enumerate(found[:DEPTH])
    ]
    qrels = [
        ir_measures.Qrel(query, document, grade)
        for query, relevant in data.qrels.items()
        for document, grade in relevant.items()
    ]
    kinds = [ir_measures.nDCG @ 10, ir_measures.AP, ir_measures.R @ 100, ir_measures.R @ 2, ir_measures.R @ 5]
    values = ir_measures.calc_aggregate(kinds, qrels, run)
    complete = [
        set(data.qrels[query]) <= {str(d.id) for d, _ in found[:5]}
        for query, found in zip(data.queries, lists, strict=True)
    ]
    return {str(kind): float(values[kind]) for kind in kinds} | {"all@5": sum(complete) / len(complete)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--cache", type=Path, required=True, help="folder for vectors")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--texts", action="store_true", help="also the methods that embed new texts")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in arguments.sets:
        data = load(arguments.data / name, arguments.cache)
        print(f"\n{name}: {len(data.store)} documents, {len(data.queries)} queries", flush=True)
        print(f"{'':44}   nDCG@10  MAP     R@100   R@2     R@5     all@5")
        methods = chain(rows(data, LexicalIndex(data.store)), text_rows(data) if arguments.texts else ())
        for method, lists in methods:
            values = measure(data, lists)
            print(f"{method:46} " + "   ".join(f"{value:.3f}" for value in values.values()), flush=True)


if __name__ == "__main__":
    main()
