"""Facts of a collection, and the questions that they answer: of one hop, of two, and comparisons."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import regex
from langchain_core.documents import Document
from typing_extensions import TypedDict

from agentprm.evaluation.qa import contains_answer, normalize_unicode
from agentprm.retrievers.leads import lead_names
from agentprm.retrievers.mentions import MentionIndex, title_names
from agentprm.training.patterns import Statement, Subject, statements_of, subject_of
from agentprm.training.relations import Relation

__all__ = ["Draft", "Facts", "Hop", "collect_facts", "draft_questions", "has_answer", "seeded_digits"]

QuestionKind = Literal["one_hop", "two_hop", "comparison"]

# Of every ten questions so many are of each kind, while there are any.
_MIX: tuple[QuestionKind, ...] = ("one_hop", "two_hop", "one_hop", "two_hop", "comparison") * 2


class Hop(TypedDict):
    """A sub-question with its answer.

    Attributes:
        question: The sub-question; `#1` stands for the answer of the first.
        asked: The same without references.
        answers: Its right answers.
        gold: Id of the passage that answers it; empty for a comparison of earlier answers.
        triple: The fact behind it; empty for a comparison.
        sentence: The sentence that states it.
    """

    question: str
    asked: str
    answers: list[str]
    gold: str
    triple: list[str]
    sentence: str


class Draft(TypedDict):
    """A question before it is checked.

    Attributes:
        kind: `one_hop`, `two_hop` or `comparison`.
        question: The question.
        answers: Its right answers.
        hops: Its sub-questions; one for a question of one hop.
    """

    kind: QuestionKind
    question: str
    answers: list[str]
    hops: list[Hop]


class _Article(NamedTuple):
    id: str
    title: str
    name: str
    subject: Subject
    facts: list[Statement]
    links: dict[str, str]  # relation -> id of the article of its object


@dataclass(frozen=True)
class Facts:
    """What a collection states of its subjects.

    Attributes:
        articles: Passages that open with their subject, by id.
        namesakes: How many titles share a name.
        passages: Passages that were read.
    """

    articles: dict[str, _Article]
    namesakes: Counter[str]
    passages: int

    @property
    def count(self) -> int:
        """Facts in all."""
        return sum(len(article.facts) for article in self.articles.values())


def collect_facts(
    documents: Iterable[Document], mentions: MentionIndex, progress: Callable[[int], None] | None = None
) -> Facts:
    """Reads the facts of passages, and which of their objects have passages of their own.

    Args:
        documents: The passages, with ids.
        mentions: Their titles.
        progress: Called with the number of passages read so far.
    """
    articles: dict[str, _Article] = {}
    open_links: dict[str, dict[str, list[str]]] = {}
    titles: dict[str, set[str]] = {}
    read = 0
    for read, document in enumerate(documents, start=1):
        names = title_names(document) or lead_names(document.page_content)
        if names:
            titles.setdefault(normalize_unicode(names[-1]), set()).add(names[0])
        facts = statements_of(document.page_content, names) if names else []
        if facts:
            name = names[1] if len(names) > 1 and names[0].startswith(names[1]) else names[0]
            article = _Article(str(document.id), names[0], name, subject_of(document.page_content), facts, {})
            articles[article.id] = article
            open_links[article.id] = _links(article, document.page_content, mentions)
        if progress is not None:
            progress(read)
    for name, links in open_links.items():
        for relation, ids in links.items():
            target = next((i for i in ids if i in articles and i != name), None)
            if target is not None:
                articles[name].links[relation] = target
    return Facts(articles, Counter({name: len(found) for name, found in titles.items()}), read)


def _links(article: _Article, text: str, mentions: MentionIndex) -> dict[str, list[str]]:
    """Ids of the one title that the object of each fact names."""
    wanted = [fact for fact in article.facts if fact.relation.leads_to and len(fact.objects) == 1]
    if not wanted:
        return {}
    found = mentions.find(text)
    links = {}
    for fact in wanted:
        for mention in found:
            # a place may have its country behind it
            whole = mention.end >= fact.end or "place" in fact.relation.leads_to
            if mention.start <= fact.start < mention.end and whole and len(mention.targets) == 1:
                links[fact.relation.name] = list(mention.ids)
    return links


def draft_questions(facts: Facts, seed: int = 0) -> Iterator[Draft]:
    """Questions of a collection's facts, kinds and relations mixed; same seed, same questions.

    Args:
        facts: What `collect_facts` found.
        seed: Decides their order and their words.
    """
    pools: dict[QuestionKind, Iterator[Draft]] = {
        "one_hop": _mixed(_one_hops(facts), seed),
        "two_hop": _mixed(_two_hops(facts), seed),
        "comparison": _mixed(_comparisons(facts, seed), seed),
    }
    asked: set[str] = set()
    while pools:
        for kind in _MIX:
            draft = next(pools[kind], None) if kind in pools else None
            if draft is None:
                pools.pop(kind, None)
            elif draft["question"] not in asked:
                asked.add(draft["question"])
                yield draft


class _Idea(NamedTuple):
    """A question that may be put: the relations it is about, and what writes it."""

    relation: str
    key: str
    write: Callable[[random.Random], Draft | None]


def _mixed(ideas: Iterable[_Idea], seed: int) -> Iterator[Draft]:
    """Drafts of ideas, relation by relation in turn, in a random order within each."""
    groups: dict[str, list[_Idea]] = {}
    for idea in ideas:
        groups.setdefault(idea.relation, []).append(idea)
    queues = []
    for relation in sorted(groups):
        group = sorted(groups[relation], key=lambda idea: seeded_digits(seed, relation, idea.key))
        queues.append(iter(group))
    while queues:
        for queue in list(queues):
            for idea in queue:
                draft = idea.write(random.Random(seeded_digits(seed, idea.relation, idea.key)))
                if draft is not None:
                    yield draft
                    break
            else:
                queues.remove(queue)


def seeded_digits(seed: int, *parts: str) -> str:
    """Digits that decide, by seed and name, what chance would."""
    return hashlib.sha256("\n".join((str(seed), *parts)).encode()).hexdigest()


def _called(article: _Article, facts: Facts, draw: random.Random) -> str:
    """How a question calls a subject: by its name, maybe with what it is, or by its whole title."""
    if facts.namesakes[normalize_unicode(article.name)] > 1:
        return article.title
    if article.subject.noun and article.subject.kind in ("work", "group") and draw.random() < 0.5:
        noun = article.subject.noun
        if noun.casefold() not in article.name.casefold():
            return f"the {noun} {article.name}"
    return article.name


def _hop(article: _Article, fact: Statement, name: str, draw: random.Random, reference: str = "") -> Hop:
    question = draw.choice(fact.relation.questions)
    answers = [fact.text, *(fact.objects if len(fact.objects) > 1 else ())]
    if fact.relation.name in ("place of birth", "place of death", "location", "headquarters"):
        answers.append(fact.text.split(",")[0].strip())
    return Hop(
        question=question.format(reference or name),
        asked=question.format(name),
        answers=list(dict.fromkeys(answers)),
        gold=article.id,
        triple=[article.title, fact.relation.name, fact.text],
        sentence=fact.sentence,
    )


def _one_hops(facts: Facts) -> Iterator[_Idea]:
    for article in facts.articles.values():
        for fact in article.facts:

            def write(
                draw: random.Random, article: _Article = article, fact: Statement = fact
            ) -> Draft | None:
                hop = _hop(article, fact, _called(article, facts, draw), draw)
                return _draft("one_hop", hop["asked"], hop["answers"], [hop])

            yield _Idea(fact.relation.name, article.id, write)


def _two_hops(facts: Facts) -> Iterator[_Idea]:
    for article in facts.articles.values():
        for first in article.facts:
            target = facts.articles.get(article.links.get(first.relation.name, ""))
            if target is None or not _fits(first.relation, target):
                continue
            for second in target.facts:

                def write(
                    draw: random.Random,
                    article: _Article = article,
                    first: Statement = first,
                    target: _Article = target,
                    second: Statement = second,
                ) -> Draft | None:
                    one = _hop(article, first, _called(article, facts, draw), draw)
                    two = _hop(target, second, first.text, draw, reference="#1")
                    phrase = first.relation.phrase.format(_called(article, facts, draw))
                    question = two["question"].replace("#1", phrase)
                    if any(has_answer(article.title, answer) for answer in two["answers"]):
                        return None  # back to where it began
                    return _draft("two_hop", question, two["answers"], [one, two])

                yield _Idea(f"{first.relation.name}, {second.relation.name}", article.id, write)


def _fits(relation: Relation, target: _Article) -> bool:
    """Whether a passage is about what a relation leads to, and not about a namesake."""
    if not relation.phrase or target.subject.kind not in relation.leads_to:
        return False
    stated = " ".join(fact.sentence for fact in target.facts).casefold()
    return not relation.hints or any(hint in stated for hint in relation.hints)


# relation -> question of two of a noun, of two persons or things, and whether the earlier one is meant
_ORDERS: dict[str, tuple[tuple[str, bool], ...]] = {
    "publication date": (
        ("Which {noun} came out first, {a} or {b}?", True),
        ("Which {noun} was released more recently, {a} or {b}?", False),
    ),
    "date of birth": (
        ("Who was born first, {a} or {b}?", True),
        ("Who is younger, {a} or {b}?", False),
    ),
    "date of death": (("Who died first, {a} or {b}?", True), ("Who died later, {a} or {b}?", False)),
    "inception": (("Which {noun} was founded first, {a} or {b}?", True),),
}
_YEAR = regex.compile(r"\b[12]\d{3}\b")


def _comparisons(facts: Facts, seed: int) -> Iterator[_Idea]:
    groups: dict[tuple[str, str], list[tuple[_Article, Statement]]] = {}
    for article in facts.articles.values():
        for fact in article.facts:
            if fact.relation.name in _ORDERS or fact.relation.name == "nationality":
                groups.setdefault((fact.relation.name, article.subject.noun), []).append((article, fact))
    for (relation, noun), members in sorted(groups.items()):
        order = sorted(members, key=lambda member: seeded_digits(seed, "pair", relation, member[0].id))
        if relation == "nationality":  # two at random rarely share one: half of the pairs are neighbours
            half = len(order) // 4 * 2
            order[:half] = sorted(order[:half], key=lambda member: member[1].text)
        for left, right in zip(order[::2], order[1::2], strict=False):

            def write(
                draw: random.Random,
                pair: tuple[tuple[_Article, Statement], tuple[_Article, Statement]] = (left, right),
                noun: str = noun,
            ) -> Draft | None:
                return _comparison(pair, noun, facts, draw)

            yield _Idea(relation, f"{left[0].id}\n{right[0].id}", write)


def _comparison(
    pair: tuple[tuple[_Article, Statement], tuple[_Article, Statement]],
    noun: str,
    facts: Facts,
    draw: random.Random,
) -> Draft | None:
    (a, one), (b, two) = pair
    names = []
    for article in (a, b):
        ambiguous = facts.namesakes[normalize_unicode(article.name)] > 1
        names.append(article.title if ambiguous else article.name)
    relation = one.relation.name
    if relation == "nationality":
        question = f"Do {names[0]} and {names[1]} have the same nationality?"
        answer = "yes" if one.text == two.text else "no"
    else:
        years = [_YEAR.search(fact.text) for fact in (one, two)]
        if years[0] is None or years[1] is None or years[0].group() == years[1].group():
            return None
        pattern, earlier = draw.choice(_ORDERS[relation])
        question = pattern.format(noun=noun or "one", a=names[0], b=names[1])
        answer = names[0] if (years[0].group() < years[1].group()) == earlier else names[1]
    hops = [_hop(a, one, names[0], draw), _hop(b, two, names[1], draw)]
    compared = f"Compare #1 and #2: {question}"
    hops.append(Hop(question=compared, asked=compared, answers=[answer], gold="", triple=[], sentence=""))
    return _draft("comparison", question, [answer], hops)


def _draft(kind: QuestionKind, question: str, answers: list[str], hops: list[Hop]) -> Draft | None:
    """A draft, unless a question gives its own answer away."""
    for hop in hops:
        if hop["gold"] and any(has_answer(hop["asked"], answer) for answer in hop["answers"]):
            return None
    if kind == "two_hop" and any(has_answer(question, answer) for answer in answers):
        return None
    return Draft(kind=kind, question=question, answers=answers, hops=hops)


def has_answer(text: str, answer: str) -> bool:
    """Whether a text holds an answer, on word boundaries, upper and lower case aside."""
    return bool(contains_answer(text, [answer], normalize=normalize_unicode))
