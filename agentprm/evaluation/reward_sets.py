"""Reading data that tell good reward models from others: four kinds of JSON Lines, told by their fields.

- ProcessBench: `problem`, `steps`, `label`, the first wrong step from 0 or -1.
- PRMBench: `modified_question` (or `question`), `modified_process`, `error_steps` counted from 1,
  `classification`.
- AgentProcessBench: `messages`, and `step_labels` (or `labels`), +1, 0 or -1 by the place of the assistant's
  message among them.
- Best of n: `question` and `candidates`, each with `solution` (text or list of steps), `correct` and maybe
  `answer`; or the graded solutions of GSM8K, a field for each system with `solution` and `is_correct`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from agentprm.errors import InputError
from agentprm.evaluation.data import numbered_lines, numbered_values
from agentprm.evaluation.qa import normalize_answer
from agentprm.rewards import RewardStep, as_trajectory, trajectory_of

__all__ = ["RewardItem", "RewardSet", "RewardSetKind", "read_reward_set"]

RewardSetKind = Literal["processbench", "prmbench", "agentprocessbench", "best-of-n"]


@dataclass(frozen=True)
class RewardItem:
    """A question with trajectories whose worth is known.

    Attributes:
        id: Its id, or its place in the file.
        question: The question.
        trajectories: What a reward scores.
        labels: ProcessBench: the first wrong step. PRMBench: for each step whether it is right.
            AgentProcessBench: for each trajectory the label of its last step. Best of n: for each trajectory
            whether its answer is right.
        answers: Best of n: the answers, `None` where there is none.
        group: PRMBench's class.
    """

    id: str
    question: str
    trajectories: tuple[tuple[RewardStep, ...], ...]
    labels: Any
    answers: tuple[str | None, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class RewardSet:
    """Items of one kind."""

    name: str
    kind: RewardSetKind
    items: tuple[RewardItem, ...]


def read_reward_set(path: str | os.PathLike[str], limit: int | None = None) -> RewardSet:
    """Reads a file; its first line says of which kind it is.

    Args:
        path: The file.
        limit: Only so many items.

    Raises:
        InputError: If it cannot be read, is of no known kind, or a line is damaged (the message names it).
    """
    path = Path(path)
    lines = numbered_lines(path, f"{path} cannot be read: there is no such file. Give a JSON Lines file.")
    kind: RewardSetKind | None = None
    items: list[RewardItem] = []
    for number, row in islice(numbered_values(lines, path), limit):
        where = f"{path}, line {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: not an object. Give one object a line.")
        kind = kind or _kind(row, where)
        try:
            items.append(_READERS[kind](row, str(row.get("id", row.get("idx", number)))))
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{where}: not a line of {kind}: {said}.") from error
    if kind is None:
        raise InputError(f"{path} is empty. Give a file with at least one line.")
    return RewardSet(path.stem, kind, tuple(items))


def _kind(row: Mapping[str, Any], where: str) -> RewardSetKind:
    if "problem" in row and "steps" in row:
        return "processbench"
    if "modified_process" in row:
        return "prmbench"
    if "messages" in row:
        return "agentprocessbench"
    if "question" in row and ("candidates" in row or _systems(row)):
        return "best-of-n"
    raise InputError(
        f"{where}: the fields {', '.join(sorted(row))} are of no known kind. There are ProcessBench "
        "(problem, steps, label), PRMBench (modified_process, error_steps), AgentProcessBench (messages, "
        "step_labels) and best of n (question, candidates)."
    )


def _steps(texts: Any) -> tuple[RewardStep, ...]:
    """One step for each text, blank ones too: labels count them."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError("its steps must be a list of texts.")
    return tuple(RewardStep(query="", passages=[], thought=text, final_answer=None) for text in texts)


def _processbench(row: Mapping[str, Any], key: str) -> RewardItem:
    steps, label = _steps(row["steps"]), row["label"]
    if type(label) is not int or not -1 <= label < len(steps):
        raise InputError(f"its label {label!r} is no step of {len(steps)}, nor -1.")
    return RewardItem(key, str(row["problem"]), (steps,), label)


def _prmbench(row: Mapping[str, Any], key: str) -> RewardItem:
    steps = _steps(row["modified_process"])
    wrong = set(row["error_steps"])
    if not wrong <= set(range(1, len(steps) + 1)):
        raise InputError(f"its error_steps {sorted(wrong)} are no steps of {len(steps)}.")
    question = str(row.get("modified_question") or row["question"])
    labels = tuple(place not in wrong for place in range(1, len(steps) + 1))
    return RewardItem(key, question, (steps,), labels, group=str(row.get("classification", "")))


def _agentprocessbench(row: Mapping[str, Any], key: str) -> RewardItem:
    given = row.get("step_labels", row.get("labels"))
    if not isinstance(given, Mapping) or not given:
        raise InputError("its step_labels must map places of messages to labels.")
    labels = {int(place): int(label) for place, label in given.items()}
    trajectories, question = [], ""
    for place in sorted(labels):
        if not 0 <= place < len(row["messages"]) or labels[place] not in (-1, 0, 1):
            raise InputError(f"its label {labels[place]} of message {place} is none.")
        question, steps = trajectory_of(row["messages"][: place + 1])
        if not steps:
            raise InputError(f"its message {place} says and does nothing that could be scored.")
        trajectories.append(tuple(steps))
    return RewardItem(key, question, tuple(trajectories), tuple(labels[place] for place in sorted(labels)))


def _best_of_n(row: Mapping[str, Any], key: str) -> RewardItem:
    question = str(row["question"])
    if "candidates" in row:
        candidates = [
            (_solution_steps(one["solution"]), one.get("answer"), bool(one["correct"]))
            for one in row["candidates"]
        ]
    else:
        candidates = []
        for name in _systems(row):
            steps, answer = _graded(row[name]["solution"])
            candidates.append((steps, answer, bool(row[name]["is_correct"])))
    if not candidates:
        raise InputError("it has no candidates.")
    item = sha256(question.encode()).hexdigest()[:12] if "id" not in row else key
    return RewardItem(
        item,
        question,
        tuple(tuple(steps) for steps, _, _ in candidates),
        tuple(right for *_, right in candidates),
        tuple(None if answer is None else str(answer) for _, answer, _ in candidates),
    )


def _solution_steps(solution: str | Sequence[str]) -> list[RewardStep]:
    steps = as_trajectory(solution)
    if not steps:
        raise InputError("a candidate has no step.")
    return steps


def _systems(row: Mapping[str, Any]) -> list[str]:
    """Fields that hold a graded solution."""
    return [key for key, value in row.items() if isinstance(value, dict) and "is_correct" in value]


_NOTE = re.compile(r"<<[^<>]*+>>")


def _graded(text: str) -> tuple[list[RewardStep], str | None]:
    """Steps and answer of a solution of GSM8K: a line a step without calculator notes, then `A: answer`."""
    lines = [_NOTE.sub("", line).strip() for line in text.splitlines() if line.strip()]
    answer = None
    if lines and lines[-1].startswith("A:"):
        answer = normalize_answer(lines.pop()[2:].replace(",", "").strip().removesuffix(".0")) or None
    return as_trajectory(lines or [text.strip() or "(nothing)"]), answer


_READERS: dict[RewardSetKind, Callable[[Mapping[str, Any], str], RewardItem]] = {
    "processbench": _processbench,
    "prmbench": _prmbench,
    "agentprocessbench": _agentprocessbench,
    "best-of-n": _best_of_n,
}
