"""Measuring: questions in, runs, measures, tables.

What lives where, in the order in which a table comes about: `data` reads a dataset, `runner` has a graph
answer its questions and records each answer once, `qa` measures answers and retrieval, `rewards` reward
models (by the definitions of the published benchmarks), `bootstrap` says how sure a difference is, `report`
puts it into tables. It builds on the other packages; none of them builds on it.
"""

from agentprm.evaluation.attribution import CAUSES, Cause, failure_cause, scored_answers
from agentprm.evaluation.bootstrap import Interval, bootstrap_difference, bootstrap_interval
from agentprm.evaluation.data import QaDataset, QaQuestion, read_dataset
from agentprm.evaluation.qa import (
    contains_answer,
    exact_match,
    normalize_answer,
    normalize_unicode,
    recall_at_k,
    token_f1,
)
from agentprm.evaluation.report import QaReport, markdown_table, qa_report
from agentprm.evaluation.runner import QaRecord, evidence_order, read_records, run_questions
from agentprm.evaluation.significance import Comparison, compare_paired, randomisation_test

__all__ = [
    "CAUSES",
    "Cause",
    "Comparison",
    "Interval",
    "QaDataset",
    "QaQuestion",
    "QaRecord",
    "QaReport",
    "bootstrap_difference",
    "bootstrap_interval",
    "compare_paired",
    "contains_answer",
    "evidence_order",
    "exact_match",
    "failure_cause",
    "markdown_table",
    "normalize_answer",
    "normalize_unicode",
    "qa_report",
    "randomisation_test",
    "read_dataset",
    "read_records",
    "recall_at_k",
    "run_questions",
    "scored_answers",
    "token_f1",
]
