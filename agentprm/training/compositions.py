"""Plans composed of single questions: what a question names is described instead, in the words of a passage.

"Who produced Krull?", and a passage that opens "Krull is a 1983 fantasy film directed by Peter Yates", give

    Question: Who produced the 1983 fantasy film directed by Peter Yates?
    Sub-questions:
    1. Which 1983 fantasy film is directed by Peter Yates?
    2. Who produced #1?

so that a planner learns freely worded descriptions, of which no table of relations has a list.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import regex
from langchain_core.documents import Document

from agentprm.retrievers.leads import lead_names
from agentprm.retrievers.mentions import title_names
from agentprm.text import one_line
from agentprm.training.data import Passage, PlanRecord, PlanStep, ReadingRecord
from agentprm.training.patterns import ANAPHOR, opens_with, sentences, statements_of
from agentprm.training.questions import has_answer

__all__ = ["Description", "composed_plans", "descriptions"]


class Description(NamedTuple):
    """Words that stand for a name.

    Attributes:
        phrase: Them, as a question uses them: "the 1983 film directed by Peter Yates".
        asked: The question that they answer: "Which 1983 film is directed by Peter Yates?"
    """

    phrase: str
    asked: str


class _Single(NamedTuple):
    """A question about one thing.

    Attributes:
        set: Set of its record.
        question: The question, with `#1` for the name of the thing.
        name: The name.
        answer: The answer.
        ways: How the thing may be described instead.
    """

    set: str
    question: str
    name: str
    answer: str
    ways: Sequence[Description]


_MOST_WORDS = 16  # of a description
_LEAST_WORDS = 4
_THREE_HOPS = 0.2  # of the compositions, where a description names another thing that is described
_UNSPLIT = 0.15  # as many single questions beside the compositions, which are not split
_VARIANTS = 3  # compositions of one single question at most
_BRACKETS = regex.compile(r"\s*[(\[][^()\[\]]*[)\]]")
_DEFINED = regex.compile(
    r"^.{1,150}?\s(?P<be>is|was|are|were)\s+(?:an?|the|one\s+of\s+the)\s+(?P<noun>(?:[^\s,;.]+\s){0,8}?"
    r"(?!(?:and|or)\b)[\p{Ll}-]+(?<!-))"
    r"(?P<rest>,?\s+(?:who|that|which|\p{Ll}+ed|written|built|set|known|held|led|made|born|in|on|of|from|by|at|for)"
    r"\s.+)$"
)
_RELATIVE = regex.compile(r",?\s+(?:who|that|which)\s+(?P<verb>.+)$")
_PARTICIPLE = regex.compile(r",?\s+(?P<verb>(?:\p{Ll}+ed|written|built|set|known|held|led|made|born)\s.+)$")
_ALSO = regex.compile(r"^(?:also|later|then|subsequently|previously|currently|first|once)\s+")
_SAID = regex.compile(
    r"^(?:had|are|were|play|\p{Ll}+(?:ed|s)|won|wrote|led|became|held|made|sang|"
    r"took|began|ran|fought|taught|built|grew|gave|left|went)\s"
)
# Where a clause may end: a description is cut there if it is too long.
_CLAUSE_END = regex.compile(r"[,;]|\s(?:and|but|while|when|where|as|after|before|until|since)\s")
_LOOSE = regex.compile(r",?\s(?:\p{Ll}+ed|written|most often|also|both|with \p{Ll}+)$")
_DISTINCT = regex.compile(r"\p{Lu}|\d")
_PERSON = regex.compile(
    r"(?:er|or|ist|ian|ant|ress|man|woman|poet|king|queen|judge|model|coach|star|chef)s?$"
)
_CAPITALS = regex.compile(r"\p{Lu}[\p{L}\p{M}'\u2019.-]*(?:\s\p{Lu}[\p{L}\p{M}'\u2019.-]*)+")

# The same question in other orders of words, which freely worded questions have; {0} is what the group holds.
_ORDERS = tuple(
    (regex.compile(pattern), others)
    for pattern, others in (
        (r"Where was #1 (born|founded|formed|buried|educated)\?",
         ("#1 was {0} where?", "In what city was #1 {0}?", "#1 was {0} in which city?",
          "In which place was #1 {0}?")),
        (r"Where did #1 die\?", ("#1 died where?", "In what city did #1 die?", "#1 died in which city?")),
        (r"When was #1 (born|founded|formed|released|published|built|established|opened)\?",
         ("#1 was {0} in what year?", "In what year was #1 {0}?", "What year was #1 {0}?",
          "#1 was {0} on what date?", "In which year was #1 {0}?")),
        (r"When did #1 die\?",
         ("#1 died in what year?", "In what year did #1 die?", "What year did #1 die?")),
        (r"Who (directed|produced|founded|composed|developed|created|published) #1\?",
         ("#1 was {0} by who?", "#1 was {0} by whom?", "By whom was #1 {0}?", "Who was #1 {0} by?")),
        (r"Who is the (director|author|producer|composer|performer|founder|developer) of #1\?",
         ("Who was the {0} of #1?", "What is the name of the {0} of #1?")),
        (r"What is the ([a-z ]+) of #1\?", ("#1 has what {0}?", "What {0} does #1 have?")),
        (r"(?:Which|What) ([a-z ]+) (is|was) #1 ([a-z ]+)\?",
         ("#1 {1} {2} what {0}?", "#1 {1} {2} which {0}?")),
        (r"Where is #1 located\?", ("#1 is located where?", "In what place is #1 located?",
                                    "#1 is located in which place?")),
    )
)  # fmt: skip


def composed_plans(
    readings: Sequence[ReadingRecord], most: int, *, per_set: int = 10000, seed: int = 0
) -> list[PlanRecord]:
    """Questions with plans, composed of single questions and of the openings of passages.

    Single questions are those of records with one gold passage that name what it is about, and those that
    the facts of any passage answer. Some stay as they are, as plans of one step, so that not everything is
    split.

    Args:
        readings: Records of reading.
        most: Most compositions.
        per_set: Most of one set of records.
        seed: Seed of all draws; same seed, same plans.
    """
    rng = random.Random(seed)
    told: dict[str, list[Description]] = {}
    titles = dict.fromkeys((p.title, p.text) for record in readings for p in record.passages)
    for title, text in titles:
        names = _names(title, text)
        if names and (found := descriptions(text, names)):
            told.setdefault(names[-1], found)
    by_set: dict[str, list[_Single]] = {}
    for single in _singles(readings, told, rng):
        by_set.setdefault(single.set, []).append(single)
    drawn = []
    for _, singles in sorted(by_set.items()):
        drawn += singles if len(singles) <= per_set else rng.sample(singles, per_set)
    rng.shuffle(drawn)
    composed: dict[str, PlanRecord] = {}
    whole: dict[str, PlanRecord] = {}
    for single in drawn:
        ways = [way for way in single.ways if not has_answer(way.phrase, single.answer)]
        for way in rng.sample(ways, min(_VARIANTS, len(ways))):
            plan = _composed(single, way, told, rng)
            if plan is not None and len(composed) < most:
                composed.setdefault(plan.question, plan)
        if not ways:
            question = single.question.replace("#1", single.name)
            whole[question] = _record(single, question, [PlanStep(question=question, answer=single.answer)])
    unsplit = list(whole.values())[: int(_UNSPLIT * len(composed))]
    return [*composed.values(), *unsplit]


def descriptions(text: str, names: Sequence[str]) -> list[Description]:
    """How a passage that opens with what it is about describes it, without its name.

    Args:
        text: The passage.
        names: Names of its subject.

    Example:
        >>> text = "Krull is a 1983 fantasy film directed by Peter Yates. It stars Ken Marshall."
        >>> [found.phrase for found in descriptions(text, ["Krull"])]
        ['the 1983 fantasy film directed by Peter Yates', 'the 1983 fantasy film that stars Ken Marshall']
    """
    if not opens_with(text, names):
        return []
    lines = [one_line(_BRACKETS.sub("", sentence)).rstrip(" .") for _, sentence in sentences(text)]
    defined = _DEFINED.match(lines[0]) if lines else None
    if defined is None:
        return []
    noun = defined["noun"].strip()
    person = _PERSON.search(noun.split()[-1]) is not None
    who, be = "who" if person else "that", defined["be"]
    found = []
    rest = _cut(defined["rest"])
    if match := _RELATIVE.match(rest):
        found.append(Description(f"the {noun} {who} {match['verb']}", f"Which {noun} {match['verb']}?"))
    elif match := _PARTICIPLE.match(rest):
        found.append(Description(f"the {noun} {match['verb']}", f"Which {noun} {be} {match['verb']}?"))
    elif not rest.startswith(","):
        found.append(
            Description(f"the {noun}{rest}", f"{'Who' if person else 'What'} {be} the {noun}{rest}?")
        )
    for line in lines[1:]:
        said = _said(line, names)
        if said:
            found.append(Description(f"the {noun} {who} {said}", f"Which {noun} {said}?"))
    own = [word for name in names for word in regex.findall(r"[\p{L}\d]{3,}", name) if word[0].isupper()]
    return [
        one
        for one in found
        if _LEAST_WORDS <= len(one.phrase.split()) <= _MOST_WORDS
        and _DISTINCT.search(one.phrase.removeprefix(f"the {noun}"))
        and not any(has_answer(one.phrase, word) for word in own)
        and one.phrase.count('"') % 2 == 0
    ]


def _said(line: str, names: Sequence[str]) -> str:
    """What a later sentence says its subject did: "stars Ken Marshall" of "It stars Ken Marshall"."""
    if ANAPHOR.match(line):
        rest = line.partition(" ")[2] if regex.match(r"(?:He|She|It)\s", line) else ""
    else:
        name = next((name for name in names if line.startswith(f"{name} ")), None)
        rest = line[len(name) + 1 :] if name else ""
    rest = _ALSO.sub("", rest)
    said = _cut(rest) if _SAID.match(rest) else ""
    return said if _DISTINCT.search(said) else ""


def _cut(text: str) -> str:
    """A clause, or only its first part if it is long."""
    while len(text.split()) > _MOST_WORDS - 4:
        ends = [match.start() for match in _CLAUSE_END.finditer(text, 1)]
        if not ends:
            return ""
        text = text[: ends[-1]]
    return _LOOSE.sub("", text).rstrip(" ,;:")


def _names(title: str, text: str) -> list[str]:
    return title_names(Document(text, metadata={"title": title})) if title else lead_names(text)


def _singles(
    readings: Iterable[ReadingRecord], told: Mapping[str, list[Description]], rng: random.Random
) -> Iterator[_Single]:
    """Single questions of the records, of the facts of their passages, and of their descriptions."""
    seen: set[tuple[str, str]] = set()
    for record in readings:
        gold = [p for p in record.passages if p.gold]
        if len(gold) == 1 and record.answers and record.answers[0].lower() not in ("yes", "no"):
            yield from _about(record.set, record.question, record.answers[0], gold[0])
        for passage in record.passages:
            if not passage.title or (passage.title, passage.text) in seen:
                continue
            seen.add((passage.title, passage.text))
            names = _names(passage.title, passage.text)
            own = descriptions(passage.text, names)
            for fact in statements_of(passage.text, names):
                question = rng.choice(fact.relation.questions).format("#1")
                yield _Single(f"{record.set} facts", question, names[-1], fact.text, own)
            for way in own:  # "Which film stars Ken Marshall?" is about Ken Marshall
                for name in _CAPITALS.findall(way.asked):
                    if name in told and name not in names and way.asked.count(name) == 1:
                        question = way.asked.replace(f"the {name}", "#1").replace(name, "#1")
                        yield _Single(f"{record.set} descriptions", question, name, names[-1], told[name])


def _about(group: str, question: str, answer: str, passage: Passage) -> Iterator[_Single]:
    names = _names(passage.title, passage.text)
    for name in sorted(names, key=len, reverse=True):
        where = regex.search(
            rf"(?:(?<=\s)the\s+)?(?<!\w){regex.escape(name)}(?![\w-])(?!\s\p{{Lu}})", question
        )
        if where is None or not _DISTINCT.search(name):
            continue
        about = one_line(f"{question[: where.start()]}#1{question[where.end() :]}")
        about = about if about.endswith("?") else f"{about}?"
        own = descriptions(passage.text, names)
        yield _Single(group, about[:1].upper() + about[1:], name, answer, own)
        return


def _composed(
    single: _Single, way: Description, told: Mapping[str, list[Description]], rng: random.Random
) -> PlanRecord | None:
    """The question about what is described instead of named."""
    question = _ordered(single.question, rng)
    if regex.search(r"#1['\u2019]s?\b", question) and len(way.phrase.split()) > _LEAST_WORDS + 1:
        return None  # "the film directed by Peter Yates's budget"
    steps = [PlanStep(question=way.asked, answer=single.name)]
    phrase = way.phrase
    further = [name for name in _CAPITALS.findall(phrase) if name in told and name != single.name]
    if further and rng.random() < _THREE_HOPS:
        name = rng.choice(further)
        other = rng.choice(told[name])
        if not any(has_answer(other.phrase, text) for text in (single.answer, single.name)):
            phrase = phrase.replace(name, other.phrase)
            steps = [
                PlanStep(question=other.asked, answer=name),
                PlanStep(question=way.asked.replace(name, "#1"), answer=single.name),
            ]
    last = single.question.replace("#1", f"#{len(steps)}")
    text = question.replace("#1", phrase)
    text = text[:1].upper() + text[1:]
    return _record(single, text, [*steps, PlanStep(question=last, answer=single.answer)])


def _ordered(question: str, rng: random.Random) -> str:
    """A question in another order of words, as often as in its own."""
    for pattern, others in _ORDERS:
        match = pattern.fullmatch(question)
        if match is not None and rng.random() < 0.5:
            return rng.choice(others).format(*match.groups())
    return question


def _record(single: _Single, question: str, steps: list[PlanStep]) -> PlanRecord:
    return PlanRecord(set=f"{single.set} composed", question=question, steps=steps, answer=single.answer)
