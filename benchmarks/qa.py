"""Question answering without retrieval, with plain RAG and with the reasoning search, same model, one run.

    python benchmarks/qa.py --data demo
    python benchmarks/qa.py --data path/of/2wiki --limit 100 --out 2wiki.jsonl --index-cache indexes

Prints Markdown tables on standard output: EM, F1 and ACC_R with 95 % bootstrap intervals, recall of the
gold passages among the first 2 and 5 that the answer rests on, cost per question, the paired differences
between the systems, and why the searches ended. With --out every answered question is a line of that
file, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentprm import packaged
from agentprm.errors import AgentPRMError
from agentprm.evaluation import (
    QaDataset,
    QaQuestion,
    QaRecord,
    bootstrap_difference,
    markdown_table,
    qa_report,
    read_dataset,
    run_questions,
)
from agentprm.evaluation.report import percent, scores
from agentprm.lm import LanguageModel, as_language_model
from agentprm.retrievers import FaissStore, SentenceTransformerEmbeddings, load_folder

# rag-1 finds as many passages as rag but reads only the first, as a step of the search does; reasoning
# does without look-ahead, which costs two to three times as much.
SYSTEMS = ("no-retrieval", "rag", "rag-1", "reasoning", "reasoning+td")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run(args)
    except AgentPRMError as error:
        print(f"qa.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("qa.py: interrupted; finished questions are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, or 'demo'")
    parser.add_argument("--limit", type=int, help="only the first LIMIT questions")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS[:-1], help="rows of the table"
    )
    parser.add_argument("--out", help="JSONL log of the answers, to resume from")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument("--model", help="Hugging Face name or path; the packaged model if not given")
    parser.add_argument("--embeddings", help="likewise for the embeddings")
    parser.add_argument(
        "--passages", type=int, help="passages per search; each graph's own default if not given"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling and of the bootstrap")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def run(args: argparse.Namespace) -> None:
    data = read_dataset(demo_folder() if args.data == "demo" else args.data)
    questions = data.questions[: args.limit]
    model = as_language_model(args.model) if args.model else packaged.default_language_model()
    store = index(data, args) if set(args.systems) - {"no-retrieval"} else None
    answered: dict[str, list[QaRecord]] = {}
    for system in args.systems:
        key = {
            "system": system,
            "data": data.name,
            "model": args.model or "packaged",
            "embeddings": args.embeddings or "packaged",
            "passages": args.passages,
            "seed": args.seed,
        }
        answered[system] = run_questions(
            build(system, model, store, args),
            questions,
            run=json.dumps(key),
            log=args.out,
            on_record=ticker(system, len(questions)),
        )
    print(tables(args, data, questions, answered))


def demo_folder() -> Path:
    from agentprm.demo import corpus_path

    return corpus_path()


def index(data: QaDataset, args: argparse.Namespace) -> FaissStore:
    corpus = data.folder / "corpus.jsonl"
    embeddings: Any = (
        SentenceTransformerEmbeddings(args.embeddings) if args.embeddings else packaged.default_embeddings()
    )
    cached = None
    if args.index_cache:
        identity = f"{args.embeddings or 'packaged'}:{hashlib.sha256(corpus.read_bytes()).hexdigest()}"
        cached = Path(args.index_cache) / f"{data.name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        if (cached / "CURRENT").exists():
            return FaissStore.load(cached, embeddings)
    documents = load_folder(corpus).documents
    print(f"indexing {len(documents):,} passages", file=sys.stderr)
    store = FaissStore(embeddings)
    store.add_documents(documents)
    if cached is not None:
        store.save(cached)
    return store


def build(system: str, model: LanguageModel, store: FaissStore | None, args: argparse.Namespace) -> Any:
    from agentprm.graphs import create_rag_graph, create_reasoning_graph
    from agentprm.nodes import Answer
    from agentprm.search import TD, Plain

    if store is None or system == "no-retrieval":
        return Answer(model)
    own = {"k": args.passages} if args.passages else {}
    if system == "rag":
        return create_rag_graph(model, store, **own).compile()
    if system == "rag-1":
        return create_rag_graph(model, store, passages=1, **own).compile()
    value = TD() if system == "reasoning+td" else Plain()
    return create_reasoning_graph(model, store, value=value, seed=args.seed, **own).compile()


def ticker(system: str, total: int) -> Callable[[QaRecord, bool], None]:
    done = 0

    def tick(record: QaRecord, known: bool) -> None:
        nonlocal done
        done += 1
        if not known:
            answer = (record["error"] or record["prediction"])[:60]
            print(
                f"{system} {done}/{total} {record['seconds']:.1f} s {answer!r}", file=sys.stderr, flush=True
            )

    return tick


def tables(
    args: argparse.Namespace,
    data: QaDataset,
    questions: Sequence[QaQuestion],
    answered: dict[str, list[QaRecord]],
) -> str:
    reports = [
        qa_report(system, records, questions, ks=() if system == "no-retrieval" else (2, 5), seed=args.seed)
        for system, records in answered.items()
    ]
    parts = [
        f"{data.name}, {len(questions)} questions, {len(data.passages):,} passages; "
        f"model: {args.model or 'packaged'}, embeddings: {args.embeddings or 'packaged'}, "
        f"{args.passages or 'default number of'} passages per search, seed {args.seed}, "
        f"{os.cpu_count()} CPU cores. Per cent with 95 % bootstrap intervals; cost per question.\n",
        markdown_table(reports),
        differences(answered, questions, args.seed),
        by_type(answered, questions),
        "\n".join(f"{system} ended: {endings(records)}\n" for system, records in answered.items()),
    ]
    return "\n".join(part for part in parts if part)


def differences(answered: dict[str, list[QaRecord]], questions: Sequence[QaQuestion], seed: int) -> str:
    """Paired differences of each system to the one before it."""
    rows = []
    names = list(answered)
    for first, second in zip(names[1:], names, strict=False):
        ks = () if "no-retrieval" in (first, second) else (2, 5)
        left, right = (scores(answered[name], questions, ks) for name in (first, second))
        rows += [
            f"| {first} - {second} | {metric} | "
            f"{percent(bootstrap_difference(left[metric], right[metric], seed=seed))} |"
            for metric in left
        ]
    head = ["| paired difference | measure | points |", "| --- | --- | --: |"]
    return "\n".join([*head, *rows]) + "\n" if rows else ""


def by_type(answered: dict[str, list[QaRecord]], questions: Sequence[QaQuestion]) -> str:
    """F1 by the question types of the data, where it has any."""
    groups: dict[str, list[QaQuestion]] = {}
    for question in questions:
        if question.extra.get("type") and question.answers:
            groups.setdefault(str(question.extra["type"]), []).append(question)
    if not groups:
        return ""
    rows = [f"| F1 by type | n | {' | '.join(answered)} |", f"| --- | --: |{' --: |' * len(answered)}"]
    for name, members in groups.items():
        ids = {question.id for question in members}
        cells = []
        for records in answered.values():
            chosen = [record for record in records if record["question_id"] in ids]
            values = scores(chosen, members, ())["F1"]
            cells.append(f"{100 * sum(values) / len(values):.1f}")
        rows.append(f"| {name} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def endings(records: Sequence[QaRecord]) -> str:
    """How many questions ended for which reason, most frequent first."""
    reasons = Counter("refused" if record["error"] else record["stop_reason"] for record in records)
    return ", ".join(f"{reason or 'no reason given'} {count}" for reason, count in reasons.most_common())


if __name__ == "__main__":
    sys.exit(main())
