"""Every search strategy and value function at equal tokens, beside plain RAG and searches guided by chance.

    python benchmarks/search.py --data demo --limit 5
    python benchmarks/search.py --data path/of/2wiki --limit 100 --tokens 8000 --out 2wiki.jsonl
    python benchmarks/search.py ... --systems rag-1 rag-5/reader plan/greedy/plain step/beam/td/random
    python benchmarks/search.py ... --part 3/12 --out shard3.jsonl     # one of twelve processes
    python benchmarks/search.py ... --table --out shard*.jsonl         # the tables of what they answered

A system is `rag-N`, where the language model reads N passages, `rag-N/reader`, or `MODE/STRATEGY/VALUE`,
with `/random` for a reward that scores by chance. The modes: `plan` splits the question once and the reader
reads (`plan/greedy/plain` is the default search); `step` lets the language model propose every query and the
reader read; `step-model` lets it read as well.

All searches may spend the same tokens on a question (`--tokens`) and are wide enough to spend them; once it
has taken `--seconds` they begin no more work on it. A token is what a language model is sent or writes, as
asked, *and* what a reader reads: each passage with its question, every time. Both count alike, though the
packaged language model has twelve times the parameters of the reader. "Tokens asked" and "tokens read" of a
row add up to what was spent. What a language model scores for a reward counts, too.

Prints Markdown tables: EM, F1, recall of the gold passages, calls, tokens and seconds per question, and
paired bootstrap differences in F1 to RAG, to the vote of most paths, to the default, and to the search with
the random reward, over the questions that both answered. With --out every answered question is a line of that
file, and a run that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qa import demo_folder, endings, index, ticker

from agentprm import packaged
from agentprm.errors import AgentPRMError, InputError
from agentprm.evaluation import (
    QaQuestion,
    QaRecord,
    bootstrap_difference,
    markdown_table,
    qa_report,
    read_dataset,
    read_log,
    run_questions,
)
from agentprm.evaluation.report import percent, question_scores
from agentprm.lm import LanguageModel, TransformersLM, as_language_model
from agentprm.readers import Reader
from agentprm.retrievers import FaissStore
from agentprm.rewards import FunctionReward, RewardStep
from agentprm.search import ABMCTS, DVTS, MCTS, Beam, BestOfN, Greedy, Strategy
from agentprm.search.named import VALUES

# Wide enough for the tokens to end the search, not the strategy, and narrow enough for its first steps.
WIDE: Mapping[str, Callable[[int], Strategy]] = {
    "greedy": lambda seed: Greedy(),
    "best-of-n": lambda seed: BestOfN(n=8),
    "majority": lambda seed: BestOfN(n=8, vote="majority"),
    "weighted": lambda seed: BestOfN(n=8, vote="weighted"),
    "beam": lambda seed: Beam(width=4),
    "dvts": lambda seed: DVTS(subtrees=3, candidates=3),
    "uct": lambda seed: MCTS(nodes=400, batch=2),
    "puct": lambda seed: MCTS(nodes=400, batch=2, rule="puct"),
    "ab-mcts": lambda seed: ABMCTS(nodes=400, batch=4, seed=seed),
}
MODES = ("plan", "step", "step-model")
RAG = ("rag-1", "rag-3", "rag-5", "rag-1/reader", "rag-3/reader", "rag-5/reader")
DEFAULT = "plan/greedy/plain"
AHEAD = ("td", "td-code", "snell")  # not of a plan
SYSTEMS = [
    *RAG,
    *(f"{mode}/{strategy}/plain" for mode in MODES for strategy in WIDE),
    *(f"{mode}/{strategy}/pav" for mode in MODES for strategy in ("greedy", "beam")),
    *(
        f"{mode}/{strategy}/{value}"
        for mode in MODES[1:]
        for strategy in ("greedy", "beam")
        for value in AHEAD
    ),
    *(f"{mode}/{strategy}/plain/random" for mode in MODES for strategy in ("best-of-n", "beam", "uct")),
    *(f"{mode}/greedy/plain/random" for mode in MODES[1:]),
]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        run(args)
    except AgentPRMError as error:
        print(f"search.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("search.py: interrupted; finished questions are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder in the BEIR layout, or 'demo'")
    parser.add_argument("--limit", type=int, help="only the first LIMIT questions")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="I/N", help="of N parts of them the I-th"
    )
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, metavar="SYSTEM", help="rows of the table")
    parser.add_argument(
        "--tokens", type=int, default=8000, help="tokens that a search may spend on a question"
    )
    parser.add_argument(
        "--seconds", type=float, help="seconds after which a search begins no further work on a question"
    )
    parser.add_argument("--candidates", type=int, default=3, help="candidates per step, but of the default")
    parser.add_argument("--passages", type=int, default=2, help="passages that a step reads in the mode step")
    parser.add_argument("--max-steps", type=int, help="most steps of a path; the graph's own if not given")
    parser.add_argument("--model", help="name, path or address; the packaged model if not given")
    parser.add_argument("--dtype", help="precision of a model given by name or folder, such as bfloat16")
    parser.add_argument("--reader", help="folder of a span reader; the packaged one if not given")
    parser.add_argument("--reward", help="reward model; what suits the reader or model if not given")
    parser.add_argument("--device", help="torch device of the packaged model and the reader")
    parser.add_argument("--embeddings", help="of the index; the packaged ones if not given")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument(
        "--out", nargs="+", default=[], metavar="LOG", help="JSONL log of the answers, to resume from"
    )
    parser.add_argument("--table", action="store_true", help="answer nothing, print what the logs hold")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling and of the bootstrap")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    if args.seconds is not None and not args.seconds > 0:
        parser.error("--seconds must be above 0")
    if args.dtype and not args.model:
        parser.error("--dtype needs --model: the packaged model has its own")
    if args.table and not args.out:
        parser.error("--table needs the logs; name them with --out")
    if len(args.out) > 1 and not args.table:
        parser.error("several logs can only be read, with --table")
    for system in args.systems:
        if system not in RAG and not _is_search(system):
            parser.error(
                f"{system!r} is none of {', '.join(RAG)} and no MODE/STRATEGY/VALUE or "
                "MODE/STRATEGY/VALUE/random"
            )
    return args


def _part(text: str) -> tuple[int, int]:
    place, _, parts = text.partition("/")
    if not (place.isdecimal() and parts.isdecimal() and 1 <= int(place) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 1/12")
    return int(place), int(parts)


def _is_search(system: str) -> bool:
    mode, strategy, value, *chance = [*system.split("/"), "", ""][: max(3, system.count("/") + 1)]
    known = mode in MODES and strategy in WIDE and value in VALUES and chance in ([], ["random"])
    return known and not (mode == "plan" and value in AHEAD)


def run(args: argparse.Namespace) -> None:
    data = read_dataset(demo_folder() if args.data == "demo" else args.data)
    place, parts = args.part
    questions = data.questions[: args.limit][place - 1 :: parts]
    if not questions:
        raise InputError(f"{args.data} has no questions.")
    answered: dict[str, list[QaRecord]] = {}
    if args.table:
        for system in args.systems:
            if records := logged(run_name(system, data.name, args), questions, args.out):
                answered[system] = records
        if not answered:
            raise InputError(f"The logs hold no answers to {data.name} with these settings.")
    else:
        parts_of = Parts(args, index(data, args))
        for system in args.systems:
            answered[system] = run_questions(
                parts_of.graph(system),
                questions,
                run=run_name(system, data.name, args),
                log=args.out[0] if args.out else None,
                on_record=ticker(system, len(questions)),
            )
    bounds = f"{args.tokens:,} tokens" + (f" and {args.seconds:g} s" if args.seconds else "")
    head = (
        f"{data.name}, {len(questions)} questions, {len(data.passages):,} passages; {bounds} "
        f"per question; model {args.model or 'packaged'}, reader {args.reader or 'packaged'}, "
        f"reward {args.reward or 'default'}, seed {args.seed}. Per cent with 95 % bootstrap intervals.\n"
    )
    reports = [
        qa_report(system, records, questions, ks=(2, 5), seed=args.seed)
        for system, records in answered.items()
    ]
    ends = "\n".join(f"{system} ended: {endings(records)}\n" for system, records in answered.items())
    print("\n".join([head, markdown_table(reports), differences(answered, questions, args.seed), ends]))


def run_name(system: str, data: str, args: argparse.Namespace) -> str:
    """What a line of a log says of how it was made."""
    key: dict[str, Any] = {
        "system": system, "data": data, "model": args.model or "packaged", "seed": args.seed
    }  # fmt: skip
    if "model" not in system:
        key["reader"] = args.reader or "packaged"
    if system not in RAG:
        key |= {
            name: getattr(args, name) for name in ("tokens", "candidates", "passages", "max_steps", "reward")
        }
        if args.seconds:
            key["seconds"] = args.seconds
    if args.dtype:
        key["dtype"] = args.dtype
    if args.embeddings:
        key["embeddings"] = args.embeddings
    return json.dumps(key)


def logged(run: str, questions: Sequence[QaQuestion], logs: Sequence[str]) -> list[QaRecord]:
    """What the logs hold of a run, in the order of the questions."""
    found = {record["question_id"]: record for log in logs for record in read_log(log, run)}
    return [found[q.id] for q in questions if q.id in found and found[q.id]["question"] == q.text]


def language_model(name: str | None, dtype: str | None, device: Mapping[str, str]) -> LanguageModel:
    """The packaged model, or one by name, folder or address, in a precision of choice."""
    if name is None:
        return packaged.default_language_model(**device)
    return TransformersLM(name, dtype=dtype, **device) if dtype else as_language_model(name)


class Parts:
    """What the graphs are made of, loaded once.

    Args:
        args: The command line.
        store: The index.
    """

    def __init__(self, args: argparse.Namespace, store: FaissStore) -> None:
        device = {"device": args.device} if args.device else {}
        self.args, self.store = args, store
        self.model = language_model(args.model, args.dtype, device)
        self.reader: Reader = span_reader(args.reader, device)

    def graph(self, system: str) -> Any:
        """The compiled graph of a system."""
        from agentprm.graphs import create_rag_graph, create_reasoning_graph

        args = self.args
        if system in RAG:
            reader = self.reader if system.endswith("/reader") else None
            passages = int(system.removesuffix("/reader")[-1])
            return create_rag_graph(self.model, self.store, reader=reader, passages=passages).compile()
        mode, strategy, value, *chance = system.split("/")
        reader = None if mode == "step-model" else self.reader
        return create_reasoning_graph(
            self.model,
            self.store,
            random_reward(args.seed) if chance else named_reward(args.reward, self.model, reader),
            mode="plan" if mode == "plan" else "step",
            reader=reader,
            strategy=WIDE[strategy](args.seed),
            value=value,
            passages=args.passages if mode == "step" else None,
            shallow=4 if value == "td-code" else 3,
            candidates=None if system == DEFAULT else args.candidates,
            max_steps=args.max_steps,
            budget={"tokens": args.tokens, "deadline_s": args.seconds},
            seed=args.seed,
        ).compile()


def named_reward(name: str | None, model: LanguageModel, reader: Reader | None) -> Any:
    from agentprm.cli.models import reward_called

    return reward_called(name, model, reader)


def span_reader(folder: str | None, options: Mapping[str, Any]) -> Reader:
    if folder is None:
        return packaged.default_reader(**options)
    from agentprm.readers import SpanReader

    return SpanReader(folder, **options)


def random_reward(seed: int) -> FunctionReward:
    """Scores a step by chance, always the same way."""

    def score(question: str, steps: Sequence[RewardStep]) -> float:
        said = [(step["query"], step["thought"]) for step in steps]
        return random.Random(f"{seed} {question} {said}").random()

    return FunctionReward(score)


def differences(answered: Mapping[str, list[QaRecord]], questions: Sequence[QaQuestion], seed: int) -> str:
    """Paired differences in F1: to RAG, the default, the vote, and the same search guided by chance."""
    known = {question.id: question for question in questions if question.answers}
    f1 = {
        system: {
            record["question_id"]: question_scores(record, known[record["question_id"]], ())["F1"]
            for record in records
            if record["question_id"] in known
        }
        for system, records in answered.items()
    }
    rows = ["| F1 of | less that of | questions | points |", "| --- | --- | --: | --: |"]
    for system in answered:
        if system in RAG:
            continue
        mode, strategy, value = system.split("/")[:3]
        others = (*RAG, DEFAULT, f"{mode}/majority/plain", f"{mode}/{strategy}/{value}/random")
        for other in others:
            shared = [key for key in f1[system] if key in f1.get(other, {})]
            if shared and other != system:
                left, right = ([f1[name][key] for key in shared] for name in (system, other))
                points = percent(bootstrap_difference(left, right, seed=seed))
                rows.append(f"| {system} | {other} | {len(shared)} | {points} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


if __name__ == "__main__":
    sys.exit(main())
