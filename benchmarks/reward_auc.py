"""How well each training-free reward tells right steps from wrong ones.

    python benchmarks/reward_auc.py --data path/of/2wiki --limit 40 --index-cache indexes

Candidate steps are sampled with the search's own nodes, at the root and after the first committed step,
from questions that carry evidence triples (subject, relation, object). A step is right if its finding
states the object of a triple whose subject its query or passage names, and the query does not give the
object away. Prints AUC with 95 % bootstrap intervals (resampled by question), the share of questions
whose best-scored candidate is right, and the cost of each reward.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from qa import index  # the benchmark beside this one

from agentprm.budget import metered
from agentprm.evaluation import read_dataset
from agentprm.evaluation.qa import normalize_answer
from agentprm.nodes import CompleteSteps, ProposeSteps, Retrieve, apply_update
from agentprm.nodes._tree import reward_step
from agentprm.packaged import default_language_model
from agentprm.rewards import Fused, Grounding, Relevance, RewardStep, SelfJudgement

Row = dict[str, Any]


def right(step: Row, texts: list[str], evidence: list[list[str]]) -> bool:
    finding, query = normalize_answer(step["thought"]), normalize_answer(step["query"])
    named = " ".join([query, *map(normalize_answer, texts)])
    return any(
        normalize_answer(obj) in finding
        and normalize_answer(obj) not in query
        and normalize_answer(subject) in named
        for subject, _, obj in evidence
    )


def auc(rows: list[Row], key: str) -> float:
    """Probability that a right step scores above a wrong one; ties count half."""
    good = [r[key] for r in rows if r["right"]]
    bad = [r[key] for r in rows if not r["right"]]
    if not good or not bad:
        return float("nan")
    return sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))


def interval(rows: list[Row], key: str, seed: int = 0, rounds: int = 500) -> tuple[float, float]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["question"], []).append(row)
    generator, names = random.Random(seed), list(groups)
    draws = []
    for _ in range(rounds):
        sample = [row for name in generator.choices(names, k=len(names)) for row in groups[name]]
        value = auc(sample, key)
        if not math.isnan(value):
            draws.append(value)
    draws.sort()
    return draws[int(0.025 * len(draws))], draws[int(0.975 * len(draws))]


def best_is_right(rows: list[Row], key: str) -> float:
    """Over choices with both kinds of candidates: how often the best score is a right step's."""
    groups: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["question"], row["parent"]), []).append(row)
    mixed = [g for g in groups.values() if len({r["right"] for r in g}) == 2]
    if not mixed:
        return float("nan")
    return sum(max(g, key=lambda r: r[key])["right"] for g in mixed) / len(mixed)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="questions to leave out at the start")
    parser.add_argument("--index-cache")
    parser.add_argument("--out", help="JSON lines of all scored steps")
    args = parser.parse_args()
    args.embeddings = None
    data = read_dataset(args.data)
    model = default_language_model()
    store = index(data, args)
    nodes = [ProposeSteps(model), Retrieve(store, k=1), CompleteSteps(model)]
    self_judgement, grounding, relevance = (
        SelfJudgement(model, passages=1),
        Grounding(model),
        Relevance(model),
    )
    rewards = {
        "self-judgement": self_judgement,
        "grounding": grounding,
        "relevance": relevance,
        "grounding x relevance": Fused([grounding, relevance]),
    }
    cost = {name: [0.0, 0, 0] for name in rewards}
    rows: list[Row] = []
    evidence = {
        row["_id"]: row["evidence"]
        for row in map(json.loads, (Path(args.data) / "queries.jsonl").read_text("utf-8").splitlines())
        if row.get("evidence")
    }
    questions = [q for q in data.questions if q.id in evidence][args.skip : args.skip + args.limit]
    for number, question in enumerate(questions, 1):
        state: dict[str, Any] = {"question": question.text}
        for _ in range(2):
            known = {s["id"] for s in state.get("prm_steps", [])}
            for node in nodes:
                state = apply_update(state, node.invoke(state))
            new = [s for s in state["prm_steps"] if s["id"] not in known and s["status"] == "completed"]
            if not new:
                break
            by_id = {s["id"]: s for s in state["prm_steps"]}
            paths: list[list[RewardStep]] = [
                [reward_step(state, s) for s in ([by_id[n["parent_id"]]] if n["parent_id"] else []) + [n]]
                for n in new
            ]
            batch = [
                {
                    "question": question.id,
                    "parent": step["parent_id"],
                    "query": step["query"],
                    "thought": step["thought"],
                    "right": right(step, path[-1]["passages"], evidence[question.id]),
                }
                for step, path in zip(new, paths, strict=True)
            ]
            for name, reward in rewards.items():
                start = time.perf_counter()
                with metered() as meter:
                    scores = reward.score(question.text, paths)
                cost[name][0] += time.perf_counter() - start
                cost[name][1] += meter.usage["prompt_tokens"]
                cost[name][2] += meter.usage["computed_tokens"]
                for row, values in zip(batch, scores, strict=True):
                    row[name] = values[-1]
            rows += batch
            # Go on from a right step where there is one, so that second steps are worth judging.
            chosen = max(range(len(new)), key=lambda i: (batch[i]["right"], -i))
            if new[chosen]["final_answer"] is not None:
                break
            state["prm_steps"] = [
                {**s, "status": "committed"} if s["id"] == new[chosen]["id"] else s
                for s in state["prm_steps"]
            ]
            state["prm_frontier"] = [new[chosen]["id"]]
        print(f"{number}/{len(questions)} questions, {len(rows)} steps", file=sys.stderr, flush=True)
    if args.out:
        Path(args.out).write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    share = sum(r["right"] for r in rows) / len(rows)
    print(f"{data.name}: {len(questions)} questions, {len(rows)} steps, {share:.0%} right\n")
    print("| reward | AUC | 95 % | best of candidates right | tokens asked | computed | s per step |")
    print("|---|---|---|---|---|---|---|")
    for name in rewards:
        low, high = interval(rows, name)
        seconds, asked, computed = (value / len(rows) for value in cost[name])
        print(
            f"| {name} | {auc(rows, name):.3f} | {low:.3f}-{high:.3f} | {best_is_right(rows, name):.2f} "
            f"| {asked:.0f} | {computed:.0f} | {seconds:.2f} |"
        )
    print(
        "\nRewards are timed in this order on one prefix cache, and the fused one finds the scores of its "
        "parts remembered, so its own cost is nil."
    )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
