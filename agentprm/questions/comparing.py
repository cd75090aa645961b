"""Comparisons without a model: which of two, yes or no, from what was found of each.

"Which film came out first, A or B?" is decided by the two dates, "Are A and B from the same country?" by the
two countries. What cannot be told is left to whoever reads: `decide` then gives `None`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from agentprm.questions.countries import countries
from agentprm.questions.quantities import Amount, Period, amount, dates
from agentprm.text import fold, one_line, words

__all__ = [
    "Alternatives",
    "alternatives",
    "decide",
    "has_direction",
    "is_comparison",
    "is_polar",
    "likelier",
    "one_of",
    "shared",
    "without_heading",
]

Side = Literal["low", "high"]

_REFERENCE = re.compile(r"#(\d{1,3})(?!\d)")
_HEADING = re.compile(
    r"\s*compare\s+(?:#\d{1,3}(?:\s*(?:,|and|with|to)\s*)?)+\s*(?:[:.,-]\s*|$)", re.IGNORECASE
)
_POLAR = re.compile(r"\s*(?:is|are|was|were|do|does|did|has|have|had|can|could|would|will)\b", re.IGNORECASE)
_SAME = re.compile(
    r"\b(?:same|share[sd]?|identical|in common|as (?:old|tall|long|large|high|many|much) as)\b", re.IGNORECASE
)
_BOTH = re.compile(r"\bboth\b", re.IGNORECASE)

# Words of a direction: where they lie among times, and where among amounts.
_DIRECTIONS: tuple[tuple[str, Side, Side], ...] = (
    (r"old(?:er|est)|elder|eldest", "low", "high"),
    (r"young(?:er|est)", "high", "low"),
    (r"more recent(?:ly)?|most recent(?:ly)?|new(?:er|est)|lat(?:er|est)|last|after", "high", "high"),
    (r"first|earl(?:ier|iest)|before|sooner|prior", "low", "low"),
    (r"few(?:er|est)|less|least|small(?:er|est)|short(?:er|est)|low(?:er|est)|light(?:er|est)|near(?:er|est)"
     r"|clos(?:er|est)|slow(?:er|est)|worse|cheap(?:er|est)", "high", "low"),
    (r"more|most|larg(?:er|est)|bigg(?:er|est)|great(?:er|est)|high(?:er|est)|tall(?:er|est)|long(?:er|est)"
     r"|heav(?:ier|iest)|farther|further|further|wid(?:er|est)|deep(?:er|est)|fast(?:er|est)", "low", "high"),
)  # fmt: skip
_DIRECTION = re.compile("|".join(rf"(?P<d{i}>\b(?:{d[0]})\b)" for i, d in enumerate(_DIRECTIONS)), re.I)
_SUPERLATIVE = re.compile(r"\b(?:\w+(?:[^r]est|iest)|most|least)\b")
_MOST_WORDS = 16  # of two names
_LONGEST = 1000  # characters; longer texts ask for no comparison
_LIVED = re.compile(r"\b(?:liv|last|reign|serv)(?:ed|e|ing)\b.{0,30}\b(?:long|short)", re.IGNORECASE)
_ENDS = re.compile(r"\b(?:die|dies|died|death|dead|end|ends|ended|closed|dissolved|disbanded)\b", re.I)
_YES = re.compile(r"\W*(?:yes|true)\b", re.IGNORECASE)
_NO = re.compile(r"\W*(?:no|not|false|neither)\b", re.IGNORECASE)


class Alternatives(NamedTuple):
    """What a question asks to choose from.

    Attributes:
        asked: The question without them.
        options: Two or more of them, as the question writes them.
    """

    asked: str
    options: tuple[str, ...]


def without_heading(question: str) -> str:
    """A question without a "Compare #1 and #2:" before it."""
    return _HEADING.sub("", question, count=1).strip()


def has_direction(asked: str) -> bool:
    """Whether words ask for the first, the older, the larger, … of several."""
    return _DIRECTION.search(asked) is not None


def is_polar(question: str) -> bool:
    """Whether a question is answered by yes or no."""
    return _POLAR.match(question) is not None and alternatives(question) is None


def is_comparison(question: str) -> bool:
    """Whether a question asks which of several, or whether two are the same or one is more than the other."""
    if _HEADING.match(question):
        return True
    question = without_heading(question)
    if alternatives(question) is not None:
        return True
    if not _POLAR.match(question):
        return False
    return bool(_SAME.search(question) or _BOTH.search(question) or _ordering(question))


# "A or B, who …?", "Between A and B, who …?", "Which one, A or B, …?", "Which of A and B …?" and
# "Was A or B born first?".
_AHEAD = re.compile(
    r"(?:(?:(?:out\s+)?of|between)\s+(?P<given>.+?\s(?:or|and)\s.+?)|(?P<options>.+?\sor\s.+?))"
    r"\s*[,:;]\s*(?P<asked>(?:which|who|what)\b.+)",
    re.IGNORECASE | re.DOTALL,
)
_AMONG = re.compile(
    r"(?P<asked>(?:which|who|what)\b[^,]*?),\s+(?P<options>[^,]+?\sor\s[^,]+?),?\s+"
    r"(?P<more>(?-i:is|was|are|were|has|had|have|did|does|came|died|lived|opened|started|won)\s[^,]+)",
    re.IGNORECASE | re.DOTALL,
)
_BETWEEN = re.compile(
    r"(?P<asked>(?:which|who|what)\b[^,]*?)\s+(?:(?:out\s+)?of|between|among)\s+"
    r"(?P<options>(?:(?!\b(?:has|have|that|who|whose|with)\b).)+?\sand\s(?:(?!\b(?:has|have)\b).)+?)"
    r"(?P<more>\s+(?:is|was|are|were|has|had|have|did|does|came|died|lived|opened|started)\s.+)?",
    re.IGNORECASE | re.DOTALL,
)
_INSIDE = re.compile(
    r"(?P<verb>is|was|are|were|did|does|do|has|had)\s+(?P<options>.+?\sor\s.+?)\s+"
    r"(?P<more>(?:born|dies?|died|released|founded|established|formed|built|opened|published|created|come|came|"
    r"the\s|a\s|older|younger|bigger|larger|longer|taller|higher|started?|premiered?|have|located|first).*?)\?*",
    re.IGNORECASE | re.DOTALL,
)
# "While both are Austrian, which composer was born first, A or B?"
_LEAD = re.compile(
    r"(?:while|although|though|of the two|out of the two|between the two)\b(?:(?!\bor\b)[^,])*,\s"
    r"(?=(?:which|who|what)\b)",
    re.IGNORECASE,
)
# "located in San Antonio, Texas, A or B": the first comma is the place's
_PLACE = re.compile(
    r"(?P<asked>.+\b(?:in|from|near)\s(?:[A-Z][\w.'\u2019-]*\s?)+,\s[A-Z]\w+(?:\s[A-Z]\w+)?)(?:[,:;]|\s?[-\u2013])\s"
    r"(?P<options>[^,]+\sor\s[^,]+)"
)
# An option is a name, or a reference to a finding.
_NAMED = re.compile(r"(?:the |an? |#)?[^a-zß-öø-ÿ\s]|(?:[a-z]{1,3}[A-Z])|(?:de|von|van|al|el|bin)[ -]")
_CLASS = re.compile(
    r"(?:(?:the|either|both)\s+)?(?:films?|movies?|songs?|albums?|bands?|actors?|actress(?:es)?|magazines?|"
    r"books?|novels?|person|people)\s*[:,]?\s+(?=[\"“'A-Z0-9])"
)


def alternatives(question: str) -> Alternatives | None:
    """What a question asks to choose from; `None` if it does not.

    Example:
        >>> alternatives("Which film came out first, Up or Down?")
        Alternatives(asked='Which film came out first', options=('Up', 'Down'))
    """
    text = one_line(without_heading(question))
    if len(text) > _LONGEST:
        return None
    if _POLAR.match(text):
        match = None if _SAME.search(text) else _INSIDE.fullmatch(text)
        return _options(f"{match['verb']} {match['more']}", match["options"]) if match else None
    text = _LEAD.sub("", text.rstrip(" ?"), count=1)
    if match := _AHEAD.fullmatch(text):
        return _options(match["asked"], match["given"] or match["options"])
    if not re.match(r"(?:in |of |at )?(?:which|who|what|when|where)\b", text, re.IGNORECASE):
        return None
    if match := _AMONG.fullmatch(text):
        return _options(f"{match['asked']} {match['more']}", match["options"])
    # Titles have commas too: the options begin behind the first one that follows a word of comparison.
    direction = _DIRECTION.search(text)
    if direction is None and (match := _PLACE.fullmatch(text)):
        return _options(match["asked"], match["options"])
    comma = re.compile(r"[,:;]\s").search(text, direction.end() if direction else 0)
    if comma is not None:
        start = comma.start()
        if " or " in text[start:] or re.match(r"[,:;]\s+(?:between|(?:out )?of)\s", text[start:], re.I):
            return _options(text[:start], text[start + 1 :])
    if direction and (match := _BETWEEN.fullmatch(text)) and len(match["options"].split()) <= _MOST_WORDS:
        return _options(match["asked"] + (match["more"] or ""), match["options"])
    if direction and comma is None and text[direction.end() :].count(" or ") == 1:
        return _options(text[: direction.end()], text[direction.end() :])
    return None


def _options(asked: str, text: str) -> Alternatives | None:
    text = re.sub(r"^\s*(?:between|(?:out\s+)?of|is it|was it)\s+", "", text.strip(" ?"), flags=re.IGNORECASE)
    text = _CLASS.sub("", text, count=1)
    joint = " or " if " or " in text else " and "
    left, right = split_pair(text, joint)
    # "Athens, Greece or Paris" are two, but of two none is the tallest.
    parts = re.split(r"\s*,\s+(?=[A-Z#])", left) if _SUPERLATIVE.search(asked) else [left]
    options = tuple(part.strip(' ,?"“”') for part in (*parts, right))
    named = all(_NAMED.match(option) for option in options)
    return Alternatives(asked.strip(), options) if named else None


def split_pair(text: str, joint: str) -> tuple[str, str]:
    """A text cut in two at `joint`, at the place that makes the parts most alike where there are several."""
    places = [match.start() for match in re.finditer(re.escape(joint), text)]
    if not places:
        return text.strip(), ""

    def unlike(place: int) -> tuple[bool, int]:
        left, right = text[:place].strip(), text[place + len(joint) :].strip()
        proper = all(part[:1].isupper() or not part[:1].isalpha() for part in (left, right))
        return not proper, abs(len(left) - len(right))

    place = min(places, key=unlike)
    return text[:place].strip(" ,"), text[place + len(joint) :].strip(" ,")


_ORDER = re.compile(
    r"(?:is|are|was|were|did|does|do|has|have|had|could|can|would)\s+(?P<first>.+?)\s+"
    r"(?:(?:\w+\s+){0,3}?)(?P<word>" + "|".join(d[0] for d in _DIRECTIONS) + r")\b"
    r"(?P<more>.*?)(?:\s+than\s+|(?<=before)\s+|(?<=after)\s+|(?<=prior)\s+to\s+)(?P<second>.+?)\s*\?*",
    re.IGNORECASE,
)


def _ordering(question: str) -> tuple[str, str] | None:
    """The two of "Is A older than B?"."""
    text = one_line(question)
    match = _ORDER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    return match["first"], re.sub(r"\s+(?:did|was|is|does|do|were)$", "", match["second"])


def decide(question: str, plan: Sequence[str], findings: Sequence[str]) -> str | None:
    """The answer to a comparison; `None` where the findings do not tell it.

    Args:
        question: What is asked, with "Compare #1 and #2:" before it or not.
        plan: The sub-questions that were asked before, with their references.
        findings: What was found for each.
    """
    steps = list(zip(plan, findings, strict=False))
    text = one_line(without_heading(question))
    given = alternatives(text)
    if given is not None:
        values = _values(given.options, steps)
        return None if values is None else _chosen(given, values)
    if not _POLAR.match(text):
        return None
    ordered = _ordering(text)
    if ordered is not None and not _SAME.search(text):
        values = _values(ordered, steps)
        if values is None:
            return None
        best = _best(text, values)
        return None if best is None else ("yes" if best == 0 else "no")
    last = [values[-1] for values in _ends(steps)]
    if len(last) < 2:
        return None
    checked = _all_of(last)
    if checked is not None and not _SAME.search(text):
        return checked
    if _SAME.search(text) or (_BOTH.search(text) and re.search(r"\bfrom\b", text)):
        same = shared(text, last)
        return None if same is None else ("yes" if same else "no")
    return checked


def likelier(question: str, plan: Sequence[str], findings: Sequence[tuple[str, float]]) -> str | None:
    """Which of the options of a question a yes is likeliest for; `None` where they were not asked so.

    Args:
        question: What is asked.
        plan: The sub-questions, one for each option in their order.
        findings: Yes or no for each, with its probability.
    """
    given = alternatives(question)
    if given is None or len(plan) != len(given.options) or not all(_POLAR.match(asked) for asked in plan):
        return None
    if not all(_YES.match(said) or _NO.match(said) for said, _ in findings):
        return None
    yes = [score if _YES.match(said) else 1 - score for said, score in findings]
    return given.options[yes.index(max(yes))]


def one_of(question: str, answer: str, title: str = "") -> str:
    """The option of a question that an answer is most like; the answer itself where it gives no options.

    Args:
        question: What is asked.
        answer: What was found.
        title: Title of the passage that says so. An answer that is like no option is said of the one that
            it names.
    """
    given = alternatives(question)
    if given is None or not answer.strip() or _REFERENCE.search(question):
        return answer
    for text in (answer, re.sub(r"\s*\([^()]*\)\s*$", "", title)):
        said = set(_name(text))
        shares = [len(said & set(_name(option))) / max(1, len(_name(option))) for option in given.options]
        if max(shares):
            return given.options[shares.index(max(shares))]
    return answer


def _all_of(findings: Sequence[str]) -> str | None:
    """Whether all were answered with yes."""
    if all(_YES.match(finding) for finding in findings):
        return "yes"
    if all(_YES.match(finding) or _NO.match(finding) for finding in findings):
        return "no"
    return None


def shared(question: str, findings: Sequence[str]) -> bool | None:
    """Whether what was found of several is the same, in the sense in which `question` asks for it."""
    if not all(re.search(r"\w", finding) for finding in findings):
        return None
    asked = question.lower()
    if re.search(r"\b(?:country|countries|nation|nationality|nationalities|citizenship)\b", asked):
        nations = [countries(finding) for finding in findings]
        if all(nations):
            return bool(frozenset.intersection(*nations))
    if re.search(r"\b(?:year|decade|century|day|date|time|age|old)\b", asked):
        periods = [dates(finding) for finding in findings]
        if all(periods):
            years = {period[0].year for period in periods}
            if re.search(r"\b(?:day|date)\b", asked):
                return len({period[0] for period in periods}) == 1
            return len(years) == 1
    names = [_name(finding) for finding in findings]
    if all(name == names[0] for name in names):
        return True
    # "Paris" and "Paris, France", "Rome" and "Trastevere, Rome": one says more of the same. Two different
    # names are two things.
    first, *others = sorted(names, key=len)
    return all(first in (other[: len(first)], other[-len(first) :]) for other in others)


def _chosen(given: Alternatives, values: Sequence[Sequence[str]]) -> str | None:
    last = [own[-1] for own in values]
    if _DIRECTION.search(given.asked) is None:
        yes = [bool(_YES.match(finding)) for finding in last]
        told = all(_YES.match(finding) or _NO.match(finding) for finding in last)
        return given.options[yes.index(True)] if told and sum(yes) == 1 else None
    best = _best(given.asked, values)
    return None if best is None else given.options[best]


def _best(asked: str, values: Sequence[Sequence[str]]) -> int | None:
    """Which of the values a question asks for by its words of direction; `None` where it cannot be told."""
    match = _DIRECTION.search(asked)
    if match is None:
        return None
    _, in_time, among_amounts = _DIRECTIONS[int(str(match.lastgroup)[1:])]
    if _LIVED.search(asked):
        spans = [_lifetime(own) for own in values]
        if all(span is not None for span in spans):
            return _extreme([Period(s, s) for s in spans if s is not None], among_amounts)
    last = [own[-1] for own in values]
    times = [_time(asked, finding) for finding in last]
    known = [period for period in times if period is not None]
    if len(known) == len(times):
        return _extreme(known, in_time)
    amounts = [amount(finding) for finding in last]
    counted = [a for a in amounts if isinstance(a, Amount)]
    if len(counted) < len(amounts) or len({a.dimension for a in counted}) > 1:
        return None
    return _extreme(counted, among_amounts)


def _time(asked: str, finding: str) -> Period | None:
    found = dates(finding)
    if not found:
        return None
    # "(1890 - 1960)" of one who died; the first date of several is that of the beginning.
    return found[-1] if _ENDS.search(asked) and len(found) == 2 else found[0]


def _lifetime(findings: Sequence[str]) -> int | None:
    found = [period for finding in findings for period in dates(finding)]
    return abs(found[-1].first - found[0].first) if len(found) >= 2 else None


def _extreme(values: Sequence[Period] | Sequence[Amount], side: Side) -> int | None:
    """Place of the one that lies before, or behind, all others; `None` if none surely does."""
    if len(values) < 2:
        return None
    bounds = [(v.first, v.last) if isinstance(v, Period) else (v.value, v.value) for v in values]
    if side == "high":
        bounds = [(-last, -first) for first, last in bounds]
    best = min(range(len(bounds)), key=lambda i: bounds[i])
    others = [bound for i, bound in enumerate(bounds) if i != best]
    return best if all(bounds[best][1] < first for first, _ in others) else None


def _name(text: str) -> tuple[str, ...]:
    return tuple(w for word in words(fold(text)) if (w := word.text.casefold()) not in ("the", "a", "an"))


def _holds(text: str, name: tuple[str, ...]) -> bool:
    own = _name(text)
    return bool(name) and any(own[i : i + len(name)] == name for i in range(len(own) - len(name) + 1))


def _before(steps: Sequence[tuple[str, str]], place: int) -> set[int]:
    """The steps whose findings a step names, by reference or, filled in, word for word."""
    question = steps[place][0]
    named = {int(number) - 1 for number in _REFERENCE.findall(question)}
    told = {
        earlier
        for earlier in range(place)
        if len(steps[earlier][1]) > 3 and _holds(question, _name(steps[earlier][1]))
    }
    return {earlier for earlier in named | told if 0 <= earlier < place}


def _chain(steps: Sequence[tuple[str, str]], place: int) -> list[int]:
    """A step and all that it rests on, in order."""
    chain = {place}
    for earlier in range(place, -1, -1):
        if earlier in chain:
            chain |= _before(steps, earlier)
    return sorted(chain)


def _ends(steps: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The findings of each chain of steps, by the step that ends it; comparisons are no steps of one."""
    own = [(q, a) for q, a in steps if not _HEADING.match(q)]
    used = {earlier for place in range(len(own)) for earlier in _before(own, place)}
    return [
        [own[i][1] for i in _chain(own, place)]
        for place in range(len(own))
        if place not in used and own[place][1].strip()
    ]


def _values(options: Sequence[str], steps: Sequence[tuple[str, str]]) -> list[list[str]] | None:
    """What was found of each option, the last finding last; `None` if some option has none.

    A step belongs to the option that it names, or that a step names whose finding it names.
    """
    references = [_REFERENCE.fullmatch(option.strip()) for option in options]
    if all(references):
        places = [int(reference[1]) - 1 for reference in references if reference]
        if all(place < len(steps) and steps[place][1].strip() for place in places):
            return [[steps[place][1]] for place in places]
        return None
    own = [(q, a) for q, a in steps if not _HEADING.match(q)]
    names = [_name(re.sub(r"\s*\([^()]*\)\s*$", "", option)) for option in options]
    found: list[list[str]] = [[] for _ in options]
    for place in range(len(own)):
        chain = _chain(own, place)
        belongs = [i for i, name in enumerate(names) if any(_holds(own[j][0], name) for j in chain)]
        if len(belongs) == 1 and own[place][1].strip():
            found[belongs[0]].append(own[place][1])
    missing = [i for i, values in enumerate(found) if not values]
    if missing:
        # A title in another language, say: what no option claims is that of the only one without.
        claimed = {values[-1] for values in found if values}
        free = [values for values in _ends(own) if values[-1] not in claimed]
        if len(missing) == 1 == len(free):
            found[missing[0]] = free[0]
        elif len(missing) == len(options) == len(free):
            found = free
        else:
            return None
    return found
