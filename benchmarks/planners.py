"""How well planners plan: their sub-questions beside those of the data, and the gold passages that they find.

    python benchmarks/planners.py --data path/of/2wiki path/of/musique --planner my-planner --limit 100

Planners are the syntax of the question, the untrained language model that is shown examples, models that
`agentprm train planner` trained (--planner), and both together: a trained one where the syntax knows no form.
`gold` is the plan of the data, where it has decompositions or evidence triples.

Each plan is followed with the default retriever. Its findings come from the packaged reader, or (`gold
answers`) from the data: those of the gold sub-question that is most like the one asked. Gold passages are
counted among five: the passages of all searches in turn, the first of each, the second of each, and so on;
and among all that were found. `question` searches for the question alone. The answer is that of the last
sub-question, or what its findings decide where the question compares.

With --out what is known is kept, and a run that was stopped goes on. Intervals are 95 % bootstrap.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from planning import gold_steps
from qa import index

from agentprm import packaged
from agentprm.documents import title_of
from agentprm.errors import AgentPRMError
from agentprm.evaluation import (
    QaQuestion,
    bootstrap_difference,
    bootstrap_interval,
    exact_match,
    read_dataset,
    recall_at_k,
    token_f1,
)
from agentprm.evaluation.report import percent
from agentprm.lm import SamplingParams, TransformersLM
from agentprm.nodes.follow_plan import filled
from agentprm.nodes.plan_question import compared, followable, plan_by_example
from agentprm.questions.checking import states
from agentprm.questions.comparing import decide, is_comparison
from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import parse_plan, plan_references, plan_request
from agentprm.readers import Reader, SpanReader
from agentprm.replies import finished_text
from agentprm.retrievers import default_retriever
from agentprm.retrievers.titles import Titles, titles_of

Plan = list[str]
_TOLD = ("reader", "gold answers")
_AT_ONCE = 8  # plans that a model writes side by side
_ALIKE = 0.5  # word F1 from which a sub-question counts as a gold one


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="collections of questions")
    parser.add_argument("--planner", nargs="*", default=[], help="folders of trained planners")
    parser.add_argument("--rows", nargs="*", help="only these planners: question, gold, syntax, model, …")
    parser.add_argument(
        "--findings", nargs="*", choices=_TOLD, default=_TOLD, help="whose findings fill the plans"
    )
    parser.add_argument("--limit", type=int, help="only so many questions of each")
    parser.add_argument("--device", help="of the language models and of the reader")
    parser.add_argument("--out", help="JSONL log, to resume from")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument("--embeddings", help="of the index; the packaged ones if not given")
    args = parser.parse_args(argv)
    try:
        for folder in args.data:
            run(folder, args)
    except AgentPRMError as error:
        print(f"planners.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(folder: Path, args: argparse.Namespace) -> None:
    """Measures what is not known yet of one collection, and prints its table."""
    data = read_dataset(folder)
    questions = data.questions[: args.limit]
    known = _known(args.out)
    retriever: Any = None
    titles: Titles | None = None
    reader: Reader | None = None
    rows: dict[str, list[dict[str, Any]]] = {}
    followed: dict[tuple[str, str, tuple[str, ...]], dict[str, Any]] = {}  # by question, findings and plan
    for name, make in planners(args, [question.text for question in questions]).items():
        for told in args.findings:
            row = name if told == "reader" else f"{name}, {told}"
            if name == "question" and told != "reader":
                continue
            for question in questions:
                key = json.dumps([data.name, row, question.id])
                if key not in known:
                    if retriever is None:
                        store = index(data, args)
                        retriever, titles = default_retriever(store, k=5), titles_of(store)
                        reader = SpanReader(packaged.packaged_reader_folder(), device=args.device)
                    assert reader is not None
                    answers = gold_steps(question) if told != "reader" else []
                    if told != "reader" and not any(answer for _, answer in answers):
                        continue
                    plan = known.get(json.dumps([data.name, name, question.id]), {}).get("plan")
                    plan = plan or make(question)
                    same = followed.get((question.id, told, tuple(plan)))
                    known[key] = same or measured(question, plan, retriever, titles, reader, answers)
                    _keep(args.out, key, known[key])
                followed[question.id, told, tuple(known[key]["plan"])] = known[key]
                rows.setdefault(row, []).append(known[key])
            print(f"{data.name}: {row}", file=sys.stderr, flush=True)
    print(f"\n{data.name}: {len(questions)} questions.\n")
    print(table(rows))


def planners(args: argparse.Namespace, texts: Sequence[str]) -> dict[str, Callable[[QaQuestion], Plan]]:
    """From names to what plans a question of these."""
    how: dict[str, Callable[[QaQuestion], Plan]] = {
        "question": lambda question: [question.text],
        "gold": lambda question: _wanted(question) or [question.text],
        "syntax": lambda question: compared(question.text, decompose(question.text)),
    }
    options = {"device": args.device} if args.device else {}
    models: dict[int, Any] = {}  # opened when they are first asked

    def written(place: int, request: Callable[[str], Any], folder: str | None) -> Callable[[str], Plan]:
        plans: dict[str, Plan] = {}

        def plan(text: str) -> Plan:
            if text not in plans:
                if place not in models:
                    models[place] = TransformersLM(folder or packaged.language_model_folder(), **options)
                at = texts.index(text)
                part = [text for text in texts[at : at + _AT_ONCE] if text not in plans]
                params = SamplingParams(max_tokens=160, temperature=0.0)
                replies = models[place].sample([request(text) for text in part], 1, params)
                for asked, (reply,) in zip(part, replies, strict=True):
                    steps = followable(parse_plan(finished_text(reply)))
                    plans[asked] = compared(asked, steps if 0 < len(steps) <= 8 else [asked])
            return plans[text]

        return plan

    by_example = written(0, plan_by_example, None)
    how["language model, by example"] = lambda question: by_example(question.text)
    for place, folder in enumerate(args.planner, 1):
        trained = written(place, plan_request, folder)
        name = Path(folder).name
        how[name] = lambda question, plan=trained: plan(question.text)

        def both(question: QaQuestion, plan: Callable[[str], Plan] = trained) -> Plan:
            steps = compared(question.text, decompose(question.text))
            return steps if len(steps) > 1 else plan(question.text)

        how[f"syntax, else {name}"] = both
    return {name: make for name, make in how.items() if args.rows is None or name in args.rows}


def _wanted(question: QaQuestion) -> Plan:
    """The sub-questions of the data."""
    return [asked for asked, _ in gold_steps(question)]


def measured(
    question: QaQuestion,
    plan: Plan,
    retriever: Any,
    titles: Titles | None,
    reader: Reader,
    answers: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Follows a plan."""
    found: list[str] = []
    lists: list[list[str]] = []
    for asked in plan:
        if is_comparison(asked) and len(plan_references(asked)) > 1:
            found.append("")
            continue
        passages = retriever.invoke(filled(asked, found))
        lists.append([str(passage.id) for passage in passages])
        finding = _gold_answer(asked, answers) if answers else None
        if finding is None:
            best = next(iter(reader.candidates([filled(asked, found)], [passages], n=1)[0]), None)
            finding = best.text if best else ""
            if finding in ("yes", "no"):
                query = filled(asked, found)
                said = {states(query, title_of(passage), passage.page_content) for passage in passages}
                finding = "yes" if True in said else "no" if False in said else finding
            if best and titles is not None and best.passage is not None:
                finding = titles.resolve(finding, passages[best.passage], best.start, best.end)
        found.append(finding)
    five = _in_turn(lists)[:5]
    gold = set(question.gold)
    answer = (decide(question.text, plan, found) if len(plan) > 1 else None) or found[-1] or found[0]
    wanted = _wanted(question)
    return {
        "plan": plan,
        "five": recall_at_k(five, gold, 5) if gold else None,
        "whole": float(gold <= set(five)) if gold else None,
        "all": recall_at_k(list(chain(*lists)), gold, 10**6) if gold else None,
        "searches": len(lists),
        "f1": overlap(plan, wanted) if wanted else None,
        "found": found,
        "em": float(exact_match(answer, question.answers)),
        "answer": float(token_f1(answer, question.answers)),
    }


def _gold_answer(asked: str, answers: Sequence[tuple[str, str]]) -> str | None:
    """The answer of the gold sub-question most like the one that is asked, if one is."""
    alike, answer = max((token_f1(asked, [step]), answer) for step, answer in answers)
    return answer if alike >= _ALIKE and answer else None


def _in_turn(lists: Sequence[Sequence[str]]) -> list[str]:
    """The first of each list, the second of each, …, each once."""
    return list(dict.fromkeys(one for row in zip_longest(*lists) for one in row if one is not None))


def overlap(plan: Sequence[str], gold: Sequence[str]) -> float:
    """F1 in words of the sub-questions, each with the gold one that is most like it."""
    near = [[token_f1(step, [other]) for other in gold] for step in plan]
    precision = sum(map(max, near)) / len(plan)
    recall = sum(max(row[i] for row in near) for i in range(len(gold))) / len(gold)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown, with differences to the question alone."""
    head = ["planner", "n", "F1 of sub-questions", "gold among five", "all gold among five"]
    head += ["gold among all found", "searches", "answer EM", "answer F1"]
    head += ["gold among five - question alone", "answer F1 - syntax"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    beside = (("question", "five"), ("syntax", "answer"))
    for name, records in rows.items():
        more = []
        for other, measure in beside:
            pairs = [
                (record[measure], first[measure])
                for record, first in zip(records, rows.get(other, []), strict=False)
            ]
            same = len(pairs) == len(records) and name != other and None not in chain(*pairs)
            more.append(percent(bootstrap_difference(*zip(*pairs, strict=True))) if same else "")
        cells = [_mean(records, measure) for measure in ("f1", "five", "whole", "all")]
        searches = f"{sum(record['searches'] for record in records) / len(records):.1f}"
        ends = [_mean(records, measure) for measure in ("em", "answer")]
        lines.append([name, str(len(records)), *cells, searches, *ends, *more])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(records: Sequence[dict[str, Any]], measure: str) -> str:
    values = [record[measure] for record in records if record[measure] is not None]
    return percent(bootstrap_interval(values)) if values else ""


def _known(log: str | None) -> dict[str, dict[str, Any]]:
    if log is None or not Path(log).exists():
        return {}
    lines = [line for line in Path(log).read_text("utf-8").splitlines() if line.endswith("}")]
    return {row["key"]: row for row in map(json.loads, lines)}


def _keep(log: str | None, key: str, row: dict[str, Any]) -> None:
    if log is not None:
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, "key": key}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
