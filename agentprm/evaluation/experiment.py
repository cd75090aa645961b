"""Several set-ups on the same questions: run, resume, measure, compare.

`evaluate` is the whole way; `agentprm eval` is a command around it. A folder keeps everything: a line for
each answer in `records.jsonl`, the traces, and a judge's verdicts in `judge.sqlite`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentprm.errors import ConfigurationError
from agentprm.evaluation.data import QaDataset, dataset_from
from agentprm.evaluation.judging import judge_records
from agentprm.evaluation.runner import Answerer, QaRecord, made_folder, run_questions
from agentprm.evaluation.setups import Prices, Run, Setup
from agentprm.evaluation.summary import Evaluation, summarize
from agentprm.lm import as_language_model
from agentprm.scale import Executor, LocalExecutor

__all__ = ["evaluate"]


def evaluate(
    data: QaDataset | Any,
    setups: Sequence[Setup] | Mapping[str, Answerer | Callable[[], Answerer]],
    *,
    out: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    executor: Executor | None = None,
    judge: Any = None,
    judge_name: str | None = None,
    prices: Prices | None = None,
    baseline: str | None = None,
    ks: Sequence[int] = (2, 5),
    seed: int = 0,
    on_record: Callable[[str, QaRecord, bool], None] | None = None,
    on_verdict: Callable[[], None] | None = None,
) -> Evaluation:
    """Asks every set-up every question, once, and measures what they answered.

    Args:
        data: What `read_dataset` read, or a data frame or list of rows (`dataset_from`).
        setups: The set-ups; or graphs by name. A graph given by name is known by it alone: give it another
            name, or another folder, when it changes.
        out: Folder that keeps the answers. Call it again with the same folder, and only what is missing is
            asked; the result is the same. Without one nothing is kept, and what is measured from traces is
            left out.
        jobs: Questions asked at once, in threads.
        executor: Where they are asked instead of in threads; see `agentprm.scale`.
        judge: A language model, or its name, that says whether answers mean the same as the right ones.
        judge_name: Under which its verdicts are kept; by default what it says of itself.
        prices: Of the model, where a set-up names none.
        baseline: The set-up that the others are compared with; the first by default.
        ks: Cut-offs of recall.
        seed: Of the resampling.
        on_record: Called with the set-up's name, each answer and whether it came from the folder.
        on_verdict: Called after each new verdict of the judge.

    Raises:
        ConfigurationError: If there is no set-up, two have the same name and settings, or `baseline` is none.
        InputError: If the data have no question, or the folder cannot be written.
        AgentPRMError: If a question could not be asked. Call again to ask those that are missing.
    """
    dataset = data if isinstance(data, QaDataset) else dataset_from(data)
    rows = _as_setups(setups, prices)
    if baseline is not None and baseline not in {row.name for row in rows}:
        raise ConfigurationError(f"There is no set-up {baseline!r} to compare with.")
    folder = None if out is None else made_folder(Path(out))
    where = executor or (LocalExecutor(jobs) if jobs != 1 else None)
    runs = []
    for setup in rows:
        run = json.dumps({"setup": setup.name, **setup.settings, "data": dataset.name})
        traces = None if folder is None else folder / "traces" / _folder_name(setup.name, run)
        records = run_questions(
            setup.graph,
            dataset.questions,
            run=run,
            log=None if folder is None else folder / "records.jsonl",
            on_record=None if on_record is None else partial(on_record, setup.name),
            executor=where,
            traces=traces,
            settings={"setup": setup.name, **setup.settings},
        )
        runs.append(Run(setup, records, traces))
    verdicts: dict[tuple[str, str], float | None] = {}
    if judge is not None:
        model = as_language_model(judge)
        verdicts = judge_records(
            model,
            judge_name or (judge if isinstance(judge, str) else re.sub(r" at 0x\w+", "", repr(judge))),
            [record for run in runs for record in run.records],
            dataset.questions,
            journal=":memory:" if folder is None else folder / "judge.sqlite",
            executor=LocalExecutor(jobs),
            on_verdict=on_verdict,
        )
    return summarize(dataset, runs, verdicts=verdicts, baseline=baseline, ks=ks, seed=seed)


def _as_setups(setups: Any, prices: Prices | None) -> list[Setup]:
    rows: list[Setup] = (
        [Setup(name, graph) for name, graph in setups.items()]
        if isinstance(setups, Mapping)
        else list(setups)
    )
    if not rows:
        raise ConfigurationError("There is nothing to evaluate; give at least one set-up.")
    seen = []
    for row in rows:
        if (row.name, row.settings) in seen:
            raise ConfigurationError(f"The set-up {row.name!r} is there twice; give each a name of its own.")
        seen.append((row.name, row.settings))
    return [row if row.prices else Setup(row.name, row.graph, row.settings, prices) for row in rows]


def _folder_name(name: str, run: str) -> str:
    """A folder's name for a run, a different one for each."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:60]}-{sha256(run.encode()).hexdigest()[:8]}"
