"""How often the arithmetic checker speaks on labelled steps, and what its verdicts are worth.

    python benchmarks/checker_verdicts.py processbench/gsm8k.jsonl processbench/math.jsonl \\
        --graded gsm8k_graded/solutions.jsonl
    python benchmarks/checker_verdicts.py

Files of ProcessBench label the first wrong step; the steps before it are right, those after it have no
label. Their counts are where the default weights of `Checked` come from. With --graded: solutions of which
only the answer is known to be right or wrong. Without files: a few built-in solutions. No model is needed.
"""

from __future__ import annotations

import argparse
from collections import Counter

from rewards import TINY, as_steps, judged_steps, read_lines, solution

from agentprm.rewards import check_weights
from agentprm.rewards.checkers import ArithmeticChecker, CheckResult

CHECKER = ArithmeticChecker()


def verdicts(question: str, texts: list[str]) -> list[CheckResult]:
    trajectory = as_steps(texts)
    return [CHECKER.check(question, trajectory[: i + 1]) for i in range(len(trajectory))]


def by_steps(files: list[str]) -> None:
    results: list[CheckResult] = []
    labels: list[bool] = []
    for row in [row for file in files for row in read_lines(file)] or TINY:
        found = verdicts(row["problem"], row["steps"])
        known = judged_steps([0.0] * len(found), row["label"])
        results += found[: len(known)]
        labels += [right for _, right in known]
    print("| steps | n | refuted | supported | silent |\n|---|--:|--:|--:|--:|")
    for name, wanted in (("first wrong", False), ("right", True)):
        said = Counter(r.label for r, right in zip(results, labels, strict=True) if right is wanted)
        total = said.total()
        supported, silent = said["supported"] / total, said["unknown"] / total
        print(f"| {name} | {total:,} | {said['refuted']} | {supported:.0%} | {silent:.0%} |")
    ((supports, refutes),) = check_weights([[r] for r in results], labels).values()
    print(f"\nLog-odds by these counts: refuted {refutes:.1f}, supported {supports:.1f}.\n")


def by_solutions(file: str) -> None:
    counts: Counter[tuple[bool, bool]] = Counter()
    for row in read_lines(file):
        for graded in row.values():
            if isinstance(graded, dict):
                texts, _ = solution(graded["solution"])
                refuted = any(r.label == "refuted" for r in verdicts(row["question"], texts))
                counts[bool(graded["is_correct"]), refuted] += 1
    print("| solutions with | n | a refuted step |\n|---|--:|--:|")
    for name, right in (("a wrong answer", False), ("a right answer", True)):
        total = counts[right, True] + counts[right, False]
        print(f"| {name} | {total:,} | {counts[right, True]} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", help="of ProcessBench, one solution a line")
    parser.add_argument("--graded", help="solutions whose answers are graded")
    arguments = parser.parse_args()
    by_steps(arguments.files)
    if arguments.graded:
        by_solutions(arguments.graded)


if __name__ == "__main__":
    main()
