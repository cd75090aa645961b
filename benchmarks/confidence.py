"""How often are answers right of which the reader is how sure, and what does it say where no passage answers?

    agentprm eval hotpotqa --index hotpotqa-index -o known
    agentprm eval hotpotqa --index other-index -o unknown   # an index that cannot know the answers
    python benchmarks/confidence.py --known known --unknown unknown

An answer is as sure as the step of its path that the reader was least sure of (`least_confidence`); the
views call it a guess below `GUESS`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from agentprm.errors import AgentPRMError, InputError
from agentprm.evaluation import exact_match, read_log, token_f1
from agentprm.trace import GUESS, least_confidence, load_trace

EDGES = (0.0, GUESS, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", type=Path, nargs="+", required=True, help="folders of agentprm eval")
    parser.add_argument("--unknown", type=Path, nargs="*", default=[], help="the same, of other documents")
    parser.add_argument("--setup", default="search", help="whose answers count")
    args = parser.parse_args(argv)
    try:
        known = [row for folder in args.known for row in answers(folder, args.setup)]
        unknown = [row for folder in args.unknown for row in answers(folder, args.setup)]
    except AgentPRMError as error:
        print(f"confidence.py: {error}", file=sys.stderr)
        return 2
    print(table(known, unknown))
    return 0


def answers(folder: Path, setup: str) -> list[tuple[float, float, float]]:
    """Confidence, exact match and F1 of each answer that a reader gave."""
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    gold = {row["id"]: row["answers"] for row in map(json.loads, lines)}
    traces = {path.name: path for path in (folder / "traces").glob(f"{setup}-*/*.json")}
    rows = []
    for record in read_log(folder / "records.jsonl"):
        if json.loads(record["run"])["setup"] != setup or not record["prediction"]:
            continue
        if (sure := least_confidence(load_trace(traces[record["trace"]])["steps"])) is not None:
            said = record["prediction"], gold[record["question_id"]]
            rows.append((sure, exact_match(*said), token_f1(*said)))
    if not rows:
        raise InputError(
            f"{folder} has no answers of a reader for the set-up {setup!r}; name another by --setup."
        )
    return rows


def table(known: Sequence[tuple[float, float, float]], unknown: Sequence[tuple[float, float, float]]) -> str:
    """Answers by confidence."""
    lines = [
        "| confidence | answers | EM | F1 | of questions that no passage answers |",
        "| --- | --: | --: | --: | --: |",
    ]
    for low, high in pairwise(EDGES):
        here = [row for row in known if low <= row[0] < high or high == row[0] == 1]
        strange = sum(low <= row[0] < high or high == row[0] == 1 for row in unknown)
        em, f1 = (f"{100 * fmean(row[i] for row in here):.0f}" if here else "" for i in (1, 2))
        lines.append(f"| {low:g} to {high:g} | {len(here)} | {em} | {f1} | {strange} |")
    guessed = [row for row in known if row[0] < GUESS]
    right, lucky = sum(row[1] for row in known), sum(row[1] for row in guessed)
    strange = share(sum(row[0] < GUESS for row in unknown), len(unknown))
    wrong = share(len(guessed) - lucky, len(known) - right)
    lines.append(
        f"\nCalled a guess, below {GUESS:g}: {strange} of the answers to questions that no passage answers, "
        f"{wrong} of the wrong ones, {share(lucky, right)} of the right ones."
    )
    return "\n".join(lines)


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


if __name__ == "__main__":
    raise SystemExit(main())
