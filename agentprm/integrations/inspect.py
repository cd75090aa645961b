"""Graphs as tasks of Inspect AI: for those who run their evaluations there.

    from agentprm.evaluation import read_dataset
    from agentprm.integrations.inspect import qa_task
    from inspect_ai import eval

    eval(qa_task(read_dataset("my-data"), graph), model="mockllm/model")

Needs the extra `inspect`. The model of the task is not asked: the graph brings its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentprm.budget import metered
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.evaluation import QaDataset, contains_answer, exact_match, recall_at_k, token_f1
from agentprm.evaluation.data import dataset_from
from agentprm.evaluation.runner import evidence_order
from agentprm.trace import trace_of

try:
    from inspect_ai import Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score, Target, mean, scorer, stderr
    from inspect_ai.solver import Generate, TaskState, solver
except ImportError as error:
    raise MissingDependencyError.for_extra("inspect-ai", "inspect") from error

if TYPE_CHECKING:
    from inspect_ai.scorer import Scorer
    from inspect_ai.solver import Solver

__all__ = ["answer_scorer", "graph_solver", "qa_samples", "qa_task"]

_KEY = "agentprm"
_METRICS = {name: [mean(), stderr()] for name in ("EM", "F1", "ACC_R")}


def qa_task(data: QaDataset | Any, graph: Any, *, k: int = 5) -> Task:
    """A task that asks a graph the questions of a data set.

    Args:
        data: What `read_dataset` read, or a data frame or list of rows.
        graph: A compiled graph or another runnable that takes `{"question": ...}`.
        k: Cut-off of the recall of gold passages, which is measured where every question has some.

    Raises:
        ConfigurationError: If the graph cannot be run.
    """
    dataset = data if isinstance(data, QaDataset) else dataset_from(data)
    samples = qa_samples(dataset)
    return Task(
        dataset=MemoryDataset(samples, name=dataset.name),
        solver=graph_solver(graph),
        scorer=answer_scorer(k=k if all(sample.metadata["gold"] for sample in samples) else None),
    )


def qa_samples(data: QaDataset) -> list[Sample]:
    """The questions with right answers as samples; gold passages and other fields are metadata."""
    return [
        Sample(
            id=question.id,
            input=question.text,
            target=list(question.answers),
            metadata={**question.extra, "gold": sorted(question.gold)},
        )
        for question in data.questions
        if question.answers
    ]


def graph_solver(graph: Any) -> Solver:
    """A solver that answers with a graph; the trace of the run is in the sample's metadata.

    Raises:
        ConfigurationError: If the graph cannot be run.
    """
    if not hasattr(graph, "ainvoke"):
        raise ConfigurationError(f"{graph!r} has no ainvoke method; compile the graph first.")

    def made() -> Solver:
        async def solve(state: TaskState, generate: Generate) -> TaskState:
            question = state.input_text
            with metered() as meter:
                result = await graph.ainvoke({"question": question})
            answer = str(result.get("answer") or "")
            state.output = ModelOutput.from_content(model="agentprm", content=answer)
            state.metadata[_KEY] = {
                "trace": trace_of({**result, "question": question}),
                "retrieved": evidence_order(result),
                "usage": dict(meter.usage),
            }
            state.completed = True
            return state

        return solve

    found: Solver = solver(name="agentprm_graph")(made)()
    return found


def answer_scorer(*, k: int | None = None) -> Scorer:
    """A scorer with `EM`, `F1` (HotpotQA's rule) and `ACC_R`, and with `k` the recall of gold passages.

    It reads any output, and the recall what `graph_solver` left.
    """
    recall = f"R@{k}"
    metrics = {**_METRICS, **({recall: [mean(), stderr()]} if k else {})}

    def made() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            said = state.output.completion
            answers: Sequence[str] = list(target)
            values = {
                "EM": exact_match(said, answers),
                "F1": token_f1(said, answers, hotpot=True),
                "ACC_R": contains_answer(said, answers),
            }
            gold = state.metadata.get("gold") or []
            if k:
                retrieved = state.metadata.get(_KEY, {}).get("retrieved", [])
                values[recall] = recall_at_k(retrieved, gold, k) if gold else 0.0
            return Score(value=values, answer=said)

        return score

    found: Scorer = scorer(metrics=metrics, name="agentprm_answer")(made)()
    return found
