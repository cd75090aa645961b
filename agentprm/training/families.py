"""Questions about families: passages of persons, told more about parents, spouses and children.

Few passages say who somebody's mother is, and those that do name a father, a husband and a sister beside
her: what a small reader confuses. Here the lives of real passages get sentences of that kind, with names of
other persons, so that every relation is asked for often and all others are there to be mistaken for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

from agentprm.training.patterns import sentences, subject_of

__all__ = ["Kinship", "family_questions"]


class Kinship(NamedTuple):
    """A question about somebody's family.

    Attributes:
        question: The question.
        answer: Who it is.
        title: Title of the passage.
        text: The passage with what was added.
        without: The passage with other sentences, which do not say it.
    """

    question: str
    answer: str
    title: str
    text: str
    without: str


_KIN = regex.compile(
    r"\b(?:son|daughter|child(?:ren)?|father|mother|parents?|wife|husband|spouse|married|marriage|brother|"
    r"sister|siblings?|widow|consort|uncle|aunt|nephew|niece|grand(?:son|father|mother|daughter))\b",
    regex.IGNORECASE,
)
_HE = regex.compile(r"\b(?:he|his|him)\b", regex.IGNORECASE)
_SHE = regex.compile(r"\b(?:she|her|hers)\b", regex.IGNORECASE)

# What each way of saying it tells: F father, M mother, W spouse, C child, D another child, B brother or
# sister, G grandfather. {he}, {his}, {son}, {husband} follow the person's gender.
_TOLD: tuple[tuple[str, str], ...] = (
    ("FM", "{He} was the {nth}{son} of {rank}{F} and {his_wife}{M}."),
    ("FM", "{He} was born to {F} and {his_wife}{M}."),
    ("FM", "{He} was the {son} of {work}s {F} and {M}."),
    ("MF", "{He} is the {son} of {M} and {F}."),
    ("MF", "Born to {M} and {work} {F}, {he} grew up with three siblings."),
    ("FM", "{His} parents were {F}, a {work}, and {M}."),
    ("FM", "{His} father was {rank}{F} and {his} mother was {M}."),
    ("FM", "{His} father, {F}, was a {work}; {his} mother, {M}, came from a family of {work}s."),
    ("F", "{He} was the {nth}{son} of {rank}{F}."),
    ("F", "{His} father {F} was a {work}."),
    ("M", "{His} mother was {rank_f}{M}."),
    ("M", "{He} was raised by {his} mother, {M}."),
    ("FG", "{He} was a {son} of {rank}{F} and a grand{son} of {rank}{G}."),
    ("FMG", "A {son} of {F} and {M}, {he} is the paternal grand{son} of {G}."),
    ("W", "{He} married {W} in {year}."),
    ("W", "In {year}, {he} married {work} {W}."),
    ("W", "{He} was the {husband} of {rank_w}{W}."),
    ("W", "{His} {wife} {W} died in {year}."),
    ("WX", "{He} married {W}, {daughter} of {rank}{X}."),
    ("WCD", "{He} and {his} {wife} {W} had two children, {C} and {D}."),
    ("C", "{He} was the {father} of {work} {C}."),
    ("CD", "{His} children are {C} and {D}."),
    ("C", "{His} son {C} is also a {work}."),
    ("B", "{He} was a {brother} of {rank}{B}."),
    ("B", "{His} {sibling} is the {work} {B}."),
)
_ASKED: dict[str, tuple[str, ...]] = {
    "F": ("Who is the father of {}?", "Who was {}'s father?", "Whose {son} was {}?"),
    "M": ("Who is the mother of {}?", "Who was {}'s mother?", "Who gave birth to {}?"),
    "W": ("Who is the spouse of {}?", "Who was {} married to?", "Who is {}'s {wife}?", "Who did {} marry?"),
    "C": ("Who is a child of {}?", "Who is the child of {}?"),
    "B": ("Who is a sibling of {}?", "Who is the {sibling} of {}?"),
    "G": ("Who is the grandfather of {}?", "Who is the paternal grandfather of {}?"),
}
_WORK = ("actor", "merchant", "painter", "lawyer", "politician", "teacher", "singer", "general", "writer")
_RANKS = {
    True: ("King ", "Prince ", "Sir ", "Count ", "the merchant ", "Emperor ", "Archduke "),
    False: ("Queen ", "Princess ", "Lady ", "Countess ", "the actress ", "Empress ", "Archduchess "),
}
_LORDS = ("Duke", "Count", "Earl", "King", "Margrave", "Lord", "Prince", "1st Earl", "3rd Duke", "Elector")
_LADIES = ("Duchess", "Countess", "Queen", "Lady", "Princess", "Abbess")
_NTH = ("", "", "eldest ", "younger ", "second ", "third ", "only ", "illegitimate ")


class _Person(NamedTuple):
    title: str
    text: str
    male: bool


def family_questions(passages: Sequence[tuple[str, str]], count: int, *, seed: int = 0) -> list[Kinship]:
    """Questions about families, made of passages.

    Args:
        passages: Title and text of many passages, of which those about persons are used.
        count: Most questions.
        seed: Of everything that is drawn.
    """
    rng = random.Random(seed)
    persons = list(_persons(passages))
    places = [title for title, text in dict(passages).items() if _is_town(title, text)]
    men, women = ([p.title for p in persons if p.male is male] for male in (True, False))
    if places:
        men += [_noble(name, _LORDS, places, rng) for name in men[::3]]
        women += [_noble(name, _LADIES, places, rng) for name in women[::3]]
    # Only lives that say nothing of a family: what is added must be all there is.
    lives = [p for p in persons if not _KIN.search(p.text)]
    if len(men) < 10 or len(women) < 10:
        return []
    rng.shuffle(lives)
    made: list[Kinship] = []
    for person in lives * (count // len(lives) + 1 if lives else 0):
        if len(made) >= count:
            break
        made += _asked_of(person, men, women, rng)
    return made[:count]


def _is_town(title: str, text: str) -> bool:
    return title.isalpha() and title.istitle() and subject_of(text).kind == "place"


def _noble(name: str, titles: Sequence[str], places: Sequence[str], rng: random.Random) -> str:
    """A name as chronicles have it: "Albert III, Duke of Bavaria"; the comma belongs to it."""
    first, place = name.partition(" ")[0], rng.choice(places)
    number = rng.choice(("", "", " I", " II", " III", " IV", " VI"))
    of = rng.choice(
        (f" of {place}", f", {rng.choice(titles)} of {place}", f", {rng.choice(titles)} of {place}")
    )
    return f"{first}{number}{of}"


def _persons(passages: Sequence[tuple[str, str]]) -> Iterator[_Person]:
    for title, text in dict(passages).items():
        name = regex.sub(r"\s*\(.*?\)$", "", title)
        he, she = len(_HE.findall(text)), len(_SHE.findall(text))
        clear = max(he, she) >= 2 and min(he, she) * 3 <= max(he, she)
        if clear and 1 < len(name.split()) < 8 and subject_of(text).kind == "person":
            yield _Person(name, text, he > she)


def _asked_of(person: _Person, men: Sequence[str], women: Sequence[str], rng: random.Random) -> list[Kinship]:
    """A question for one or two of the relations that some new sentences tell of a person."""
    told: dict[str, str] = {}
    chosen: list[tuple[str, str]] = []
    for kinds, template in rng.sample(_TOLD, len(_TOLD)):
        if not set(kinds) & set(told) and len(chosen) < 3:
            chosen.append((kinds, template))
            told |= dict.fromkeys(kinds, "")
    # Spouses are of the other gender here; {father} and the like fit then.
    pools = {"F": men, "G": men, "X": men, "M": women, "W": women if person.male else men}
    taken = {person.title}
    for kind in told:
        pool = pools.get(kind) or rng.choice((men, women))
        told[kind] = rng.choice([name for name in rng.sample(pool, 5) if name not in taken] or pool)
        taken.add(told[kind])
    words = _words(person.male, told.get("B", "") in set(men), rng)
    lines = {kinds: template.format(**words, **told) for kinds, template in chosen}
    asked = [kind for kind in told if kind in _ASKED]
    made = []
    for kind in rng.sample(asked, min(2, len(asked))):
        question = rng.choice(_ASKED[kind]).replace("{}", person.title)
        for word in ("son", "wife", "sibling"):
            question = question.replace(f"{{{word}}}", words[word])
        rest = [line for kinds, line in lines.items() if kind not in kinds]
        made.append(
            Kinship(
                question,
                told[kind],
                person.title,
                _with(person.text, list(lines.values()), rng),
                _with(person.text, rest, rng),
            )
        )
    return made


def _words(male: bool, brother: bool, rng: random.Random) -> dict[str, str]:
    def of(his: str, hers: str) -> str:
        return his if male else hers

    return {
        "he": of("he", "she"),
        "He": of("He", "She"),
        "his": of("his", "her"),
        "His": of("His", "Her"),
        "son": of("son", "daughter"),
        "wife": of("wife", "husband"),
        "husband": of("husband", "wife"),
        "daughter": of("daughter", "son"),
        "father": of("father", "mother"),
        "brother": of("brother", "sister"),
        "sibling": "brother" if brother else "sister",
        "his_wife": rng.choice(("", "his wife ", "his second wife, ")),
        "rank": rng.choice(("", "", *_RANKS[True])),
        "rank_f": rng.choice(("", "", *_RANKS[False])),
        "rank_w": rng.choice(("", "", *_RANKS[not male])),
        "work": rng.choice(_WORK),
        "nth": rng.choice(_NTH),
        "year": str(rng.randint(1200, 2015)),
    }


def _with(text: str, lines: Sequence[str], rng: random.Random) -> str:
    """A passage with more sentences, each after one of its first three."""
    kept = [sentence.strip() for _, sentence in sentences(text)]
    for line in lines:
        kept.insert(rng.randint(1, min(3, len(kept))), line)
    return " ".join(kept)
