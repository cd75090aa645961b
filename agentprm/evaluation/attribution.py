"""Which part of a system failed on a question: query, retrieval, reading, reward or choice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

from agentprm.evaluation.qa import CLOSED_ANSWERS, contains_answer, normalize_answer
from agentprm.state import Step
from agentprm.text import terms
from agentprm.trace.schema import Trace, answer_path

__all__ = ["CAUSES", "Cause", "failure_cause", "scored_answers"]

Cause = Literal["query", "retrieval", "reading", "reward", "choice", "unknown"]
CAUSES: tuple[Cause, ...] = get_args(Cause)


def failure_cause(
    trace: Trace,
    answers: Sequence[str],
    gold: Collection[str] = (),
    titles: Mapping[str, str] | None = None,
    *,
    is_right: Callable[[str, Sequence[str]], float] = contains_answer,
) -> Cause | None:
    """The first part of a run that, had it worked, could have led to a right answer.

    Asked in this order, from the end of the run to its beginning:

    - A candidate had the right answer and lost: `reward` if its score was lower than that of the step that
      was taken in its place, else `choice`. So it is if the last finding on the way to the answer holds the
      right one, which then was not given: `choice`.
    - All that is needed was read on the way to the answer: `reading`.
    - What was missing there was found by a candidate that lost: `reward` or `choice`, likewise.
    - It was found nowhere: `retrieval` if a query names the title of a missing passage, else `query`.

    What is needed are the gold passages; without any, a passage that holds the right answer. For yes and no
    that says nothing: `unknown`. Look-aheads are no candidates.

    Args:
        trace: The run.
        answers: The right answers.
        gold: Ids of the passages that the question needs.
        titles: Titles of passages by id, for `retrieval`.
        is_right: Whether what was said is one of the answers.

    Returns:
        The cause, or `None` if the answer is right.

    Example:
        >>> from agentprm.trace import trace_of
        >>> trace = trace_of({"question": "Who built the bridge?", "answer": "Eiffel"})
        >>> failure_cause(trace, ["Brunel"], {"d1"}, {"d1": "bridge"}), failure_cause(trace, ["Eiffel"])
        ('retrieval', None)
    """
    if is_right(trace["answer"], answers):
        return None
    path = answer_path(trace["steps"])
    taken = {step["id"] for step in path}
    candidates = [step for step in trace["steps"] if step["status"] not in ("simulated", "unparsed")]
    lost = [step for step in candidates if step["id"] not in taken]

    right = [step for step in lost if step["final_answer"] and is_right(step["final_answer"], answers)]
    if right:
        return _why_lost(right, path)
    open_answers = [answer for answer in answers if normalize_answer(answer) not in CLOSED_ANSWERS]
    # A question may name its answers ("Which is older, A or B?"): then a finding that does says nothing.
    telling = [answer for answer in open_answers if not contains_answer(trace["question"], [answer])]
    findings = [step["thought"] for step in path if step["thought"]]
    if telling and findings and is_right(findings[-1], telling):
        return "choice"

    read = {key for step in path for key in step["doc_ids"]} if trace["steps"] else _all_ids(trace)
    missing = set(gold) - read
    if not gold:
        if not open_answers:
            return "unknown"
        holding = {d["id"] for d in trace["documents"] if contains_answer(d["text"], open_answers)}
        if holding & read:
            return "reading"
        found = [step for step in lost if holding.intersection(step["doc_ids"])]
        return _why_lost(found, path) if found else "retrieval"
    if not missing:
        return "reading"
    found = [step for step in lost if missing.intersection(step["doc_ids"])]
    if found:
        return _why_lost(found, path)
    queries = [step["query"] for step in candidates if step["query"]] if candidates else [trace["question"]]
    return "retrieval" if _named(queries, [(titles or {}).get(key, "") for key in missing]) else "query"


def scored_answers(
    trace: Trace,
    answers: Sequence[str],
    *,
    is_right: Callable[[str, Sequence[str]], float] = contains_answer,
) -> list[tuple[float, bool]]:
    """Score and rightness of every candidate that concluded: what a calibration of the reward is made of."""
    return [
        (step["score"], bool(is_right(step["final_answer"], answers)))
        for step in trace["steps"]
        if step["final_answer"] and step["score"] is not None and step["status"] != "simulated"
    ]


def _why_lost(better: Iterable[Step], path: Sequence[Step]) -> Cause:
    """`choice` if one of the better steps had at least the score of its rival on the path, else `reward`."""
    for step in better:
        rival = path[min(step["depth"], len(path)) - 1] if path else None
        mine, other = step["score"], rival["score"] if rival else None
        if mine is None or other is None or mine >= other:
            return "choice"
    return "reward"


def _all_ids(trace: Trace) -> set[str]:
    return {document["id"] for document in trace["documents"]}


def _named(queries: Iterable[str], titles: Iterable[str]) -> bool:
    """Whether a query has all words of a title; what stands in brackets tells titles apart only."""
    asked = [set(terms(query)) for query in queries]
    wanted = [set(terms(title.split(" (", maxsplit=1)[0])) for title in titles]
    return any(words and words <= query for words in wanted for query in asked)
