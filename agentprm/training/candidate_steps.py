"""Candidate steps with labels, for critics: what a search might ask and find, right and wrong.

`sampled_steps` takes them from a search's own nodes, `planned_steps` from those of the default plan, and
`made_steps` from plans and their corruptions. What is right is known from gold facts (`stated_labels`), so
that labels cost nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from agentprm.documents import evidence_line
from agentprm.nodes import CompleteSteps, FollowPlan, RetrieveSteps, apply_update
from agentprm.nodes.plan_question import compared
from agentprm.nodes.score_steps import reward_step
from agentprm.questions.comparing import is_comparison
from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import plan_references
from agentprm.readers.base import Reader
from agentprm.rewards.base import RewardStep
from agentprm.state import path_to
from agentprm.training.data import Passage, PlanRecord, ReadingRecord, StepLabelRecord, TrajectoryStep
from agentprm.training.labels import Labels, stated_labels
from agentprm.training.relations import FACT_RELATIONS

__all__ = [
    "Choice",
    "FactQuestion",
    "fact_questions",
    "label_of",
    "label_record",
    "made_steps",
    "outcome_record",
    "planned_steps",
    "sampled_steps",
]

Triple = tuple[str, str, str]
_PASSAGES = (1, 1, 1, 3, 5)
_READ_AT_ONCE = 64
# What models write when they have found nothing, or around what they have found.
_EMPTY = ("The passage does not mention it.", "It is not stated in the given text.", "unknown")
_SENTENCES = (
    "{query} {found}",
    "The answer is {found}.",
    "It is {found}.",
    "According to the text, {found}.",
)


@dataclass(frozen=True)
class FactQuestion:
    """A question of several steps with what is known of its way to the answer.

    Attributes:
        id: Of its record.
        set: Its set.
        question: The question.
        answers: Its answers.
        facts: Triples (subject, relation, object); an empty subject is one that nobody told.
        steps: Sub-questions with their answers written in, and their own answers.
        gold: Gold passages.
    """

    id: str
    set: str
    question: str
    answers: tuple[str, ...]
    facts: tuple[Triple, ...]
    steps: tuple[tuple[str, str], ...]
    gold: tuple[Passage, ...]


def fact_questions(readings: Sequence[ReadingRecord], plans: Sequence[PlanRecord]) -> list[FactQuestion]:
    """The questions of readings that have facts.

    Facts are evidence triples, else the answers of a plan, each about the one before it, else that one of two
    gold passages leads to the other, in which the answer stands.
    """
    by_id = {plan.id: plan for plan in plans}
    found = []
    for record in readings:
        plan = by_id.get(record.id)
        steps = tuple(plan.answered()) if plan else ()
        facts = tuple(_facts(record, steps))
        if facts and record.answers:
            gold = tuple(passage for passage in record.passages if passage.gold)
            found.append(
                FactQuestion(
                    record.id, record.set, record.question, tuple(record.answers), facts, steps, gold
                )
            )
    return found


def _facts(record: ReadingRecord, steps: Sequence[tuple[str, str]]) -> Iterator[Triple]:
    if record.evidence:
        yield from ((str(f[0]), str(f[1]), str(f[2])) for f in record.evidence if len(f) == 3)
        return
    if steps:
        before = ""
        for asked, answer in steps:
            yield (before if before and before in asked else "", "", answer)
            before = answer
        return
    gold = [p for p in record.passages if p.gold]
    answer = record.answers[0] if record.answers else ""
    if len(gold) != 2 or not answer or answer.lower() in ("yes", "no"):
        return
    for one, other in (gold, gold[::-1]):
        name = re.sub(r"\s*\(.*?\)$", "", other.title)
        if name and name in one.text and answer in other.text:
            yield (one.title, "", name)
            yield (name, "", answer)
            return


class Choice(NamedTuple):
    """Candidates for the same place of a search: paths that end in one each, and whether it is right."""

    paths: list[list[RewardStep]]
    right: list[bool]


def sampled_steps(
    question: str,
    nodes: Sequence[Any],
    right: Callable[[RewardStep], bool],
    *,
    rounds: int = 2,
    plan: Sequence[str] = (),
) -> Iterator[Choice]:
    """Candidates that nodes propose and complete, at the root and after the first right step.

    Args:
        question: The question.
        nodes: Those that propose, retrieve and complete, in this order.
        right: Says whether a step is right.
        rounds: Depths at which candidates are taken.
        plan: The sub-questions, for nodes that follow a plan.
    """
    state: dict[str, Any] = {"question": question}
    if plan:
        state |= {"prm_plan": list(plan), "prm_frontier": []}  # where StartSearch and PlanQuestion end
    for _ in range(rounds):
        before = {s["id"] for s in state.get("prm_steps", [])}
        for node in nodes:
            state = apply_update(state, node.invoke(state))
        new = [s for s in state["prm_steps"] if s["id"] not in before and s["status"] == "completed"]
        if not new:
            return
        paths = [[reward_step(state, s) for s in path_to(state["prm_steps"], n["id"])] for n in new]  # type: ignore[arg-type]
        verdicts = [right(path[-1]) for path in paths]
        yield Choice(paths, verdicts)
        # Go on from a right step where there is one, so that second steps are worth judging.
        chosen = new[max(range(len(new)), key=lambda i: (verdicts[i], -i))]
        if chosen["final_answer"] is not None:
            return
        state["prm_steps"] = [
            {**s, "status": "committed"} if s["id"] == chosen["id"] else s for s in state["prm_steps"]
        ]
        state["prm_frontier"] = [chosen["id"]]


def planned_steps(
    question: str,
    store: BaseRetriever | VectorStore,
    reader: Reader,
    right: Callable[[RewardStep], bool],
    *,
    findings: int = 3,
) -> Iterator[Choice]:
    """What a reader finds for each sub-question of the default plan: what a search along it chooses from.

    No language model is asked. Comparisons of what was found rest on no passage and are left out.

    Args:
        question: The question; it is split by its syntax.
        store: What is searched.
        reader: Finds.
        right: Says whether a step is right; where one is, the plan is followed from there.
        findings: Candidates of each sub-question at most.
    """
    plan = compared(question, decompose(question))
    asked = [step for step in plan if not (is_comparison(step) and len(plan_references(step)) > 1)]
    nodes = [
        FollowPlan(store, together=False),
        RetrieveSteps(store, k=5),
        CompleteSteps(reader, passages=5, findings=findings),
    ]
    yield from sampled_steps(question, nodes, right, rounds=len(asked), plan=plan)


def made_steps(
    questions: Sequence[FactQuestion],
    retriever: BaseRetriever,
    reader: Reader,
    *,
    seed: int = 0,
) -> Iterator[tuple[FactQuestion, list[TrajectoryStep]]]:
    """Paths that end in a candidate: sub-questions and their corruptions, with what a reader finds and worse.

    Asked is the sub-question of the plan, another relation of the same thing, the same relation of another
    thing, the sub-question with its answer given away, the whole question, or what the question's syntax
    says. Found is the reader's first answer or a later one, alone or in a sentence, the right answer, a
    passage's title, or nothing.

    Args:
        questions: Questions with facts.
        retriever: Over passages; it is asked for each sub-question.
        reader: Finds.
        seed: Of everything drawn.
    """
    asked: list[tuple[FactQuestion, list[TrajectoryStep], str, str]] = []
    for number, one in enumerate(questions):
        rng = random.Random(f"{seed}/{one.id}")
        asked += _asked(one, questions[number - 1], rng)
    for at in range(0, len(asked), _READ_AT_ONCE):
        part = asked[at : at + _READ_AT_ONCE]
        rng = random.Random(f"{seed}/{at}")
        shown: list[list[Document]] = [
            documents[: rng.choice(_PASSAGES)]
            for documents in retriever.batch([query for _, _, query, _ in part])
        ]
        read = reader.candidates([query for _, _, query, _ in part], shown, n=6)
        for (one, before, query, gold), documents, answers in zip(part, shown, read, strict=True):
            lines = [evidence_line(document) for document in documents]
            if not lines:
                continue
            sure = {answer.text: float(answer.score) for answer in answers}
            for found in _found(query, gold, list(sure), documents, rng):
                step = TrajectoryStep(query=query, passages=lines, thought=found, confidence=sure.get(found))
                yield one, [*before, step]


def _asked(
    one: FactQuestion, other: FactQuestion, rng: random.Random
) -> Iterator[tuple[FactQuestion, list[TrajectoryStep], str, str]]:
    """(question, steps before, what is asked, the right answer) of every place of the plan."""
    before: list[TrajectoryStep] = []
    if not one.steps:
        for query in dict.fromkeys([one.question, *decompose(one.question)[:1]]):
            if "#" not in query:
                yield one, [], query, one.facts[0][2]
    for place, (query, answer) in enumerate(one.steps):
        subject = one.facts[place][0] if place < len(one.facts) else ""
        tried = [query, _given_away(query, answer)]
        if subject and subject in query:
            tried.append(rng.choice(FACT_RELATIONS).questions[0].format(subject))
            strangers = [fact[0] for fact in other.facts if fact[0]]
            if strangers:
                tried.append(query.replace(subject, rng.choice(strangers)))
        else:
            strange = re.sub(r"[\w'.-]+(?= \w+\?$)|[\w'.-]+\?$", f"{other.gold[0].title}?", query, count=1)
            tried.append(strange if other.gold else query)
        if rng.random() < 0.5:
            tried.append(one.question)
        tried += [step for step in decompose(one.question)[:1] if not place and "#" not in step]
        for text in dict.fromkeys(tried):
            yield one, list(before), text, answer
        gold = [p for p in one.gold if answer in p.text]
        named = [p for p in gold if re.sub(r"\s*\(.*?\)$", "", p.title) in query]
        if not gold:
            return
        line = evidence_line(Document((named or gold)[0].text, metadata={"title": (named or gold)[0].title}))
        before.append(TrajectoryStep(query=query, passages=[line], thought=answer))


def _given_away(query: str, answer: str) -> str:
    """The sub-question with its answer in it."""
    return f"{query.rstrip('?')}, {answer}?"


def _found(
    query: str, gold: str, read: Sequence[str], documents: Sequence[Document], rng: random.Random
) -> list[str]:
    """Two findings, most often the reader's first and another one."""
    title = str(documents[0].metadata.get("title") or "")
    others = [*read[1:], *([title] if title else []), gold, rng.choice(_EMPTY)]
    found = [read[0] if read else rng.choice(_EMPTY), rng.choice(others)]
    return list(
        dict.fromkeys(
            rng.choice(_SENTENCES).format(query=query, found=text)
            if text and text not in _EMPTY and rng.random() < 0.3
            else text
            for text in found
            if text
        )
    )


def label_of(step: TrajectoryStep | Mapping[str, Any], facts: Sequence[Sequence[str]]) -> float:
    """1 for a step that finds what a fact says, else 0; see `stated_labels`."""
    return float(stated_labels([_as_step(step)], facts)[0] or 0.0)


def label_record(one: FactQuestion, path: Sequence[TrajectoryStep | Mapping[str, Any]]) -> StepLabelRecord:
    """The path with a label of its last step: whether it finds what a fact says."""
    steps = [_as_step(step) for step in path]
    return _record(one, steps, stated_labels(steps[-1:], one.facts), "evidence")


def outcome_record(one: FactQuestion, path: Sequence[TrajectoryStep | Mapping[str, Any]]) -> StepLabelRecord:
    """The path with an outcome's label of its last step: whether it finds the question's answer."""
    steps = [_as_step(step) for step in path]
    answers = [("", "", answer) for answer in one.answers]
    return _record(one, steps, stated_labels(steps[-1:], answers), "outcome")


def _record(one: FactQuestion, steps: list[TrajectoryStep], labels: Labels, labeller: str) -> StepLabelRecord:
    return StepLabelRecord(
        id=one.id,
        set=one.set,
        question=one.question,
        steps=steps,
        labels=[*[None] * (len(steps) - 1), *labels],
        labeller=labeller,
        answers=list(one.answers),
    )


def _as_step(step: TrajectoryStep | Mapping[str, Any]) -> TrajectoryStep:
    if isinstance(step, TrajectoryStep):
        return step
    return TrajectoryStep(**{name: step[name] for name in TrajectoryStep.model_fields if name in step})
