"""Facts that sentences state in the usual words: who directed, where born, when founded.

A passage that opens with the name of its subject is read sentence by sentence with a table of patterns. It is
meant to be sure rather than complete: a relation for which a passage names different objects in two
places is left out, and so is what a sentence may say of something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import regex

from agentprm.text import one_line, sentence_ends, words
from agentprm.training.relations import FACT_RELATIONS, SITES, Relation, SubjectKind, spelled_out

__all__ = ["ANAPHOR", "Statement", "Subject", "opens_with", "sentences", "statements_of", "subject_of"]


class Statement(NamedTuple):
    """What a sentence says of a passage's subject.

    Attributes:
        relation: The relation.
        objects: What stands at its other end; several for lists ("by Ann Lee and Bob Fox").
        text: The objects as they are written, together.
        sentence: The sentence.
        start: First character of `text` in the passage.
        end: The character after its last one.
    """

    relation: Relation
    objects: tuple[str, ...]
    text: str
    sentence: str
    start: int
    end: int


class Subject(NamedTuple):
    """What a passage is about.

    Attributes:
        kind: A person, a place, a group of people, a work, or another thing.
        noun: What the passage calls it ("film", "village"); empty for persons and things.
    """

    kind: SubjectKind
    noun: str


_WORK = (
    "film|movie|song|single|album|EP|novel|book|play|poem|series|sitcom|episode|opera|musical|documentary|"
    "game|painting|magazine|newspaper|comedy|drama|thriller|western|mixtape|soundtrack|short story|comic|"
    "manga|anime|ballet|symphony|track|miniseries|memoir|journal"
)
_GROUP = (
    "band|company|organization|organisation|club|team|party|university|college|school|corporation|group|"
    "duo|trio|label|agency|studio|network|institute|association|society|firm|bank|airline|publisher|charity|"
    "manufacturer|brand|union|ensemble|orchestra|choir|institution|academy"
)
_PROFESSIONS = (
    "actor|actress|filmmaker|director|producer|screenwriter|writer|author|novelist|poet|playwright|singer|"
    "rapper|musician|composer|songwriter|footballer|player|politician|lawyer|judge|journalist|scientist|"
    "physicist|chemist|mathematician|engineer|architect|painter|sculptor|artist|photographer|priest|bishop|"
    "nobleman|noblewoman|king|queen|duke|prince|princess|officer|historian|philosopher|businessman|"
    "businesswoman|entrepreneur|model|dancer|conductor|cricketer|boxer|wrestler|swimmer|cyclist|coach|"
    "economist|activist|missionary|soldier|diplomat|editor|comedian|wife|son|daughter"
)
_HEAD = (
    r"^[^.]{{0,200}}?\b(?:is|was|are|were)\s+(?:an?|the|one\s+of\s+the)\s+(?:[\p{{L}}\d,'’\-]+\s+){{0,7}}?"
    r"(?P<noun>{})\b"
)
_NO_HEAD = (
    rf"(?!\s+(?:{_PROFESSIONS}|{_GROUP}|{SITES}|maker|critic|personality|executive|designer|member|owner))"
)
_KINDS: tuple[tuple[SubjectKind, regex.Pattern[str]], ...] = (
    ("person", regex.compile(_HEAD.format(_PROFESSIONS))),
    ("work", regex.compile(_HEAD.format(f"(?:{_WORK})") + _NO_HEAD)),
    ("group", regex.compile(_HEAD.format(f"(?:{_GROUP})") + _NO_HEAD)),
    (
        "place",
        regex.compile(
            _HEAD.format(f"(?:{SITES}|country|state|province|region|capital|road|street)") + _NO_HEAD
        ),
    ),
)
_LIVED = regex.compile(
    spelled_out(
        r"^[^.()]{0,80}\(\s*(?:[^()]{0,80}\b)?(?:born|died|née|b\.|d\.)"
        r"|^[^()]{0,80}\([^()]{0,40}DATE\s*[–—-]\s*(?:[^()]{0,30}\s)?DATE"
    )
)
#: What a later sentence about the subject may begin with.
ANAPHOR = regex.compile(rf"(?:He|She|It|(?:The|This)\s+(?:{_WORK}|{_GROUP}|{SITES}|species))\s+\p{{Ll}}")
_EDGE = regex.compile(r"^[\s\"“”'‘’(]*(?:The\s+)?[\s\"“”'‘’]*", regex.IGNORECASE)
# After one of these a sentence speaks of something else than its subject.
_ELSE = regex.compile(
    r"\b(?:based\s+on|remake|adapt\w*|sequel|prequel|version|inspired|featur\w+|about|cover|characters?|soundtrack|"
    r"score|music|sets|costumes|story|screenplay|lyrics|poster|logo|taken\s+from|from\s+the|named|called|which|whose|"
    r"with|of\s+the\s+same\s+name|starring)\b"
)
# "Gerard, Count of Guelders": what belongs to the name before the comma.
_APPOSED = regex.compile(
    r"(?:Count|Duke|King|Queen|Prince|Princess|Lord|Lady|Earl|Emperor|Baron|Landgrave|Margrave|Elector|"
    r"Bishop|Marquess|Viscount|Inc|Jr|Sr|LLC|Ltd|Duchess|Countess|Grand|Hereditary)\b"
)
# What may follow an object; another word in small letters would belong to it ("Protestant missionaries").
_ENDS = regex.compile(
    r"[^\p{Ll}]|$|and\s+(?!(?:the|his|her|its|their)\b)|(?:or|but|in|at|on|for|with|as|who|which|that|is|was|were|are|from|to|between|of|by|"
    r"before|after|during|while|under|via|through|where|when|has|had|until|since|into|about|against|near|"
    r"also|then|later|together|alone|himself|herself|itself|known|per|\p{Ll}+(?:ed|ing))\b"
)
_ABBREVIATED = regex.compile(r"(?:\b\p{Lu}|\b(?:Jr|Sr|St|Dr|Mr|Mrs|Ms|No|Mt|Vol|vs|Inc|c|b|d|r))\.$")


def subject_of(text: str) -> Subject:
    """What a passage that opens as an article does is about, judged by its first sentence."""
    first = next((sentence for _, sentence in sentences(text)), "")
    found = [
        (match.start("noun"), kind, match["noun"])
        for kind, pattern in _KINDS
        if (match := pattern.search(first))
    ]
    if _LIVED.search(first):
        return Subject("person", "")
    if not found:
        return Subject("thing", "")
    _, kind, noun = min(found)
    return Subject(kind, "" if kind == "person" else noun)


def opens_with(text: str, names: Sequence[str]) -> bool:
    """Whether a passage begins with one of the names of its subject, article and quotes aside."""
    opening = [word.text.casefold() for word in words(_EDGE.sub("", text[:300], count=1))]
    for name in names:
        key = [word.text.casefold() for word in words(_EDGE.sub("", name, count=1))]
        if key and opening[: len(key)] == key:
            return True
        # an article gives the whole name where its title leaves out the middle ones
        if len(key) > 1 and opening[:1] == key[:1] and key[-1] in opening[1:6]:
            return True
    return False


def statements_of(text: str, names: Sequence[str]) -> list[Statement]:
    """Facts that a passage states of its subject.

    Args:
        text: The passage.
        names: Names of its subject. A passage that does not begin with one gives no facts, since nothing
            says whom its sentences are about.
    """
    if not opens_with(text, names):
        return []
    kind = subject_of(text).kind
    table = [relation for relation in FACT_RELATIONS if not relation.subjects or kind in relation.subjects]
    found: dict[str, list[Statement]] = {}
    for place, (start, sentence) in enumerate(sentences(text)):
        if place and not (ANAPHOR.match(sentence) or opens_with(sentence, names)):
            continue
        for relation in table:
            if any(cue in sentence for cue in relation.cues):
                matches = (pattern.search(sentence) for pattern in relation.compiled)
                match = next((m for m in matches if m is not None), None)
                fact = _fact(relation, match, start, sentence) if match is not None else None
                if fact is not None:
                    found.setdefault(relation.name, []).append(fact)
    return [facts[0] for facts in found.values() if len({fact.objects for fact in facts}) == 1]


def _fact(relation: Relation, match: regex.Match[str], start: int, sentence: str) -> Statement | None:
    text = match["o"].rstrip(" ,")
    if relation.own and _ELSE.search(sentence[: match.start("o")]):
        return None
    end = match.start("o") + len(text)
    after = sentence[end:].lstrip()
    # "the Mexican city of …", "Ray's grandfather": the name is only part of what is meant
    if text.endswith(("'s", "’s", "'", "’")) or after[:2] in ("'s", "’s"):
        return None
    if relation.name not in ("nationality", "publication date") and not _ENDS.match(after):
        return None
    parts = [text]
    if any(pattern.endswith("ROLE(?P<o>NAMES)") for pattern in relation.patterns):
        parts = []
        pieces = regex.split(r"(\s*,\s*(?:and\s+)?|\s+and\s+)", text)
        for between, part in zip(["", *pieces[1::2]], pieces[::2], strict=True):
            if parts and _APPOSED.match(part) and "and" not in between:
                parts[-1] += f", {part}"
            else:
                parts.append(part)
    begin = start + match.start("o")
    return Statement(
        relation, tuple(map(one_line, parts)), one_line(text), one_line(sentence), begin, begin + len(text)
    )


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of a text with their places; an initial or an abbreviation ends none."""
    start = 0
    for end in [*sentence_ends(text), len(text)]:
        before = text[start:end]
        if end < len(text) and _ABBREVIATED.search(before[-8:]):
            continue
        if before.strip():
            yield start + len(before) - len(before.lstrip()), before.strip()
        start = end
