"""The table of relations: how texts state them, and how to ask for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import regex

__all__ = ["FACT_RELATIONS", "PEOPLE", "SITES", "Relation", "SubjectKind", "spelled_out"]

SubjectKind = Literal["person", "place", "group", "work", "thing"]


@dataclass(frozen=True)
class Relation:
    """A relation, how texts state it, and how to ask for it.

    Attributes:
        name: Its name in evidence triples.
        cues: Words, one of which a sentence must have to be read for it.
        patterns: Expressions with a group `o`, the object.
        questions: Ways to ask for the object; `{}` is the subject.
        subjects: Kinds of subject that it is asked of; empty for all.
        leads_to: Kinds of object that a second question may be asked of.
        hints: Beginnings of words, one of which the object's own passage must have, so that a namesake
            is not taken for it.
        phrase: Words that stand for the object in another question; by default "the NAME of {}" where a
            second question may be asked, and else none.
        own: Whether what stands before the match may turn the sentence to something else ("based on the
            novel by").
    """

    name: str
    cues: tuple[str, ...]
    patterns: tuple[str, ...]
    questions: tuple[str, ...]
    subjects: tuple[SubjectKind, ...] = ()
    leads_to: tuple[SubjectKind, ...] = ()
    hints: tuple[str, ...] = ()
    phrase: str = ""
    own: bool = False
    compiled: tuple[regex.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.leads_to and not self.phrase:
            object.__setattr__(self, "phrase", f"the {self.name} of {{}}")
        object.__setattr__(self, "compiled", tuple(regex.compile(spelled_out(p)) for p in self.patterns))


_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
#: Word for a nation's people.
PEOPLE = r"\p{Lu}\p{Ll}+(?:an|ish|ese|ch|ek|ss|sh|i)"  # American, Danish, Greek, Thai
_PARTS = {
    # 12 May 1900; May 12, 1900; May 1900; 1900
    "DATE": rf"(?:(?:\d{{1,2}}\s+(?:{_MONTH})\s+\d{{3,4}}|(?:{_MONTH})\s+\d{{1,2}}\s*,\s*\d{{3,4}}"
    rf"|(?:{_MONTH})\s+\d{{4}}|[12]\d{{3}})(?!\d)(?!s\b))",
    "WORD": r"(?:\p{Lu}\.(?:\s?-?\p{Lu}\.)*|(?:Jr|Sr|St|Dr|Mt)\.|\p{Lu}[\p{L}\p{M}\d'’\-]*+)",
    "JOIN": r"(?:of|the|de|da|do|du|del|della|der|di|la|le|van|von|ibn|bin|al|el|y|e|zu|upon|&)",
    "SMALL": r"(?:\p{Ll}[\p{L}\-]*+)",
    "MONTHS": rf"(?:(?:{_MONTH})\b)",
    "PEOPLE": rf"(?:{PEOPLE}(?:-\s?{PEOPLE})?)",
}
_PARTS["NAME"] = r"(?:WORD(?:\s*(?:\s(?:JOIN\s+){1,2}|&\s*|\s)WORD)*)"
_PARTS["PLACE"] = r"(?:(?!MONTHS)NAME(?:\s*,\s*(?!MONTHS)NAME)*)"
# "American film director", "the novelist", "his brother": what may stand before a name
_PARTS["ROLE"] = (
    r"(?:(?:the\s+)?(?:PEOPLE\s+)?(?:(?!(?:and|in|at|on|of|to|by|with|for|from|name|who)\b)SMALL\s+){1,4})?"
)
_PARTS["NAMES"] = r"(?:NAME(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)NAME)*)"
# "written and directed by", "directed, produced and edited by"
_PARTS["ALSO"] = r"(?:(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)\p{Ll}[\p{Ll}\-]+){0,3})"
# A person with the title that follows the name: "Henry Lee, 5th Earl of Foo".
_PARTS["PERSON"] = (
    r"(?:NAME(?:\s*,\s+(?:the\s+)?(?:\d+(?:st|nd|rd|th)\s+)?(?:Count|Duke|King|Queen|Prince|Princess|Lord|Lady|Earl|Emperor|"
    r"Baron|Landgrave|Margrave|Elector|Marquess|Viscount|Duchess|Countess)(?:ess)?\s+of\s+(?:the\s+)?NAME)?)"
)
# Written out in this order, since one holds another.
_ORDER = (
    "ROLE", "PERSON", "NAMES", "PLACE", "NAME", "SMALL", "WORD", "JOIN", "ALSO", "DATE", "MONTHS", "PEOPLE",
)  # fmt: skip


def spelled_out(pattern: str) -> str:
    """A pattern with `NAME`, `PLACE`, `DATE`, … written out."""
    for name in _ORDER:
        pattern = regex.sub(rf"\b{name}\b", lambda match: _PARTS[match.group()], pattern)
    return pattern


def _by(verbs: str) -> str:
    return rf"\b(?:{verbs})ALSO(?:\s+(?:in|on)\s+DATE)?\s+by\s+ROLE(?P<o>NAMES)"


def _maker(
    name: str,
    verbs: str,
    questions: tuple[str, ...],
    subjects: tuple[SubjectKind, ...],
    leads_to: tuple[SubjectKind, ...],
    hints: tuple[str, ...] = (),
) -> Relation:
    """Who did something ("directed by …"); the first of the verbs is the cue."""
    cue, pattern = verbs.partition("|")[0], _by(verbs)
    return Relation(name, (cue,), (pattern,), questions, subjects, leads_to, hints, own=True)


# "the second son of Ray Lee, 5th Earl of Foo (1400-1450), and his wife": parents come in this order.
_CHILD = r"(?<!grand )(?<!grand-)\b(?:son|daughter|child)\s+of\s+(?:the\s+)?ROLE"
_AND = (
    r"(?:\s*\([^()]*\))?\s*,?\s+(?:and|by)\s+(?:(?:his|the)\s+(?:SMALL\s+){0,2}?(?:wife|consort|spouse|concubine)"
    r"\s*,?\s+)?"
)

_SCREEN = ("direct", "film", "act", "screenwriter", "produc", "television")
_PEN = ("writ", "author", "novel", "poet", "play", "journalis", "screenwriter", "direct", "lyric", "song")
_MUSIC = ("sing", "band", "rap", "music", "group", "duo", "song", "dj", "artist", "compos", "produc", "trio")
_PRINT = r"novel|book|play|poem|short story|memoir|novella|comic|manga|biography|autobiography"
SITES = (
    "village|town|city|municipality|commune|parish|hamlet|suburb|settlement|district|county|borough|township|"
    "river|lake|mountain|hill|peak|island|bay|valley|glacier|school|college|university|museum|church|"
    "cathedral|monastery|temple|mosque|building|skyscraper|castle|palace|hotel|airport|hospital|stadium|"
    "arena|theatre|theater|bridge|station|park|prison|dam|library|company|restaurant|community|"
    "neighborhood|neighbourhood|cemetery"
)

FACT_RELATIONS: tuple[Relation, ...] = (
    _maker(
        "director",
        "directed|co-directed",
        ("Who directed {}?", "Who is the director of {}?", "Who was {} directed by?"),
        ("work",),
        ("person",),
        _SCREEN,
    ),
    Relation(
        "author",
        ("written", "authored", " by "),
        (_by("written|authored|co-written"), rf"^[^,]{{0,150}}\b(?:{_PRINT})\s+by\s+ROLE(?P<o>NAMES)"),
        ("Who wrote {}?", "Who is the author of {}?"),
        ("work",),
        ("person",),
        _PEN,
        own=True,
    ),
    _maker(
        "producer",
        "produced|co-produced",
        ("Who produced {}?", "Who is the producer of {}?"),
        ("work",),
        ("person", "group"),
        (*_SCREEN, *_MUSIC, "compan"),
    ),
    Relation(
        "composer",
        ("music", "score"),
        (
            r"\b(?:music|score)\s+(?:(?:is|was)\s+(?:composed\s+)?|composed\s+)by\s+ROLE(?P<o>NAMES)",
            r"\b(?:with|and|has|had|features?|featured)\s+(?:(?:a|an|the|its|original|musical)\s+){0,3}(?:music|score)\s+by\s+"
            r"ROLE(?P<o>NAMES)",
        ),
        ("Who composed the music of {}?", "Who is the composer of {}?"),
        ("work",),
        ("person",),
        _MUSIC,
    ),
    Relation(
        "performer",
        (" by ",),
        (
            r"\b(?:song|single|album|EP|mixtape|track)\s+(?:(?:recorded|performed|released|sung)\s+)?by\s+"
            r"(?:the\s+)?ROLE(?:the\s+)?(?P<o>NAMES)",
            r"\b(?:recorded|performed|sung)\s+by\s+(?:the\s+)?ROLE(?:the\s+)?(?P<o>NAMES)",
        ),
        ("Who performed {}?", "Who recorded {}?", "Who is the performer of {}?"),
        ("work",),
        ("person", "group"),
        _MUSIC,
        own=True,
    ),
    Relation(
        "founder",
        ("founded", "established"),
        (_by("founded|co-founded|established"),),
        ("Who founded {}?", "Who was the founder of {}?"),
        ("group", "place", "thing"),
        ("person", "group"),
        own=True,
    ),
    _maker("designer", "designed", ("Who designed {}?",), ("place", "thing", "group"), ("person", "group")),
    _maker("creator", "created", ("Who created {}?",), ("work", "thing", "group"), ("person", "group")),
    _maker("developer", "developed", ("Who developed {}?",), ("work", "thing"), ("group", "person")),
    _maker(
        "publisher",
        "published",
        ("Who published {}?", "Who is the publisher of {}?"),
        ("work", "thing"),
        ("group",),
    ),
    Relation(
        "owner",
        ("owned",),
        (r"\b(?:is|was)\s+(?:SMALL\s+)?owned(?:\s+and\s+operated)?\s+by\s+(?:the\s+)?ROLE(?P<o>NAMES)",),
        ("Who owns {}?", "Who is the owner of {}?"),
        ("group", "place", "thing", "work"),
        ("group", "person"),
        own=True,
    ),
    Relation(
        "cast member",
        ("starring", "stars"),
        (r"\b(?:starring|stars)\s+ROLE(?P<o>NAMES)",),
        ("Who starred in {}?", "Which actor appeared in {}?"),
        subjects=("work",),
    ),
    Relation(
        "place of birth",
        ("born", " in "),
        (
            r"\b[Bb]orn\s+(?:(?:on\s+)?DATE\s*,?\s+)?(?:in|at)\s+(?:the\s+)?(?P<o>PLACE)",
            r"^[^()]{0,80}\((?:\s*born\s+)?\s*DATE\s+in\s+(?P<o>PLACE)",
        ),
        ("Where was {} born?", "What is the place of birth of {}?"),
        ("person",),
        ("place",),
    ),
    Relation(
        "place of death",
        ("died",),
        (r"\bdied\s+(?:(?:on\s+)?DATE\s*,?\s+)?(?:in|at)\s+(?:the\s+)?(?P<o>PLACE)",),
        ("Where did {} die?", "What is the place of death of {}?"),
        ("person",),
        ("place",),
    ),
    Relation(
        "date of birth",
        ("(", "born"),
        (
            r"^[^()]{0,80}\(\s*(?:[^();]{0,60};\s*)?(?:born\s+(?:on\s+)?)?(?P<o>DATE)\s*(?:[–—-]|\)|in\b|,)",
            r"^[^()]{0,80}\(\s*(?:[^()]{0,80}[;,]\s*)?born\s+(?:[\p{L}\s.'’-]{1,40},?\s+)?(?:on\s+)?(?P<o>DATE)",
            r"\bwas\s+born\s+(?:in\s+PLACE\s*,?\s+)?(?:on|in)\s+(?P<o>DATE)",
        ),
        ("When was {} born?", "What is the date of birth of {}?"),
        subjects=("person",),
    ),
    Relation(
        "date of death",
        ("(", "died"),
        (
            r"^[^()]{0,80}\((?:(?!reign|ruled|active|office|fl\.|r\.)[^()]){0,80}[–—-]\s*(?:died\s+(?:on\s+)?)?(?P<o>DATE)\s*\)",
            r"^[^()]{0,80}\(\s*(?:[^()]{0,60}[;,]\s*)?died\s+(?:on\s+)?(?P<o>DATE)",
            r"\bdied\s+(?:in\s+PLACE\s*,?\s+)?(?:on|in)\s+(?P<o>DATE)",
        ),
        ("When did {} die?", "What is the date of death of {}?"),
        subjects=("person",),
    ),
    Relation(
        "nationality",
        (" is a", " was a"),
        (
            r"^[^.]{0,150}?\b(?:is|was)\s+an?\s+(?:(?:former|retired|late)\s+)?"
            r"(?!(?:Anglican|Catholic|Jewish|Christian|Lutheran|Roman|European|Republican|Christian)\b)"
            r"(?P<o>PEOPLE)\s+(?:former\s+)?\p{Ll}",
        ),
        ("What is the nationality of {}?",),
        subjects=("person",),
    ),
    Relation(
        "father",
        ("son of", "daughter of", "child of", "children of"),
        (rf"{_CHILD}(?P<o>PERSON){_AND}ROLE(?!PEOPLE\b)NAME",),
        ("Who is the father of {}?", "Who was {}'s father?"),
        ("person",),
        ("person",),
    ),
    Relation(
        "mother",
        ("son of", "daughter of", "child of", "children of"),
        (rf"{_CHILD}(?:PERSON){_AND}ROLE(?P<o>PERSON)",),
        ("Who is the mother of {}?", "Who was {}'s mother?", "Who gave birth to {}?"),
        ("person",),
        ("person",),
    ),
    Relation(
        "parent",
        ("son of", "daughter of"),
        (
            r"^(?:(?!wife|husband|married|father|mother|brother|sister)[^.]){0,160}?(?:\b(?:is|was|as)\s+(?:the|an?)\s+"
            r"(?:SMALL\s+){0,3}?|,\s*(?:the\s+)?(?:SMALL\s+)?)(?:son|daughter)\s+of\s+(?:the\s+)?ROLE(?P<o>NAMES)",
        ),
        ("Who is a parent of {}?", "Whose child is {}?"),
        subjects=("person",),
    ),
    Relation(
        "spouse",
        ("married", "marriage", "wife of", "husband of", "widow of", "consort of"),
        (
            r"\b(?:(?:[Hh]e|[Ss]he|is|was|and)\s+(?:SMALL\s+)?married(?:\s+to)?|marriage\s+to|"
            r"(?:is|was|as)\s+the\s+(?:SMALL\s+){0,2}(?:wife|husband|widow|consort)\s+of)\s+(?:the\s+)?ROLE(?P<o>NAME)",
        ),
        ("Who was {} married to?", "Who is the spouse of {}?"),
        ("person",),
        ("person",),
    ),
    Relation(
        "educated at",
        ("educated at", "graduated from", "studied at", "attended"),
        (r"\b(?:educated\s+at|graduated\s+from|studied\s+at|attended)\s+(?:the\s+)?(?P<o>NAME)",),
        ("Where was {} educated?", "Where did {} study?"),
        ("person",),
        ("group", "place"),
        ("school", "universit", "college", "institut", "academy"),
        phrase="the place where {} was educated",
    ),
    Relation(
        "location",
        (" in ",),
        (
            rf"^[^.]{{0,120}}?\b(?:is|was|are)\s+(?:an?|the|one of)\s+(?:[\p{{L}}\-]+\s+){{0,6}}?"
            rf"(?:{SITES})\s+(?:(?:located|situated)\s+)?in\s+(?:the\s+)?(?P<o>PLACE)",
            r"\b(?:is|was)\s+(?:located|situated)\s+in\s+(?:the\s+)?(?P<o>PLACE)",
        ),
        ("Where is {}?", "Where is {} located?"),
        ("place", "group"),
        ("place",),
        phrase="the place where {} is located",
    ),
    Relation(
        "headquarters",
        ("based in", "headquartered in"),
        (r"\b(?:based|headquartered)\s+in\s+(?:the\s+)?(?P<o>PLACE)",),
        ("Where is {} based?",),
        ("group",),
        ("place",),
        phrase="the place where {} is based",
    ),
    Relation(
        "capital of",
        ("capital",),
        (
            r"^[^,.]{0,80}\b(?:is|was)\s+the\s+(?:(?:national|state|provincial|administrative|former)\s+)?"
            r"capital(?:\s+city|\s+and\s+largest\s+city)?\s+of\s+(?:the\s+)?(?P<o>NAME)",
        ),
        ("What is {} the capital of?",),
        subjects=("place",),
    ),
    Relation(
        "publication date",
        (" is a", " was a", "released", "published", "issued"),
        (
            r"^[^.]{0,150}?\b(?:is|was)\s+an?\s+(?P<o>[12]\d{3})\s+\p{L}",
            r"^(?:(?!\b(?:single|album|DVD|video|trailer|version|soundtrack)\b)[^.]){0,80}"
            r"\b(?:was|were)\s+(?:first\s+)?(?:released|published|issued)\s+(?:on|in)\s+(?P<o>DATE)",
        ),
        ("When was {} released?", "When did {} come out?"),
        subjects=("work",),
    ),
    Relation(
        "inception",
        ("founded", "established", "formed", "incorporated"),
        (
            r"\b(?:founded|established|formed|incorporated)ALSO\s+(?:on|in)\s+(?P<o>DATE)",
            r"\b(?:founded|established|formed|incorporated)\s+by\s+NAMES\s+(?:on|in)\s+(?P<o>DATE)",
        ),
        ("When was {} founded?", "When was {} established?"),
        subjects=("group", "place"),
        own=True,
    ),
    Relation(
        "population",
        ("population",),
        (r"\bpopulation\s+(?:of|was|is)\s+(?:about\s+|approximately\s+)?(?P<o>\d[\d,.]*\d)",),
        ("What is the population of {}?", "How many people live in {}?"),
        subjects=("place",),
    ),
    Relation(
        "named after",
        ("named",),
        (
            r"^[^,.(]{0,60}\b(?:is|was|are)\s+named\s+(?:after|in\s+honou?r\s+of)\s+(?:the\s+)?ROLE(?P<o>NAME)",
        ),
        ("Who or what is {} named after?",),
        leads_to=("person", "place"),
        phrase="the namesake of {}",
    ),
    Relation(
        "tributary of",
        ("tributary",),
        (r"^[^.]{0,60}\b(?:is|was)\s+an?\s+(?:[\p{Ll}-]+\s+){0,2}tributary\s+of\s+(?:the\s+)?(?P<o>NAME)",),
        ("What is {} a tributary of?",),
        ("place",),
        ("place",),
        phrase="the river that {} flows into",
    ),
    Relation(
        "family",
        ("family",),
        (r"^[^.]{0,200}\bin\s+the\s+(?:sub)?family\s+(?P<o>\p{Lu}\p{Ll}+)",),
        ("Which family does {} belong to?",),
        subjects=("thing",),
    ),
    Relation(
        "record label",
        ("Records", "Recordings"),
        (
            r"\breleased\b[^.]{0,80}?\b(?:by|on|through|with|via)\s+(?P<o>(?:WORD\s+){1,3}?(?:Records|Recordings))\b",
        ),
        ("Which label released {}?",),
        ("work",),
        ("group",),
        ("label",),
        phrase="the label that released {}",
    ),
)
