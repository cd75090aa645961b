"""Measures rerankers with the packaged model, and against the peers of the package index.

    python benchmarks/rerank.py path/of/data oracle                     # no model: qrels as the judge
    python benchmarks/rerank.py path/of/data likelihood --cache vectors --out rows.jsonl
    python benchmarks/rerank.py path/of/data compare --cache vectors --out rows.jsonl --depth 10 --limit 8
    python benchmarks/rerank.py path/of/data peers --out rows.jsonl --peer-python path/of/python

Every measured list is a line of --out, and a run that was stopped goes on from there; the tables are
printed at the end, or at once with `table`. A look at what it does takes `--depth 4 --limit 1
--max-chars 80` and some seconds. Lists are BM25's first passages (dl19) or MiniLM's (folders
in the BEIR layout), cut at --depth. `seconds` are wall-clock, `cpu` the process's own, which other work
on the machine does not touch. Peers run in an interpreter of their own, see rerank_peers.py.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from langchain_core.documents import Document

from agentprm.budget import metered
from agentprm.evaluation import bootstrap_difference, bootstrap_interval
from agentprm.lm import LanguageModel
from agentprm.prompts import PROMPTS, ChatTemplate
from agentprm.rerank import (
    Comparator,
    Comparison,
    ListwiseReranker,
    LogitReranker,
    PairwiseReranker,
    QueryLikelihoodComparator,
    QueryLikelihoodReranker,
    Ranking,
    Reranker,
    ScoringComparator,
    SetwiseReranker,
    VerdictCache,
)
from agentprm.rerank.setwise import SetTournament, heap_selection, window_selection

SETS = ("dl19", "scifact", "hotpotqa_tune")
NDCG = ir_measures.nDCG @ 10
HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A query with its first-stage list and the grades of all judged passages."""

    data: str
    id: str
    query: str
    documents: tuple[Document, ...]
    grades: dict[str, int]

    def ndcg(self, order: Sequence[int]) -> float:
        """nDCG@10 of the documents in this order."""
        qrels = [ir_measures.Qrel("q", key, grade) for key, grade in self.grades.items()]
        run = [
            ir_measures.ScoredDoc("q", str(self.documents[place].id), float(-rank))
            for rank, place in enumerate(order)
        ]
        return float(NDCG.calc_aggregate(qrels, run))

    def first(self, depth: int) -> Task:
        """The same with a shorter list."""
        return replace(self, documents=self.documents[:depth])

    def reversed(self) -> Task:
        """The same with the list upside down."""
        return replace(self, documents=self.documents[::-1])


# ------------------------------------------------------------------ data


def load_dl19(folder: Path) -> list[Task]:
    grades: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.txt").read_text("utf-8").splitlines():
        query, _, document, grade = line.split()
        grades.setdefault(query, {})[document] = int(grade)
    tasks = []
    for entry in json.loads((folder / "bm25_top100.json").read_text("utf-8")):
        hits = sorted(entry["hits"], key=lambda hit: hit["rank"])
        documents = tuple(Document(id=str(hit["docid"]), page_content=hit["content"]) for hit in hits)
        query = str(hits[0]["qid"])
        tasks.append(Task("dl19", query, entry["query"], documents, grades[query]))
    return tasks


def load_beir(folder: Path, cache: Path, depth: int) -> list[Task]:
    from feedback import cached_vectors  # the benchmark beside this one

    from agentprm.packaged import default_embeddings
    from agentprm.retrievers import load_folder

    embedding: Any = default_embeddings()
    corpus = load_folder(folder / "corpus.jsonl").documents
    queries = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    grades: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            grades.setdefault(query, {})[document] = int(grade)
    queries = [row for row in queries if str(row["_id"]) in grades]
    texts = [document.page_content for document in corpus]
    vectors = cached_vectors(texts, embedding.embed_documents, cache, f"{folder.name}-corpus")
    embed = getattr(embedding, "embed_queries", embedding.embed_documents)
    asked = cached_vectors([row["text"] for row in queries], embed, cache, f"{folder.name}-queries")
    tasks = []
    for row, vector in zip(queries, asked, strict=True):
        best = np.argsort(-(vectors @ vector), kind="stable")[:depth]
        documents = tuple(corpus[int(i)] for i in best)
        tasks.append(Task(folder.name, str(row["_id"]), row["text"], documents, grades[str(row["_id"])]))
    return tasks


def load(args: argparse.Namespace, depth: int) -> Iterator[Task]:
    for name in args.sets:
        tasks = (
            load_dl19(args.data / name)
            if name == "dl19"
            else load_beir(args.data / name, args.cache, max(depth, 30))
        )
        # Few queries are not those of the file's beginning, and more of them include the few.
        random.Random(0).shuffle(tasks)
        yield from (task.first(depth) for task in tasks[: args.limit])


# ------------------------------------------------------------------ a judge that knows the grades


class Truth(Comparator):
    """Prefers the higher grade; equal grades tie. A pair counts as two prompts, one in each order."""

    def __init__(self, grades: dict[str, int]) -> None:
        self.grades = grades

    def compare(self, query: str, pairs: Sequence[tuple[Document, Document]]) -> list[Comparison]:
        gaps = [self.grades.get(str(a.id), 0) - self.grades.get(str(b.id), 0) for a, b in pairs]
        return [Comparison(0.5 + 0.5 * ((gap > 0) - (gap < 0))) for gap in gaps]

    async def acompare(self, query: str, pairs: Sequence[tuple[Document, Document]]) -> list[Comparison]:
        return self.compare(query, pairs)


def oracle(args: argparse.Namespace) -> str:
    """Model-free rows: the ceiling of the list, and what each aggregation asks to reach it."""
    tasks = load_dl19(args.data / "dl19")
    size = len(tasks[0].documents)
    rows = {"BM25": [(t.ndcg(range(size)), t.ndcg(range(size)[::-1]), 0, 0) for t in tasks]}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("all-pair", {"aggregation": "all_pair"}),
        ("heapsort-10", {"aggregation": "heapsort"}),
        ("sliding-10", {"aggregation": "sliding"}),
        ("sliding-1", {"aggregation": "sliding", "k": 1}),
        ("active-10, 100 judgements", {"aggregation": "active", "max_judgements": 100}),
        ("active-10, 200 judgements", {"aggregation": "active", "max_judgements": 200}),
        ("active-10, 400 judgements", {"aggregation": "active", "max_judgements": 400}),
    ]
    for name, options in kinds:
        rows[name] = [_oracle_row(task, options) for task in tasks]
    for name, choose in (
        ("setwise heap-10 of 3", partial(heap_selection, size=3, k=10)),
        ("setwise heap-10 of 5", partial(heap_selection, size=5, k=10)),
        ("setwise window-10 of 5", partial(window_selection, size=5, k=10)),
    ):
        rows[name] = [_choice_row(task, choose) for task in tasks]
    lines = [
        f"| judge: the qrels, dl19, {size} passages | nDCG@10 | input reversed | judgements | rounds |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, values in rows.items():
        means = [statistics.fmean(column) for column in zip(*values, strict=True)]
        lines.append(f"| {name} | {means[0]:.4f} | {means[1]:.4f} | {means[2]:.0f} | {means[3]:.0f} |")
    return "\n".join(lines) + "\n"


def _oracle_row(task: Task, options: dict[str, Any]) -> tuple[float, float, int, int]:
    def rank(one: Task) -> Ranking:
        reranker = PairwiseReranker(model=Truth(one.grades), cache=VerdictCache(), **options)
        return reranker.rank(one.documents, one.query)

    upside_down = task.reversed()
    ranking = rank(task)
    return (
        task.ndcg(ranking.order),
        upside_down.ndcg(rank(upside_down).order),
        ranking.judging.judgements,
        ranking.judging.rounds,
    )


def _choice_row(task: Task, choose: Callable[[int], SetTournament]) -> tuple[float, float, int, int]:
    def run(one: Task) -> tuple[list[int], int, int]:
        grades = [one.grades.get(str(d.id), 0) for d in one.documents]
        selection, known, rounds = choose(len(grades)), set(), 0
        try:
            sets = next(selection)
            while True:
                known |= set(sets)
                rounds += 1
                sets = selection.send([max(some, key=lambda i: (grades[i], -i)) for some in sets])
        except StopIteration as done:
            order = list(done.value)
        return [*order, *(i for i in range(len(grades)) if i not in order)], len(known), rounds

    upside_down = task.reversed()
    order, asked, rounds = run(task)
    return task.ndcg(order), upside_down.ndcg(run(upside_down)[0]), asked, rounds


# ------------------------------------------------------------------ the packaged model

Make = Callable[[LanguageModel, "Book"], Reranker]
KEY = ("group", "data", "depth", "chars", "query", "method")


@dataclass
class Book:
    """What the runs over one list share: nothing but these."""

    likelihood: QueryLikelihoodComparator
    verdicts: VerdictCache
    max_chars: int


def likelihood_methods() -> dict[str, Make]:
    """Methods that rest on the query's likelihood given each passage, which is computed once."""

    def pairs(aggregation: str, model: LanguageModel, book: Book, **options: Any) -> Reranker:
        return PairwiseReranker(
            model=book.likelihood, aggregation=aggregation, cache=VerdictCache(), **options
        )

    return {
        "query likelihood": lambda model, book: QueryLikelihoodReranker(
            model=model, max_chars=book.max_chars
        ),
        "query likelihood, all-pair": partial(pairs, "all_pair"),
        "query likelihood, heapsort-10": partial(pairs, "heapsort"),
        "query likelihood, sliding-10": partial(pairs, "sliding"),
        "query likelihood, sliding-1": partial(pairs, "sliding", k=1),
        "query likelihood, active-10 of 60": partial(pairs, "active", max_judgements=60),
    }


def compare_methods(depth: int) -> dict[str, Make]:
    """Methods that ask the model to judge."""

    def pairs(aggregation: str, model: LanguageModel, book: Book, **options: Any) -> Reranker:
        comparator = ScoringComparator(model, max_chars=book.max_chars)
        return PairwiseReranker(
            model=comparator, aggregation=aggregation, cache=book.verdicts, k=3, **options
        )

    return {
        "pairwise all-pair": partial(pairs, "all_pair"),
        "pairwise heapsort-3": partial(pairs, "heapsort"),
        "pairwise sliding-3": partial(pairs, "sliding"),
        "pairwise sliding-1": lambda model, book: pairs("sliding", model, book).model_copy(update={"k": 1}),
        f"pairwise active-3 of {2 * depth}": partial(pairs, "active", max_judgements=2 * depth),
        "setwise heap-3 of 3": lambda model, book: SetwiseReranker(
            model=model, k=3, max_chars=book.max_chars
        ),
        "setwise heap-3 of 3, 3 rotations": lambda model, book: SetwiseReranker(
            model=model, k=3, rotations=3, max_chars=book.max_chars
        ),
        "listwise, first label": lambda model, book: ListwiseReranker(
            model=model, size=5, step=2, max_chars=book.max_chars
        ),
        "yes/no logit": lambda model, book: LogitReranker(
            model=model, max_chars=book.max_chars, scale="logit"
        ),
        "query likelihood": lambda model, book: QueryLikelihoodReranker(
            model=model, max_chars=book.max_chars
        ),
    }


def measure(args: argparse.Namespace, methods: dict[str, Make], group: str) -> None:
    """Runs what is not in the log yet: each method on each list, and on the list upside down."""
    from agentprm.packaged import default_language_model

    done = {tuple(row[key] for key in KEY) for row in read(args.out) if row["group"] != "peers"}
    model: Any = None
    for task in load(args, args.depth):
        here = (group, task.data, args.depth, args.max_chars, task.id)
        wanted = [name for name in methods if (*here, name) not in done]
        if not wanted:
            if group == "likelihood":
                fuse(args, task)
            continue
        model = model or default_language_model()
        likelihood = QueryLikelihoodComparator(model, max_chars=args.max_chars)
        book = Book(likelihood, VerdictCache(), args.max_chars)
        upside_down = task.reversed()
        model.clear_cache()
        for name in wanted:
            ranking, cost = timed(methods[name](model, book), task, model, group)
            if name == "pairwise all-pair":
                # All verdicts there are: the lists upside down need not be asked about again.
                book.verdicts = cost["verdicts"]
            del cost["verdicts"]
            turned, _ = timed(methods[name](model, book), upside_down, None, group)
            row = {
                **dict(zip(KEY, (*here, name), strict=True)),
                "before": task.ndcg(range(len(task.documents))),
                "ndcg": task.ndcg(ranking.order),
                "reversed_before": upside_down.ndcg(range(len(task.documents))),
                "reversed": upside_down.ndcg(turned.order),
                "judgements": ranking.judging.judgements,
                "calls": ranking.judging.calls,
                "failures": ranking.judging.failures,
                "order": list(ranking.order),
                **cost,
            }
            write(args.out, row)
            print(f"{group} {task.data} {task.id} {name} {cost['cpu']:.1f} s", file=sys.stderr, flush=True)
        if group == "likelihood":
            fuse(args, task)


def fuse(args: argparse.Namespace, task: Task) -> None:
    """Adds the row of query likelihood fused with the first stage; it asks for nothing new."""
    here = ("likelihood", task.data, args.depth, args.max_chars, task.id)
    rows = {row["method"]: row for row in read(args.out) if tuple(row.get(k) for k in KEY[:5]) == here}
    name, plain = "query likelihood and first stage, rrf", rows.get("query likelihood")
    if plain is None or name in rows:
        return
    size = len(task.documents)
    rank = {place: number for number, place in enumerate(plain["order"])}

    def order(first_stage: Callable[[int], int]) -> list[int]:
        # Reciprocal rank fusion with its usual constant.
        return sorted(range(size), key=lambda i: -(1 / (61 + first_stage(i)) + 1 / (61 + rank[i])))

    fused = order(lambda i: i)
    row = {
        **plain,
        "method": name,
        "ndcg": task.ndcg(fused),
        "reversed": task.ndcg(order(lambda i: size - 1 - i)),
        "order": fused,
    }
    write(args.out, row)


def timed(reranker: Reranker, task: Task, model: Any, group: str) -> tuple[Ranking, Row]:
    """The ranking and its cost. With `model` nothing that earlier methods asked is at hand."""
    verdicts = VerdictCache()
    if model is not None and group == "compare":
        model.clear_cache()
        if isinstance(reranker, PairwiseReranker):
            reranker = reranker.model_copy(update={"cache": verdicts})
    with metered() as meter:
        cpu = time.process_time()
        ranking = reranker.rank(task.documents, task.query)
        cpu = time.process_time() - cpu
    usage = meter.usage
    return ranking, {
        "asked": usage["prompt_tokens"] + usage["completion_tokens"],
        "computed": usage["computed_tokens"],
        "seconds": usage["seconds"],
        "cpu": cpu,
        "verdicts": verdicts,
    }


# ------------------------------------------------------------------ peers

# The peers' own prompts, so that what is compared is the machinery around them.
PEER_TEMPLATES = {
    "llm-rankers": (
        ChatTemplate(
            fields=("definition", "query", "first", "second"),
            user=(
                'Given a query "{query}", which of the following two passages is more relevant to the query?'
                '\n\nPassage A: "{first}"\n\nPassage B: "{second}"\n\nOutput Passage A or Passage B:'
            ),
            prefix=" Passage:",
        ),
        (" Passage: A", " Passage: B"),
    ),
    "ranksmith": (
        ChatTemplate(
            fields=("definition", "query", "first", "second"),
            system=(
                'You are a pairwise reranking engine. Return only JSON with a "winner" value of "A" or "B".'
            ),
            user=(
                "Given a query, choose which passage is more relevant to the query.\n\nQuery:\n{query}\n\n"
                "Passage A:\n{first}\n\nPassage B:\n{second}\n\nReturn JSON exactly like this shape:\n"
                '{{"winner": "A"}}\n\nUse "A" if Passage A is more relevant. '
                'Use "B" if Passage B is more relevant.'
            ),
            prefix='{"winner": "',
        ),
        ('{"winner": "A', '{"winner": "B'),
    ),
}
# Peer, its method, our aggregation, and how many of the first ranks the two have in common by design.
PEER_RUNS: list[tuple[str, str, str, int | None]] = [
    ("ranksmith", "sliding", "sliding", 10),
    ("llm-rankers", "bubblesort", "sliding", 10),
    ("llm-rankers", "heapsort", "heapsort", None),
    ("rank-llm", "allpair", "all_pair", 10),
    ("llm-rankers", "allpair", "all_pair", 10),
]


def peers(args: argparse.Namespace) -> None:
    """Each peer and the same method of ours on the same lists, prompts and model."""
    import torch

    torch.set_num_threads(args.threads)
    done = {
        (row["peer"], row["method"], row["query"], row["judge"])
        for row in read(args.out)
        if row["group"] == "peers" and row["threads"] == args.threads
    }
    tasks = [task for task in load(args, args.depth) if task.data == "dl19"]
    for judge, some in (("qrels", tasks), ("model", tasks[: args.peer_queries])):
        for peer, method, aggregation, common in PEER_RUNS:
            if args.peer_methods and method not in args.peer_methods:
                continue
            # The pairwise mode of rank-llm loads DuoT5 alone; a heap's order is each library's own.
            if judge == "model" and (peer == "rank-llm" or common is None):
                continue
            new = [task for task in some if (peer, method, task.id, judge) not in done]
            if judge == "model":
                new = [without_copies(task, args.peer_words) for task in new]
            for task, theirs in zip(new, ask_peer(args, new, peer, method, judge), strict=True):
                write(args.out, peer_row(args, task, theirs, peer, method, aggregation, common, judge))
            print(f"{peer} {method} {judge}: {len(new)} lists", file=sys.stderr, flush=True)


def without_copies(task: Task, words: int) -> Task:
    """The task without passages whose first words are those of an earlier one."""
    first = {tuple(d.page_content.split()[:words]): d for d in reversed(task.documents)}
    return replace(task, documents=tuple(d for d in task.documents if d in first.values()))


def shown_texts(task: Task, words: int, judge: str) -> list[str]:
    """What a list's passages say; without a model only the grades count, and texts must differ."""
    if judge == "qrels":
        return [f"passage {place}" for place in range(len(task.documents))]
    return [" ".join(d.page_content.split()[:words]) for d in task.documents]


def grades_of(task: Task) -> list[int]:
    return [task.grades.get(str(d.id), 0) for d in task.documents]


def ask_peer(
    args: argparse.Namespace, tasks: Sequence[Task], peer: str, method: str, judge: str
) -> list[Row]:
    """What the peer makes of the lists."""
    if not tasks:
        return []
    request: Row = {
        "peer": peer,
        "method": method,
        "model": None if judge == "qrels" else model_folder(),
        "threads": args.threads,
        "memo": f"{args.out}.{args.threads}.memo" if judge == "model" else None,
        "lists": [
            {
                "query": task.query,
                "passages": shown_texts(task, args.peer_words, judge),
                "grades": grades_of(task),
            }
            for task in tasks
        ],
    }
    finished = subprocess.run(
        [args.peer_python, str(HERE / "rerank_peers.py")],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise SystemExit(f"{peer} {method} failed:\n{finished.stderr[-2000:]}")
    answers: list[Row] = json.loads(finished.stdout.splitlines()[-1])
    return answers


def peer_row(
    args: argparse.Namespace,
    task: Task,
    theirs: Row,
    peer: str,
    method: str,
    aggregation: str,
    common: int | None,
    judge: str,
) -> Row:
    texts, grades = shown_texts(task, args.peer_words, judge), grades_of(task)
    shown = [Document(id=str(place), page_content=text) for place, text in enumerate(texts)]
    if judge == "qrels":
        comparator: Comparator = Truth({str(place): grade for place, grade in enumerate(grades)})
    else:
        template, labels = PEER_TEMPLATES[peer]
        model = packaged_model()
        model.clear_cache()
        comparator = ScoringComparator(
            model,
            policy="strict",
            labels=labels,
            prompts=replace(PROMPTS, compare=template),
            max_chars=100_000,
        )
    reranker = PairwiseReranker(model=comparator, aggregation=aggregation, cache=VerdictCache())
    with metered() as meter:
        cpu, seconds = time.process_time(), time.perf_counter()
        ranking = reranker.rank(shown, task.query)
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - seconds
    top = common or 10
    return {
        "group": "peers",
        "judge": judge,
        "peer": peer,
        "method": method,
        "query": task.id,
        "threads": args.threads,
        "depth": len(shown),
        "words": args.peer_words,
        "equal": list(ranking.order)[:top] == theirs["order"][:top] if common else None,
        "ndcg": task.ndcg(ranking.order),
        "their_ndcg": task.ndcg(theirs["order"]),
        "prompts": ranking.judging.calls,
        "their_prompts": theirs["prompts"],
        "computed": meter.usage["computed_tokens"],
        "their_computed": theirs["tokens"],
        "cpu": cpu,
        "their_cpu": theirs["cpu"],
        "seconds": seconds,
        "their_seconds": theirs["seconds"],
        "note": theirs["note"],
    }


_MODEL: list[Any] = []


def packaged_model() -> Any:
    from agentprm.packaged import default_language_model

    if not _MODEL:
        _MODEL.append(default_language_model())
    return _MODEL[0]


def model_folder() -> str:
    return str(packaged_model().model.config._name_or_path)


# ------------------------------------------------------------------ tables


def read(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def write(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def tables(rows: list[Row]) -> str:
    parts = []
    measured = [row for row in rows if row["group"] != "peers"]
    for kind in dict.fromkeys(tuple(row[key] for key in KEY[:4]) for row in measured):
        parts.append(quality_table([row for row in measured if tuple(row[key] for key in KEY[:4]) == kind]))
    if peer_rows := [row for row in rows if row["group"] == "peers"]:
        parts.append(peer_table(peer_rows))
    return "\n".join(parts)


def quality_table(rows: list[Row]) -> str:
    _, data, depth, chars = (rows[0][key] for key in KEY[:4])
    queries = len({row["query"] for row in rows})
    before = {row["query"]: row["before"] for row in rows}
    first = bootstrap_interval(list(before.values()))
    lines = [
        f"{data}, {queries} queries, {depth} passages of at most {chars} characters; nDCG@10 of the first "
        f"stage {first.mean:.4f} [{first.low:.3f}, {first.high:.3f}]\n",
        "| method | n | nDCG@10 | 95 % | change | 95 % | better/worse | reversed | judgements | prompts "
        "| tokens asked | computed | cpu s |",
        "|---|--:|--:|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    never: list[str] = []
    for method in dict.fromkeys(row["method"] for row in rows):
        some = [row for row in rows if row["method"] == method]
        after = [row["ndcg"] for row in some]
        start = [row["before"] for row in some]
        level, change = bootstrap_interval(after), bootstrap_difference(after, start)
        gains = [round(a - b, 6) for a, b in zip(after, start, strict=True)]
        turned = statistics.fmean(row["reversed"] - row["ndcg"] for row in some)
        means = [
            statistics.fmean(row[key] for row in some) for key in ("judgements", "calls", "asked", "computed")
        ]
        lines.append(
            f"| {method} | {len(some)} | {level.mean:.4f} | {level.low:.3f}, {level.high:.3f} "
            f"| {change.mean:+.4f} | {change.low:+.3f}, {change.high:+.3f} "
            f"| {sum(g > 0 for g in gains)}/{sum(g < 0 for g in gains)} | {turned:+.4f} | "
            + " | ".join(f"{mean:,.0f}" for mean in means)
            + f" | {statistics.median(row['cpu'] for row in some):.1f} |"
        )
        if not any(gain < 0 for gain in gains):
            never.append(method)
    lines += ["", f"No query worse than before: {', '.join(never) or 'none'}."]
    return "\n".join(lines) + "\n"


def peer_table(rows: list[Row]) -> str:
    lines = [
        "| peer and method | judge | n | passages | equal first 10 | nDCG@10 ours / theirs "
        "| prompts ours / theirs | tokens ours / theirs | cpu s ours / theirs | ratio "
        "| threads | wall s ours / theirs | ratio |",
        "|---|---|--:|--:|--:|---|---|---|---|--:|--:|---|--:|",
    ]

    def kind(row: Row) -> tuple[str, str, str, int]:
        return row["judge"], row["peer"], row["method"], row["threads"]

    for judge, peer, method, threads in dict.fromkeys(map(kind, rows)):
        some = [r for r in rows if kind(r) == (judge, peer, method, threads)]
        equal = [r["equal"] for r in some if r["equal"] is not None]

        def both(key: str, form: str, some: list[Row] = some) -> str:
            return " / ".join(
                format(statistics.fmean(row[name] for row in some), form) for name in (key, f"their_{key}")
            )

        model = judge == "model"
        ratio, wall = (
            statistics.median(r[f"their_{key}"] / max(1e-9, r[key]) for r in some)
            for key in ("cpu", "seconds")
        )
        lines.append(
            f"| {peer} {method} | {judge} | {len(some)} | {some[0]['depth']} "
            f"| {f'{sum(equal)}/{len(equal)}' if equal else '-'} "
            f"| {both('ndcg', '.4f')} | {both('prompts', ',.0f')} "
            f"| {both('computed', ',.0f') if model else '-'} | {both('cpu', '.1f') if model else '-'} "
            f"| {f'{ratio:.1f}' if model else '-'} | {threads} "
            f"| {both('seconds', '.1f') if model else '-'} | {f'{wall:.1f}' if model else '-'} |"
        )
    notes = [f"- {note}" for note in dict.fromkeys(row["note"] for row in rows) if note]
    return "\n".join([*lines, "", *notes]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that holds the data sets")
    parser.add_argument("part", choices=["oracle", "likelihood", "compare", "peers", "table"])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--cache", type=Path, default=Path("vectors"), help="folder for MiniLM's vectors")
    parser.add_argument("--out", type=Path, default=Path("rerank.jsonl"), help="log to go on from")
    parser.add_argument("--depth", type=int, default=30, help="passages of a list")
    parser.add_argument("--max-chars", type=int, default=400, help="where passages are cut")
    parser.add_argument("--limit", type=int, help="queries of each set")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--peer-methods", nargs="+", help="only these methods of the peers")
    parser.add_argument("--peer-words", type=int, default=40, help="words of a passage against the peers")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch against the peers")
    parser.add_argument("--peer-queries", type=int, default=1, help="queries against the peers' model runs")
    args = parser.parse_args(argv)
    if args.part == "oracle":
        print(oracle(args))
        return 0
    if args.part == "likelihood":
        measure(args, likelihood_methods(), "likelihood")
    elif args.part == "compare":
        measure(args, compare_methods(args.depth), "compare")
    elif args.part == "peers":
        peers(args)
    print(tables(read(args.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
