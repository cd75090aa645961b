"""Measures retrieval and feedback on data sets in the BEIR layout.

    python benchmarks/feedback.py DATA_FOLDER --cache CACHE_FOLDER [--sets scifact 2wiki …]
    python benchmarks/feedback.py DATA_FOLDER --cache CACHE_FOLDER --kinds default
    python benchmarks/feedback.py DATA_FOLDER --cache CACHE_FOLDER --kinds texts --limit 50
    python benchmarks/feedback.py DATA_FOLDER --cache CACHE_FOLDER --kinds judge --limit 20 --sets 2wiki

Passages, queries and feedback texts are embedded once with the packaged all-MiniLM-L6-v2 and kept in the
cache. `default` is `default_retriever` beside what it is made of, also with several passages of one title
and with a misspelt name in each question; `vectors` are the methods that embed nothing new, `texts` those
that do, and `judge` lets the packaged language model pick the feedback, by query likelihood and by yes or
no. Every list is compared with the dense one of the set as it is, on the same questions; a star marks a
difference whose 95 % bootstrap interval excludes 0.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from agentprm.evaluation import bootstrap_difference, bootstrap_interval
from agentprm.packaged import default_embeddings
from agentprm.rerank import JudgeSelector
from agentprm.retrievers import (
    BridgeFeedback,
    EncoderFeedback,
    FaissStore,
    FeatureFeedback,
    FeatureStore,
    LexicalIndex,
    LinkFeedback,
    MarginSelector,
    MentionIndex,
    TextFeedback,
    TopSelector,
    VectorFeedback,
    extract_features,
    load_folder,
)
from agentprm.retrievers.feedback import FeedbackMethod, Merge
from agentprm.retrievers.links import LINKED
from agentprm.retrievers.retrieving import merge_rankings, rrf, weighted
from agentprm.retrievers.selectors import Selector

DEPTH = 100
SETS = ["scifact", "cranfield", "hotpotqa_tune", "musique_tune", "2wiki", "hotpotqa"]
MEASURES = ("nDCG@10", "AP", "R@100", "R@2", "R@5", "all@5")
# Published recall@2 and recall@5 on all 1,000 2WikiMultiHopQA questions of HippoRAG's corpus.
PUBLISHED = {
    "published: BM25": (0.518, 0.619),
    "published: ColBERTv2": (0.592, 0.682),
    "published: IRCoT + ColBERTv2": (0.641, 0.744),
    "published: HippoRAG (ColBERTv2)": (0.707, 0.891),
    "published: IRCoT + HippoRAG": (0.758, 0.939),
    "published: GFM-RAG (its R@2 lies above this measure's ceiling)": (0.908, 0.956),
}

Lists = list[list[tuple[Document, float]]]


class CachedEmbeddings(Embeddings):
    """Embeddings that remember every text in a file."""

    def __init__(self, inner: Embeddings, path: Path) -> None:
        self._inner = inner
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("CREATE TABLE IF NOT EXISTS vectors (text TEXT PRIMARY KEY, vector BLOB)")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        missing = {d: t for d, t in zip(digests, texts, strict=True) if self._known(d) is None}
        for start in range(0, len(missing), 64):
            block = list(missing.items())[start : start + 64]
            vectors = np.asarray(self._inner.embed_documents([t for _, t in block]), np.float32)
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
                    [(d, v.tobytes()) for (d, _), v in zip(block, vectors, strict=True)],
                )
        return [np.frombuffer(self._known(d) or b"", np.float32).tolist() for d in digests]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def _known(self, digest: str) -> bytes | None:
        row = self._connection.execute("SELECT vector FROM vectors WHERE text = ?", (digest,)).fetchone()
        return bytes(row[0]) if row else None


class DataSet(NamedTuple):
    """A data set with its vectors and its first lists."""

    name: str
    documents: list[Document]
    vectors: np.ndarray
    store: FaissStore
    queries: dict[str, str]
    query_vectors: np.ndarray
    qrels: dict[str, dict[str, int]]
    dense: Lists


def cached_vectors(texts: Sequence[str], embed: Any, cache: Path, name: str) -> np.ndarray:
    """Vectors of texts, from the cache when the same texts are there."""
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    path = cache / f"{name}-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(path, np.asarray(embed(list(texts)), dtype=np.float32))
    return np.load(path)


def load(folder: Path, cache: Path, limit: int | None) -> DataSet:
    """Reads a data set and indexes it."""
    inner = default_embeddings()
    documents = load_folder(folder / "corpus.jsonl").documents
    texts = [d.page_content for d in documents]
    vectors = cached_vectors(texts, inner.embed_documents, cache, f"{folder.name}-corpus")
    store = FaissStore(CachedEmbeddings(inner, cache / "texts.sqlite"))
    store.add_embeddings(texts, vectors, [d.metadata for d in documents], ids=[str(d.id) for d in documents])
    rows = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
    queries = {str(row["_id"]): row["text"] for row in rows}
    qrels: dict[str, dict[str, int]] = {}
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for query, document, score in list(csv.reader(file, delimiter="\t"))[1:]:
            if int(score) > 0:
                qrels.setdefault(query, {})[document] = int(score)
    queries = {i: text for i, text in queries.items() if i in qrels}
    embed = getattr(inner, "embed_queries", inner.embed_documents)
    query_vectors = cached_vectors(list(queries.values()), embed, cache, f"{folder.name}-queries")[:limit]
    queries = dict(list(queries.items())[:limit])
    dense = store.search_vectors(query_vectors, DEPTH)
    return DataSet(folder.name, documents, vectors, store, queries, query_vectors, qrels, dense)


def second(
    data: DataSet, method: FeedbackMethod, selector: Selector | None = None, first: Lists | None = None
) -> Lists:
    """What a feedback method makes of the first lists, without merging."""
    lists = []
    for text, vector, hits in zip(
        data.queries.values(), data.query_vectors, first or data.dense, strict=True
    ):
        selection = selector.select(text, hits) if selector else None
        lists.append(method.expand(text, vector, hits, data.store, k=DEPTH, selection=selection))
    return lists


def merged(data: DataSet, lists: Lists, merge: Merge) -> Lists:
    return [merge_rankings(d, s, merge, 10) for d, s in zip(data.dense, lists, strict=True)]


def vector_rows(data: DataSet) -> Iterator[tuple[str, Lists]]:
    """Methods that embed nothing new."""
    lexical = LexicalIndex(data.store)
    texts = list(data.queries.values())
    words = [lexical.search(text, DEPTH) for text in texts]
    yield "bm25", words
    for method in ("rm3", "rocchio"):
        yield f"bm25 + {method}", [lexical.search_with_feedback(t, DEPTH, method) for t in texts]
    both = [rrf([d, w]) for d, w in zip(data.dense, words, strict=True)]
    yield "hybrid, rrf", both
    best = [weighted([d, w]) for d, w in zip(data.dense, words, strict=True)]
    yield "hybrid, weighted .5", best
    for name, vector, depth in (
        ("average 1", VectorFeedback("average"), 1),
        ("average 3", VectorFeedback("average"), 3),
        ("average 5", VectorFeedback("average"), 5),
        ("rocchio 3 .9/.1", VectorFeedback(alpha=0.9, beta=0.1), 3),
        ("rocchio 3 .7/.3", VectorFeedback(alpha=0.7, beta=0.3), 3),
        ("rocchio 3 .5/.5", VectorFeedback(), 3),
        ("rocchio 5 .4/.6", VectorFeedback(alpha=0.4, beta=0.6), 5),
    ):
        yield name, second(data, vector, TopSelector(depth))
    blind = second(data, VectorFeedback())
    yield "rocchio 3 .5/.5, rrf 2:1 (its default)", merged(data, blind, "rrf")
    yield "rocchio 3 .5/.5, first 10 kept", merged(data, blind, "keep")
    margin = second(data, VectorFeedback(), MarginSelector())
    yield "rocchio .5/.5, margin .05", margin
    yield "rocchio .5/.5, margin .05, first 10 kept", merged(data, margin, "keep")
    truth = {text: data.qrels[query] for query, text in data.queries.items()}
    oracle = JudgeSelector(lambda q, found: [float(str(d.id) in truth[q]) for d in found])
    judged = second(data, VectorFeedback(), oracle)
    yield "rocchio .5/.5, perfect judge", judged
    yield "rocchio .5/.5, perfect judge, rrf 2:1", merged(data, judged, "rrf")
    yield "rocchio .5/.5/.1, perfect judge", second(data, VectorFeedback(gamma=0.1), oracle)
    yield "links", second(data, LinkFeedback())
    yield "links, margin .05", second(data, LinkFeedback(), MarginSelector())
    yield "links, perfect judge", second(data, LinkFeedback(), oracle)
    yield "links over hybrid, rrf", second(data, LinkFeedback(), first=both)
    yield "links over hybrid, weighted", second(data, LinkFeedback(), first=best)
    yield "links, 300 titles of common words added", common_titles(data)
    plain = [d.model_copy(update={"metadata": {}}) for d in data.documents]
    yield "links, titles as first lines only", second(data, LinkFeedback(MentionIndex.from_documents(plain)))
    found = second(untitled(data), LinkFeedback())
    yield "links, no titles: names from first sentences", found


def default_rows(data: DataSet, folder: Path, cache: Path) -> Iterator[tuple[str, Lists]]:
    """`default_retriever` and its parts, on the set, with more passages of each title, and misspelt."""
    yield from _stages(data, "")
    others = [name for name in SETS if name != data.name and (folder / name).is_dir()]
    multihop = [name for name in others if name.startswith("hotpotqa") or name == "2wiki"][:1]
    for passages in (2, 5, 10) if data.name == "2wiki" else (5,):
        if multihop and data.documents[0].metadata.get("title"):
            filler = load(folder / multihop[0], cache, 1)
            yield from _stages(shared_titles(data, filler, passages), f", {passages} passages a title")
    yield from list(_stages(untitled(data), ", titles hidden"))[1:]
    random = np.random.default_rng(0)
    texts = {i: misspelt(text, data.store.mentions, random) for i, text in data.queries.items()}
    embed = default_embeddings().embed_documents
    vectors = cached_vectors(list(texts.values()), embed, cache, f"{data.name}-misspelt")
    dense = data.store.search_vectors(vectors, DEPTH)
    wrong = data._replace(queries=texts, query_vectors=vectors, dense=dense)
    yield from _stages(wrong, ", one name misspelt")


def _stages(data: DataSet, suffix: str) -> Iterator[tuple[str, Lists]]:
    if suffix:
        yield f"dense{suffix}", data.dense
    lexical = data.store.lexical
    hybrid = [
        weighted([found, lexical.search(text, DEPTH)])
        for found, text in zip(data.dense, data.queries.values(), strict=True)
    ]
    yield f"hybrid, weighted{suffix}", hybrid
    yield f"default: links over it{suffix}", second(data, LinkFeedback(least_linked=LINKED), first=hybrid)


def untitled(data: DataSet) -> DataSet:
    """The set without titles, except in the passages' vectors."""
    documents = [Document(id=d.id, page_content=_body(d)) for d in data.documents]
    store = FaissStore(data.store.embeddings)
    store.add_embeddings(
        [d.page_content for d in documents],
        data.vectors,
        [{}] * len(documents),
        ids=[str(d.id) for d in documents],
    )
    return data._replace(documents=documents, store=store)


def shared_titles(data: DataSet, filler: DataSet, passages: int) -> DataSet:
    """The set with passages of another one added, so that each title has that many."""
    random = np.random.default_rng(passages)
    wanted = len(data.documents) * (passages - 1)
    rounds = -(-wanted // len(filler.documents))
    places = np.concatenate([random.permutation(len(filler.documents)) for _ in range(rounds)])[:wanted]
    added = [
        Document(
            id=f"{document.id} {number}",
            page_content=_body(filler.documents[places[number * len(data.documents) + row]]),
            metadata={"title": document.metadata.get("title")},
        )
        for number in range(passages - 1)
        for row, document in enumerate(data.documents)
    ]
    documents = [*data.documents, *added]
    store = FaissStore(data.store.embeddings)
    store.add_embeddings(
        [d.page_content for d in documents],
        np.concatenate([data.vectors, filler.vectors[places]]),
        [d.metadata for d in documents],
        ids=[str(d.id) for d in documents],
    )
    dense = store.search_vectors(data.query_vectors, DEPTH)
    return data._replace(documents=documents, store=store, dense=dense)


def misspelt(text: str, titles: MentionIndex, random: np.random.Generator) -> str:
    """A question with one letter of one name wrong, missing, doubled or swapped with its neighbour."""
    found = titles.find(text)
    if not found:
        return text
    name = found[random.integers(len(found))]
    places = [i for i in range(name.start + 1, name.end) if text[i - 1 : i + 1].isalpha()]
    if not places:
        return text
    place = places[random.integers(len(places))]
    before, letter = text[place - 1], text[place]
    other = chr(ord("a") + random.integers(26))
    new = (before + other, before, before + letter * 2, letter + before)[random.integers(4)]
    return text[: place - 1] + new + text[place + 1 :]


def common_titles(data: DataSet) -> Lists:
    """Links when the collection also holds passages that are called "American", "First", "Film", …"""
    words = Counter(w for d in data.documents for w in set(re.findall("[a-z]{3,}", d.page_content.lower())))
    titles = [word.title() for word, _ in words.most_common(300)]
    added = [
        Document(id=f"common-{t}", page_content=f"{t}\n{t} is an album.", metadata={"title": t})
        for t in titles
    ]
    everything = [*data.documents, *added]
    vectors = np.random.default_rng(0).normal(size=(len(added), data.vectors.shape[1]))
    store = FaissStore(data.store.embeddings)
    store.add_embeddings(
        [d.page_content for d in everything],
        np.concatenate([data.vectors, vectors.astype(np.float32)]),
        [d.metadata for d in everything],
        ids=[str(d.id) for d in everything],
    )
    return [
        LinkFeedback().expand(text, vector, hits, store, k=DEPTH)
        for text, vector, hits in zip(
            data.queries.values(),
            data.query_vectors,
            store.search_vectors(data.query_vectors, DEPTH),
            strict=True,
        )
    ]


def _body(document: Document) -> str:
    """Text of a passage without its title."""
    title = document.metadata.get("title") or ""
    return document.page_content.removeprefix(title).lstrip() or document.page_content


def text_rows(data: DataSet, cache: Path) -> Iterator[tuple[str, Lists]]:
    """Methods that embed new texts for each query."""
    embedding = data.store.embeddings
    texts = list(data.queries.values())
    top = [[d.page_content for d, _ in hits[:3]] for hits in data.dense]
    for variant in ("concatenate", "aggregate", "window"):
        method = TextFeedback(variant)
        embedding.embed_documents(
            [x for q, passages in zip(texts, top, strict=True) for x in method.texts(q, passages)]
        )
        if variant == "concatenate":
            yield "text, concatenated", second(data, method)
            continue
        for how in ("average", "max", "borda"):
            lists = second(data, TextFeedback(variant, aggregation=how))
            yield f"text, {variant}, {how}", lists
        yield f"text, {variant}, borda, rrf 2:1 (its default)", merged(data, lists, "rrf")
    yield "bridge, rrf 2:1 (its default)", merged(data, second(data, BridgeFeedback()), "rrf")
    encoder = second(data, EncoderFeedback(embedding))
    yield "encoder over query and passages, untrained", encoder
    yield "the same, rrf 2:1 (its default)", merged(data, encoder, "rrf")
    features = FeatureStore(cache / f"features-{data.name}.sqlite")
    passages = {str(d.id): d for hits in data.dense for d, _ in hits[:3]}
    for kind, generate in (("keywords", keywords(data.documents)), ("entities", entities)):
        extract_features(list(passages.values()), generate, features, kinds=[kind])
        for mode in ("text", "vectors"):
            lists = second(data, FeatureFeedback(features, kind, mode=mode))
            yield f"promptprf, {kind} (no LM), {mode}", lists
    yield "the same, rrf 2:1 (its default)", merged(data, lists, "rrf")


def keywords(documents: Sequence[Document]) -> Callable[[list[str]], list[str]]:
    """A stand-in for a language model: the ten words of highest tf-idf of the passage in a prompt."""
    split = lambda text: re.findall(r"[a-z][a-z-]+", text.lower())  # noqa: E731
    frequency = Counter(word for d in documents for word in set(split(d.page_content)))

    def generate(prompts: list[str]) -> list[str]:
        out = []
        for prompt in prompts:
            counts = Counter(split(prompt.split("\n\n", 1)[1]))
            weight = {w: n * math.log(len(documents) / (1 + frequency[w])) for w, n in counts.items()}
            out.append(", ".join(sorted(weight, key=lambda w: -weight[w])[:10]))
        return out

    return generate


def entities(prompts: list[str]) -> list[str]:
    """Another one: runs of capitalised words."""
    found = [re.findall(r"[A-Z][\w-]+(?: [A-Z][\w-]+)*", p.split("\n\n", 1)[1]) for p in prompts]
    return [", ".join(dict.fromkeys(names)) for names in found]


def judge_rows(data: DataSet) -> Iterator[tuple[str, Lists]]:
    """The packaged language model picks the feedback, beside nobody and a judge who knows the answer."""
    from agentprm.packaged import default_language_model
    from agentprm.rerank import LogitReranker, QueryLikelihoodReranker

    model = default_language_model()
    truth = {text: data.qrels[query] for query, text in data.queries.items()}
    selectors: dict[str, Selector] = {
        "first three": TopSelector(3),
        "query likelihood": JudgeSelector(QueryLikelihoodReranker(model=model), threshold=None),
        "yes or no": JudgeSelector(LogitReranker(model=model), threshold=None),
        "perfect judge": JudgeSelector(lambda q, found: [float(str(d.id) in truth[q]) for d in found]),
    }
    for judge, selector in selectors.items():
        chosen = [selector.select(q, hits) for q, hits in zip(data.queries.values(), data.dense, strict=True)]
        for name, method in (
            ("rocchio .5/.5", VectorFeedback()),
            ("rocchio .5/.5/.1", VectorFeedback(gamma=0.1)),
            ("links", LinkFeedback()),
        ):
            lists = [
                method.expand(text, vector, hits, data.store, k=DEPTH, selection=selection)
                for text, vector, hits, selection in zip(
                    data.queries.values(), data.query_vectors, data.dense, chosen, strict=True
                )
            ]
            yield f"{name}, {judge}", lists
            if name == "rocchio .5/.5":
                yield f"{name}, {judge}, rrf 2:1", merged(data, lists, "rrf")


def measure(data: DataSet, lists: Lists) -> dict[str, list[float]]:
    """Measures of each question, nDCG, average precision and recall by ir-measures."""
    run = [
        ir_measures.ScoredDoc(query, str(document.id), float(-rank))
        for query, found in zip(data.queries, lists, strict=True)
        for rank, (document, _) in enumerate(found[:DEPTH])
    ]
    qrels = [ir_measures.Qrel(q, d, grade) for q in data.queries for d, grade in data.qrels[q].items()]
    kinds = [ir_measures.nDCG @ 10, ir_measures.AP, ir_measures.R @ 100, ir_measures.R @ 2, ir_measures.R @ 5]
    table: dict[str, dict[str, float]] = {str(kind): {} for kind in kinds}
    for metric in ir_measures.iter_calc(kinds, qrels, run):
        table[str(metric.measure)][metric.query_id] = metric.value
    values = {name: [row.get(query, 0.0) for query in data.queries] for name, row in table.items()}
    values["all@5"] = [
        float(set(data.qrels[query]) <= {str(d.id) for d, _ in found[:5]})
        for query, found in zip(data.queries, lists, strict=True)
    ]
    return values


def line(name: str, values: dict[str, list[float]], base: dict[str, list[float]]) -> str:
    """A row of the table; a star where the difference to the dense row is none of chance."""
    cells = []
    for measure_name in MEASURES:
        own = values[measure_name]
        difference = bootstrap_difference(own, base[measure_name], resamples=2000)
        star = "*" if difference.low > 0 or difference.high < 0 else ""
        cells.append(f"{sum(own) / len(own):.3f}{star}")
    interval = bootstrap_interval(values["nDCG@10"], resamples=2000)
    return f"| {name} | {' | '.join(cells)} | [{interval.low:.3f}, {interval.high:.3f}] |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("--cache", type=Path, required=True, help="folder for vectors")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument(
        "--kinds", nargs="+", choices=["default", "vectors", "texts", "judge"], default=["vectors"]
    )
    parser.add_argument("--limit", type=int, help="only the first questions of each set")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in arguments.sets:
        data = load(arguments.data / name, arguments.cache, arguments.limit)
        print(f"\n### {name}: {len(data.store):,} documents, {len(data.queries)} queries\n", flush=True)
        print(f"| | {' | '.join(MEASURES)} | 95 % of nDCG@10 |\n|{'---|' * (len(MEASURES) + 2)}")
        base = measure(data, data.dense)
        print(line("dense", base, base), flush=True)
        kinds: dict[str, Callable[[], Iterator[tuple[str, Lists]]]] = {
            "default": lambda: default_rows(data, arguments.data, arguments.cache),  # noqa: B023  (called here)
            "vectors": lambda: vector_rows(data),  # noqa: B023
            "texts": lambda: text_rows(data, arguments.cache),  # noqa: B023
            "judge": lambda: judge_rows(data),  # noqa: B023
        }
        for kind in arguments.kinds:
            for row, lists in kinds[kind]():
                print(line(row, measure(data, lists), base), flush=True)
        for row, (two, five) in PUBLISHED.items() if name == "2wiki" else ():
            print(f"| {row} | | | | {two:.3f} | {five:.3f} | | |")


if __name__ == "__main__":
    main()
