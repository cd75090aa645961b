"""Training examples of question-answering sets in the BEIR layout.

Beside `answers` and gold passages (`qrels`), a question may carry what leads to its answer:
`evidence` (triples of subject, relation and object, as 2WikiMultiHopQA has them) or `decomposition`
(sub-questions, with or without answers, as MuSiQue and StrategyQA have them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from agentprm.errors import InputError
from agentprm.evaluation.data import QaDataset, QaQuestion
from agentprm.evaluation.qa import contains_answer, normalize_unicode
from agentprm.retrievers.loading import load_folder
from agentprm.training.data import Passage, PlanRecord, PlanStep, ReadingRecord
from agentprm.training.relations import FACT_RELATIONS

__all__ = ["plan_records", "reading_records", "steps_of_facts"]

_QUESTIONS = {relation.name: relation.questions[0] for relation in FACT_RELATIONS} | {
    "child": "Who is a child of {}?",
    "sibling": "Who is a sibling of {}?",
    "country of citizenship": "What is the country of citizenship of {}?",
    "screenwriter": "Who wrote {}?",
}


def reading_records(
    data: QaDataset, retriever: BaseRetriever | None = None, *, distractors: int = 4
) -> list[ReadingRecord]:
    """A reading record of every question that has answers and gold passages.

    Args:
        data: The set (`agentprm.evaluation.read_dataset`).
        retriever: Finds hard distractors: the best passages for the question that are not gold and hold no
            answer, yes and no aside. Its documents need the ids of the set. Without it only gold passages
            are given.
        distractors: Most of them.

    Raises:
        InputError: If the set has no passages.
    """
    wanted = [question for question in data.questions if question.answers and question.gold]
    passages = _passages(data, {name for question in wanted for name in question.gold})
    records = []
    for question in wanted:
        gold = [passages[name] for name in sorted(question.gold) if name in passages]
        beside = [] if retriever is None else _beside(question, retriever, distractors)
        facts = _facts(question)
        if gold:
            records.append(
                ReadingRecord(
                    id=f"{data.name}:{question.id}",
                    set=data.name,
                    question=question.text,
                    answers=list(question.answers),
                    passages=[_passage(d, gold=True) for d in gold] + [_passage(d) for d in beside],
                    evidence=[list(fact) for fact in facts] or None,
                    type=question.extra.get("type") if isinstance(question.extra.get("type"), str) else None,
                )
            )
    return records


def plan_records(data: QaDataset) -> list[PlanRecord]:
    """A plan of every question that has a decomposition or evidence triples.

    Raises:
        InputError: If a decomposition is no list of texts or of objects with a `question`.
    """
    records = []
    for question in data.questions:
        answer = question.answers[0] if question.answers else None
        steps = _decomposition(question, data.name) or steps_of_facts(
            _facts(question), question.text, answer or ""
        )
        if steps:
            records.append(
                PlanRecord(
                    id=f"{data.name}:{question.id}",
                    set=data.name,
                    question=question.text,
                    steps=steps,
                    answer=answer,
                )
            )
    return records


def steps_of_facts(facts: Sequence[Sequence[str]], question: str, answer: str) -> list[PlanStep]:
    """Sub-questions of evidence triples.

    A subject that is the object of an earlier fact is written as a reference to it. Where the answer is
    not the object of the last fact, a step compares what nobody has asked on from.

    Args:
        facts: Triples (subject, relation, object), in the order in which they lead to the answer.
        question: The question.
        answer: Its answer.
    """
    steps: list[PlanStep] = []
    places: dict[str, int] = {}
    open_places: list[int] = []
    for subject, relation, found in facts:
        place = places.get(normalize_unicode(subject))
        if place in open_places:
            open_places.remove(place)
        asked = _QUESTIONS.get(relation, f"What is the {relation} of {{}}?")
        steps.append(PlanStep(question=asked.format(f"#{place}" if place else subject), answer=found))
        places.setdefault(normalize_unicode(found), len(steps))
        open_places.append(len(steps))
    if steps and normalize_unicode(answer) != normalize_unicode(steps[-1].answer or ""):
        if len(open_places) < 2:
            return []  # the facts do not say how the answer follows
        named = " and ".join(f"#{place}" for place in open_places)
        steps.append(PlanStep(question=f"Compare {named}: {question}", answer=answer or None))
    return steps


def _facts(question: QaQuestion) -> list[tuple[str, str, str]]:
    found = question.extra.get("evidence")
    if not isinstance(found, list):
        return []
    return [
        (fact[0], fact[1], fact[2])
        for fact in found
        if isinstance(fact, list) and len(fact) == 3 and all(isinstance(part, str) for part in fact)
    ]


def _decomposition(question: QaQuestion, name: str) -> list[PlanStep]:
    found = question.extra.get("decomposition") or []
    steps = []
    for step in found if isinstance(found, list) else [found]:
        text: Any = step.get("question") if isinstance(step, Mapping) else step
        answer: Any = step.get("answer") if isinstance(step, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"Question {question.id!r} of {name}: a decomposition is a list of texts, or of objects with "
                "a 'question'."
            )
        # MuSiQue writes some steps as "subject >> relation"
        subject, arrow, relation = (part.strip() for part in text.partition(">>"))
        if arrow:
            text = _QUESTIONS.get(relation, f"What is the {relation} of {{}}?").format(subject)
        steps.append(PlanStep(question=text, answer=answer if isinstance(answer, str) else None))
    return steps


def _passages(data: QaDataset, ids: set[str]) -> dict[str, Document]:
    if data.folder is None:
        raise InputError(f"{data.name} has no passages. Give a folder with corpus.jsonl and gold passages.")
    documents = load_folder(data.folder / "corpus.jsonl").documents
    return {str(document.id): document for document in documents if str(document.id) in ids}


def _beside(question: QaQuestion, retriever: BaseRetriever, count: int) -> list[Document]:
    answers = [a for a in question.answers if normalize_unicode(a) not in ("yes", "no")]
    found: Iterable[Document] = (
        document
        for document in retriever.invoke(question.text)
        if str(document.id) not in question.gold
        and not (answers and contains_answer(document.page_content, answers, normalize=normalize_unicode))
    )
    return list(islice(found, count))


def _passage(document: Document, *, gold: bool = False) -> Passage:
    title = document.metadata.get("title")
    return Passage(title=title if isinstance(title, str) else "", text=document.page_content, gold=gold)
