"""A critic of steps: data to train it on, and whether it tells which searches end right.

    python benchmarks/critic.py data --readings reader.jsonl --plans decompose.jsonl --out steps
    python benchmarks/critic.py train --out steps
    python benchmarks/rewards.py steps --plan --data 2wiki --critics steps/numbers --out log.jsonl
    python benchmarks/critic.py trajectories --data search_trajectories/2wiki.jsonl --critics steps/numbers

`data` makes candidate steps of training questions that have facts (evidence triples, plans with answers,
or two gold passages), with passages retrieved from an index of all the questions' passages: sub-questions and
their corruptions, read by the packaged reader; the reader's three best findings for each step of the default
plan; and, for --samples questions, what the packaged language model proposes, completed by itself from one
passage and by the reader from five. `labels.jsonl` says of each last
step whether it finds what a fact says, `outcomes.jsonl` whether it finds the answer to the whole question. A
run that was stopped goes on.

`train` trains what is compared: a critic of counted numbers on either file (`numbers`, `outcome`; as
`agentprm train critic --kind encoder --rank 0`), and one with an adapter of the encoder (`encoder`) on
--encoder-steps labels. They ask one reader, which remembers, so that each step is read once.

`trajectories` scores the searches of a search agent, and compares with whether they ended right.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from rewards import interval, make_reward  # the benchmark beside this one
from rewards import reader as remembering_reader

from agentprm import packaged
from agentprm.errors import AgentPRMError
from agentprm.evaluation.rewards import auc
from agentprm.nodes import CompleteSteps, ProposeSteps, RetrieveSteps
from agentprm.retrievers import FaissStore, HybridRetriever
from agentprm.rewards import RewardStep, default_reward
from agentprm.training import (
    PlanRecord,
    ReadingRecord,
    StepLabelRecord,
    read_records,
    split_by_question,
    write_records,
)
from agentprm.training.candidate_steps import (
    FactQuestion,
    fact_questions,
    label_of,
    label_record,
    made_steps,
    outcome_record,
    planned_steps,
    sampled_steps,
)

_MOST_WRONG = 1.5  # wrong steps for each right one


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("task", choices=["data", "train", "trajectories"])
    parser.add_argument("--readings", help="records of reading, for data")
    parser.add_argument("--plans", help="records of plans, for data")
    parser.add_argument("--limit", type=int, help="questions at most")
    parser.add_argument("--samples", type=int, default=0, help="questions whose steps the model proposes")
    parser.add_argument("--jobs", type=int, default=1, help="questions sampled at once")
    parser.add_argument("--out", type=Path, help="folder to write, for data and train")
    parser.add_argument(
        "--encoder-steps", type=int, help="most steps that the encoder learns; 0 for no encoder"
    )
    parser.add_argument("--max-steps", type=int, help="of each training, for a try")
    parser.add_argument("--data", type=Path, help="trajectories")
    parser.add_argument("--critics", nargs="*", default=[], help="folders of critics")
    parser.add_argument("--rewards", nargs="*", choices=["reader", "product"], default=["reader"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        return {"data": data, "train": train, "trajectories": trajectories}[args.task](args)
    except AgentPRMError as error:
        print(f"critic.py: {error}", file=sys.stderr)
        return 2


# Data


def data(args: argparse.Namespace) -> int:
    readings = read_records(args.readings, ReadingRecord)
    known = fact_questions(readings, read_records(args.plans, PlanRecord))
    random.Random(args.seed).shuffle(known)
    known = known[: args.limit]
    args.out.mkdir(parents=True, exist_ok=True)
    store = index([record for record in readings if record.id in {q.id for q in known}], args.out / "index")
    reader = remembering_reader()
    begun = time.monotonic()
    labels: list[StepLabelRecord] = []
    outcomes: list[StepLabelRecord] = []

    def keep(one: FactQuestion, path: Any) -> None:
        labels.append(label_record(one, path))
        outcomes.append(outcome_record(one, path))

    for one, path in made_steps(known, HybridRetriever(store, k=5), reader, seed=args.seed):
        keep(one, path)
    print(f"{len(labels)} steps made in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    for one in known:

        def right(step: RewardStep, one: FactQuestion = one) -> bool:
            return bool(label_of(step, one.facts))

        for choice in planned_steps(one.question, store, reader, right):
            for path in choice.paths:
                keep(one, path)
    print(f"{len(labels)} with plans in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    for one, path in sampled(args, known[: args.samples], store, reader):
        keep(one, path)
    rng = random.Random(args.seed)
    kept = balanced(labels, rng)
    write_records(args.out / "labels.jsonl", [labels[i] for i in kept])
    write_records(args.out / "outcomes.jsonl", [outcomes[i] for i in kept])
    right = sum(bool(labels[i].labels[-1]) for i in kept)
    print(
        f"{len(known)} questions, {len(labels)} steps, {len(kept)} kept, {right} right, in "
        f"{time.monotonic() - begun:.0f} s."
    )
    return 0


def index(readings: Iterable[ReadingRecord], folder: Path) -> FaissStore:
    """The passages of the questions, each once."""
    embeddings = packaged.default_embeddings()
    if (folder / "CURRENT").exists():
        return FaissStore.load(folder, embeddings)
    passages = dict.fromkeys((p.title, p.text) for record in readings for p in record.passages)
    store = FaissStore(embeddings)
    store.add_documents(
        [Document(text, id=str(i), metadata={"title": title}) for i, (title, text) in enumerate(passages)]
    )
    store.save(folder)
    return store


def sampled(
    args: argparse.Namespace, asked: Sequence[FactQuestion], store: FaissStore, reader: Any
) -> Iterator[tuple[FactQuestion, Any]]:
    """Steps that the language model proposes, from the log where it has them."""
    log = args.out / "sampled.jsonl"
    known: dict[str, list[Any]] = {}
    for line in log.read_text("utf-8").splitlines() if log.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the line that a killed run was writing
            continue
        known[row["id"]] = row["paths"]
    wanted = [one for one in asked if one.id not in known]
    model = packaged.default_language_model() if wanted else None
    begun = time.monotonic()

    def steps(one: FactQuestion) -> tuple[FactQuestion, list[Any]]:
        assert model is not None
        ways = [
            [ProposeSteps(model), RetrieveSteps(store, k=1), CompleteSteps(model)],
            [
                ProposeSteps(model, temperature=1.0, seed=1),
                RetrieveSteps(store, k=5),
                CompleteSteps(reader, passages=5),
            ],
        ]

        def right(step: RewardStep) -> bool:
            return bool(label_of(step, one.facts))

        found = [path for way in ways for c in sampled_steps(one.question, way, right) for path in c.paths]
        return one, found

    with log.open("a", encoding="utf-8") as file, ThreadPoolExecutor(args.jobs) as pool:
        for number, (one, paths) in enumerate(pool.map(steps, wanted), 1):
            known[one.id] = paths
            file.write(json.dumps({"id": one.id, "paths": paths}) + "\n")
            file.flush()
            if number % 20 == 0:
                passed = time.monotonic() - begun
                print(f"{number}/{len(wanted)} sampled in {passed:.0f} s", file=sys.stderr, flush=True)
    for one in asked:
        for path in known[one.id]:
            yield one, path


def balanced(records: Sequence[StepLabelRecord], rng: random.Random) -> list[int]:
    """Places of all right steps and of some wrong ones, drawn at random; equal steps count once."""
    distinct: dict[tuple[Any, ...], int] = {}
    for i, record in enumerate(records):
        last = record.steps[-1]
        distinct.setdefault((record.id, last.query, last.thought, len(last.passages)), i)
    right = [i for i in distinct.values() if records[i].labels[-1]]
    wrong = [i for i in distinct.values() if not records[i].labels[-1]]
    most = int(_MOST_WRONG * len(right))
    kept = right + (wrong if len(wrong) <= most else rng.sample(wrong, most))
    return sorted(kept)


# Training


def train(args: argparse.Namespace) -> int:
    from agentprm.rewards.step_critic import CriticSettings
    from agentprm.training.fitting import TrainSettings
    from agentprm.training.step_critic import train_step_critic

    def fit(name: str, labels: str, rank: int, most: int | None, **how: Any) -> None:
        begun = time.monotonic()
        records = read_records(args.out / labels, StepLabelRecord)
        records, dev = split_by_question(records, 0.1, seed=args.seed)
        random.Random(args.seed).shuffle(records)
        report = train_step_critic(
            records[:most],
            args.out / name,
            dev=dev,
            critic=CriticSettings(rank=rank, alpha=2 * rank or 1),
            settings=TrainSettings(seed=args.seed, max_steps=args.max_steps, **how),
            reader=remembering_reader(),
        )
        if report is None:
            print(f"{name}: trained already.")
            return
        loss = dict(report.dev_losses).get(report.best_step, math.nan)
        seconds = time.monotonic() - begun
        print(f"{name}: {len(records[:most])} steps, held-out loss {loss:.3f}, {seconds:.0f} s.", flush=True)

    numbers = {
        "epochs": 400, "learning_rate": 5e-2, "batch_tokens": 512, "evaluate_every": 100, "precision": "fp32",
    }  # fmt: skip
    fit("numbers", "labels.jsonl", 0, None, **numbers)
    fit("outcome", "outcomes.jsonl", 0, None, **numbers)
    encoder = {"epochs": 2, "learning_rate": 8e-4, "batch_tokens": 4096, "evaluate_every": 100}
    if args.encoder_steps != 0:
        fit("encoder", "labels.jsonl", 16, args.encoder_steps, **encoder)
    return 0


# Trajectories


_QUERY = re.compile(
    r"<\|begin_of_query\|>(?P<query>.*?)<\|end_of_query\|>"
    r"(?:\s*<\|begin_of_documents\|>(?P<documents>.*?)<\|end_of_documents\|>)?",
    re.DOTALL,
)


def path_of(row: dict[str, Any], words: int = 60) -> list[RewardStep]:
    """A search agent's steps: what it asked, was shown and wrote about it; last its answer.

    Of what it wrote about a search the first `words` words are its finding.
    """
    text = str(row["gen_text_store"])
    found = list(_QUERY.finditer(text))
    steps: list[RewardStep] = []
    for here, following in zip_longest(found, found[1:]):
        end = following.start() if following else len(text)
        said = re.sub(r"<[^>]*>", " ", text[here.end() : end])
        passages = [p.strip() for p in re.split(r"\(\d+\)", here["documents"] or "") if p.strip()]
        steps.append(
            RewardStep(
                query=" ".join(here["query"].split()),
                passages=passages,
                thought=" ".join(said.split()[:words]),
                final_answer=None,
            )
        )
    answer = " ".join(str(row["pred_ans"]).split())
    seen = [passage for step in steps for passage in step["passages"]]
    steps.append(RewardStep(query=row["question"], passages=seen[-5:], thought=answer, final_answer=answer))
    return steps


def trajectories(args: argparse.Namespace) -> int:
    rows = [json.loads(line) for line in args.data.read_text("utf-8").splitlines()][: args.limit]
    right = [str(row["gpt4o_output"]).strip().lower() == "true" for row in rows]
    paths = [path_of(row) for row in rows]
    print(f"{args.data.stem}: {len(rows)} trajectories, {sum(right) / len(rows):.0%} right.\n")
    print("| reward | AUC, lowest step | AUC, mean | AUC, answer alone |\n|---|---|---|---|")
    scored: dict[str, list[list[float]]] = {}
    for name in [*args.rewards, *args.critics]:
        product = name == "product"  # what a search without a reader is scored by
        reward = default_reward(packaged.default_language_model()) if product else make_reward(name, None)
        scored[name] = [
            reward.score(row["question"], [path])[0] for row, path in zip(rows, paths, strict=True)
        ]
    rng = random.Random(args.seed)
    scored["random"] = [[rng.random() for _ in path] for path in paths]
    scored["fewer searches"] = [[-float(len(path))] * len(path) for path in paths]
    for name, scores in scored.items():
        cells = []
        for one in (min, lambda values: sum(values) / len(values), lambda values: values[-1]):
            pairs = [
                (one([0.5 if math.isnan(s) else s for s in row]), y)
                for row, y in zip(scores, right, strict=True)
            ]
            cells.append(interval(pairs, area))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


def area(pairs: Sequence[tuple[float, bool]]) -> float:
    if len({y for _, y in pairs}) < 2:
        return math.nan
    return auc([s for s, _ in pairs], [y for _, y in pairs])


if __name__ == "__main__":
    sys.exit(main())
