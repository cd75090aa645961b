"""Judges and tools as labellers: what a reward model or a checker says of the steps of trajectories."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from agentprm.rewards.base import ProcessRewardModel
from agentprm.rewards.checkers import Checker
from agentprm.training.data import StepCounts, StepLabelRecord
from agentprm.training.labels import checker_labels, relabelled

__all__ = ["checked_by", "judged_by"]


def judged_by(records: Iterable[StepLabelRecord], reward: ProcessRewardModel) -> list[StepLabelRecord]:
    """The records with a judge's verdicts as labels.

    Args:
        records: Trajectories; labels that they have are replaced, counts are kept.
        reward: Any reward, for instance `VerdictReward` of a chat model. A step is right if its score is
            above the reward's own gate.

    Returns:
        Records with labels 1 or 0, and `counts` that hold the same under `judged`.
    """
    found = []
    for record in records:
        (scores,) = reward.score(record.question, [record.trajectory])
        verdicts = [score > reward.gate for score in scores]
        known = _with(record, [{"judged": verdict} for verdict in verdicts])
        found.append(relabelled(known, [float(v) for v in verdicts], f"judge {type(reward).__name__}"))
    return found


def checked_by(records: Iterable[StepLabelRecord], checker: Checker) -> list[StepLabelRecord]:
    """The records with a tool's verdicts as labels (FoVer): 1 supported, 0 refuted, none where it is silent.

    Args:
        records: Trajectories; labels that they have are replaced, counts are kept.
        checker: A checker of `agentprm.rewards.checkers`.

    Returns:
        Records, `counts` of which hold the same under `checked`; those that the tool is silent about too.
    """
    found = []
    for record in records:
        steps = record.trajectory
        results = [checker.check(record.question, steps[: end + 1]) for end in range(len(steps))]
        labels = checker_labels(results)
        known = _with(record, [{"checked": None if label is None else label > 0.5} for label in labels])
        found.append(relabelled(known, labels, f"checker {checker.name}"))
    return found


def _with(record: StepLabelRecord, more: Sequence[dict[str, Any]]) -> StepLabelRecord:
    counts = record.counts or [StepCounts()] * len(record.steps)
    merged = [count.model_copy(update=update) for count, update in zip(counts, more, strict=True)]
    return record.model_copy(update={"counts": merged})
