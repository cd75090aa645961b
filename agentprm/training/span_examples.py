"""Examples of reading for a span reader: one question, one passage that answers it, others that do not.

They come from records, from the steps of plans, and from facts that the passages of the records state.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from langchain_core.documents import Document

from agentprm.retrievers.lexical import Bm25Index
from agentprm.retrievers.mentions import title_names
from agentprm.text import terms
from agentprm.training.data import Passage, PlanRecord, ReadingRecord
from agentprm.training.families import family_questions
from agentprm.training.patterns import Statement, statements_of

__all__ = ["ReadingExample", "Shown", "occurrences", "span_examples"]

_logger = logging.getLogger(__name__)

_MOST_FACTS = 1500
"""Characters of the facts of a yes-no question that are read as one passage."""


class Shown(NamedTuple):
    """What is read of a passage."""

    title: str
    text: str

    @classmethod
    def of(cls, passage: Passage) -> Self:
        """A record's passage."""
        return cls(passage.title, passage.text)


@dataclass(frozen=True)
class ReadingExample:
    """A question with what answers it.

    Attributes:
        question: The question.
        answers: Accepted answers; `yes` or `no` alone is a yes-no question.
        gold: The passage that answers.
        distractors: Passages that do not, the hardest first.
    """

    question: str
    answers: tuple[str, ...]
    gold: Shown
    distractors: tuple[Shown, ...]

    @property
    def boolean(self) -> bool:
        """Whether it is answered by yes or no."""
        return self.answers[0].lower() in ("yes", "no")


def occurrences(text: str, answers: Iterable[str]) -> list[tuple[int, int]]:
    """Where whole-word occurrences of any answer lie in a text, in characters, whatever the case."""
    found = []
    for answer in answers:
        if not answer.strip():
            continue
        left = r"(?<!\w)" if answer[0].isalnum() else ""
        right = r"(?!\w)" if answer[-1].isalnum() else ""
        found += [m.span() for m in re.finditer(left + re.escape(answer) + right, text, re.IGNORECASE)]
    return sorted(set(found))


def span_examples(
    readings: Sequence[ReadingRecord],
    plans: Sequence[PlanRecord] = (),
    *,
    per_set: int = 1500,
    per_relation: int = 0,
    multi_hop: int = 0,
    families: int = 0,
    hard: int = 4,
    seed: int = 0,
) -> list[ReadingExample]:
    """Examples from records of reading, and from the steps of plans about the same questions.

    A question that needs several passages is left out unless `multi_hop` asks for it, since the reader sees
    one at a time; the steps of its plan come in its place, with the passages of its record.

    Args:
        readings: Records of reading.
        plans: Plans; those whose `id` is that of a record of reading give a question for each step.
        per_set: Most examples of one `set`, drawn at random, so that none drowns the others.
        per_relation: Most examples of one relation (who directed, when born, …) from facts that passages
            state of their subject in the usual words.
        multi_hop: Most questions of one `set` that need several passages, with the one that holds the
            answer: the reader learns to guess where nobody has taken the question apart.
        families: Questions about parents, spouses and children in passages that were told of them.
        hard: Distractors found by BM25 among all passages, besides the record's own.
        seed: Seed of the draw.
    """
    rng = random.Random(seed)
    by_set: dict[str, list[ReadingExample]] = {}
    guesses: dict[str, list[ReadingExample]] = {}
    passages = {record.id: record.passages for record in readings}
    for record in readings:
        example = _example(record)
        if example is not None:
            by_set.setdefault(record.set, []).append(example)
    for record in readings if multi_hop else ():
        example = _guess(record)
        if example is not None:
            guesses.setdefault(record.set, []).append(example)
    for plan in plans:
        by_set.setdefault(f"{plan.set} steps", []).extend(_step_examples(plan, passages.get(plan.id, ())))
    chosen: list[ReadingExample] = []
    for groups, most in ((by_set, per_set), (guesses, multi_hop)):
        for name, examples in sorted(groups.items()):
            drawn = examples if len(examples) <= most else rng.sample(examples, most)
            if examples:
                _logger.info("%s: %d of %d examples.", name, len(drawn), len(examples))
            chosen += drawn
    if per_relation:
        chosen += _fact_examples(readings, per_relation, rng)
    found = list(_with_hard_distractors(chosen, readings, hard))
    return found + list(_family_examples(readings, families, found, seed)) if families else found


def _example(record: ReadingRecord) -> ReadingExample | None:
    """The record as an example, or `None` where no single passage answers."""
    gold = [p for p in record.passages if p.gold]
    answers = tuple(record.answers)
    if not gold or not answers:
        return None
    told = Shown.of(gold[0])
    if answers[0].lower() in ("yes", "no"):
        if len(gold) > 1:  # facts of a sentence or two each
            told = Shown("", " ".join(p.text for p in gold))
            if len(told.text) > _MOST_FACTS:
                return None
    elif len(gold) > 1 or not occurrences(told.text, answers):
        return None
    return ReadingExample(
        record.question, answers, told, tuple(Shown.of(p) for p in record.passages if not p.gold)
    )


def _guess(record: ReadingRecord) -> ReadingExample | None:
    """A question of several gold passages with the only one of them that holds the answer."""
    gold = [Shown.of(p) for p in record.passages if p.gold]
    holding = [told for told in gold if occurrences(told.text, record.answers)]
    if len(gold) < 2 or len(holding) != 1 or record.answers[0].lower() in ("yes", "no"):
        return None
    others = tuple(told for told in map(Shown.of, record.passages) if told != holding[0])
    return ReadingExample(record.question, tuple(record.answers), holding[0], others)


def _step_examples(plan: PlanRecord, passages: Sequence[Passage]) -> Iterator[ReadingExample]:
    """The steps of a plan whose answer stands in a gold passage that is named by the step."""
    gold = [p for p in passages if p.gold]
    for question, answer in plan.answered():
        for p in gold:
            name = re.sub(r"\s*\(.*?\)$", "", p.title)
            if name and name.lower() in question.lower() and occurrences(p.text, [answer]):
                rest = tuple(Shown.of(other) for other in passages if other is not p)
                yield ReadingExample(question, (answer,), Shown.of(p), rest)
                break


def _fact_examples(
    readings: Sequence[ReadingRecord], per_relation: int, rng: random.Random
) -> Iterator[ReadingExample]:
    """Questions about what passages state of their subjects, no more of one relation than of another."""
    passages = dict.fromkeys(
        Shown.of(p) for r in readings for p in r.passages if p.title and len(p.text) > 60
    )
    by_relation: dict[str, list[ReadingExample]] = {}
    for passage in passages:
        names = title_names(Document(passage.text, metadata={"title": passage.title}))
        for fact in statements_of(passage.text, names):
            question = rng.choice(fact.relation.questions).format(rng.choice(names))
            example = ReadingExample(question, _shortest(fact), passage, ())
            by_relation.setdefault(fact.relation.name, []).append(example)
    for name, examples in sorted(by_relation.items()):
        drawn = examples if len(examples) <= per_relation else rng.sample(examples, per_relation)
        _logger.info("%s: %d of %d facts.", name, len(drawn), len(examples))
        yield from drawn


def _family_examples(
    readings: Sequence[ReadingRecord], count: int, others: Sequence[ReadingExample], seed: int
) -> Iterator[ReadingExample]:
    """With the passage that tells of the rest of the family first among the distractors."""
    passages = [(p.title, p.text) for record in readings for p in record.passages if p.title]
    rng = random.Random(seed)
    for kin in family_questions(passages, count, seed=seed):
        far = [rng.choice(others).gold for _ in range(2)] if others else []
        shown = [Shown(kin.title, kin.without), *(p for p in far if not occurrences(p.text, [kin.answer]))]
        if not occurrences(kin.without, [kin.answer]):
            yield ReadingExample(kin.question, (kin.answer,), Shown(kin.title, kin.text), tuple(shown))


def _shortest(fact: Statement) -> tuple[str, ...]:
    """Its objects, of a town only the name: "Ajaccio" of "Ajaccio, Corsica"."""
    if fact.relation.leads_to == ("place",):
        return tuple(name.partition(",")[0] for name in fact.objects)
    return fact.objects


def _with_hard_distractors(
    examples: Sequence[ReadingExample], readings: Sequence[ReadingRecord], hard: int
) -> Iterator[ReadingExample]:
    told = (p for record in readings for p in record.passages if len(p.text) > 80)
    pool = list(dict.fromkeys(map(Shown.of, told)))
    index = Bm25Index(terms)
    index.add((str(i), f"{p.title} {p.text}") for i, p in enumerate(pool))
    for example in examples:
        others = [p for p in example.distractors if p != example.gold]
        if example.boolean:
            # Others may well say something to it; only its own are known to be of no use.
            yield replace(example, distractors=tuple(others))
            continue
        weights = dict.fromkeys(terms(example.question), 1.0)
        near = [pool[int(i)] for i, _ in index.best(weights, hard + 4)]
        near = [p for p in near if p != example.gold][:hard]
        kept = [p for p in [*near, *others] if not occurrences(p.text, example.answers)]
        yield replace(example, distractors=tuple(dict.fromkeys(kept)))
