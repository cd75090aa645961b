"""Monte-Carlo values of steps: what becomes of a search that goes on from each of them.

From every step of a run the graph is run on, several times with other seeds, and the share of right answers
is the step's value (Math-Shepherd, ReARTeR). The work goes over `agentprm.scale`: threads or a Ray
cluster, each step recorded once, so that a run that was stopped goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from agentprm.errors import ConfigurationError, InputError, check_count
from agentprm.scale import Executor, Journal, Outcome, map_items
from agentprm.state import Step
from agentprm.trace.schema import Trace, TraceDocument
from agentprm.training.data import StepCounts, StepLabelRecord
from agentprm.training.labels import soft_values
from agentprm.training.traces import concluded_path, is_right, trajectory_steps

__all__ = ["AnsweredTrace", "rollout_records", "rollout_worker"]

MakeGraph = Callable[[], StateGraph[Any, Any, Any, Any]] | str
"""Makes the uncompiled search graph, or is the import path of what does (`package.module:function`)."""

_AFTER = "select"  # the node of the search graphs behind which the next step is proposed


class AnsweredTrace(NamedTuple):
    """A run, and what it should have found.

    Attributes:
        trace: The run.
        answers: The right answers.
    """

    trace: Trace
    answers: Sequence[str]


def rollout_records(
    make_graph: MakeGraph,
    traces: Iterable[AnsweredTrace],
    journal: str | os.PathLike[str],
    *,
    rollouts: int = 5,
    seed: int = 0,
    executor: Executor | None = None,
    on_step: Callable[[str, Outcome], None] | None = None,
) -> list[StepLabelRecord]:
    """The path that each run took, with the Monte-Carlo value of its steps.

    Args:
        make_graph: Makes a graph such as `create_reasoning_graph(...)`, not compiled. A Ray cluster needs
            something that it can send: a function of a module, or an import path.
        traces: Runs with their right answers; questions without any steps are left out.
        journal: File that remembers what is done; the same call goes on with it.
        rollouts: Runs from every step, 5 in ReARTeR. Their graph should propose with a temperature.
        seed: Of the first of them; the others count on from it.
        executor: Where the work is done; in this thread by default.
        on_step: Called with the key and the outcome of each step that this call worked on.

    Returns:
        Per run its path, soft values as labels, and the counts behind them (`StepCounts`), from which
        other labels of `agentprm.training.labels` follow. A step whose rollouts failed has no label.

    Raises:
        ConfigurationError: If `rollouts` is not positive.
    """
    check_count("rollouts", rollouts)
    runs = [
        (trace, list(answers), path)
        for trace, answers in traces
        if answers and (path := concluded_path(trace))
    ]

    def items() -> Iterator[dict[str, Any]]:
        for place, (trace, answers, path) in enumerate(runs):
            for depth in range(1, len(path) + 1):
                yield {
                    "run": place,
                    "depth": depth,
                    "question": trace["question"],
                    "answers": answers,
                    "steps": path[:depth],
                    "documents": trace["documents"],
                    "rollouts": rollouts,
                    "seed": seed,
                }

    with Journal(journal, run=f"rollouts {rollouts} {seed}") as record:
        map_items(
            partial(rollout_worker, make_graph),
            items(),
            record,
            executor=executor,
            retry_failed=True,
            on_outcome=on_step,
        )
        found = {
            (e.value["run"], e.value["depth"]): e.value["correct"] for e in record.entries() if not e.failure
        }
    records = []
    for place, (trace, answers, path) in enumerate(runs):
        counts = []
        for depth in range(1, len(path) + 1):
            correct = found.get((place, depth))
            counts.append(StepCounts() if correct is None else StepCounts(rollouts=rollouts, correct=correct))
        records.append(
            StepLabelRecord(
                question=trace["question"],
                steps=trajectory_steps(trace, path),
                labels=soft_values(counts),
                labeller="monte-carlo",
                answers=answers,
                correct=is_right(trace["answer"], answers),
                counts=counts,
            )
        )
    return records


def rollout_worker(make_graph: MakeGraph) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function that runs the rollouts behind one step; each process of a cluster makes its own."""
    builder = _imported(make_graph)() if isinstance(make_graph, str) else make_graph()
    if not isinstance(builder, StateGraph) or _AFTER not in builder.nodes:
        raise ConfigurationError(
            f"Rollouts go on behind the node {_AFTER!r} of an uncompiled search graph; give a function that "
            "returns what create_reasoning_graph() does."
        )

    def work(item: dict[str, Any]) -> dict[str, Any]:
        last: Step = item["steps"][-1]
        if last["final_answer"]:
            correct = item["rollouts"] * is_right(last["final_answer"], item["answers"])
        else:
            correct = sum(
                is_right(_answer(builder, item, item["seed"] + number), item["answers"])
                for number in range(item["rollouts"])
            )
        return {"run": item["run"], "depth": item["depth"], "correct": int(correct)}

    return work


def _answer(builder: StateGraph[Any, Any, Any, Any], item: dict[str, Any], seed: int) -> str:
    """Runs the graph on from the steps of an item, as if it had just committed the last of them."""
    graph = builder.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "rollout"}}
    steps = [{**step, "status": "committed"} for step in item["steps"]]
    graph.update_state(
        config,
        {
            "question": item["question"],
            "prm_steps": steps,
            "prm_documents": list(map(_document, item["documents"])),
            "prm_frontier": [steps[-1]["id"]],
            "prm_weak": [],
            "prm_stop_reason": "",
        },
        as_node=_AFTER,
    )
    state = graph.invoke(None, config, context={"seed": seed})
    return str(state.get("answer") or "")


def _document(document: TraceDocument) -> Document:
    metadata = {"title": document["title"], "source": document["source"]}
    return Document(id=document["id"], page_content=document["text"], metadata=metadata)


def _imported(path: str) -> Any:
    module, colon, name = path.partition(":")
    if not colon or not module or not name:
        raise InputError(f"{path!r} is no import path; write it 'package.module:function'.")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{path!r} cannot be imported: {error}.") from error
