"""From the records of runs to a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentprm.errors import InputError
from agentprm.evaluation.bootstrap import Interval, bootstrap_interval
from agentprm.evaluation.data import QaQuestion
from agentprm.evaluation.qa import (
    contains_answer,
    exact_match,
    normalize_answer,
    normalize_unicode,
    recall_at_k,
    token_f1,
)
from agentprm.evaluation.runner import QaRecord

__all__ = [
    "COST_HEAD",
    "QaReport",
    "cost_cells",
    "has_more_than_ascii",
    "markdown_table",
    "percent",
    "qa_report",
    "question_scores",
    "scores",
]

#: Heads of the columns that `cost_cells` fills.
COST_HEAD = ("tokens asked", "tokens computed", "tokens read", "model calls", "s median", "s mean")


@dataclass(frozen=True)
class QaReport:
    """The numbers of one system.

    Attributes:
        system: Its name.
        questions: How many questions it was asked.
        failed: How many of them it refused; they count as wrong.
        metrics: Mean with interval by metric name (`EM`, `F1`, `ACC_R`, `R@2`, …), as shares of 1.
            Metrics that the data have no answers or gold passages for are left out.
        tokens_asked: Mean tokens per question, prompts counted whole each time.
        tokens_computed: Mean tokens per question that the model really computed.
        tokens_read: Mean tokens per question that a reader read.
        model_calls: Mean model calls per question.
        seconds_median: Median wall-clock seconds per question.
        seconds_mean: Mean wall-clock seconds per question.
    """

    system: str
    questions: int
    failed: int
    metrics: Mapping[str, Interval]
    tokens_asked: float
    tokens_computed: float
    tokens_read: float
    model_calls: float
    seconds_median: float
    seconds_mean: float


def question_scores(
    record: QaRecord, question: QaQuestion, ks: Sequence[int] = (2, 5), *, beyond_ascii: bool = False
) -> dict[str, float]:
    """Scores of one answer by metric, as `scores` describes them.

    Args:
        record: The answer.
        question: The question that it answers.
        ks: Cut-offs of recall.
        beyond_ascii: Whether to add `EM_U` and `F1_U`.
    """
    row: dict[str, float] = {}
    said = record["prediction"]
    if question.answers:
        row["EM"] = exact_match(said, question.answers)
        row["F1"] = token_f1(said, question.answers, hotpot=True)
        if beyond_ascii:
            row["EM_U"] = exact_match(said, question.answers, normalize=normalize_unicode)
            row["F1_U"] = token_f1(said, question.answers, hotpot=True, normalize=normalize_unicode)
        row["ACC_R"] = contains_answer(said, question.answers)
    if question.gold:
        recalls = {k: recall_at_k(record["retrieved"], question.gold, k) for k in ks}
        row.update({f"R@{k}": share for k, share in recalls.items()})
        row.update({f"ALL@{k}": float(share == 1) for k, share in recalls.items()})
    return row


def scores(
    records: Iterable[QaRecord], questions: Sequence[QaQuestion], ks: Sequence[int] = (2, 5)
) -> dict[str, list[float]]:
    """Scores by metric, question by question, for intervals and paired differences.

    Args:
        records: The records of one run.
        questions: The questions that they answer.
        ks: Cut-offs of recall.

    Returns:
        `EM`, `F1`, `ACC_R` over the questions with answers; `R@k`, the share of gold passages, and `ALL@k`,
        whether all are there, over those with gold passages; a metric without any question is left out. `EM`
        and `F1` are those of HotpotQA's script (a wrong yes or no shares no word with a sentence), made for
        English in ASCII; where an answer is written otherwise, `EM_U` and `F1_U` stand beside them.

    Raises:
        InputError: If a record's question is not among the questions.
    """
    known = {question.id: question for question in questions}
    unicode = has_more_than_ascii(questions)
    found: dict[str, list[float]] = {}
    for record in records:
        question = known.get(record["question_id"])
        if question is None:
            raise InputError(
                f"The record of question {record['question_id']!r} does not belong to these questions. "
                "Give the data that the run was made on."
            )
        for name, value in question_scores(record, question, ks, beyond_ascii=unicode).items():
            found.setdefault(name, []).append(value)
    return found


def has_more_than_ascii(questions: Iterable[QaQuestion]) -> bool:
    """Whether an answer is written so that the official normalisation misses something in it."""
    return any(
        normalize_unicode(answer) != normalize_answer(answer)
        for question in questions
        for answer in question.answers
    )


def qa_report(
    system: str,
    records: Sequence[QaRecord],
    questions: Sequence[QaQuestion],
    *,
    ks: Sequence[int] = (2, 5),
    seed: int = 0,
) -> QaReport:
    """Numbers of one system over its records.

    Args:
        system: Name for the table.
        records: The records of one run, at least one.
        questions: The questions that they answer.
        ks: Cut-offs of recall.
        seed: Seed of the bootstrap.

    Raises:
        InputError: If there are no records, or as `scores`.
    """
    if not records:
        raise InputError(f"There are no records of {system!r}; run at least one question.")
    usages = [record["usage"] for record in records]
    seconds = [record["seconds"] for record in records]
    return QaReport(
        system=system,
        questions=len(records),
        failed=sum(bool(record["error"]) for record in records),
        metrics={
            name: bootstrap_interval(values, seed=seed)
            for name, values in scores(records, questions, ks).items()
        },
        tokens_asked=statistics.fmean(u["prompt_tokens"] + u["completion_tokens"] for u in usages),
        tokens_computed=statistics.fmean(u["computed_tokens"] for u in usages),
        tokens_read=statistics.fmean(u.get("read_tokens", 0) for u in usages),
        model_calls=statistics.fmean(u["model_calls"] for u in usages),
        seconds_median=statistics.median(seconds),
        seconds_mean=statistics.fmean(seconds),
    )


def markdown_table(reports: Sequence[QaReport]) -> str:
    """A Markdown table with a row per system; metrics in percent with their 95 % intervals."""
    names = list(dict.fromkeys(name for item in reports for name in item.metrics))
    head = ["system", "n", *names, *COST_HEAD]
    rows = [
        [
            item.system + (f" ({item.failed} refused)" if item.failed else ""),
            str(item.questions),
            *(percent(item.metrics[name]) if name in item.metrics else "" for name in names),
            *cost_cells(item),
        ]
        for item in reports
    ]
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows]) + "\n"


def cost_cells(report: QaReport) -> list[str]:
    """What a question cost, in the columns of `COST_HEAD`."""
    return [
        f"{report.tokens_asked:,.0f}",
        f"{report.tokens_computed:,.0f}",
        f"{report.tokens_read:,.0f}",
        f"{report.model_calls:.1f}",
        f"{report.seconds_median:.2f}",
        f"{report.seconds_mean:.2f}",
    ]


def percent(interval: Interval) -> str:
    """An interval in percent, for instance `31.0 [25.1, 36.9]`."""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
