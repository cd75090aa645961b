"""Every search strategy and value function at equal tokens, beside plain RAG and searches guided by chance.

    python benchmarks/search.py --data demo --limit 5
    python benchmarks/search.py --data path/of/2wiki --limit 100 --tokens 8000 --out 2wiki.jsonl
    python benchmarks/search.py ... --systems rag-1 rag-5 greedy/plain beam/plain beam/td beam/plain/random

A system is `rag-N`, which reads N passages, or `STRATEGY/VALUE`, with `/random` for a reward that scores by
chance. All searches may spend the same tokens (`--tokens`, prompt and completion as asked) and are wide
enough to spend them. Prints Markdown tables: EM, F1, recall of the gold passages, calls, tokens and
seconds per question, and paired bootstrap differences in F1 to RAG, to the vote of most paths, and to
the search with the random reward. With --out every answered question is a line of that file, and a run
that was stopped goes on from there.
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
    run_questions,
)
from agentprm.evaluation.report import percent, scores
from agentprm.lm import LanguageModel, as_language_model
from agentprm.retrievers import FaissStore
from agentprm.rewards import FunctionReward, RewardStep
from agentprm.search import ABMCTS, DVTS, MCTS, Beam, BestOfN, Greedy, Strategy
from agentprm.search.named import VALUES

# Wide enough for the tokens to end the search, not the strategy.
WIDE: Mapping[str, Callable[[int], Strategy]] = {
    "greedy": lambda seed: Greedy(),
    "best-of-n": lambda seed: BestOfN(n=16),
    "majority": lambda seed: BestOfN(n=16, vote="majority"),
    "weighted": lambda seed: BestOfN(n=16, vote="weighted"),
    "beam": lambda seed: Beam(width=8),
    "dvts": lambda seed: DVTS(subtrees=6, candidates=3),
    "uct": lambda seed: MCTS(nodes=400, batch=2),
    "puct": lambda seed: MCTS(nodes=400, batch=2, rule="puct"),
    "ab-mcts": lambda seed: ABMCTS(nodes=400, batch=4, seed=seed),
}
RAG = ("rag-1", "rag-3", "rag-5")
SYSTEMS = [
    *RAG,
    *(f"{strategy}/plain" for strategy in WIDE),
    *(f"{strategy}/{value}" for strategy in ("greedy", "beam") for value in VALUES if value != "plain"),
    *(f"{strategy}/plain/random" for strategy in ("greedy", "best-of-n", "beam", "uct")),
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
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, metavar="SYSTEM", help="rows of the table")
    parser.add_argument(
        "--tokens", type=int, default=8000, help="tokens that a search may spend on a question"
    )
    parser.add_argument("--mode", choices=("step", "plan"), default="step", help="of the searches")
    parser.add_argument("--candidates", type=int, default=3, help="candidates per step")
    parser.add_argument("--max-steps", type=int, default=5, help="most steps of a path")
    parser.add_argument("--model", help="name, path or address; the packaged model if not given")
    parser.add_argument("--reader", help="folder of a span reader, which then reads in all searches")
    parser.add_argument("--reward", help="reward model; what suits the model if not given")
    parser.add_argument("--embeddings", help="of the index; the packaged ones if not given")
    parser.add_argument("--index-cache", help="folder that keeps indexes for the next run")
    parser.add_argument("--out", help="JSONL log of the answers, to resume from")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling and of the bootstrap")
    args = parser.parse_args(argv)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    for system in args.systems:
        if system not in RAG and not _is_search(system):
            parser.error(
                f"{system!r} is none of {', '.join(RAG)} and no STRATEGY/VALUE or STRATEGY/VALUE/random"
            )
    return args


def _is_search(system: str) -> bool:
    strategy, _, rest = system.partition("/")
    return strategy in WIDE and rest.removesuffix("/random") in VALUES


def run(args: argparse.Namespace) -> None:
    data = read_dataset(demo_folder() if args.data == "demo" else args.data)
    questions = data.questions[: args.limit]
    if not questions:
        raise InputError(f"{args.data} has no questions.")
    model = as_language_model(args.model) if args.model else packaged.default_language_model()
    store = index(data, args)
    answered: dict[str, list[QaRecord]] = {}
    for system in args.systems:
        key = {"system": system, "data": data.name, "model": args.model or "packaged", "seed": args.seed}
        if system not in RAG:
            for name in ("tokens", "mode", "candidates", "max_steps", "reader", "reward"):
                key[name] = getattr(args, name)
        if args.embeddings:
            key["embeddings"] = args.embeddings
        answered[system] = run_questions(
            build(system, model, store, args),
            questions,
            run=json.dumps(key),
            log=args.out,
            on_record=ticker(system, len(questions)),
        )
    head = (
        f"{data.name}, {len(questions)} questions, {len(data.passages):,} passages; {args.tokens:,} tokens "
        f"per question, mode {args.mode}; model {args.model or 'packaged'}, reader {args.reader or 'none'}, "
        f"reward {args.reward or 'default'}, seed {args.seed}. Per cent with 95 % bootstrap intervals.\n"
    )
    reports = [
        qa_report(system, records, questions, ks=(2, 5), seed=args.seed)
        for system, records in answered.items()
    ]
    ends = "\n".join(f"{system} ended: {endings(records)}\n" for system, records in answered.items())
    print("\n".join([head, markdown_table(reports), differences(answered, questions, args.seed), ends]))


def build(system: str, model: LanguageModel, store: FaissStore, args: argparse.Namespace) -> Any:
    from agentprm.graphs import create_rag_graph, create_reasoning_graph

    if system in RAG:
        return create_rag_graph(model, store, passages=int(system[-1])).compile()
    strategy, value, *chance = system.split("/")
    return create_reasoning_graph(
        model,
        store,
        random_reward(args.seed) if chance else named_reward(args.reward, model),
        mode=args.mode,
        reader=span_reader(args.reader),
        strategy=WIDE[strategy](args.seed),
        value=value,
        shallow=4 if value == "td-code" else 3,
        candidates=args.candidates,
        max_steps=args.max_steps,
        budget={"tokens": args.tokens},
        seed=args.seed,
    ).compile()


def named_reward(name: str | None, model: LanguageModel) -> Any:
    from agentprm.cli.models import reward_called

    return reward_called(name, model)


def span_reader(folder: str | None) -> Any:
    if folder is None:
        return None
    from agentprm.readers import SpanReader

    return SpanReader(folder)


def random_reward(seed: int) -> FunctionReward:
    """Scores a step by chance, always the same way."""

    def score(question: str, steps: Sequence[RewardStep]) -> float:
        said = [(step["query"], step["thought"]) for step in steps]
        return random.Random(f"{seed} {question} {said}").random()

    return FunctionReward(score)


def differences(answered: Mapping[str, list[QaRecord]], questions: Sequence[QaQuestion], seed: int) -> str:
    """Paired differences in F1: searches to RAG, to the vote, and to the same search guided by chance."""
    rows = ["| F1 of | less that of | points |", "| --- | --- | --: |"]
    for system in answered:
        if system in RAG:
            continue
        strategy, value = system.split("/")[:2]
        for other in (*RAG, "majority/plain", f"{strategy}/{value}/random"):
            if other in answered and other != system:
                left, right = (scores(answered[name], questions)["F1"] for name in (system, other))
                points = percent(bootstrap_difference(left, right, seed=seed))
                rows.append(f"| {system} | {other} | {points} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


if __name__ == "__main__":
    sys.exit(main())
