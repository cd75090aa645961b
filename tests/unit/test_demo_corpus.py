"""Consistency of the demo corpus that ships as package data in ``agentprm/demo``."""

from __future__ import annotations

import csv
import importlib.util
import json
import pathlib
from itertools import pairwise

import pytest

REPO_DEMO = pathlib.Path(__file__).resolve().parents[2] / "agentprm" / "demo"


def _demo_dir() -> pathlib.Path:
    """The checkout's folder where there is one, else that of the installed package."""
    if REPO_DEMO.is_dir():
        return REPO_DEMO
    from agentprm.demo import corpus_path

    return corpus_path()


DEMO = _demo_dir()


def _jsonl(name: str) -> list[dict]:
    lines = (DEMO / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


DOCS = _jsonl("corpus.jsonl")
QUERIES = _jsonl("queries.jsonl")
BY_ID = {d["_id"]: d for d in DOCS}
BRIDGE = [q for q in QUERIES if q["type"] == "bridge"]
COMPARISON = [q for q in QUERIES if q["type"] == "comparison"]


def _full(doc_id: str) -> str:
    return f"{BY_ID[doc_id]['title']} {BY_ID[doc_id]['text']}".lower()


def _key(title: str) -> str:
    return title.lower().removeprefix("the ")


def _qid(query: dict) -> str:
    return query["_id"]


def _qrels() -> list[tuple[str, str, str]]:
    with (DEMO / "qrels.tsv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle, delimiter="\t"))
    assert rows[0] == ["query-id", "corpus-id", "score"]
    assert all(len(row) == 3 for row in rows)
    return [(row[0], row[1], row[2]) for row in rows[1:]]


def test_counts() -> None:
    assert 95 <= len(DOCS) <= 110
    assert len(QUERIES) == 40
    assert sum(q["hops"] == 2 for q in QUERIES) == 30
    assert sum(q["hops"] == 3 for q in QUERIES) == 10
    assert len(COMPARISON) == 6
    assert len(BRIDGE) + len(COMPARISON) == 40
    assert QUERIES[0]["_id"] == "q01"


def test_ids_and_titles_are_unique() -> None:
    assert len({d["_id"] for d in DOCS}) == len(DOCS)
    assert len({d["title"] for d in DOCS}) == len(DOCS)
    assert len({d["text"] for d in DOCS}) == len(DOCS)
    assert len({q["_id"] for q in QUERIES}) == len(QUERIES)
    assert len({q["text"] for q in QUERIES}) == len(QUERIES)


@pytest.mark.parametrize("doc", DOCS, ids=lambda d: d["_id"])
def test_passage(doc: dict) -> None:
    assert set(doc) == {"_id", "title", "text"}
    assert 40 <= len(doc["text"].split()) <= 130
    assert doc["title"] == doc["title"].strip()
    assert doc["text"] == " ".join(doc["text"].split())
    assert _key(doc["title"]) in doc["text"].lower()


def test_qrels() -> None:
    rows = _qrels()
    assert len(set(rows)) == len(rows)
    assert all(score == "1" for _, _, score in rows)
    assert all(doc in BY_ID for _, doc, _ in rows)
    expected = {(q["_id"], s["doc"]) for q in QUERIES for s in q["decomposition"]}
    assert {(query, doc) for query, doc, _ in rows} == expected
    assert len(rows) == sum(q["hops"] for q in QUERIES)


@pytest.mark.parametrize("query", QUERIES, ids=_qid)
def test_decomposition(query: dict) -> None:
    steps = query["decomposition"]
    assert len(steps) == query["hops"] == len({s["doc"] for s in steps})
    assert query["text"].endswith("?")
    assert query["answers"]
    assert len(set(query["answers"])) == len(query["answers"])
    assert all(1 <= len(a.split()) <= 4 for a in query["answers"])
    for step in steps:
        assert step["question"].endswith("?")
        assert step["answer"].lower() in _full(step["doc"])
        assert step["answer"].lower() not in step["question"].lower()


@pytest.mark.parametrize("query", BRIDGE, ids=_qid)
def test_bridge(query: dict) -> None:
    steps = query["decomposition"]
    final = steps[-1]["answer"]
    assert final in query["answers"]
    assert final.lower() in _full(steps[-1]["doc"])
    for secret in [*query["answers"], *(s["answer"] for s in steps)]:
        assert secret.lower() not in query["text"].lower()
    for earlier, later in pairwise(steps):
        # The answer to one step is the subject of the next, whose passage bears its name.
        assert earlier["answer"] in later["question"]
        assert BY_ID[later["doc"]]["title"] == earlier["answer"]


@pytest.mark.parametrize("query", BRIDGE, ids=_qid)
def test_bridge_needs_every_hop(query: dict) -> None:
    docs = [s["doc"] for s in query["decomposition"]]
    for i, later in enumerate(docs):
        for earlier in docs[:i]:
            assert _key(BY_ID[earlier]["title"]) not in _full(later)
    for doc in docs[:-1]:
        for answer in query["answers"]:
            assert answer.lower() not in _full(doc)


@pytest.mark.parametrize("query", COMPARISON, ids=_qid)
def test_comparison(query: dict) -> None:
    entities = [BY_ID[s["doc"]]["title"] for s in query["decomposition"]]
    assert query["hops"] == 2
    assert all(entity in query["text"] for entity in entities)
    assert query["answers"][0] in [*entities, "yes", "no"]


@pytest.mark.skipif(importlib.util.find_spec("agentprm") is None, reason="agentprm not installed")
def test_corpus_path() -> None:
    demo = pytest.importorskip("agentprm.demo")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        assert (demo.corpus_path() / name).is_file()
