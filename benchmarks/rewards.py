"""How good each training-free reward is, and what it costs: all on one model, in one table.

    python benchmarks/rewards.py processbench --data processbench/gsm8k.jsonl --limit 60 --out log.jsonl
    python benchmarks/rewards.py best-of-n --data gsm8k_graded/solutions.jsonl --limit 60 --out log.jsonl
    python benchmarks/rewards.py steps --data 2wiki --skip 100 --limit 24 --index-cache idx --out log.jsonl
    python benchmarks/rewards.py processbench --tiny

`processbench` looks for the first wrong step of solutions. The threshold of each half of the solutions is
the one that does best on the other half. AUC is over the steps up to the first wrong one.

`best-of-n` picks one of four graded solutions of a question, beside voting, chance and the oracle.

`steps` samples candidate steps with the search's own nodes, at the root and after the first committed step,
from questions that carry evidence triples (subject, relation, object). A step is right if its finding
states the object of a triple whose subject its query or passage names, and the query does not give the
object away. With --reader the packaged reader completes the steps, from five passages rather than one. With
--plan no language model proposes them: each sub-question of the default plan has the reader's three best
findings as candidates. --critics adds trained ones, none of which may have been trained on the questions.

Intervals are 95 % bootstrap intervals over solutions or questions. With --out every scored item is a line
of that file, and a run that was stopped goes on from there; --rewards adds rows to it later. Rewards that
need no model are recomputed each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from langchain_core.documents import Document

from agentprm.budget import metered
from agentprm.documents import title_of
from agentprm.errors import AgentPRMError
from agentprm.evaluation import bootstrap_difference, bootstrap_interval, normalize_answer, read_dataset
from agentprm.evaluation.rewards import (
    auc,
    best_of_n_accuracy,
    best_threshold,
    expected_calibration_error,
    final_minimum_share,
    processbench_f1,
    processbench_predictions,
)
from agentprm.lm import LanguageModel, as_language_model
from agentprm.packaged import default_reader
from agentprm.readers import Reader, ReaderAnswer
from agentprm.rewards import (
    Checked,
    Fused,
    Grounding,
    ProcessRewardModel,
    ReaderGrounding,
    Relevance,
    RewardStep,
    SelfJudgement,
    load_reward,
)
from agentprm.rewards.checkers import ArithmeticChecker
from agentprm.training.candidate_steps import Choice, label_of, planned_steps, sampled_steps

Row = dict[str, Any]
Scores = list[list[float]]
ROUNDS = 1000
AGGREGATIONS = ("product", "geometric_mean", "min", "last")


def implicit(model: Any) -> ProcessRewardModel:
    """The reference is the same model, which is not shown the question."""
    from agentprm.rewards import Dialogue, LogRatio

    return LogRatio(model, model, reference_template=Dialogue(question=False), sigmoid=True)


def judge(model: LanguageModel) -> ProcessRewardModel:
    """A critique of at most 32 tokens; the verdict is read from the model's probabilities after it."""
    from agentprm.lm import SamplingParams
    from agentprm.rewards import Judge, VerdictReward

    params = SamplingParams(max_tokens=32, temperature=0.6, top_p=0.95, seed=0)
    return VerdictReward(model, Judge(closing="\nVerdict:"), k=3, params=params)


# Rewards of one model.
SINGLE: dict[str, Callable[[LanguageModel], ProcessRewardModel]] = {
    "self-judgement": lambda model: SelfJudgement(model, passages=1),
    "grounding": Grounding,
    "query likelihood": Relevance,
    "implicit log-ratio": implicit,
    "judge, 3 samples": judge,
    "reader": lambda model: ReaderGrounding(reader()),
    "arithmetic checker": lambda model: Checked(None, [ArithmeticChecker()]),
}
# Rewards made of others; their cost is that of their parts.
COMPOSED: dict[str, tuple[tuple[str, ...], Callable[..., ProcessRewardModel]]] = {
    "grounding x query likelihood": (("grounding", "query likelihood"), lambda *parts: Fused(parts)),
    "self-judgement + arithmetic": (
        ("self-judgement",),
        lambda part: Checked(part, [ArithmeticChecker()]),
    ),
}
REWARDS = [*SINGLE, *COMPOSED]
BASELINES = ("always right", "random", "last step")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        {"processbench": processbench, "best-of-n": best_of_n, "steps": steps}[args.task](args)
    except AgentPRMError as error:
        print(f"rewards.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rewards.py: interrupted; finished items are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("task", choices=["processbench", "best-of-n", "steps"])
    parser.add_argument("--data", help="the file, or for 'steps' a folder in the BEIR layout")
    parser.add_argument("--limit", type=int, default=60, help="items of a fixed random order")
    parser.add_argument("--skip", type=int, default=0, help="items to leave out at its start")
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=REWARDS)
    parser.add_argument("--critics", nargs="*", default=[], help="folders of trained critics, a row each")
    parser.add_argument("--out", help="JSONL log of all scores, to resume from")
    parser.add_argument("--index-cache", help="folder that keeps the index of 'steps'")
    parser.add_argument(
        "--reader", action="store_true", help="'steps': the packaged reader reads them, five passages each"
    )
    parser.add_argument(
        "--plan", action="store_true", help="'steps': the reader's best findings for each step of the plan"
    )
    parser.add_argument("--model", help="Hugging Face name or path; the packaged model if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a few built-in items and a scripted model")
    args = parser.parse_args(argv)
    args.embeddings = None
    args.rewards = [*args.rewards, *args.critics]
    if args.tiny:
        args.rewards = [
            name for name in args.rewards if name not in ("implicit log-ratio", "judge, 3 samples")
        ]
    elif not args.data:
        parser.error("--data is needed (or --tiny)")
    return args


class Runner:
    """Scores items with the rewards asked for, and remembers what a log already holds."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self._rewards: dict[str, ProcessRewardModel] = {}
        self._model: LanguageModel | None = None
        self._known: dict[tuple[str, str, str], Row] = {}
        self._file = None
        self.store: Any = None  # what is searched
        self.item = ""  # the one being scored
        self.run = json.dumps(
            [args.task, args.data and Path(args.data).name, args.model or "packaged", args.seed]
            + (["plan"] if args.plan else ["reader"] if args.reader else [])
        )
        if args.out:
            path = Path(args.out)
            for line in path.read_text("utf-8").splitlines() if path.exists() else []:
                try:
                    row = json.loads(line)
                except ValueError:  # the line that a killed run was writing
                    continue
                self._known[row["run"], row["item"], row["reward"]] = row
            self._file = path.open("a", encoding="utf-8")

    @property
    def model(self) -> LanguageModel:
        if self._model is None:
            if self.args.tiny:
                from agentprm.testing import ScriptedLanguageModel

                def likelihood(prompt: str, continuation: str) -> float:
                    digest = hashlib.sha256(f"{prompt}\n{continuation}".encode()).digest()
                    return -len(continuation) * (0.5 + digest[0] / 256)

                self._model = ScriptedLanguageModel({}, likelihood=likelihood)
            elif self.args.model:
                self._model = as_language_model(self.args.model)
            else:
                from agentprm import packaged

                self._model = packaged.default_language_model()
        return self._model

    def known(self, item: str, name: str) -> Row | None:
        return self._known.get((self.run, item, name))

    def keep(self, item: str, name: str, row: Row) -> Row:
        row = {"run": self.run, "item": item, "reward": name, **row}
        self._known[self.run, item, name] = row
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        return row

    def score(self, item: str, question: str, trajectories: list[list[RewardStep]], name: str) -> Row:
        """Scores of all trajectories of an item with their cost."""
        row = self.known(item, name)
        if row is not None:
            return row
        self.item = item
        parts = [self.score(item, question, trajectories, part) for part in COMPOSED.get(name, [()])[0]]
        with metered() as meter:
            scores = self.reward(name).score(question, trajectories)
        # A step that a judge came to no verdict on stands at .5.
        scores = [[0.5 if math.isnan(score) else score for score in row] for row in scores]
        usage = meter.usage
        return self.keep(
            item,
            name,
            {
                "scores": scores,
                "asked": usage["prompt_tokens"] + usage["completion_tokens"] + sum(p["asked"] for p in parts),
                "computed": usage["computed_tokens"] + sum(p["computed"] for p in parts),
                "seconds": usage["seconds"] + sum(p["seconds"] for p in parts),
            },
        )

    def reward(self, name: str) -> ProcessRewardModel:
        if name not in self._rewards:
            if name in COMPOSED:
                parts, build = COMPOSED[name]
                # Parts found in the log have not been scored here, so these are kept to be asked once.
                self._rewards[name] = build(*(Logged(self, part) for part in parts))
            else:
                self._rewards[name] = make_reward(name, self)
        return self._rewards[name]

    def all(self, items: list[tuple[str, str, list[list[RewardStep]]]]) -> dict[str, list[Row]]:
        """Rows of every reward, item by item, so that a stopped run has whole items."""
        for number, (item, question, trajectories) in enumerate(items, 1):
            for name in self.args.rewards:
                self.score(item, question, trajectories, name)
            print(f"{number}/{len(items)} items", file=sys.stderr, flush=True)
        rows = {name: [self.score(*item, name) for item in items] for name in self.args.rewards}
        for name in BASELINES:
            rows[name] = [
                {"scores": baseline(name, item, trajectories), "asked": 0, "computed": 0, "seconds": 0.0}
                for item, _, trajectories in items
            ]
        return rows


def make_reward(name: str, runner: Runner | None) -> ProcessRewardModel:
    """A reward of one model, or a trained critic's folder; a runner lends its model."""
    if name in SINGLE:
        return SINGLE[name](runner.model if runner else None)
    if (Path(name) / "step_critic.json").is_file():
        return load_reward(name, reader=reader())
    return load_reward(name)


class Remembering(Reader):
    """A reader that is not asked the same twice, so that several rewards on it cost as much as one."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._known: dict[tuple[str, ...], list[ReaderAnswer]] = {}

    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """See `Reader.candidates`."""
        keys = [
            (str(n), question, *(repr((title_of(d), d.page_content)) for d in shown))
            for question, shown in zip(questions, passages, strict=True)
        ]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        asked = [questions[i] for i in new.values()]
        found = self.reader.candidates(asked, [passages[i] for i in new.values()], n=n) if new else []
        self._known.update(zip(new, found, strict=True))
        return [self._known[key] for key in keys]


@cache
def reader() -> Reader:
    """The packaged reader."""
    return Remembering(default_reader())


class Logged(ProcessRewardModel):
    """The scores that a runner has kept of the item it is at."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.runner, self.name = runner, name

    def score(self, question: str, trajectories: Sequence[Sequence[RewardStep]]) -> Scores:
        row = self.runner.known(self.runner.item, self.name)
        assert row is not None
        return row["scores"]


def baseline(name: str, item: str, trajectories: list[list[RewardStep]]) -> Scores:
    rng = random.Random(item)
    if name == "random":
        return [[rng.random() for _ in trajectory] for trajectory in trajectories]
    if name == "last step":
        return [[1.0] * (len(trajectory) - 1) + [0.0] for trajectory in trajectories]
    return [[1.0] * len(trajectory) for trajectory in trajectories]


def as_steps(texts: Sequence[str]) -> list[RewardStep]:
    return [RewardStep(query="", passages=[], thought=text, final_answer=None) for text in texts]


def shuffled(rows: list[Row], args: argparse.Namespace) -> list[Row]:
    rows = list(rows)
    random.Random(args.seed).shuffle(rows)
    return rows[args.skip : args.skip + args.limit]


def read_lines(path: str) -> list[Row]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines() if line.strip()]


def interval(items: Sequence[Any], statistic: Callable[[Sequence[Any]], float], seed: int = 0) -> str:
    """`value [low, high]` by resampling items; a resample without a value is drawn again."""
    if math.isnan(statistic(items)):
        return "none"
    rng = random.Random(seed)
    draws: list[float] = []
    while len(draws) < ROUNDS:
        value = statistic(rng.choices(items, k=len(items)))
        if not math.isnan(value):
            draws.append(value)
    draws.sort()
    low, high = draws[int(0.025 * ROUNDS)], draws[int(0.975 * ROUNDS) - 1]
    return f"{statistic(items):.3f} [{low:.2f}, {high:.2f}]"


def cost(rows: list[Row]) -> str:
    count = max(1, sum(len(row) for r in rows for row in r["scores"]))
    asked, computed, seconds = (sum(r[key] for r in rows) / count for key in ("asked", "computed", "seconds"))
    return f"{asked:.0f} | {computed:.0f} | {seconds:.3f}"


# ProcessBench


def processbench(args: argparse.Namespace) -> None:
    data = TINY if args.tiny else shuffled(read_lines(args.data), args)
    runner = Runner(args)
    rows = runner.all([(d["id"], d["problem"], [as_steps(d["steps"])]) for d in data])
    labels = [d["label"] for d in data]
    steps = sum(len(d["steps"]) for d in data)
    wrong = sum(label != -1 for label in labels)
    print(f"\n{len(data)} solutions, {wrong} with an error, {steps} steps. Per step: tokens and seconds.\n")
    print(
        "| reward | F1 | error found | right accepted | F1 at .5 | AUC | ECE | lowest is last "
        "| tokens | computed | s |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, found in rows.items():
        scores = [row["scores"][0] for row in found]
        fixed = name in ("always right", "last step")
        predictions = processbench_predictions(scores) if fixed else crossed(scores, labels)
        result = processbench_f1(predictions, labels)
        half = processbench_f1(processbench_predictions(scores, 0.5), labels).f1
        pairs = list(zip(predictions, labels, strict=True))
        judged = [judged_steps(row, label) for row, label in zip(scores, labels, strict=True)]
        flat = [pair for row in judged for pair in row]
        error = expected_calibration_error([s for s, _ in flat], [y for _, y in flat])
        print(
            f"| {name} | {interval(pairs, f1_of)} | {result.error_accuracy:.2f} "
            f"| {result.correct_accuracy:.2f} | {half:.3f} | {interval(judged, auc_of)} | {error:.2f} "
            f"| {final_minimum_share(scores):.2f} | {cost(found)} |"
        )


def crossed(scores: list[list[float]], labels: list[int]) -> list[int]:
    """Predictions for each half of the solutions with the threshold that is best on the other half.

    The halves have equally many right solutions, and equally many wrong ones.
    """
    right = [i for i, label in enumerate(labels) if label == -1]
    wrong = [i for i, label in enumerate(labels) if label != -1]
    halves = [right[k::2] + wrong[k::2] for k in (0, 1)]
    predictions = [0] * len(labels)
    for own, other in (halves, halves[::-1]):
        threshold, _ = best_threshold([scores[i] for i in other], [labels[i] for i in other])
        for i, found in zip(own, processbench_predictions([scores[i] for i in own], threshold), strict=True):
            predictions[i] = found
    return predictions


def f1_of(pairs: Sequence[tuple[int, int]]) -> float:
    if len({label == -1 for _, label in pairs}) < 2:
        return math.nan
    return processbench_f1([p for p, _ in pairs], [t for _, t in pairs]).f1


def judged_steps(scores: list[float], label: int) -> list[tuple[float, bool]]:
    """Steps with a known label: all of a right solution, else those up to the first wrong one."""
    end = len(scores) if label == -1 else label + 1
    return [(score, i != label) for i, score in enumerate(scores[:end])]


def auc_of(rows: Sequence[Sequence[tuple[float, bool]]]) -> float:
    flat = [pair for row in rows for pair in row]
    if len({right for _, right in flat}) < 2:
        return math.nan
    return auc([s for s, _ in flat], [y for _, y in flat])


# Best of n


def best_of_n(args: argparse.Namespace) -> None:
    if args.tiny:
        data = [{"question": d["problem"], **d["graded"]} for d in TINY]
    else:
        data = shuffled(read_lines(args.data), args)
    systems = [key for key, value in data[0].items() if isinstance(value, dict)]
    items, answers, correct = [], [], []
    for row in data:
        solutions = [solution(row[system]["solution"]) for system in systems]
        item = hashlib.sha256(row["question"].encode()).hexdigest()[:12]
        items.append((item, row["question"], [as_steps(texts) for texts, _ in solutions]))
        answers.append([answer for _, answer in solutions])
        correct.append([bool(row[system]["is_correct"]) for system in systems])
    rows = Runner(args).all(items)
    print(
        f"\n{len(data)} questions, {len(systems)} candidates each. Accuracy; per step: tokens and seconds.\n"
    )
    print(
        "| candidate picked by | "
        + " | ".join(AGGREGATIONS)
        + " | weighted vote | product - majority | tokens | computed | s |"
    )
    print("|---|" + "---|" * (len(AGGREGATIONS) + 5))
    blank = " | ".join([""] * (len(AGGREGATIONS) - 1 + 5))
    constant = [[[1.0]] * len(systems)] * len(data)
    plain = best_of_n_accuracy(constant, correct, answers, "last")
    for name, values in (
        ("oracle", plain.oracle),
        ("majority", plain.majority),
        ("chance", plain.random),
        *((f"always {s}", [float(row[i]) for row in correct]) for i, s in enumerate(systems)),
    ):
        print(f"| {name} | {shown(values)} | {blank} |")
    for name, found in rows.items():
        if name in ("always right", "last step"):
            continue  # every candidate scores the same
        scores = [row["scores"] for row in found]
        results = [best_of_n_accuracy(scores, correct, answers, how) for how in AGGREGATIONS]
        difference = bootstrap_difference(results[0].best, plain.majority, resamples=2000)
        print(
            f"| {name} | {shown(results[0].best)} | "
            + " | ".join(f"{sum(r.best) / len(r.best):.3f}" for r in results[1:])
            + f" | {sum(results[0].weighted_majority) / len(data):.3f} "
            f"| {difference.mean:+.3f} [{difference.low:+.2f}, {difference.high:+.2f}] | {cost(found)} |"
        )


def solution(text: str) -> tuple[list[str], str | None]:
    """Steps and answer of a solution in the form of GSM8K: a line a step, then `A: answer`."""
    lines = [strip_notes(line) for line in text.splitlines() if line.strip()]
    answer = None
    if lines and lines[-1].startswith("A:"):
        answer = normalize_answer(lines.pop()[2:].replace(",", "").strip().removesuffix(".0")) or None
    return lines or [text.strip() or "(nothing)"], answer


def strip_notes(line: str) -> str:
    """Without the calculator notes `<<1+1=2>>`, which no reader of the solution sees."""
    while "<<" in line and ">>" in line.split("<<", 1)[1]:
        before, rest = line.split("<<", 1)
        line = before + rest.split(">>", 1)[1]
    return line.strip()


def shown(values: list[float]) -> str:
    found = bootstrap_interval(values, resamples=2000)
    return f"{found.mean:.3f} [{found.low:.2f}, {found.high:.2f}]"


# Candidate steps of the search


def steps(args: argparse.Namespace) -> None:
    runner = Runner(args)
    rows: list[Row] = []
    questions = list(multihop_questions(args))
    for number, question in enumerate(questions, 1):
        for batch in candidates(runner, args, question):
            item = f"{question['id']}/{batch['round']}"
            paths = batch["paths"]
            found = {name: runner.score(item, question["text"], paths, name) for name in args.rewards}
            for i, right in enumerate(batch["right"]):
                row = {"group": item, "question": question["id"], "right": right, "scores": {}}
                for name, scored in found.items():
                    row["scores"][name] = scored["scores"][i][-1]
                row["scores"]["random"] = random.Random(f"{item}{i}").random()
                row["scores"]["always right"] = 1.0
                rows.append(row)
            rows[-1]["costs"] = found
        print(f"{number}/{len(questions)} questions, {len(rows)} steps", file=sys.stderr, flush=True)
    by_question: dict[str, list[Row]] = {}
    for row in rows:
        by_question.setdefault(row["question"], []).append(row)
    groups = list(by_question.values())
    share = sum(row["right"] for row in rows) / len(rows)
    print(f"\n{len(groups)} questions, {len(rows)} candidate steps, {share:.0%} right.\n")
    print("| reward | AUC | best candidate right | tokens | computed | s |\n|---|---|---|---|---|---|")

    def area(sample: Sequence[list[Row]], name: str) -> float:
        return auc_of([[(row["scores"][name], row["right"]) for row in group] for group in sample])

    def first(sample: Sequence[list[Row]], name: str) -> float:
        return best_is_right([row for group in sample for row in group], name)

    for name in [*args.rewards, "random", "always right"]:
        measured = name in args.rewards
        found = [row["costs"][name] for row in rows if measured and "costs" in row]
        total = len(rows) if found else 1
        asked, computed, seconds = (
            sum(f[key] for f in found) / total for key in ("asked", "computed", "seconds")
        )
        print(
            f"| {name} | {interval(groups, partial(area, name=name))} "
            f"| {interval(groups, partial(first, name=name))} "
            f"| {asked:.0f} | {computed:.0f} | {seconds:.3f} |"
        )
    for name in args.critics if "reader" in args.rewards else []:
        cells = [
            interval(groups, lambda sample, of=of, name=name: of(sample, name) - of(sample, "reader"))
            for of in (area, first)
        ]
        print(f"| {name} - reader | {' | '.join(cells)} | | | |")


def best_is_right(rows: list[Row], name: str) -> float:
    """Over choices with both kinds of candidates: how often the best score is a right step's."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    shares = []
    for group in groups.values():
        if len({row["right"] for row in group}) == 2:
            best = max(row["scores"][name] for row in group)
            equal = [row["right"] for row in group if row["scores"][name] == best]
            shares.append(sum(equal) / len(equal))  # among equals the choice is random
    return sum(shares) / len(shares) if shares else math.nan


def multihop_questions(args: argparse.Namespace) -> Iterator[Row]:
    if args.tiny:
        yield from TINY_QUESTIONS
        return
    rows = [row for row in read_lines(str(Path(args.data) / "queries.jsonl")) if row.get("evidence")]
    for row in rows[args.skip : args.skip + args.limit]:
        yield {"id": row["_id"], "text": row["text"], "evidence": row["evidence"]}


def candidates(runner: Runner, args: argparse.Namespace, question: Row) -> Iterator[Row]:
    """Sampled steps of a question, labelled; from the log where it has them."""
    if args.tiny:
        yield from question["rounds"]
        return
    known = runner.known(question["id"], "candidates")
    if known is None:
        known = runner.keep(question["id"], "candidates", {"batches": sample_steps(runner, args, question)})
    yield from known["batches"]


def sample_steps(runner: Runner, args: argparse.Namespace, question: Row) -> list[Row]:
    return [
        {"round": number, "paths": choice.paths, "right": choice.right}
        for number, choice in enumerate(sampled(runner, args, question))
    ]


def sampled(runner: Runner, args: argparse.Namespace, question: Row) -> Iterator[Choice]:
    from qa import index  # the benchmark beside this one

    from agentprm.nodes import CompleteSteps, ProposeSteps, RetrieveSteps

    if runner.store is None:
        runner.store = index(read_dataset(args.data), args)

    def right(step: RewardStep) -> bool:
        return bool(label_of(step, question["evidence"]))

    if args.plan:
        return planned_steps(question["text"], runner.store, reader(), right)
    read = 5 if args.reader else 1  # the defaults of the search
    completer = CompleteSteps(reader() if args.reader else runner.model, passages=read)
    nodes = [ProposeSteps(runner.model), RetrieveSteps(runner.store, k=read), completer]
    return sampled_steps(question["text"], nodes, right)


# Items of the quick mode


def _graded(*pairs: tuple[str, bool]) -> Row:
    return {f"system {i}": {"solution": text, "is_correct": right} for i, (text, right) in enumerate(pairs)}


TINY: list[Row] = [
    {
        "id": f"tiny-{i}",
        "problem": f"A box holds {a} red and {b} blue balls. Half of them are sold. How many are left?",
        "steps": [
            f"There are {a} + {b} = {a + b + (1 if label == 0 else 0)} balls.",
            f"Half of them is ({a} + {b}) / 2 = {(a + b) // 2 + (2 if label == 1 else 0)}.",
            "So that many are left.",
        ],
        "label": label,
        "graded": _graded(
            (f"There are {a} + {b} = {a + b} balls.\nA: {(a + b) // 2}", True),
            (f"There are {a} + {b} = {a + b + 3} balls.\nA: {a + b}", False),
            (f"Half of {a} is left.\nA: {a}", False),
        ),
    }
    for i, (a, b, label) in enumerate([(4, 6, -1), (8, 2, 0), (3, 5, 1), (7, 9, -1), (10, 2, 0), (6, 6, 1)])
]


def _path(query: str, passage: str, thought: str) -> list[RewardStep]:
    return [RewardStep(query=query, passages=[passage], thought=thought, final_answer=None)]


TINY_QUESTIONS: list[Row] = [
    {
        "id": "tiny",
        "text": "Where was the engineer of the bridge born?",
        "rounds": [
            {
                "round": 0,
                "paths": [
                    _path("Who built the bridge?", "Bridge: built by Brunel.", "Brunel"),
                    _path("Where is it?", "Seine: a river in France.", "France"),
                ],
                "right": [True, False],
            }
        ],
    }
]


if __name__ == "__main__":
    sys.exit(main())
