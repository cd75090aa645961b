"""The published orders of TREC DL 2019 with the relevance grades as the judge: no model.

The data is not part of the repository. `AGENTPRM_DATA` names the folder that holds `dl19`; without it,
`shared/data` next to the repository is looked for.
"""

import json
import math
import os
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
from langchain_core.documents import Document

from agentprm.rerank import (
    FunctionComparator,
    PairwiseReranker,
    VerdictCache,
    all_pairs,
    heapsort,
    play,
    sliding,
)

FOLDER = (
    Path(os.environ.get("AGENTPRM_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data") / "dl19"
)

pytestmark = pytest.mark.skipif(
    not (FOLDER / "qrels.txt").is_file(), reason=f"needs TREC DL 2019 in {FOLDER}; set AGENTPRM_DATA"
)


@pytest.fixture(scope="module")
def queries():
    """Per query: its text, BM25's documents with their grades, and all grades that were given."""
    grades = defaultdict(dict)
    for line in (FOLDER / "qrels.txt").read_text(encoding="utf-8").splitlines():
        query, _, document, grade = line.split()
        grades[query][document] = int(grade)
    result = []
    for entry in json.loads((FOLDER / "bm25_top100.json").read_text(encoding="utf-8")):
        judged = grades[str(entry["hits"][0]["qid"])]
        documents = [
            Document(
                id=str(hit["docid"]),
                page_content=hit["content"],
                metadata={"grade": judged.get(str(hit["docid"]), 0)},
            )
            for hit in entry["hits"]
        ]
        result.append((entry["query"], documents, list(judged.values())))
    assert len(result) == 43
    return result


def ndcg(documents, judged, k=10):
    gain = sum(d.metadata["grade"] / math.log2(rank + 2) for rank, d in enumerate(documents[:k]))
    best = sum(g / math.log2(rank + 2) for rank, g in enumerate(sorted(judged, reverse=True)[:k]))
    return gain / best


def by_grade(query, a, b):
    better = a.metadata["grade"] - b.metadata["grade"]
    return 0.5 + 0.5 * ((better > 0) - (better < 0))


def measured(queries, reverse=False, **settings):
    """Mean nDCG@10 and mean number of pairs that were asked."""
    reranker = PairwiseReranker(model=FunctionComparator(by_grade, width=1), cache=VerdictCache(), **settings)
    quality, asked = [], []
    for query, documents, judged in queries:
        given = documents[::-1] if reverse else documents
        ranking = reranker.rank(given, query)
        quality.append(ndcg([given[place] for place in ranking.order], judged))
        asked.append(ranking.judging.judgements)
    return sum(quality) / len(quality), sum(asked) / len(asked)


def test_bm25_alone(queries):
    assert sum(ndcg(d, judged) for _, d, judged in queries) / 43 == pytest.approx(0.5058, abs=5e-5)


@pytest.mark.parametrize(
    ("settings", "quality", "asked"),
    [
        ({"aggregation": "heapsort", "k": 10}, 0.8922, 211),
        ({"aggregation": "sliding", "k": 10}, 0.8922, 435),
        ({"aggregation": "sliding", "k": 1}, 0.6226, 99),
    ],
    ids=["heapsort", "sliding-10", "sliding-1"],
)
def test_published_quality_and_judgements(queries, settings, quality, asked):
    found = measured(queries, **settings)
    assert found[0] == pytest.approx(quality, abs=5e-5)
    assert round(found[1]) == asked


def counted(documents, tournament):
    """The documents in the order of a tournament, and the comparisons that it wanted."""
    grades, wanted = [d.metadata["grade"] for d in documents], []

    def verdict(a, b):
        wanted.append((a, b))
        return 0.5 + 0.5 * ((grades[a] > grades[b]) - (grades[a] < grades[b]))

    ranked = play(tournament(len(documents)), verdict)
    return [documents[place] for place in ranked.order], len(wanted)


@pytest.mark.parametrize(
    ("tournament", "quality", "comparisons"),
    [
        (all_pairs, 0.8922, 4950),
        (sliding, 0.8922, 945),
        # The published count is that of a heap in which a tie leaves the parent above.
        (partial(heapsort, stable=False), 0.8922, 212),
        (heapsort, 0.8922, 235),
    ],
    ids=["all-pair", "sliding-10", "heapsort as published", "heapsort"],
)
def test_published_comparisons_without_a_memory(queries, tournament, quality, comparisons):
    found = [(*counted(documents, tournament), judged) for _, documents, judged in queries]
    assert sum(ndcg(order, judged) for order, _, judged in found) / 43 == pytest.approx(quality, abs=5e-5)
    assert round(sum(count for _, count, _ in found) / 43) == comparisons


def test_sliding_from_the_reversed_order(queries):
    assert measured(queries, reverse=True, aggregation="sliding", k=10)[0] == pytest.approx(0.8922, abs=5e-5)


@pytest.mark.parametrize(("bound", "least"), [(100, 0.8), (200, 0.885)])
def test_active_gets_near_the_ceiling_with_few_judgements(queries, bound, least):
    quality, asked = measured(queries[::3], aggregation="active", k=10, max_judgements=bound)
    ceiling = sum(
        ndcg(sorted(d, key=lambda one: -one.metadata["grade"]), judged) for _, d, judged in queries[::3]
    ) / len(queries[::3])
    assert quality > ceiling * least / 0.8922
    assert asked <= bound
    heap, _ = measured(queries[::3], aggregation="heapsort", k=10, max_judgements=bound)
    assert quality > heap
