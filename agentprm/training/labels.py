"""Labels of steps: pure functions from what is known of a trajectory's steps to one label each.

A label is the probability that a step is right; 0 and 1 are hard ones, and a step without a label has
`None`. What is known comes from completions sampled behind each step (`StepCounts`), from gold evidence,
judges or tools; `agentprm.training.rollouts` collects it.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeAlias

from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation.qa import contains_answer, normalize_unicode
from agentprm.rewards.checkers import CheckResult
from agentprm.rewards.templates import ChatPrefix
from agentprm.training.data import StepCounts, StepLabelRecord, TrajectoryStep

__all__ = [
    "Labels",
    "checker_labels",
    "consensus",
    "ensemble",
    "evidence_labels",
    "first_wrong",
    "grounded_values",
    "hard_values",
    "join_steps",
    "last_step_balanced",
    "rating_labels",
    "relabelled",
    "relative_progress",
    "retrieval_labels",
    "self_denoised",
    "sign_labels",
    "soft_values",
    "stated_labels",
    "until_first_error",
    "with_reference",
]

Labels: TypeAlias = list[float | None]
"""One label per step; `None` for a step that is not labelled."""


def soft_values(counts: Sequence[StepCounts]) -> Labels:
    """Math-Shepherd's soft estimation: the share of a step's completions that end right."""
    return [c.correct / c.rollouts if c.rollouts else None for c in counts]


def hard_values(counts: Sequence[StepCounts], threshold: float = 0.0) -> Labels:
    """1 where more than `threshold` of a step's completions end right, else 0.

    Args:
        counts: One per step.
        threshold: 0 is Math-Shepherd's hard estimation and what the Lessons of Developing PRMs found
            best: one success will do. ReARTeR takes 0.5.
    """
    if not 0 <= threshold < 1:
        raise ConfigurationError(f"threshold must lie in [0, 1), not {threshold}.")
    return [None if value is None else float(value > threshold) for value in soft_values(counts)]


def first_wrong(labels: Sequence[float | None], threshold: float = 0.5) -> int | None:
    """Place of the first step whose label is below `threshold`, from 0; `None` if there is none."""
    return next((i for i, label in enumerate(labels) if label is not None and label < threshold), None)


def until_first_error(labels: Sequence[float | None], threshold: float = 0.5) -> Labels:
    """The labels up to the first error; later steps, which rest on it, have none (Lessons of PRMs)."""
    error = first_wrong(labels, threshold)
    return [label if error is None or i <= error else None for i, label in enumerate(labels)]


def rating_labels(
    ratings: Sequence[int | None], neutral: Literal["right", "wrong", "ignore"] = "right"
) -> Labels:
    """Labels of people's or judges' ratings: 1 right, -1 wrong, 0 neutral, `None` not rated.

    Args:
        ratings: One per step, as in PRM800K.
        neutral: What a neutral step counts. Qwen's PRMs count it right, TRL's conversion wrong.
    """
    meaning: dict[int | None, float | None] = {
        1: 1.0,
        -1: 0.0,
        0: {"right": 1.0, "wrong": 0.0, "ignore": None}[neutral],
        None: None,
    }
    unknown = [rating for rating in ratings if rating not in meaning]
    if unknown:
        raise InputError(f"A rating is 1, 0, -1 or None, not {unknown[0]!r}.")
    return [meaning[rating] for rating in ratings]


def consensus(
    estimated: Sequence[float | None], judged: Sequence[float | None], threshold: float = 0.5
) -> Labels | None:
    """Keeps a trajectory only if two labellers find its first error in the same place (Lessons of PRMs).

    Args:
        estimated: Labels of the one, usually `hard_values`. A step that it left out counts as right.
        judged: Labels of the other, usually a judge.
        threshold: Below it a label means an error.

    Returns:
        `estimated` up to the first error, or `None` if the labellers disagree.
    """
    _same_length(estimated, judged)
    if first_wrong(estimated, threshold) != first_wrong(judged, threshold):
        return None
    return until_first_error(estimated, threshold)


def self_denoised(
    counts: Sequence[StepCounts],
    confidence: float,
    *,
    right: bool,
    tolerance: int = 2,
    least_confidence: float = 0.0,
) -> Labels | None:
    """SCAN: labels that allow for the weakness of the model that completed the steps.

    A trajectory with a right answer is right throughout and needs no completions. In a wrong one the first
    step without a right completion is the predicted error. Steps at most `tolerance` away from it have
    the soft label `min(MC / confidence, 1)`, since a weak completer fails behind right steps too; others
    have the hard one.

    Args:
        counts: One per step; not looked at if the trajectory is right.
        confidence: The completer's own success rate on the question.
        right: Whether the trajectory ends in a right answer.
        tolerance: Distance in steps, 2 in the paper; 0 fits noise, a large one blurs the labels.
        least_confidence: A question at or below this says nothing about steps. The paper has such a
            bound; its value is not known to us, so only questions that were never solved go by default.

    Returns:
        The labels, or `None` if the confidence is too low. Where no step lacks a right completion, all are
        soft.
    """
    if right:
        return [1.0] * len(counts)
    if confidence <= least_confidence:
        return None
    values = soft_values(counts)
    error = next((i for i, value in enumerate(values) if value == 0), None)
    return [
        None
        if value is None
        else min(value / confidence, 1.0)
        if error is None or abs(place - error) <= tolerance
        else float(value > 0)
        for place, value in enumerate(values)
    ]


def relative_progress(counts: Sequence[StepCounts], start: float, least: float = 0.8) -> Labels:
    """GenPRM's relative progress estimation: 1 where a step keeps enough of the chance of success.

    `P_t = MC_t / MC_(t-1)`, `MC_0 = start`; the label is 1 if `P_t >= least`. Once a value is 0, that step
    and all later ones are 0.

    Args:
        counts: One per step, each with completions.
        start: Success rate from the question alone.
        least: The paper's epsilon, 0.8.

    Raises:
        InputError: If a step has no completions.
    """
    labels: Labels = []
    before = start
    for place, value in enumerate(soft_values(counts), start=1):
        if value is None:
            raise InputError(f"Step {place} has no completions; relative progress needs some behind each.")
        labels.append(float(before > 0 and value > 0 and value / before >= least))
        before = 0.0 if before == 0 else value
    return labels


def grounded_values(
    verdicts: Sequence[float], outcome: float, ancestors: int = 0, decay: float = 0.9
) -> list[float]:
    """GroundedPRM: a tool's verdicts on simulated steps and the final answer, as values of a path.

    The expanded node has `V = (1/N) sum_i v_i (N-i)/N + f/N` over its N simulated steps; an ancestor that
    is d steps above it gets `decay^d V`. In a tree, add up what each node gets; `sign_labels` makes
    labels of the sums.

    Args:
        verdicts: Per simulated step +1 (right) or -1 (wrong), the expanded node's own first.
        outcome: +1 if the simulation ends in a right answer, else -1.
        ancestors: How many nodes lie above the expanded one.
        decay: 0.9 in the paper's code.

    Returns:
        Values from the uppermost ancestor down to the expanded node.
    """
    count = len(verdicts)
    if not count:
        raise InputError("A simulation without steps has no value; give at least one verdict.")
    value = sum(v * (count - i) / count for i, v in enumerate(verdicts)) / count + outcome / count
    return [decay**distance * value for distance in range(ancestors, -1, -1)]


def sign_labels(values: Sequence[float]) -> Labels:
    """1 for a positive value, 0 for a negative one, none for 0 (GroundedPRM)."""
    return [None if value == 0 else float(value > 0) for value in values]


def checker_labels(results: Sequence[CheckResult]) -> Labels:
    """FoVer's labels, from tools: 1 supported, 0 refuted, none where the tool has nothing to say.

    `EntailmentChecker` is the paper's rule for logic: a step is right if its premises and the opposite
    of its conclusion cannot hold together.
    """
    meaning: dict[str, float | None] = {"supported": 1.0, "refuted": 0.0, "unknown": None}
    return [meaning[result.label] for result in results]


def ensemble(verdicts: Sequence[Sequence[float | None]], *, hard: bool = False) -> Labels:
    """AURORA's ensemble: several judges or prompts label each step, and their mean is the label.

    The paper's rule for votes is not known to us; this is a plain one.

    Args:
        verdicts: Per judge one label per step; a judge may abstain.
        hard: Take the majority, 1 or 0, and no label on a tie.
    """
    for row in verdicts[1:]:
        _same_length(verdicts[0], row)
    labels: Labels = []
    for votes in zip(*verdicts, strict=True):
        given = [vote for vote in votes if vote is not None]
        mean = sum(given) / len(given) if given else None
        labels.append(mean if mean is None or not hard else None if mean == 0.5 else float(mean > 0.5))
    return labels


def with_reference(question: str, answer: str | None) -> str:
    """AURORA's reverse verification: the question with its right answer, for judges that label with it."""
    template = ChatPrefix()
    return template.user.format(question=question, reference=answer or template.missing)


def evidence_labels(
    steps: Sequence[TrajectoryStep], facts: Iterable[Sequence[str]], answers: Collection[str] = ()
) -> Labels:
    """Labels from gold facts: whether a step finds what a fact says of the thing it asks for.

    A sub-question is about the facts one of whose ends it names (about all of them, if it names none).
    Its step is right if the finding has the other end of one of them. A concluding step is right if
    its answer is one of the right ones.

    Args:
        steps: The steps.
        facts: Triples (subject, relation, object).
        answers: The right answers; without them concluding steps have no label.

    Returns:
        The labels; none for a step without sub-question, or if there are no facts.
    """
    ends = [(fact[0], fact[-1]) for fact in facts]
    pairs = [(one, other) for s, o in ends for one, other in ((s, o), (o, s)) if _words_of(one)]
    labels: Labels = []
    for step in steps:
        if step.final_answer is not None:
            said = _words_of(step.final_answer)
            labels.append(float(any(said == _words_of(a) for a in answers)) if answers else None)
            continue
        asked = [other for one, other in pairs if _holds(step.query, one) and not _holds(step.query, other)]
        wanted = asked or [other for _, other in pairs if not _holds(step.query, other)]
        labels.append(
            float(any(_holds(step.thought, other) for other in wanted))
            if step.query.strip() and wanted
            else None
        )
    return labels


def stated_labels(steps: Sequence[TrajectoryStep], facts: Iterable[Sequence[str]]) -> Labels:
    """Labels from gold facts, whatever was asked: whether a step states what one of them says.

    A step is right if its finding states the object of a fact whose subject its sub-question or a passage
    names, unless the sub-question gives that object away. Unlike `evidence_labels` it counts a fact that
    a clumsy sub-question brought up, and gives a label to every step.

    Args:
        steps: The steps.
        facts: Triples (subject, relation, object); an empty subject need not be named.
    """
    ends = [(fact[0], fact[-1]) for fact in facts]
    return [
        float(
            any(
                _holds(step.thought, found)
                and not _holds(step.query, found)
                and (not subject or any(_holds(text, subject) for text in (step.query, *step.passages)))
                for subject, found in ends
            )
        )
        for step in steps
    ]


def retrieval_labels(steps: Sequence[TrajectoryStep], gold: Collection[str]) -> Labels:
    """Labels from gold passages, for critics of queries: 1 for a step that finds one that none before it had.

    Args:
        steps: The steps, with the passages that each was given.
        gold: Texts of the gold passages. A step's passage may be a part of one, or have a title before it.

    Returns:
        The labels; none for a step without passages.
    """
    wanted = {_words_of(text) for text in gold} - {""}
    labels: Labels = []
    for step in steps:
        shown = [text for passage in step.passages if (text := _words_of(passage))]
        found = {g for g in wanted if any(g in text or text in g for text in shown)}
        labels.append(float(bool(found)) if shown else None)
        wanted -= found
    return labels


def join_steps(
    record: StepLabelRecord, place: int, label: Literal["last", "all"] = "last"
) -> StepLabelRecord:
    """Two neighbouring steps as one: the augmentation of HRM (HNC) and FoVer.

    Args:
        record: A trajectory.
        place: The first of the two, from 0.
        label: The merged step has the label of the `last` of them, as in HNC's trees, where it is the
            value of the lower node; or it is right only if `all` are, as in FoVer.

    Raises:
        InputError: If there are no two steps at `place`.
    """
    if not 0 <= place < len(record.steps) - 1:
        raise InputError(f"There are no two steps at {place} among {len(record.steps)}.")
    one, two = record.steps[place : place + 2]
    first, second = record.labels[place : place + 2]
    step = TrajectoryStep(
        query="\n".join(query for query in (one.query, two.query) if query),
        passages=list(dict.fromkeys([*one.passages, *two.passages])),
        thought="\n".join(thought for thought in (one.thought, two.thought) if thought),
        final_answer=two.final_answer,
    )
    both = None if first is None or second is None else min(first, second)
    return record.model_copy(
        update={
            "steps": [*record.steps[:place], step, *record.steps[place + 2 :]],
            "labels": [
                *record.labels[:place],
                second if label == "last" else both,
                *record.labels[place + 2 :],
            ],
            "counts": [],
        }
    )


def last_step_balanced(records: Iterable[StepLabelRecord], seed: int = 0) -> list[StepLabelRecord]:
    """FoVer's training rows: trajectories cut so that the last step is as often right as wrong.

    Only the last step keeps its label. A trajectory with both kinds of steps is cut behind a random one
    of the kind that is wanted; one that has only the kind that is not wanted is left out.
    """
    draw = random.Random(seed)
    rows: list[StepLabelRecord] = []
    balance = 0
    for record in records:
        kinds: dict[bool, list[int]] = {True: [], False: []}
        for place, label in enumerate(record.labels):
            if label is not None and label != 0.5:
                kinds[label > 0.5].append(place)
        wanted = balance < 0 or (balance == 0 and draw.random() < 0.5)
        if balance == 0 and not kinds[wanted]:
            wanted = not wanted
        if not kinds[wanted]:
            continue
        end = draw.choice(kinds[wanted]) + 1
        balance += 1 if wanted else -1
        rows.append(
            record.model_copy(
                update={
                    "steps": record.steps[:end],
                    "labels": [None] * (end - 1) + [record.labels[end - 1]],
                    "counts": record.counts[:end],
                }
            )
        )
    return rows


def relabelled(record: StepLabelRecord, labels: Sequence[float | None], labeller: str) -> StepLabelRecord:
    """The record with other labels, checked.

    Raises:
        InputError: If there is not one label in [0, 1] per step.
    """
    if len(labels) != len(record.steps):
        raise InputError(f"{len(record.steps)} steps, but {len(labels)} labels.")
    if not all(label is None or 0 <= label <= 1 for label in labels):
        raise InputError(f"Labels must lie in [0, 1], not {list(labels)}.")
    return record.model_copy(update={"labels": list(labels), "labeller": labeller})


def _words_of(text: str) -> str:
    return normalize_unicode(text)


def _holds(text: str, part: str) -> bool:
    return bool(_words_of(part)) and bool(contains_answer(text, [part], normalize=normalize_unicode))


def _same_length(one: Sequence[object], other: Sequence[object]) -> None:
    if len(one) != len(other):
        raise InputError(f"{len(one)} labels of the one, but {len(other)} of the other.")
