"""Retrieval control and loops that gather evidence against plain RAG, same model, same index, one run.

    python benchmarks/memory.py --data demo --limit 5
    python benchmarks/memory.py --data path/of/2wiki --limit 100 --out memory.jsonl --index-cache indexes
    python benchmarks/memory.py --data path/of/2wiki --limit 100 --out memory.jsonl --finished

Prints the tables of `benchmarks/qa.py`: EM, F1 and ACC_R with bootstrap intervals, recall of the gold
passages, cost per question, and paired differences, here each system's to RAG. With --out every answered
question is a line of that file, and a run that was stopped goes on from there; --finished asks nothing and
compares what the file holds, on the questions that every system has answered. `note+experience` recalls the
questions that were asked before in the same process, never the one that is asked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from langgraph.store.memory import InMemoryStore
from qa import demo_folder, endings, index, ticker

from agentprm import packaged
from agentprm.errors import AgentPRMError, InputError
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
from agentprm.evaluation.runner import read_log
from agentprm.graphs import (
    create_adaptive_rag_graph,
    create_evidence_graph,
    create_goal_graph,
    create_ladder_graph,
    create_note_graph,
    create_rag_graph,
    create_reasoning_graph,
    create_routed_graph,
)
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes import Answer, RecallExperience, RetrievalNeed
from agentprm.retrievers import FaissStore, SelfSearch
from agentprm.rewards import default_reward

Make = Callable[[LanguageModel, FaissStore], Any]

SYSTEMS: dict[str, Make] = {
    "no-retrieval": lambda model, store: Answer(model),
    "rag": lambda model, store: create_rag_graph(model, store).compile(),
    "rag-1": lambda model, store: create_rag_graph(model, store, k=5, passages=1).compile(),
    "self-search": lambda model, store: create_rag_graph(model, SelfSearch(model)).compile(),
    "retrieve-or-not": lambda model, store: create_adaptive_rag_graph(model, store).compile(),
    "retrieve-or-not-verdict": lambda model, store: create_adaptive_rag_graph(
        model, store, RetrievalNeed(model, by="verdict")
    ).compile(),
    "routed": lambda model, store: create_routed_graph(model, store).compile(),
    "ladder": lambda model, store: create_ladder_graph(
        {"memory": Answer(model), "rag": create_rag_graph(model, store).compile()}, default_reward(model)
    ).compile(),
    "note": lambda model, store: create_note_graph(model, store).compile(),
    "note+experience": lambda model, store: create_note_graph(
        model, store, experience=RecallExperience(same_question=False)
    ).compile(store=InMemoryStore()),
    "evidence": lambda model, store: create_evidence_graph(model, store).compile(),
    "goal": lambda model, store: create_goal_graph(model, store).compile(),
    "plan": lambda model, store: create_reasoning_graph(
        model, store, reader=packaged.default_reader()
    ).compile(),
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run(args)
    except AgentPRMError as error:
        print(f"memory.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("memory.py: interrupted; finished questions are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, or 'demo'")
    parser.add_argument("--limit", type=int, help="only LIMIT questions")
    parser.add_argument("--skip", type=int, default=0, help="questions to leave out at the start")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="rows")
    parser.add_argument("--out", help="JSONL log of the answers, to resume from")
    parser.add_argument("--finished", action="store_true", help="tables of what --out holds, asking nothing")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument("--model", help="Hugging Face name or path; the packaged model if not given")
    parser.add_argument("--embeddings", help="likewise for the embeddings")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    if args.skip < 0:
        parser.error("--skip must not be negative")
    if args.finished and not args.out:
        parser.error("--finished needs --out")
    return args


def run(args: argparse.Namespace) -> None:
    data = read_dataset(demo_folder() if args.data == "demo" else args.data)
    questions = data.questions[args.skip : args.limit and args.skip + args.limit]
    answered = finished(args, data, questions) if args.finished else asked(args, data, questions)
    for system, records in answered.items():
        print(f"{system}: {len(records)} answered", file=sys.stderr)
    if args.finished:
        everywhere = set.intersection(*({r["question_id"] for r in rows} for rows in answered.values()))
        questions = [question for question in questions if question.id in everywhere]
        answered = {
            system: [r for r in rows if r["question_id"] in everywhere] for system, rows in answered.items()
        }
    if not questions:
        raise InputError("No question has been answered by every system; choose others with --systems.")
    reports = [qa_report(name, records, questions, seed=args.seed) for name, records in answered.items()]
    print(f"{data.name}, {len(questions)} questions, {len(data.passages):,} passages; per cent.\n")
    print(markdown_table(reports))
    print(differences(answered, questions, args.seed))
    print("\n".join(f"{system} ended: {endings(records)}" for system, records in answered.items()))


def key(args: argparse.Namespace, data: QaDataset, system: str) -> str:
    return json.dumps(
        {
            "system": system,
            "data": data.name,
            "model": args.model or "packaged",
            "embeddings": args.embeddings or "packaged",
        }
    )


def asked(
    args: argparse.Namespace, data: QaDataset, questions: Sequence[QaQuestion]
) -> dict[str, list[QaRecord]]:
    model = as_language_model(args.model) if args.model else packaged.default_language_model()
    store = index(data, args)
    return {
        system: run_questions(
            SYSTEMS[system](model, store),
            questions,
            run=key(args, data, system),
            log=args.out,
            on_record=ticker(system, len(questions)),
        )
        for system in args.systems
    }


def finished(
    args: argparse.Namespace, data: QaDataset, questions: Sequence[QaQuestion]
) -> dict[str, list[QaRecord]]:
    """What the log holds of the questions, in their order."""
    answered = {}
    for system in args.systems:
        rows = {row["question_id"]: row for row in read_log(args.out, key(args, data, system))}
        answered[system] = [rows[question.id] for question in questions if question.id in rows]
    return answered


def differences(answered: dict[str, list[QaRecord]], questions: Sequence[QaQuestion], seed: int) -> str:
    """Paired differences of each system to RAG."""
    if "rag" not in answered:
        return ""
    rows = ["| paired difference | measure | points |", "| --- | --- | --: |"]
    base = scores(answered["rag"], questions, ())
    for name, records in answered.items():
        if name != "rag":
            own = scores(records, questions, ())
            rows += [
                f"| {name} - rag | {measure} | "
                f"{percent(bootstrap_difference(own[measure], base[measure], seed=seed))} |"
                for measure in base
            ]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
