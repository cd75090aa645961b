"""From the answers of several set-ups to what a report says of them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from agentprm.errors import InputError, MissingDependencyError
from agentprm.evaluation.attribution import failure_cause, scored_answers
from agentprm.evaluation.bootstrap import bootstrap_interval
from agentprm.evaluation.data import QaDataset, QaQuestion
from agentprm.evaluation.qa import CLOSED_ANSWERS, contains_answer, normalize_answer
from agentprm.evaluation.rankings import ranking_scores
from agentprm.evaluation.report import QaReport, has_more_than_ascii, qa_report, question_scores
from agentprm.evaluation.rewards import auc, brier_score, expected_calibration_error
from agentprm.evaluation.runner import QaRecord
from agentprm.evaluation.setups import Run
from agentprm.evaluation.significance import PairedComparison, compare_paired
from agentprm.trace.schema import Trace
from agentprm.trace.text import counted

__all__ = [
    "CalibrationScores",
    "Evaluation",
    "SetupComparison",
    "SetupSummary",
    "calibration_of",
    "summarize",
]

_BINS = 10


class CalibrationScores(NamedTuple):
    """How well scores say what is right.

    Attributes:
        items: How many were scored.
        auc: Probability that a right item scores above a wrong one; `None` if all are right, or all wrong.
        brier: Mean squared error; `None`, like the next, where scores are no probabilities.
        ece: Expected calibration error.
        bins: Mean score, share of right ones and count of each bin that has any.
    """

    items: int
    auc: float | None
    brier: float | None
    ece: float | None
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class SetupSummary:
    """What one set-up achieved.

    Attributes:
        report: Its measures and costs; over several seeds the means.
        settings: How it was made; a list of values where runs differ.
        runs: How often the questions were asked.
        cost: Price of a question; `None` without prices.
        by_type: Measures by the questions' type, with their number `n`.
        failures: How many wrong answers each part is to blame for.
        calibration: Of the reward over the candidates that concluded; `None` without any.
        endings: How many runs ended for which reason.
    """

    report: QaReport
    settings: Mapping[str, Any]
    runs: int
    cost: float | None
    by_type: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, int]
    calibration: CalibrationScores | None
    endings: Mapping[str, int]

    @property
    def name(self) -> str:
        """Name of the set-up."""
        return self.report.system


class SetupComparison(NamedTuple):
    """One set-up beside the baseline, in one measure."""

    setup: str
    baseline: str
    metric: str
    result: PairedComparison


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured. `agentprm.evaluation.pages` makes reports of it.

    Attributes:
        data: Name of the data.
        questions: How many there are.
        setups: The set-ups in their order.
        comparisons: Each set-up beside the baseline.
        rows: A row per question, with what each run answered, its measures, and what failed.
        notes: What a reader must know to read the numbers rightly.
    """

    data: str
    questions: int
    setups: tuple[SetupSummary, ...]
    comparisons: tuple[SetupComparison, ...]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as JSON, without the questions."""
        return {
            "data": self.data,
            "questions": self.questions,
            "setups": [
                {
                    **asdict(setup.report),
                    "settings": dict(setup.settings),
                    "runs": setup.runs,
                    "metrics": {key: value._asdict() for key, value in setup.report.metrics.items()},
                    "cost": setup.cost,
                    "by_type": {key: dict(value) for key, value in setup.by_type.items()},
                    "failures": dict(setup.failures),
                    "calibration": setup.calibration and setup.calibration._asdict(),
                    "endings": dict(setup.endings),
                }
                for setup in self.setups
            ],
            "comparisons": [
                {
                    "setup": row.setup,
                    "baseline": row.baseline,
                    "metric": row.metric,
                    "difference": row.result.difference._asdict(),
                    "bootstrap_p": row.result.bootstrap_p,
                    "randomisation_p": row.result.randomisation_p,
                }
                for row in self.comparisons
            ],
            "notes": list(self.notes),
        }


class _AnswerRow(NamedTuple):
    """What is known of one answer."""

    scores: dict[str, float]
    cause: str | None
    scored: list[tuple[float, bool]]


def summarize(
    data: QaDataset,
    runs: Sequence[Run],
    *,
    verdicts: Mapping[tuple[str, str], float | None] | None = None,
    baseline: str | None = None,
    ks: Sequence[int] = (2, 5),
    seed: int = 0,
) -> Evaluation:
    """Measures runs over the same questions.

    Args:
        data: The questions.
        runs: The runs; those of one name are averaged question by question.
        verdicts: Of a judge, by question id and prediction.
        baseline: Name of the set-up that the others are compared with; the first by default.
        ks: Cut-offs of recall.
        seed: Of the resampling.

    Raises:
        InputError: If there is no question.
    """
    if not data.questions:
        raise InputError("There is no question to measure.")
    notes: list[str] = []
    if data.left_out:
        notes.append(
            f"{counted(data.left_out, 'question')} more had neither answers nor gold passages, and so were "
            "not asked."
        )
    questions = {question.id: question for question in data.questions}
    groups: dict[str, list[tuple[Run, list[_AnswerRow]]]] = {}
    for run in runs:
        ranked = _ranked(run, data.questions, notes)
        groups.setdefault(run.setup.name, []).append(
            (run, _measured(run, questions, ranked, data, verdicts or {}, ks))
        )
    if verdicts and None in verdicts.values():
        count = sum(verdict is None for verdict in verdicts.values())
        notes.append(f"The judge said neither yes nor no of {count} answers, which JUDGE leaves out.")
    means = {name: _means(group) for name, group in groups.items()}
    setups = tuple(_summary(name, group, means[name], questions, seed) for name, group in groups.items())
    against = baseline or setups[0].name
    comparisons = []
    for setup in setups:
        for metric, values in means[setup.name].items() if setup.name != against else ():
            other = means[against].get(metric, {})
            shared = [key for key in questions if key in values and key in other]
            if shared:
                result = compare_paired([values[k] for k in shared], [other[k] for k in shared], seed=seed)
                comparisons.append(SetupComparison(setup.name, against, metric, result))
    rows = tuple(_row(place, question, groups) for place, question in enumerate(data.questions))
    notes = list(dict.fromkeys(notes))
    return Evaluation(data.name, len(questions), setups, tuple(comparisons), rows, tuple(notes))


def calibration_of(pairs: Iterable[tuple[float, bool]]) -> CalibrationScores | None:
    """Calibration of scores with what is right; `None` without any score."""
    known = list(pairs)
    if not known:
        return None
    values, right = np.asarray([s for s, _ in known]), np.asarray([r for _, r in known])
    area = auc(values.tolist(), right.tolist()) if 0 < right.sum() < right.size else None
    if values.min() < 0 or values.max() > 1:
        return CalibrationScores(len(known), area, None, None, ())
    places = np.minimum((values * _BINS).astype(int), _BINS - 1)
    bins = tuple(
        (float(values[places == p].mean()), float(right[places == p].mean()), int((places == p).sum()))
        for p in range(_BINS)
        if (places == p).any()
    )
    labels = right.tolist()
    return CalibrationScores(
        len(known),
        area,
        brier_score(values.tolist(), labels),
        expected_calibration_error(values.tolist(), labels, _BINS),
        bins,
    )


def _ranked(run: Run, questions: Sequence[QaQuestion], notes: list[str]) -> list[dict[str, float]]:
    try:
        return ranking_scores(questions, [record["retrieved"] for record in run.records])
    except MissingDependencyError as error:
        notes.append(f"nDCG and MAP are left out: {error}")
        return [{} for _ in questions]


def _measured(
    run: Run,
    questions: Mapping[str, QaQuestion],
    ranked: Sequence[Mapping[str, float]],
    data: QaDataset,
    verdicts: Mapping[tuple[str, str], float | None],
    ks: Sequence[int],
) -> list[_AnswerRow]:
    unicode = has_more_than_ascii(questions.values())
    found = []
    for record, ranks in zip(run.records, ranked, strict=True):
        question = questions[record["question_id"]]
        row = {**question_scores(record, question, ks, beyond_ascii=unicode), **ranks}
        verdict = verdicts.get((question.id, record["prediction"]))
        if verdict is not None:
            row["JUDGE"] = verdict
        trace = run.trace(record)  # one at a time: they are large
        cause, scored = None, []
        if record["error"]:
            cause = "refused"
        elif trace is not None:
            row |= _citations(trace, question)
            if question.answers:
                cause = failure_cause(trace, question.answers, question.gold, data.titles)
                scored = scored_answers(trace, question.answers)
        found.append(_AnswerRow(row, cause, scored))
    return found


def _citations(trace: Trace, question: QaQuestion) -> dict[str, float]:
    """`CITED`: whether a cited passage holds the answer given; `CITED_GOLD`: share of cited gold passages."""
    row: dict[str, float] = {}
    answer = trace["answer"]
    if answer and normalize_answer(answer) not in CLOSED_ANSWERS:
        texts = [f"{cited['title']} {cited['text']}" for cited in trace["citations"]]
        row["CITED"] = float(any(contains_answer(text, [answer]) for text in texts))
    if question.gold and trace["citations"]:
        hits = [cited["doc_id"] in question.gold for cited in trace["citations"]]
        row["CITED_GOLD"] = sum(hits) / len(hits)
    return row


def _means(group: Sequence[tuple[Run, list[_AnswerRow]]]) -> dict[str, dict[str, float]]:
    """Scores by metric and question, averaged over runs."""
    values: dict[str, dict[str, list[float]]] = {}
    for run, answers in group:
        for record, answer in zip(run.records, answers, strict=True):
            for metric, value in answer.scores.items():
                values.setdefault(metric, {}).setdefault(record["question_id"], []).append(value)
    return {
        metric: {key: statistics.fmean(found) for key, found in by_question.items()}
        for metric, by_question in values.items()
    }


def _summary(
    name: str,
    group: Sequence[tuple[Run, list[_AnswerRow]]],
    means: Mapping[str, Mapping[str, float]],
    questions: Mapping[str, QaQuestion],
    seed: int,
) -> SetupSummary:
    records: list[QaRecord] = [record for run, _ in group for record in run.records]
    answers = [answer for _, found in group for answer in found]
    costs = qa_report(name, records, list(questions.values()), ks=())
    report = replace(
        costs,
        questions=len(questions),
        metrics={metric: bootstrap_interval(list(row.values()), seed=seed) for metric, row in means.items()},
    )
    prices = group[0][0].setup.prices
    by_type: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(_type(question) for question in questions.values()):
        members = [question.id for question in questions.values() if _type(question) == kind]
        if kind:
            by_type[kind] = {"n": len(members)}
            for metric, row in means.items():
                if present := [row[key] for key in members if key in row]:
                    by_type[kind][metric] = statistics.fmean(present)
    endings = Counter("refused" if r["error"] else r["stop_reason"] or "no reason given" for r in records)
    return SetupSummary(
        report=report,
        settings=_joined([run.setup.settings for run, _ in group]),
        runs=len(group),
        cost=None if prices is None else statistics.fmean(prices.cost(r["usage"]) for r in records),
        by_type=by_type,
        failures=dict(Counter(answer.cause for answer in answers if answer.cause)),
        calibration=calibration_of(pair for answer in answers for pair in answer.scored),
        endings=dict(endings.most_common()),
    )


def _type(question: QaQuestion) -> str:
    return str(question.extra.get("type") or "")


def _joined(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of several runs in one: a list where they differ."""
    joined = {}
    for key in dict.fromkeys(key for row in settings for key in row):
        values = [row.get(key) for row in settings]
        joined[key] = values[0] if all(value == values[0] for value in values) else values
    return joined


def _row(
    place: int, question: QaQuestion, groups: Mapping[str, Sequence[tuple[Run, list[_AnswerRow]]]]
) -> dict[str, Any]:
    """What every run answered to the question at a place."""
    answered = []
    for run, answers in (member for group in groups.values() for member in group):
        record, answer = run.records[place], answers[place]
        kept = f"traces/{run.traces.name}/{record['trace']}" if run.traces and "trace" in record else None
        answered.append(
            {
                "setup": run.setup.name,
                "seed": run.setup.settings.get("seed"),
                "prediction": record["prediction"],
                "error": record["error"],
                "retrieved": record["retrieved"],
                "scores": answer.scores,
                "cause": answer.cause,
                "stop_reason": record["stop_reason"],
                "usage": record["usage"],
                "seconds": record["seconds"],
                "trace": kept,
            }
        )
    return {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "gold": sorted(question.gold),
        "type": _type(question) or None,
        "runs": answered,
    }
