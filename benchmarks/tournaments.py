"""Measures what tournaments make of a given number of verdicts of a judge that errs. No model.

    python benchmarks/tournaments.py path/of/data [--limit 8] [--budgets 100 200]

The judge knows the relevance grades of TREC DL 2019 (folder `dl19`) and errs at random, but always in
the same way about the same pair, as a model at temperature 0 does. Every row has the same judgements;
`subsample` is all-pair on random pairs, the others are those of `agentprm.rerank`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rerank import Task, load_dl19  # the benchmark beside this one

from agentprm.evaluation import bootstrap_difference, bootstrap_interval
from agentprm.rerank import PairwiseReranker, Ranked
from agentprm.rerank.comparator import Comparator, Comparison
from agentprm.rerank.tournaments import Left, Scoreboard, Tournament

Matrix = npt.NDArray[np.float64]
JUDGES = ("always right", "20 % wrong", "30 % ties, 10 % wrong", "soft and noisy")


def judge(kind: str, grades: Sequence[int], seed: int) -> Matrix:
    """P(row is better than column), once and for all."""
    rng = np.random.default_rng(seed)
    gap = np.subtract.outer(np.array(grades, float), np.array(grades, float))
    right = 0.5 + 0.5 * np.sign(gap)
    draw, coin = rng.random(gap.shape), rng.random(gap.shape)
    if kind == "20 % wrong":
        p = np.where(draw < 0.2, 1 - right, right)
        p = np.where(gap == 0, np.select([coin < 0.25, coin < 0.75], [0.0, 0.5], 1.0), p)
    elif kind == "30 % ties, 10 % wrong":
        p = np.where(gap == 0, np.where(coin < 0.5, 0.0, 1.0), np.where(draw < 0.1, 1 - right, right))
        p = np.where((draw > 0.3) & (draw < 0.6), 0.5, p)
    elif kind == "soft and noisy":
        p = 1 / (1 + np.exp(-(gap + rng.normal(0, 1, gap.shape))))
    else:
        p = right
    upper = np.triu(p, 1)
    return upper + np.tril(1 - upper.T, -1)


class Errs(Comparator):
    """Says what the matrix says about documents that know their place in it."""

    def __init__(self, matrix: Matrix) -> None:
        self.matrix = matrix

    def compare(self, query: str, pairs: Sequence[tuple[object, object]]) -> list[Comparison]:
        places = [(a.metadata["place"], b.metadata["place"]) for a, b in pairs]  # type: ignore[attr-defined]
        return [Comparison(float(self.matrix[place])) for place in places]


def subsample(n: int, k: int, left: Left) -> Tournament:
    """All-pair on as many random pairs as there is budget for."""
    pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
    random.Random(0).shuffle(pairs)
    pairs = pairs[: int(min(left(), len(pairs)))]
    board = Scoreboard(n)
    board.add(pairs, (yield pairs))
    shares = board.shares()
    return Ranked(sorted(range(n), key=lambda i: -shares[i]), shares)


METHODS = {
    "subsample": subsample,
    "all-pair, in rounds": "all_pair",
    "heapsort-10": "heapsort",
    "sliding-10": "sliding",
    "active-10": "active",
}


def quality(task: Task, number: int, kind: str, method: object, budget: int) -> float:
    """nDCG@10 of one list."""
    documents = [
        document.model_copy(update={"metadata": {"place": place}})
        for place, document in enumerate(task.documents)
    ]
    grades = [task.grades.get(str(document.id), 0) for document in documents]
    comparator = Errs(judge(kind, grades, number))
    reranker = PairwiseReranker(model=comparator, aggregation=method, max_judgements=budget, cache=None)
    return task.ndcg(reranker.rank(documents, task.query).order)


def table(tasks: Sequence[Task], budgets: Sequence[int], title: str) -> str:
    """nDCG@10 with a 95 % interval for `active-10`, and its gain over the best of the others."""
    lines = [f"| {title} | " + " | ".join(map(str, budgets)) + " |", "|---|" + "--:|" * len(budgets)]
    for kind in JUDGES:
        lines.append(f"| **judge: {kind}** |" + " |" * len(budgets))
        values = {
            name: [[quality(t, i, kind, method, budget) for i, t in enumerate(tasks)] for budget in budgets]
            for name, method in METHODS.items()
        }
        for name, columns in values.items():
            cells = []
            for column in columns:
                mean, low, high = bootstrap_interval(column)
                bounds = f" ({low:.3f} to {high:.3f})" if name == "active-10" else ""
                cells.append(f"{mean:.3f}{bounds}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        gains = []
        for at in range(len(budgets)):
            best = max((n for n in values if n != "active-10"), key=lambda n: np.mean(values[n][at]))
            gain = bootstrap_difference(values["active-10"][at], values[best][at])
            gains.append(f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})")
        lines.append("| gain of active over the best other | " + " | ".join(gains) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--limit", type=int, default=None, help="queries")
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 100, 200, 300, 500])
    args = parser.parse_args()
    tasks = load_dl19(args.data / "dl19")[: args.limit]
    upside_down = [task.reversed() for task in tasks]
    print(table(tasks, args.budgets, "judgements, BM25's order"), flush=True)
    print(table(upside_down, args.budgets, "judgements, upside down"), flush=True)


if __name__ == "__main__":
    main()
