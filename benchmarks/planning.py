"""Planning: following a plan, step by step, and plain RAG with one reader; and what planner and reader lose.

    python benchmarks/planning.py --data path/of/2wiki --reader path/of/reader --limit 100 --out plan.jsonl

Rows: `rag-N` reads N passages for the question itself; `step` proposes hop by hop with the language model;
`plan` splits the question by its syntax, `plan-lm` with the language model (`--planner` names another one).
`gold-plan` follows the sub-questions of the data (evidence triples or decompositions), which shows what the
planner loses, and `gold-reading` is told what they find as well, which shows what the reader loses. Prints
EM, F1, gold passages and cost with 95 % bootstrap intervals, and paired differences. With --out every
answered question is a line of that file, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from qa import by_type, demo_folder, differences, endings, index, ticker

from agentprm import packaged
from agentprm.errors import AgentPRMError
from agentprm.evaluation import QaQuestion, QaRecord, markdown_table, qa_report, read_dataset, run_questions
from agentprm.evaluation.qa import normalize_unicode
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.lm import as_language_model
from agentprm.nodes import TrainedPlanner
from agentprm.nodes.follow_plan import filled
from agentprm.questions.comparing import is_comparison
from agentprm.readers import Reader, ReaderAnswer, SpanReader
from agentprm.retrievers import default_retriever

SYSTEMS = ("rag-1", "rag-3", "rag-5", "step", "plan", "plan-lm", "gold-plan", "gold-reading")

# Sub-questions for the relations of 2WikiMultiHopQA's evidence triples.
TEMPLATES = {
    "director": "Who directed {}?",
    "performer": "Who is the performer of {}?",
    "composer": "Who composed {}?",
    "father": "Who is the father of {}?",
    "mother": "Who is the mother of {}?",
    "spouse": "Who is the spouse of {}?",
    "child": "Who is a child of {}?",
    "sibling": "Who is a sibling of {}?",
    "founded by": "Who founded {}?",
    "publisher": "Which company published {}?",
    "employer": "Who is the employer of {}?",
    "date of birth": "When was {} born?",
    "date of death": "When did {} die?",
    "place of birth": "Where was {} born?",
    "place of death": "Where did {} die?",
    "place of burial": "Where was {} buried?",
    "educated at": "Where was {} educated?",
    "award received": "Which award did {} receive?",
    "cause of death": "What was the cause of death of {}?",
    "publication date": "When was {} released?",
    "inception": "When was {} founded?",
    "country": "Which country is {} in?",
    "country of origin": "What is the country of origin of {}?",
    "country of citizenship": "What is the country of citizenship of {}?",
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run(args)
    except AgentPRMError as error:
        print(f"planning.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("planning.py: interrupted; finished questions are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, or 'demo'")
    parser.add_argument("--reader", help="folder of a span reader; the language model reads if not given")
    parser.add_argument(
        "--planner", help="model of plan-lm that was trained to plan; the language model, by example"
    )
    parser.add_argument("--skip", type=int, default=0, help="questions to leave out at the beginning")
    parser.add_argument("--limit", type=int, help="only LIMIT questions")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS, help="rows of the table")
    parser.add_argument("--candidates", type=int, help="findings per sub-question, proposals per step")
    parser.add_argument(
        "--passages", type=int, help="passages read per search; the graph's default if not given"
    )
    parser.add_argument("--out", help="JSONL log of the answers, to resume from")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument("--model", help="Hugging Face name or path; the packaged model if not given")
    parser.add_argument("--embeddings", help="likewise for the embeddings")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling and of the bootstrap")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    data = read_dataset(demo_folder() if args.data == "demo" else args.data)
    questions = data.questions[args.skip :][: args.limit]
    store = index(data, args)
    reader = SpanReader(args.reader) if args.reader else None
    model = as_language_model(args.model) if args.model else packaged.default_language_model()
    answered: dict[str, list[QaRecord]] = {}
    for system in args.systems:
        asked = [q for q in questions if not system.startswith("gold") or gold_steps(q)]
        if not asked:
            print(f"{system}: the data has no decompositions", file=sys.stderr)
            continue
        names = ("data", "reader", "planner", "candidates", "passages", "model", "embeddings", "seed")
        key = {"system": system, **{name: getattr(args, name) for name in names}, "data": data.name}
        answered[system] = run_questions(
            build(system, model, store, reader, asked, args),
            asked,
            run=json.dumps(key),
            log=args.out,
            on_record=ticker(system, len(asked)),
        )
    print(tables(args, data.name, questions, answered))


def build(
    system: str,
    model: Any,
    store: Any,
    reader: Reader | None,
    questions: Sequence[QaQuestion],
    args: argparse.Namespace,
) -> Any:
    own = {"passages": args.passages} if args.passages else {}
    if system.startswith("rag-"):
        count = int(system.removeprefix("rag-"))
        return create_rag_graph(model, store, reader=reader, k=5, passages=count).compile()
    settings: dict[str, Any] = {"reader": reader, "candidates": args.candidates, "seed": args.seed, **own}
    if system == "step":
        return create_reasoning_graph(model, store, mode="step", **settings).compile()
    steps = {question.text: gold_steps(question) for question in questions}
    if system == "plan-lm":
        settings["planner"] = TrainedPlanner(args.planner) if args.planner else model
    elif system.startswith("gold"):
        settings["planner"] = lambda question: [asked for asked, _ in steps[question]]
    if system == "gold-reading":
        # Without titles of the index, what is asked is what the data asks.
        settings["reader"] = GoldReader(steps)
        return create_reasoning_graph(
            model, default_retriever(store).invoke, mode="plan", **settings
        ).compile()
    return create_reasoning_graph(model, store, mode="plan", **settings).compile()


def gold_steps(question: QaQuestion) -> list[tuple[str, str]]:
    """The sub-questions of the data with references, and their answers."""
    if given := question.extra.get("decomposition"):
        if isinstance(given[0], str):  # without answers
            return [(step, "") for step in given]
        return [(_of(step["question"]), str(step["answer"])) for step in given]
    steps: list[tuple[str, str]] = []
    for subject, relation, found in question.extra.get("evidence") or []:
        known = [normalize_unicode(answer) for _, answer in steps]
        name = normalize_unicode(subject)
        about = f"#{known.index(name) + 1}" if name in known else subject
        steps.append((TEMPLATES.get(relation, f"What is the {relation} of {{}}?").format(about), found))
    if steps and is_comparison(question.text):
        ends = [f"#{n}" for n in range(1, len(steps) + 1) if not any(f"#{n}" in asked for asked, _ in steps)]
        steps.append((f"Compare {' and '.join(ends)}: {question.text}", ""))
    return steps


def _of(asked: str) -> str:
    """A sub-question of MuSiQue, which has some as "subject >> relation"."""
    subject, arrow, relation = asked.partition(" >> ")
    return f"What is the {relation} of {subject}?" if arrow else asked


class GoldReader(Reader):
    """Finds what the data says that each sub-question finds, if it stands in the passages that were found."""

    def __init__(self, plans: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self.answers: dict[str, str] = {}
        for steps in plans.values():
            found = [answer for _, answer in steps]
            self.answers |= {normalize_unicode(filled(asked, found)): answer for asked, answer in steps}

    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        return [[self._answer(*pair)] for pair in zip(questions, passages, strict=True)]

    def _answer(self, question: str, passages: Sequence[Document]) -> ReaderAnswer:
        answer = self.answers.get(normalize_unicode(question), "")
        for place, passage in enumerate(passages):
            start = passage.page_content.find(answer)
            if answer and start >= 0:
                return ReaderAnswer(answer, 1.0, 0.0, place, start, start + len(answer))
        return ReaderAnswer(answer or "unknown", 0.5, 0.5)


def tables(
    args: argparse.Namespace,
    name: str,
    questions: Sequence[QaQuestion],
    answered: dict[str, list[QaRecord]],
) -> str:
    reports = []
    for system, records in answered.items():
        ids = {record["question_id"] for record in records}
        reports.append(
            qa_report(system, records, [q for q in questions if q.id in ids], ks=(2, 5), seed=args.seed)
        )
    whole = {name: rows for name, rows in answered.items() if len(rows) == len(questions)}
    parts = [
        f"{name}, {len(questions)} questions; model: {args.model or 'packaged'}, reader: "
        f"{args.reader or 'the model'}, planner of plan-lm: {args.planner or 'the model'}, seed "
        f"{args.seed}. Per cent with 95 % bootstrap intervals; cost per question.\n",
        markdown_table(reports),
        differences(whole, questions, args.seed),
        by_type(whole, questions),
        "\n".join(f"{system} ended: {endings(records)}\n" for system, records in answered.items()),
    ]
    return "\n".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(main())
