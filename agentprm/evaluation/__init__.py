"""Measuring: questions in, runs, measures, reports.

What lives where, in the order in which a report comes about: `data` reads questions, `setups` says what is
compared, `runner` has a graph answer its questions and records each answer once, `experiment` does so for
several set-ups. `qa` measures answers and retrieval, `rankings` nDCG and MAP, `judging` asks a model,
`attribution` says which part failed, `rewards` has the measures of reward models (by the definitions of the
published benchmarks). `bootstrap` and `significance` say how sure a difference is; `report` makes the table
of one run, `summary` the numbers of an evaluation, `pages` Markdown and HTML of them with `plots`.
`reward_sets` reads data for reward models, `reward_report` measures them. Of the other packages
`training`, `integrations` and `cli` build on it.
"""

from agentprm.evaluation.attribution import CAUSES, Cause, failure_cause, scored_answers
from agentprm.evaluation.bootstrap import Interval, bootstrap_difference, bootstrap_interval
from agentprm.evaluation.data import QaDataset, QaQuestion, dataset_from, read_dataset
from agentprm.evaluation.experiment import evaluate
from agentprm.evaluation.pages import html_report, markdown_report
from agentprm.evaluation.qa import (
    contains_answer,
    exact_match,
    normalize_answer,
    normalize_unicode,
    recall_at_k,
    token_f1,
)
from agentprm.evaluation.report import QaReport, markdown_table, qa_report
from agentprm.evaluation.reward_report import (
    RewardEvaluation,
    evaluate_rewards,
    reward_html,
    reward_markdown,
)
from agentprm.evaluation.reward_sets import RewardItem, RewardSet, read_reward_set
from agentprm.evaluation.runner import QaRecord, evidence_order, read_log, run_questions
from agentprm.evaluation.setups import Prices, Setup
from agentprm.evaluation.significance import PairedComparison, compare_paired, randomisation_test
from agentprm.evaluation.summary import Evaluation, SetupSummary

__all__ = [
    "CAUSES",
    "Cause",
    "Evaluation",
    "Interval",
    "PairedComparison",
    "Prices",
    "QaDataset",
    "QaQuestion",
    "QaRecord",
    "QaReport",
    "RewardEvaluation",
    "RewardItem",
    "RewardSet",
    "Setup",
    "SetupSummary",
    "bootstrap_difference",
    "bootstrap_interval",
    "compare_paired",
    "contains_answer",
    "dataset_from",
    "evaluate",
    "evaluate_rewards",
    "evidence_order",
    "exact_match",
    "failure_cause",
    "html_report",
    "markdown_report",
    "markdown_table",
    "normalize_answer",
    "normalize_unicode",
    "qa_report",
    "randomisation_test",
    "read_dataset",
    "read_log",
    "read_reward_set",
    "recall_at_k",
    "reward_html",
    "reward_markdown",
    "run_questions",
    "scored_answers",
    "token_f1",
]
