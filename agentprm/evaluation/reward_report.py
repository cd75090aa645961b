"""Reward models measured on data with known labels: scored once, resumable, with the published measures."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from typing import Any

from agentprm.budget import Usage
from agentprm.errors import AgentPRMError, ConfigurationError, InputError
from agentprm.evaluation.bootstrap import bootstrap_difference, bootstrap_interval
from agentprm.evaluation.pages import html_page, html_table, markdown_rows, plain_markdown
from agentprm.evaluation.plots import reliability_diagram
from agentprm.evaluation.reward_sets import RewardItem, RewardSet
from agentprm.evaluation.rewards import (
    best_of_n_accuracy,
    best_threshold,
    final_minimum_share,
    first_error_accuracy,
    prm_score,
    processbench_f1,
    processbench_predictions,
    step_accuracy,
)
from agentprm.evaluation.summary import CalibrationScores, calibration_of
from agentprm.rewards import ProcessRewardModel, as_reward
from agentprm.rewards.aggregation import Aggregation, aggregate
from agentprm.rewards.base import check_scores
from agentprm.scale import Executor, Journal, map_items
from agentprm.trace.text import counted

__all__ = ["RewardEvaluation", "RewardSummary", "evaluate_rewards", "reward_html", "reward_markdown"]

Scores = list[list[float]]


@dataclass(frozen=True)
class RewardSummary:
    """What one reward achieved.

    Attributes:
        name: Its name.
        measures: Shares of 1 by name: those of the benchmark of this kind of data.
        calibration: Of single steps (best of n: of whole trajectories); `None` without any.
        skipped: Items for which it had no score.
        usage: What scoring cost.
        seconds: Seconds of a step.
    """

    name: str
    measures: Mapping[str, float]
    calibration: CalibrationScores | None
    skipped: int
    usage: Usage
    seconds: float


@dataclass(frozen=True)
class RewardEvaluation:
    """Rewards on the same data.

    Attributes:
        data: Name of the data.
        kind: Its kind.
        items: How many there are.
        rewards: The rewards in their order.
        notes: How the measures come about.
    """

    data: str
    kind: str
    items: int
    rewards: tuple[RewardSummary, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON."""
        return {
            "data": self.data,
            "kind": self.kind,
            "items": self.items,
            "rewards": [
                {
                    "name": reward.name,
                    "measures": dict(reward.measures),
                    "calibration": reward.calibration and reward.calibration._asdict(),
                    "skipped": reward.skipped,
                    "usage": dict(reward.usage),
                    "seconds_per_step": reward.seconds,
                }
                for reward in self.rewards
            ],
            "notes": list(self.notes),
        }


def evaluate_rewards(
    data: RewardSet,
    rewards: Mapping[str, ProcessRewardModel | Callable[[], ProcessRewardModel] | Any],
    *,
    journal: str | os.PathLike[str] = ":memory:",
    executor: Executor | None = None,
    threshold: float | None = None,
    aggregation: Aggregation | None = None,
    on_item: Callable[[str], None] | None = None,
) -> RewardEvaluation:
    """Scores every item with every reward, once, and measures the scores.

    Args:
        data: What `read_reward_set` read.
        rewards: Rewards by name; the names are what the journal knows them by.
        journal: Where scores are kept; call again with the same file, and only what is missing is scored.
        executor: Where items are scored; in this thread by default.
        threshold: Score below which a step is held wrong. By default ProcessBench's is fitted on one half of
            the data for the other, and the others take the reward's own.
        aggregation: How the scores of a trajectory become one; by default what the reward's authors say, else
            the last step's.
        on_item: Called with the reward's name after each scored item.

    Raises:
        ConfigurationError: If a reward is none, or breaks its contract.
        InputError: If there is no item or no reward, or an id occurs twice.
        AgentPRMError: If an item could not be scored. Call again to score those that are missing.
    """
    if not rewards or not data.items:
        raise InputError("There is nothing to measure; give at least one reward and one item.")
    ids = Counter(item.id for item in data.items)
    if len(ids) < len(data.items):
        raise InputError(f"The id {ids.most_common(1)[0][0]!r} occurs twice. Make the ids unique.")
    summaries = []
    notes = [_NOTES[data.kind]]
    for name, given in rewards.items():
        reward = as_reward(given)
        rows, usage = _scored(data, name, reward, journal, executor, on_item)
        kept = [(item, row) for item, row in zip(data.items, rows, strict=True) if row is not None]
        gate = reward.gate if threshold is None else threshold
        measures: dict[str, float] = {}
        pairs: list[tuple[float, bool]] = []
        if kept:
            how = aggregation or reward.aggregation or "last"
            measures, pairs = _measure(data.kind, kept, gate, threshold, how)
            if data.kind == "processbench" and "F1" not in measures:
                notes.append(
                    f"{name} has no F1: to fit a threshold on one half for the other needs scores of two "
                    "solutions with an error and two without. Give more of them, or a threshold."
                )
        steps = sum(len(path) for item, _ in kept for path in item.trajectories)
        summaries.append(
            RewardSummary(
                name,
                measures,
                calibration_of(pairs),
                len(rows) - len(kept),
                usage,
                usage["seconds"] / steps if steps else 0.0,
            )
        )
    return RewardEvaluation(data.name, data.kind, len(data.items), tuple(summaries), tuple(notes))


def _scored(
    data: RewardSet,
    name: str,
    reward: ProcessRewardModel,
    journal: str | os.PathLike[str],
    executor: Executor | None,
    on_item: Callable[[str], None] | None,
) -> tuple[list[Scores | None], Usage]:
    """Scores of every item, `None` where the reward has none for a step."""

    def worker() -> Callable[[RewardItem], Any]:
        def score(item: RewardItem) -> list[list[float | None]]:
            rows = check_scores(reward, reward.score(item.question, item.trajectories), item.trajectories)
            return [[None if math.isnan(value) else value for value in row] for row in rows]

        return score

    def told(*_: Any) -> None:
        if on_item is not None:
            on_item(name)

    found: list[Scores | None] = []
    with Journal(journal, run=f"{data.kind} {data.name}: {name}") as kept:
        report = map_items(
            worker,
            data.items,
            kept,
            executor=executor,
            key=_key,
            retry_failed=True,
            on_outcome=told,
        )
        for entry in kept.entries():
            if entry.failure is not None and entry.failure.kind == "ConfigurationError":
                raise ConfigurationError(entry.failure.message)
            if entry.failure is not None:
                raise AgentPRMError(
                    f"{name} failed on {report.failed} items, the first: {entry.failure}. "
                    "Mend the cause and run again; only those are scored."
                )
            whole = all(value is not None for row in entry.value for value in row)
            found.append(entry.value if whole else None)
    return found, report.usage


def _key(item: RewardItem) -> str:
    """Names an item and what is scored of it: one that has changed is scored again."""
    scored = repr((item.question, item.trajectories)).encode(errors="surrogatepass")
    return f"{item.id} {sha256(scored).hexdigest()[:16]}"


_Kept = Sequence[tuple[RewardItem, Scores]]
_Measured = tuple[dict[str, float], list[tuple[float, bool]]]


def _measure(kind: str, kept: _Kept, gate: float, threshold: float | None, how: Aggregation) -> _Measured:
    if kind == "processbench":
        return _processbench(kept, gate, threshold)
    if kind == "prmbench":
        return _prmbench(kept, gate)
    if kind == "agentprocessbench":
        return _agentprocessbench(kept, gate)
    return _best_of_n(kept, how)


def _processbench(kept: _Kept, gate: float, threshold: float | None) -> _Measured:
    scores = [rows[0] for _, rows in kept]
    labels = [int(item.labels) for item, _ in kept]
    measures: dict[str, float] = {}
    if -1 in labels and max(labels) >= 0:
        own = processbench_predictions(scores, gate)
        predictions = own if threshold is not None else _crossed(scores, labels)
        if predictions:
            result = processbench_f1(predictions, labels)
            measures["F1"] = result.f1
            measures["errors found"] = result.error_accuracy
            measures["right accepted"] = result.correct_accuracy
        measures["F1 at its gate"] = processbench_f1(own, labels).f1
    if any(len(row) > 1 for row in scores):
        measures["lowest is last"] = final_minimum_share(scores)
    # After the first wrong step nobody has labelled anything.
    judged = [
        (score, place != label)
        for row, label in zip(scores, labels, strict=True)
        for place, score in enumerate(row if label == -1 else row[: label + 1])
    ]
    return measures, judged


def _crossed(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> list[int]:
    """Predictions for each half of the solutions with the threshold that is best on the other half.

    None where a half would lack solutions with an error, or without.
    """
    right = [i for i, label in enumerate(labels) if label == -1]
    wrong = [i for i, label in enumerate(labels) if label != -1]
    if min(len(right), len(wrong)) < 2:
        return []
    halves = [right[k::2] + wrong[k::2] for k in (0, 1)]
    predictions = [0] * len(labels)
    for own, other in (halves, halves[::-1]):
        threshold, _ = best_threshold([scores[i] for i in other], [labels[i] for i in other])
        for i, found in zip(own, processbench_predictions([scores[i] for i in own], threshold), strict=True):
            predictions[i] = found
    return predictions


def _prmbench(kept: _Kept, gate: float) -> _Measured:
    predictions = [[score >= gate for score in rows[0]] for _, rows in kept]
    labels = [list(item.labels) for item, _ in kept]
    groups = list(dict.fromkeys(item.group for item, _ in kept))
    measures = {}
    for group in groups:
        members = [place for place, (item, _) in enumerate(kept) if item.group == group]
        result = prm_score([predictions[i] for i in members], [labels[i] for i in members])
        measures[f"PRMScore, {group or 'all'}"] = result.score
    if len(groups) > 1:
        measures = {"PRMScore, mean of classes": statistics.fmean(measures.values()), **measures}
    pairs = [
        (score, right)
        for (_, rows), wanted in zip(kept, labels, strict=True)
        for score, right in zip(rows[0], wanted, strict=True)
    ]
    return measures, pairs


def _agentprocessbench(kept: _Kept, gate: float) -> _Measured:
    last = [[row[-1] for row in rows] for _, rows in kept]
    predictions = [[1 if score >= gate else -1 for score in row] for row in last]
    labels = [list(item.labels) for item, _ in kept]
    measures = {
        "steps right": step_accuracy(predictions, labels),
        "first error right": first_error_accuracy(predictions, labels),
    }
    # A neutral step is neither right nor wrong.
    pairs = [
        (score, label == 1)
        for row, wanted in zip(last, labels, strict=True)
        for score, label in zip(row, wanted, strict=True)
        if label
    ]
    return measures, pairs


def _best_of_n(kept: _Kept, how: Aggregation) -> _Measured:
    scores = [rows for _, rows in kept]
    correct = [list(item.labels) for item, _ in kept]
    answers = [list(item.answers) for item, _ in kept]
    result = best_of_n_accuracy(scores, correct, answers, how)
    picked = bootstrap_interval(result.best)
    gain = bootstrap_difference(result.best, result.majority)
    measures = {
        "best of n": picked.mean,
        "lowest plausible": picked.low,
        "highest plausible": picked.high,
        "majority": statistics.fmean(result.majority),
        "weighted majority": statistics.fmean(result.weighted_majority),
        "chance": statistics.fmean(result.random),
        "oracle": statistics.fmean(result.oracle),
        "best - majority": gain.mean,
    }
    pairs = [
        (aggregate(row, how), bool(right))
        for rows, rights in zip(scores, correct, strict=True)
        for row, right in zip(rows, rights, strict=True)
    ]
    return measures, pairs


_NOTES = {
    "processbench": "F1: harmonic mean of the errors located exactly and of the right solutions accepted, "
    "with the threshold that is best on the other half of the data unless one is given. Lowest is last: "
    "share of solutions whose lowest score is the last one; a large one says that outcomes are judged.",
    "prmbench": "PRMScore: mean of the F1 of right and of wrong steps, pooled over the items of a class.",
    "agentprocessbench": "Steps right: share of all labelled steps that get their label, where a score gives "
    "+1 or -1 and never 0. First error right: share of trajectories whose first step labelled -1 is the one "
    "predicted.",
    "best-of-n": "Accuracy of the candidate with the best score beside voting, chance and the best that "
    "could be picked; among equals chance decides. Plausible: the 95 % bootstrap interval.",
}


def _table(found: RewardEvaluation) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for reward in found.rewards for name in reward.measures))
    head = ["reward", *names, "AUC", "Brier", "ECE", "tokens", "s a step"]
    rows = []
    for reward in found.rewards:
        c = reward.calibration
        known = (c.auc, c.brier, c.ece) if c else (None, None, None)
        rows.append(
            [
                reward.name + (f" ({reward.skipped} without a score)" if reward.skipped else ""),
                *(f"{100 * reward.measures[n]:.1f}" if n in reward.measures else "" for n in names),
                *("" if value is None else f"{value:.3f}" for value in known),
                f"{reward.usage['prompt_tokens'] + reward.usage['completion_tokens']:,}",
                f"{reward.seconds:.3f}",
            ]
        )
    return head, rows


def reward_markdown(found: RewardEvaluation) -> str:
    """The report as Markdown."""
    notes = "\n\n".join(map(plain_markdown, found.notes))
    return f"# {plain_markdown(_title(found))}\n\n{markdown_rows(*_table(found))}\n\nPer cent. {notes}\n"


def reward_html(found: RewardEvaluation) -> str:
    """The report as one HTML page with the calibration drawn; it loads nothing."""
    bins = {reward.name: reward.calibration.bins for reward in found.rewards if reward.calibration}
    drawn = f"<h2>Calibration</h2>{reliability_diagram(bins)}" if any(bins.values()) else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in found.notes)
    return html_page(_title(found), f"{html_table(*_table(found))}<p>Per cent.</p>{notes}{drawn}")


def _title(found: RewardEvaluation) -> str:
    rewards, items = counted(len(found.rewards), "reward"), counted(found.items, "item")
    return f"{found.data} ({found.kind}): {rewards}, {items}"
