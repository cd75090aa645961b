"""Runs of search graphs as training examples: labelled steps, and preferences between steps.

A run is a `Trace`, which is read from a file (`agentprm.trace.load_trace`), made of a graph's result
(`trace_of(state)`), or found in a checkpointer (`saved_traces`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

from langchain_core.documents import Document
from langgraph.checkpoint.base import BaseCheckpointSaver

from agentprm.documents import passage_line
from agentprm.errors import InputError
from agentprm.evaluation.qa import contains_answer, normalize_unicode, token_f1
from agentprm.state import Step, path_to
from agentprm.trace.schema import Trace, TraceDocument, answer_path, trace_of
from agentprm.training.data import PreferenceRecord, StepLabelRecord, TrajectoryStep
from agentprm.training.labels import evidence_labels

__all__ = [
    "concluded_path",
    "is_right",
    "label_records",
    "preference_records",
    "saved_traces",
    "trajectory_steps",
]

_WORKED_ON = ("completed", "scored", "committed", "rejected", "simulated")


def is_right(answer: str, answers: Collection[str]) -> bool:
    """ReARTeR's test of an answer: it holds a right one, or shares more than half of its words with one."""
    if not answer.strip() or not answers:
        return False
    contained = contains_answer(answer, answers, normalize=normalize_unicode)
    return bool(contained) or token_f1(answer, answers, normalize=normalize_unicode) > 0.5


def saved_traces(checkpointer: BaseCheckpointSaver[str]) -> Iterator[Trace]:
    """The latest state of every thread of a checkpointer that holds a question, as traces."""
    seen: set[str] = set()
    for saved in checkpointer.list(None):  # newest first within a thread
        where = saved.config.get("configurable", {})
        thread = f"{where.get('thread_id')}\n{where.get('checkpoint_ns', '')}"
        values = saved.checkpoint["channel_values"]
        if thread not in seen and isinstance(values.get("question"), str) and values["question"]:
            seen.add(thread)
            yield trace_of(values)


def trajectory_steps(trace: Trace, steps: Iterable[Step]) -> list[TrajectoryStep]:
    """Steps of a trace with their passages, as reward models see them."""
    documents = {document["id"]: document for document in trace["documents"]}
    return [
        TrajectoryStep(
            query=step["query"],
            passages=[_line(documents[i]) for i in step["doc_ids"] if i in documents],
            thought=step["thought"],
            final_answer=step["final_answer"],
            confidence=step.get("confidence"),
        )
        for step in steps
    ]


def label_records(
    trace: Trace,
    *,
    by: Literal["evidence", "outcome", "score"] = "score",
    answers: Sequence[str] = (),
    facts: Sequence[Sequence[str]] = (),
) -> list[StepLabelRecord]:
    """Every path of a search tree, from the root to a leaf, with a label for each step.

    Args:
        trace: The run. Steps without a finished finding end a path before them.
        by: `score`: the reward model's scores, where they are probabilities. `outcome`: for paths that
            conclude, the last step is right if the answer is (an outcome reward's label). `evidence`:
            `labels.evidence_labels` with `facts` and `answers`.
        answers: The right answers of the question.
        facts: Gold facts as (subject, relation, object).

    Raises:
        InputError: If what the labels need is missing.
    """
    if (by == "outcome" and not answers) or (by == "evidence" and not facts):
        raise InputError(f"Labels by {by} need {'answers' if by == 'outcome' else 'facts'}; give them.")
    worked = [step for step in trace["steps"] if step["status"] in _WORKED_ON and _found(step)]
    parents = {step["parent_id"] for step in worked}
    known = {step["id"] for step in worked}
    records = []
    for leaf in worked:
        path = path_to(trace["steps"], leaf["id"])
        if leaf["id"] in parents or not all(step["id"] in known for step in path):
            continue
        steps = trajectory_steps(trace, path)
        final = path[-1]["final_answer"]
        right = is_right(final, answers) if final and answers else None
        labels: list[float | None]
        if by == "evidence":
            labels = evidence_labels(steps, facts, answers)
        elif by == "outcome":
            labels = [*[None] * (len(path) - 1), None if right is None else float(right)]
        else:
            labels = [_probability(step) for step in path]
        if any(label is not None for label in labels):
            records.append(
                StepLabelRecord(
                    question=trace["question"],
                    steps=steps,
                    labels=labels,
                    labeller=by,
                    answers=list(answers),
                    correct=right,
                )
            )
    return records


def preference_records(
    trace: Trace, *, siblings: float | None = None, answers: Sequence[str] = ()
) -> list[PreferenceRecord]:
    """Pairs of a weak and a better step, as ReARTeR collects them to train its explanation model.

    A refined step is compared with the one that it refines: `helped` says whether the critique made it
    better; ties are left out.

    Args:
        trace: The run.
        siblings: Also pair the best and the worst step of a parent, without a critique, if their scores
            are at least this far apart.
        answers: The right answers of the question, to keep with the pairs.
    """
    steps = {step["id"]: step for step in trace["steps"]}
    pairs: list[tuple[Step, Step, str, bool | None]] = []
    for step in trace["steps"]:
        origin = steps.get(step.get("refines", ""))
        if origin is None or not (_found(step) and _found(origin)):
            continue
        before, after = origin["score"], step["score"]
        if before is not None and after is not None and before != after:
            critique = step.get("critique", "") or origin.get("critique", "")
            worse, better = (origin, step) if after > before else (step, origin)
            pairs.append((worse, better, critique, after > before))
    if siblings is not None:
        families: dict[str | None, list[Step]] = {}
        for step in trace["steps"]:
            if step["score"] is not None and _found(step) and "refines" not in step:
                families.setdefault(step["parent_id"], []).append(step)
        for family in families.values():
            ordered = sorted(family, key=lambda step: step["score"] or 0.0)
            if (ordered[-1]["score"] or 0.0) - (ordered[0]["score"] or 0.0) >= siblings and len(family) > 1:
                pairs.append((ordered[0], ordered[-1], "", None))
    return [
        PreferenceRecord(
            question=trace["question"],
            steps=trajectory_steps(trace, path_to(trace["steps"], better["parent_id"])),
            rejected=trajectory_steps(trace, [worse])[0],
            critique=critique,
            chosen=trajectory_steps(trace, [better])[0],
            rejected_score=worse["score"],
            chosen_score=better["score"],
            helped=helped,
            answers=list(answers),
        )
        for worse, better, critique, helped in pairs
    ]


def concluded_path(trace: Trace) -> list[Step]:
    """The steps that led to the answer of a run, as far as each has a finding."""
    path: list[Step] = []
    for step in answer_path(trace["steps"]):
        if not _found(step):
            break
        path.append(step)
    return path


def _found(step: Step) -> bool:
    return bool(step["thought"].strip() or (step["final_answer"] or "").strip())


def _probability(step: Step) -> float | None:
    score = step["score"]
    if score is not None and not 0 <= score <= 1:
        raise InputError(
            f"The score {score} of step {step['id']!r} is no probability; calibrate the reward first, or "
            "label by evidence or outcome."
        )
    return score


def _line(document: TraceDocument) -> str:
    return passage_line(Document(page_content=document["text"], metadata={"title": document["title"]}))
