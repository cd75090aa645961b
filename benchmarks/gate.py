"""Whether the gate of the refinement fires where steps are wrong, and where it should stand.

    python benchmarks/gate.py --data 2wiki --skip 100 --limit 64 --index-cache idx --out log.jsonl
    python benchmarks/gate.py --data 2wiki --skip 100 --limit 64 --reader --index-cache idx --out log.jsonl
    python benchmarks/gate.py --tiny

The gate judges one candidate of each choice: the one that the reward likes best. The choices are those of
`rewards.py steps`, sampled with the search's own nodes, with labels from evidence triples, and the log is the
same, so what was scored there is not scored again. A gate is right to fire where the best candidate is wrong:

- precision: of the choices at which it fires, those whose best candidate is wrong;
- recall: of the choices whose best candidate is wrong, those at which it fires;
- fires: share of all choices, which is what refinement costs;
- lost: of the choices whose best candidate is right, those at which it fires. They cost a refinement, and
  are kept unless the reward is misled.

*default* is the gate that the reward comes with. *fitted* stands where recall and the share of right steps
that pass have the best harmonic mean (`best_threshold`) on the other half of the questions; the last line is
that on all of them, which is what a default is set to. Intervals are 95 % bootstrap intervals over questions.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

from rewards import Runner as Scorer
from rewards import candidates, interval, multihop_questions, parse  # the benchmark beside this one

from agentprm.errors import AgentPRMError
from agentprm.evaluation.rewards import best_threshold
from agentprm.rewards.loading import GATE

Row = dict[str, Any]
DEFAULTS = {"grounding x query likelihood": {"default": GATE}}  # gates other than the middle


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(["steps", *(sys.argv[1:] if argv is None else argv)])
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        gate(args)
    except AgentPRMError as error:
        print(f"gate.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gate.py: interrupted; finished items are kept if --out was given", file=sys.stderr)
        return 130
    return 0


def gate(args: argparse.Namespace) -> None:
    scorer = Scorer(args)
    questions: list[dict[str, list[Row]]] = []  # the choices of each, by reward
    asked = list(multihop_questions(args))
    for number, question in enumerate(asked, 1):
        choices: dict[str, list[Row]] = {name: [] for name in args.rewards}
        for batch in candidates(scorer, args, question):
            item = f"{question['id']}/{batch['round']}"
            for name in args.rewards:
                scores = [
                    row[-1] for row in scorer.score(item, question["text"], batch["paths"], name)["scores"]
                ]
                best = max(range(len(scores)), key=lambda i: (scores[i], -i))
                choices[name].append({"score": scores[best], "right": batch["right"][best]})
        questions.append(choices)
        print(f"{number}/{len(asked)} questions", file=sys.stderr, flush=True)
    for name in args.rewards:
        gates = {"middle of the space": 0.5, **DEFAULTS.get(name, {})}
        table(name, [choices[name] for choices in questions], gates)


def table(name: str, questions: list[list[Row]], gates: dict[str, float]) -> None:
    rows = [row for question in questions for row in question]
    wrong = sum(not row["right"] for row in rows)
    print(
        f"\n{name}: {len(questions)} questions, {len(rows)} choices, the best candidate wrong in {wrong}.\n"
    )
    print("| gate | at | precision | recall | fires | lost |\n|---|---|---|---|---|---|")
    halves = (questions[::2], questions[1::2])
    fitted = [(half, fit(other)) for half, other in (halves, halves[::-1])]
    whole = fit(questions)
    lines: list[tuple[str, str, list[tuple[list[Row], float]]]] = [
        *((label, f"{at:.3f}", [(question, at) for question in questions]) for label, at in gates.items()),
        (
            "fitted on the other half",
            " / ".join(f"{at:.3f}" for _, at in fitted),
            [(question, at) for half, at in fitted for question in half],
        ),
        ("fitted on all", f"{whole:.3f}", [(question, whole) for question in questions]),
    ]
    for label, at, gated in lines:
        fired = [
            [(row["score"] <= threshold, not row["right"]) for row in question]
            for question, threshold in gated
        ]
        print(
            f"| {label} | {at} | {interval(fired, precision)} | {interval(fired, recall)} "
            f"| {interval(fired, share)} | {interval(fired, lost)} |"
        )


def fit(questions: Sequence[Sequence[Row]]) -> float:
    """Highest score that the gate stops; NaN where one kind of step is missing, so that it stops nothing."""
    rows = [row for question in questions for row in question]
    if len({row["right"] for row in rows}) < 2:
        return math.nan
    threshold, _ = best_threshold([[r["score"]] for r in rows], [-1 if r["right"] else 0 for r in rows])
    return threshold


Fired = Sequence[Sequence[tuple[bool, bool]]]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else math.nan


def precision(questions: Fired) -> float:
    return _share([wrong for question in questions for fired, wrong in question if fired])


def recall(questions: Fired) -> float:
    return _share([fired for question in questions for fired, wrong in question if wrong])


def share(questions: Fired) -> float:
    return _share([fired for question in questions for fired, _ in question])


def lost(questions: Fired) -> float:
    return _share([fired for question in questions for fired, wrong in question if not wrong])


if __name__ == "__main__":
    sys.exit(main())
