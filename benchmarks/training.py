"""How well trained readers read, beside the language model that is not trained: on single-hop questions.

    python benchmarks/training.py reader --data path/of/2wiki --readers trained/reader lm
    python benchmarks/training.py curve --data 2wiki --readings reader.jsonl --plans decompose.jsonl

`reader`: the questions are made of the evidence triples of the collection's questions (subject, relation,
object), with one plain wording for each relation; the gold passage is the
subject's. Columns: EM and F1 with the gold passage, and with the five that the default retriever finds; how
often no answer is given where the gold passage is missing (right) and where it is there (wrong).
"Answerable" are questions whose object stands in the gold passage word for word.

`curve` trains a span reader on 100, 300, 1,000 examples and adds their rows; a run that was stopped goes on.
Each size sees as many examples in all (--seen).
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm import packaged
from agentprm.documents import passages_text
from agentprm.errors import AgentPRMError
from agentprm.evaluation import bootstrap_interval, exact_match, token_f1
from agentprm.lm import SamplingParams, as_language_model
from agentprm.prompts import PROMPTS
from agentprm.readers import Reader, ReaderAnswer, SpanReader
from agentprm.replies import finished_text, parse_finding
from agentprm.retrievers import FaissStore, default_retriever, load_folder
from agentprm.training import PlanRecord, ReadingRecord, read_records
from agentprm.training.language_reader import NO_ANSWER
from agentprm.training.span_examples import occurrences, span_examples
from agentprm.training.span_reader import (
    SpanTraining,
    train_span_reader,
)


class Question(NamedTuple):
    text: str
    relation: str
    subject: str
    answer: str
    gold: Document
    answerable: bool


class LanguageModelReader(Reader):
    """A language model with the search's own prompt for a finding; the packaged one is the baseline.

    A trained one says `NO_ANSWER` where no passage answers; the untrained one never refuses.
    """

    refusal = 0.5

    def __init__(self, folder: str = "") -> None:
        self.model = as_language_model(folder) if folder else packaged.default_language_model()

    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """One greedy answer each."""
        prompts = [
            PROMPTS.complete.render(
                passages=passages_text(list(shown)),
                known="",
                query=question,
                prefill=self.model.capabilities.prefill,
            )
            for question, shown in zip(questions, passages, strict=True)
        ]
        rows = self.model.sample(prompts, 1, SamplingParams(max_tokens=24, temperature=0.0))
        said = [parse_finding(finished_text(row[0])) for row in rows]
        return [
            [] if text.strip(" .").lower() == NO_ANSWER else [ReaderAnswer(text, 1.0, 0.0)] for text in said
        ]


WORDINGS = {
    "mother": "Who is the mother of {}?",
    "father": "Who is the father of {}?",
    "spouse": "Who is the spouse of {}?",
    "director": "Who directed {}?",
    "performer": "Who is the performer of {}?",
    "composer": "Who composed {}?",
    "date of birth": "When was {} born?",
    "date of death": "When did {} die?",
    "place of birth": "Where was {} born?",
    "place of death": "Where did {} die?",
    "country of citizenship": "What is the country of citizenship of {}?",
    "country of origin": "What is the country of origin of {}?",
    "country": "Which country is {} in?",
    "publication date": "When was {} released?",
    "educated at": "Where was {} educated?",
    "employer": "Who was the employer of {}?",
    "child": "Who is a child of {}?",
    "sibling": "Who is a sibling of {}?",
    "founded by": "Who founded {}?",
    "inception": "When was {} founded?",
    "award received": "Which award did {} receive?",
    "place of burial": "Where was {} buried?",
    "cause of death": "What was the cause of death of {}?",
    "occupation": "What was the occupation of {}?",
    "producer": "Who produced {}?",
    "editor": "Who edited {}?",
    "publisher": "Who published {}?",
    "creator": "Who created {}?",
}


def questions(folder: Path, limit: int | None) -> list[Question]:
    """The triples of a collection's questions as questions, each once."""
    corpus = [json.loads(line) for line in (folder / "corpus.jsonl").read_text("utf-8").splitlines()]
    by_title = {row["title"]: row for row in corpus}
    bare: dict[str, Any] = {}
    for row in corpus:
        bare.setdefault(re.sub(r"\s*\(.*?\)$", "", row["title"]), row)
    found: dict[str, Question] = {}
    for line in (folder / "queries.jsonl").read_text("utf-8").splitlines():
        for subject, relation, answer in json.loads(line).get("evidence", ()):
            row = by_title.get(subject) or bare.get(subject)
            if row is None or relation not in WORDINGS:
                continue
            text = WORDINGS[relation].format(subject)
            gold = Document(row["text"], id=row["_id"], metadata={"title": row["title"]})
            held = bool(occurrences(row["text"], [answer]))
            found.setdefault(text, Question(text, relation, subject, answer, gold, held))
    return list(found.values())[:limit]


def retrieved(folder: Path, asked: Sequence[Question], cache: Path) -> list[list[Document]]:
    """Five passages for each question, by the default retriever."""
    target = cache / folder.name
    if (target / "CURRENT").exists():
        store = FaissStore.load(target, packaged.default_embeddings())
    else:
        store = FaissStore(packaged.default_embeddings())
        store.add_documents(load_folder(folder / "corpus.jsonl").documents)
        store.save(target)
    return default_retriever(store, k=5).batch([q.text for q in asked])


def measured(
    reader: Reader, asked: Sequence[Question], five: Sequence[Sequence[Document]], batch: int
) -> dict[str, list[float]]:
    """For every question what the table needs."""
    rows: dict[str, list[float]] = defaultdict(list)

    def read(shown: Sequence[Sequence[Document]]) -> tuple[list[str], list[bool]]:
        said, refused = [], []
        for at in range(0, len(asked), batch):
            part = reader.candidates([q.text for q in asked[at : at + batch]], shown[at : at + batch], n=1)
            for answers in part:
                said.append(answers[0].text if answers else "")
                refused.append(not answers or answers[0].no_answer > reader.refusal)
        return said, refused

    begun = time.perf_counter()
    gold, refused = read([[q.gold] for q in asked])
    rows["seconds"] = [(time.perf_counter() - begun) / len(asked)] * len(asked)
    among, _ = read(five)
    without = [[d for d in shown if d.id != q.gold.id][:3] for q, shown in zip(asked, five, strict=True)]
    _, right = read(without)
    for q, one, several, wrongly, rightly in zip(asked, gold, among, refused, right, strict=True):
        rows["em"].append(exact_match(one, [q.answer]))
        rows["f1"].append(token_f1(one, [q.answer]))
        rows["em5"].append(exact_match(several, [q.answer]))
        rows["f15"].append(token_f1(several, [q.answer]))
        rows["refused"].append(float(rightly))
        rows["wrongly"].append(float(wrongly))
        rows["answerable"].append(float(q.answerable))
        rows["relation"].append(float(list(WORDINGS).index(q.relation)))
    return dict(rows)


def _cell(values: Sequence[float], digits: int = 1) -> str:
    interval = bootstrap_interval(values, seed=0)
    return f"{100 * interval.mean:.{digits}f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown."""
    lines = []
    for name, rows in results.items():
        here = [i for i, held in enumerate(rows["answerable"]) if held]
        lines.append(
            [
                name,
                _cell(rows["em"]),
                _cell(rows["f1"]),
                _cell([rows["em"][i] for i in here]),
                _cell([rows["f1"][i] for i in here]),
                _cell([rows["em5"][i] for i in here]),
                _cell([rows["f15"][i] for i in here]),
                _cell(rows["refused"]),
                _cell([rows["wrongly"][i] for i in here]),
                f"{1000 * rows['seconds'][0]:.0f}",
            ]
        )
    head = ["reader", "EM", "F1", "EM, answerable", "F1, answerable", "EM of five", "F1 of five"]
    head += ["refused without gold", "refused with gold", "ms a question"]
    return _markdown(head, lines)


def relations(rows: dict[str, list[float]]) -> str:
    """EM and F1 by relation, of the last reader."""
    names = list(WORDINGS)
    kinds = Counter(int(r) for r in rows["relation"])
    lines = []
    for kind, count in kinds.most_common():
        at = [i for i, r in enumerate(rows["relation"]) if int(r) == kind]
        mean = {key: 100 * sum(rows[key][i] for i in at) / count for key in ("em", "f1", "em5")}
        lines.append([names[kind], str(count), *(f"{mean[key]:.0f}" for key in ("em", "f1", "em5"))])
    return _markdown(["relation", "questions", "EM", "F1", "EM of five"], lines)


def make(name: str) -> Reader:
    """`lm` is the untrained language model, `lm:FOLDER` a trained one; all else a span reader's folder."""
    kind, _, folder = name.partition(":")
    return LanguageModelReader(folder) if kind == "lm" else SpanReader(name)


def curve(args: argparse.Namespace) -> list[str]:
    """Trains on more and more examples; the folders of the readers."""
    examples = span_examples(
        read_records(args.readings, ReadingRecord), read_records(args.plans, PlanRecord) if args.plans else ()
    )
    made = []
    for size in args.sizes:
        folder = Path(args.work) / f"reader-{size}"
        if not (folder / "span_reader.json").exists():
            # As many steps for each size as it takes to see so many examples, or all once.
            how = replace(SpanTraining(), held_out=0, evaluations=0, epochs=max(1.0, args.seen / size))
            picked = examples[:: max(1, len(examples) // size)][:size]
            train_span_reader(picked, folder, how=how)
        made.append(str(folder))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("reader", "curve"))
    parser.add_argument("--data", type=Path, required=True, help="a collection with evidence triples")
    parser.add_argument("--readers", nargs="*", default=[], help="folders of span readers, lm, or lm:FOLDER")
    parser.add_argument("--limit", type=int, help="only so many questions")
    parser.add_argument("--work", default="runs", help="folder for indexes, results and trained readers")
    parser.add_argument("--readings", help="records of reading, for curve")
    parser.add_argument("--plans", help="records of plans, for curve")
    parser.add_argument("--seen", type=int, default=1600, help="examples that each training of curve sees")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 300, 1000])
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        return run(args)
    except AgentPRMError as error:
        print(f"training.py: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Measures what has not been measured yet, and prints."""
    asked = questions(args.data, args.limit)
    five = retrieved(args.data, asked, Path(args.work) / "indexes")
    log = Path(args.work) / f"{args.data.name}-{len(asked)}.json"
    results = json.loads(log.read_text()) if log.exists() else {}
    names = [*args.readers, *(curve(args) if args.what == "curve" else [])]
    for name in names:
        if name not in results:
            results[name] = measured(make(name), asked, five, 16)
            log.write_text(json.dumps(results))
    held = sum(q.answerable for q in asked)
    gold = sum(any(d.id == q.gold.id for d in shown) for q, shown in zip(asked, five, strict=True))
    print(f"{len(asked)} questions, {held} answerable; gold passage among the five: {gold}.\n")
    print(table({name: results[name] for name in names}))
    print()
    print(relations(results[names[-1]]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
