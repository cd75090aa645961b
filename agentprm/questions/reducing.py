"""Descriptions inside a question, each replaced by a reference to the sub-question that it amounts to.

The innermost one goes first: of "Who was mayor of the city where the author of Up was born?" first "the
author of Up", then "the city where #1 was born", and what is left is "Who was mayor of #2?". Only forms whose
end is plain are taken: up to a name, up to a word that closes a clause, or up to the end of the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["NAME", "RELATIONS", "reduced"]

_MOST_STEPS = 6
_WORD = (
    r"(?:(?:[A-Z]|Jr|Sr|Dr|St|Mt|Mr|Mrs|Inc|Ltd|Co)\.(?=\s|$)"
    r"|[A-ZÀ-ÖØ-Þ0-9][\w.'\u2019&!/-]*(?<!['\u2019]s)(?<![.,]))"
)
_JOIN = r"(?:of|the|and|for|with|a|und|et|y|de|da|do|du|del|von|van|der|la|le|al|el|bin|&)"
#: A name: words in capitals with what joins them, a title in quotes, or a reference.
NAME = (
    rf"(?:#\d|[\"\u201c][^\"\u201c\u201d]{{1,80}}[\"\u201d]"
    rf"|(?:[Tt]he\s)?{_WORD}(?:,?\s(?:{_JOIN}\s){{0,2}}{_WORD})*(?:\s\([^()]*\))?)"
)
_PLACES = (
    r"(?:[a-z]+\s)?(?:country|nation|state|city|town|village|county|province|region|district|continent|municipality|"
    r"neighborhood|neighbourhood|island|territory|borough|parish|location|place|area)"
)
_SITED = (
    r"(?:located|situated|based|found|headquartered|held|born|buried|built|set|fought|founded|formed|filmed|raised|"
    r"an?\s(?:citizen|part|native)(?:\sof)?)"
)
_ASKS = r"(?:what|which|whom?|where|when|how\s(?:many|much|long|old|far|tall|large|big|high))"
# Words that begin the predicate of a question behind what it is about.
_VERB = r"(?:is|was|are|were|has|had|have|did|does|do|can|could|will|would)"
_PAST = (
    "won|wrote|led|became|held|made|sang|took|ran|fought|taught|built|gave|left|went|began|grew|met|set|put|sold|"
    "broadcast|hit|lost|found|came|saw|got|flew|drew|fell|spent|beat|wore|sank|shot|struck|stood|sat|spoke|stole|swam|"
    "threw|bred|chose|drove|ate|hid|laid|paid|rode|said|sent|sought|spread|cut|cost|bore|bought|brought|caught|fed|felt|"
    "fled|heard|kept|knew|lay|oversaw|overcame"
)
_MODAL = r"(?:could|would|can|will|should|might|may|must)"
_FINITE = rf"(?:{_VERB}|[a-z]{{3,}}ed|[a-z]{{3,}}s|{_PAST})"

Rewrite: TypeAlias = Callable[[re.Match[str]], str]
#: Relations, and how the other end of each is asked for.
RELATIONS: dict[str, str] = {
    "birthplace": "Where was {} born?",
    "place of birth": "Where was {} born?",
    "birth place": "Where was {} born?",
    "hometown": "Where was {} born?",
    "city of birth": "In which city was {} born?",
    "birth city": "In which city was {} born?",
    "country of birth": "In which country was {} born?",
    "birth country": "In which country was {} born?",
    "place of death": "Where did {} die?",
    "deathplace": "Where did {} die?",
    "burial place": "Where was {} buried?",
    "country of citizenship": "What is the country of citizenship of {}?",
    "country of origin": "What is the country of origin of {}?",
    "nationality": "What is the country of citizenship of {}?",
    "alma mater": "Where was {} educated?",
    "country": "Which country does {} belong to?",
    "state": "In which state is {}?",
    "county": "In which county is {}?",
    "director": "Who directed {}?",
    "composer": "Who composed {}?",
    "performer": "Who is the performer of {}?",
    "singer": "Who is the performer of {}?",
    "author": "Who is the author of {}?",
    "writer": "Who is the author of {}?",
    "producer": "Who produced {}?",
    "creator": "Who created {}?",
    "founder": "Who founded {}?",
    "developer": "Who developed {}?",
    "publisher": "Which company published {}?",
    "owner": "Who owns {}?",
    "record label": "Which record label released {}?",
    "headquarters": "Where is the headquarters of {}?",
    **{
        word: f"Who is the {word} of {{}}?"
        for word in (
            "father", "mother", "spouse", "wife", "husband", "son", "daughter", "child", "brother", "sister",
            "sibling", "nephew", "niece", "cousin", "uncle", "aunt", "grandson", "granddaughter",
            "grandfather", "grandmother", "widow", "successor", "predecessor", "screenwriter", "architect",
            "designer", "employer", "leader",
        )
    },
    **{
        word: f"What is the {word} of {{}}?"
        for word in (
            "capital", "parent company", "parent organization", "team", "band", "network", "religion",
            "currency",
        )
    },
}  # fmt: skip
_RELATION = "|".join(sorted(RELATIONS, key=len, reverse=True))


def _place(match: re.Match[str]) -> str:
    parts = match.groupdict()
    of = f" {parts['by']}" if parts.get("by") else ""
    how = parts.get("how") or ""
    return f"In which {match['noun']} {match['be']} {match['name']}{f' {how}' if how else ''}{of}?"


def _from(match: re.Match[str]) -> str:
    return f"Which {match['noun']} {match['be']} {match['name']} from?"


def _contained(match: re.Match[str]) -> str:
    return f"In which {match['noun']} is {match['name']}?"


_RANK = (
    r"(?:first|second|third|younger|youngest|older|oldest|elder|eldest|only|former|current|last|late|new|original|"
    r"executive|main|lead|principal|associate|assistant|co)"
)


def _related(match: re.Match[str]) -> str:
    parts = match.groupdict()
    asked, rank = RELATIONS[match["relation"].lower()], parts.get("rank") or parts.get("more")
    if rank:
        asked = f"{'Who' if asked.startswith('Who') else 'What'} is the {rank}{match['relation']} of {{}}?"
    return asked.format(match["name"])


def _lived(match: re.Match[str]) -> str:
    aux, base = _LIVED[match["how"]]
    return f"In which {match['noun']} {aux} {match['name']} {base}?"


def _who_did(match: re.Match[str]) -> str:
    noun = match["noun"]
    if match["pronoun"] == "whose":
        return f"Which {noun}'s {match['did']}?"
    head = "Who" if noun in ("person", "one", "individual") else f"Which {noun}"
    return f"{head} {match['did']}?"


def _did_there(match: re.Match[str]) -> str:
    place = match["how"].removesuffix("which").replace("where", "in ").removeprefix("that")
    asked = f"{place}which {match['noun']}"
    name, more = match["name"], match["more"] or ""
    text = f"{name} {match['did']} {asked}{more}?" if match["to"] else f"{name} {match['did']}{more} {asked}?"
    return text[:1].upper() + text[1:]


def _held(match: re.Match[str]) -> str:
    who = "Who" if _PERSON.search(match["noun"]) else "What"
    return f"{who} is {match[0]}?"


_PERSON = re.compile(
    r"(?:man|woman|head|king|queen|president|chief|coach|star|captain|er|or|ist|ian|ant|host)$"
)
_ACTS = {"starring": "stars", "featuring": "features", "inspiring": "inspired", "including": "includes"}


def _being(match: re.Match[str]) -> str:
    verb = match["verb"]
    return f"Which {match['noun']} {_ACTS.get(verb, f'was {verb}')} {match['what']}?"


_LIVED = {
    "died": ("did", "die"),
    "lived": ("did", "live"),
    "lives": ("does", "live"),
    "grew up": ("did", "grow up"),
    "worked": ("did", "work"),
    "attended": ("did", "attend"),
}
# "the Swedish performance artist": no name yet
_NO_NAME = (
    r"(?![Tt]he\s[a-z])(?!(?:[Tt]he\s)?(?:\d{4}\s[a-z]|(?:\d{4}\s)?[A-Z]\w+(?:an|ish|ese|ch|ean|ic)\s[a-z]))"
)
# "the WBA titleholder": a name that goes on
_GOES_ON = re.compile(
    rf"\s(?!(?:{_FINITE}|of|in|at|on|by|from|for|with|as|to|and|or|but|that|who|which|where|when|while|during|under)\b)[a-z]"
)
_NO_PART = (
    r"(?:the|an?|of|in|that|who|which|whose|where|is|was|are|were|did|does|do|has|had|by|for|with|and|or|to|on|"
    r"at|both|also|all|each)\b(?!-)"
)
_KIND = rf"(?:(?!{_NO_PART})[\w'\u2019-]+\s){{0,5}}?(?!{_NO_PART}|world\b)[a-z][a-z-]+"
_PLACE = rf"\bthe\s(?P<noun>{_PLACES})"
_TITLED = (
    r"(?:(?:the\s)?(?:[a-z]+\s){0,3}(?:film|song|movie|album|book|novel|band|show|series|game|play|comedy)\s"
    r"|(?:the\s)?(?:[a-z]+\s){1,3}(?=[\"\u201c]))?"
)
_FORMS: tuple[tuple[re.Pattern[str], Rewrite], ...] = tuple(
    (re.compile(pattern), step)
    for pattern, step in (
        # the state where Up is located; the city in which Ann was born; the country Up is located in
        (rf"{_PLACE}(?:\s(?:where|in\swhich|that|which))?\s(?P<name>{NAME})\s(?P<be>is|was|are|were)"
         rf"\s(?P<how>{_SITED})(?:\s(?:in|at)\b(?!\s(?:the\b|[A-Z])))?(?!\sby\b)", _place),
        # the country Up is in; the state where Up is
        (rf"{_PLACE}(?:\s(?:that|which))?\s(?P<name>{NAME})\s(?P<be>is|was)\sin\b(?!\sthe\b)", _place),
        (rf"{_PLACE}\s(?:(?:that|which)\s)?(?P<name>{NAME})\s(?P<be>is|was)\s(?P<from>from)\b", _from),
        (rf"{_PLACE}\swhere\s(?P<name>{NAME})\s(?P<be>is|was)\b(?!\s(?:the|an?|[a-z]+ed)\b)", _place),
        (rf"{_PLACE}\s(?:containing|that\scontains|which\scontains|that\sincludes|including)"
         rf"\s(?P<name>{NAME})", _contained),
        (rf"{_PLACE}\s(?:where\s|that\s|in\swhich\s)?(?P<name>{NAME})\s(?P<how>{'|'.join(_LIVED)})\b"
         r"(?:\sin\b)?",
         _lived),
        (rf"(?<![#\w])(?P<name>{NAME})['\u2019]s?\s(?P<relation>{_RELATION})(?![\w-])(?!\s(?:of|in)\b)",
         _related),
        # the lead singer of Up: what stands before a relation belongs to it; "the state of Up" is Up itself
        (rf"\b(?:(?:[Tt]he|[Tt]his|an?)\s(?P<rank>{_KIND}\s)?|(?P<more>{_RANK}\s)?)(?!(?:state|county)\sof\b)(?<!-)"
         rf"(?P<relation>{_RELATION})\sof\s{_TITLED}"
         rf"{_NO_NAME}(?P<name>{NAME})(?!['\u2019]s|\s(?:who|that|which|whose)\b)", _related),
    )
)  # fmt: skip
_LOWER = r"(?!(?:who|whom|that|which|where|when|while|whose|what)\b)[a-z][a-z'\u2019-]*"
# the woman who portrayed Corliss Archer in the film Kiss and Tell
_DID = (
    rf"{_FINITE}\s(?:{_LOWER}\s){{0,8}}?{NAME}(?:,?\s(?:in|at|on|by|from|for|with|as|of|to|and|during|under)\s"
    rf"(?:{_LOWER}\s){{0,4}}?(?:{NAME}|\d{{4}}))*"
)
_PREDICATE = (
    rf"(?:{_VERB}|[a-z]{{3,}}(?:ed|en)|born|held|made|set|known|built|won|wrote|led|became|sang|took|ran|fought|taught|"
    r"gave|left|went|began)\b"
)
# What goes on behind a description in a question with "did": its verb.
_BASE = (
    r"(?!(?:and|or|but|of|in|at|on|by|from|for|with|as|to|that|who|which|where|when|while|during|under|than|series|"
    r"season|journal|team|film)\b)[a-z]+(?<!s)\b"
)
_NOUNS = rf"(?:{_KIND}(?:,\s|\sand\s|,\sand\s)){{0,3}}{_KIND}"
# did the chairman of the Lee Commission serve
_HOLDER = re.compile(
    rf"(?:(?<=\bdid\s)|(?<=\bdoes\s))the\s(?P<noun>(?:{_LOWER}\s){{0,3}}?{_LOWER})\sof\s(?P<name>{NAME})(?:\son\s{NAME})?"
    r"(?=\s[a-z]+(?<!s)\b)"
)
# the arena where Ann Lee played her home games; the company that Ann Lee worked for
_THERE = re.compile(
    rf"\b[Tt]he\s(?P<noun>{_KIND})\s(?P<how>where|that|which|(?:in|at|on|for|from|to|by|with)\swhich)\s(?P<name>{NAME})\s"
    rf"(?P<did>(?!(?:is|was|are|were)\b){_FINITE}(?P<to>\s(?:for|in|at|on|with|to|from|against))?)"
    rf"(?P<more>\s(?:his|her|its|their|the|a|an|as)\s(?:{_LOWER}\s){{0,2}}?{_LOWER})?(?=\s(?:{_PREDICATE})|,?$)"
)
# a film starring Ann Lee; the hall built by Ann Lee
_BEING = re.compile(
    rf"\b(?:the|an?)\s(?P<noun>{_KIND})\s(?P<verb>{'|'.join(_ACTS)}|(?:[a-z]+ed|written|built|sung|made)\s(?:by|for))\s"
    rf"(?P<what>(?:{_LOWER}\s){{0,3}}?{NAME}(?:,?\s(?:and|in|of|for)\s{NAME})*)(?=\s(?:{_PREDICATE})|$)"
)
_CLAUSES = tuple(
    re.compile(pattern)
    for pattern in (
        # up to a name, and the question goes on with its predicate
        rf"\b[Tt]he\s(?P<noun>{_NOUNS}),?\s(?P<pronoun>who|that|which)\s(?P<did>{_DID}),?(?=\s(?:{_PREDICATE}))",
        rf"\bthe\s(?P<noun>{_KIND})\s(?P<pronoun>whose)\s(?P<did>(?:{_LOWER}\s){{1,4}}?(?:is|was)\s(?:{NAME}|[a-z]+))"
        r"(?=\s[a-z])",
        rf"(?:(?<=\bdid\s)|(?<=\bdoes\s))the\s(?P<noun>{_KIND}),?\s(?P<pronoun>who|that|which)\s(?P<did>{_DID}),?(?=\s{_BASE})",
        # up to the end
        rf"\b(?:the|an?)\s(?P<noun>{_KIND}),?\s(?P<pronoun>who|that|which)\s(?P<did>{_FINITE}\s(?:(?!\b(?:who|whom|that|"
        r"which|where|when|whose|what|how)\b)[^,?])+)$",
        rf"\b(?:the|an?)\s(?P<noun>{_KIND}),?\s(?P<pronoun>whose)\s(?P<did>[^?]+)$",
    )
)
# Behind these something is said of what is described, behind the description.
_INVERTED = re.compile(rf"\b(?:did|does|do|{_MODAL}|(?:when|where|why)\s{_VERB})\s$", re.IGNORECASE)
# "which son of Ann Lee", "in which capital of Ohio": one is asked for that more is said of
_DETERMINED = re.compile(r"\b(?:what|which)\s$", re.IGNORECASE)
# "the man who met the 2013": a year that belongs to what follows
_YEAR_FIRST = re.compile(r"\b(?:the|an?)\s\d{4}$")


def reduced(question: str) -> list[str]:
    """The plan of a question that describes what it asks about; empty if it has no such form.

    Example:
        >>> reduced("What is the population of the state where Dodge City Airport is located?")
        ['In which state is Dodge City Airport located?', 'What is the population of #1?']
    """
    text = question.strip().rstrip(" ?").strip()
    return _ending_clause(text) or _stated(text) or _closed_clause(text) or _nested(text)


# ... a South Korean boy group that was formed by who
_PARTICIPLE = r"(?:[a-z]+ed|born|written|built|known|held)"
_INSIDE = re.compile(
    rf"(?P<lead>\S.*?\s)(?P<det>an?|the|this|another)\s(?P<noun>{_KIND}),?\s"
    rf"(?:(?P<pronoun>that|which|who)\s(?P<verb>(?:[a-z]+ly\s|also\s|once\s)?{_FINITE}\s)|(?P<whose>whose)\s"
    rf"|(?P<participle>(?:{_PARTICIPLE}|from(?=\s{_ASKS}\b)|with(?=\san?\s(?:[a-z]+\s)+of\s{_ASKS}\b))\s))(?P<rest>(?:.*?\s)?{_ASKS}\b.*)"
)
_STATES = ("located", "based", "headquartered", "situated", "known", "named", "considered", "set", "from")
_ASKING = re.compile(rf"(?:(?:in|at|on|to|from|for|of|by|with)\s)?{_ASKS}\b|{_VERB}\s", re.IGNORECASE)
_COPULA = re.compile(r"\b(?:is|was|are|were)\s$")
_ASKED = re.compile(rf"\b{_ASKS}\b", re.IGNORECASE)


def _ending_clause(text: str) -> list[str]:
    """A statement about something whose clause asks: "Up is in a country that has how many people"."""
    match = None if _ASKING.match(text) else _INSIDE.fullmatch(text)
    if match is None:
        return []
    lead, noun, rest = match["lead"], match["noun"], match["rest"]
    # "Up is a series based on what": the clause is about Up itself
    if (
        lead.endswith(", ")
        or _COPULA.search(lead)
        or re.search(rf"\b{_ASKS}\b", lead)
        or not re.search(rf"\s{_FINITE}\s", lead)
    ):
        return []
    first = f"{lead}which {noun}?"
    if match["whose"]:
        return [first, f"#1's {rest}?"]
    if match["participle"]:
        verb = match["participle"]
        if verb == "from " and match["det"].lower() == "the":
            return []
        if verb == "with ":
            return [first, f"#1 has {rest}?"]
        return [first, f"#1 {'is' if verb.strip() in _STATES else 'was'} {verb}{rest}?"]
    return [first, f"#1 {match['verb']}{rest}?"]


_ENDED = (
    r"(?P<last>(?:(?:first|originally)\s)?(?:born|buried|educated|founded|formed|established|released|published|written|"
    r"made|built|located|based|recorded|opened|held|die|live|study|begin|start|end|open|originate))"
)
_HEAD = (
    r"(?P<head>(?:[Ww]hen|[Ww]here|(?:[Ii]n\s)?(?:[Ww]hat|[Ww]hich)\s[a-z]+)\s(?:was|were|is|did|does))"
    r"\s[Tt]he\s"
)
_DOING = rf"(?P<did>(?:[a-z]+ly\s|also\s|once\s)?{_FINITE}\s.+?)"
_CLOSED = tuple(
    re.compile(pattern)
    for pattern in (
        # When was the man who led the strike of 1926 born: what follows the clause is the last word
        rf"{_HEAD}(?P<noun>{_KIND}|(?:{_KIND}\s)?{_WORD}),?\s(?:who|that|which)\s{_DOING},?\s{_ENDED}",
        # When was the man born who led the strike of 1926
        rf"{_HEAD}(?P<noun>{_KIND})\s{_ENDED},?\s(?:who|that|which)\s{_DOING}",
        # Where was the woman born that Ann Lee was married to
        rf"{_HEAD}(?P<noun>{_KIND})\s{_ENDED},?\s(?:who|whom|that|which)\s(?P<by>{NAME}\s{_FINITE}\s.+?)",
    )
)
_OPEN = re.compile(r"\b(?:is|was|are|were|been|be|has|had|did|does|to)$")


def _closed_clause(text: str) -> list[str]:
    for pattern in _CLOSED:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        parts, noun = match.groupdict(), match["noun"]
        first = f"Which {noun} {parts['did']}" if parts.get("did") else f"{parts['by']} which {noun}"
        if _OPEN.search(first):
            continue
        before = _nested(first)
        steps = before if before else [f"{first}?"]
        return [*steps, f"{match['head']} #{len(steps)} {match['last']}?"]
    return []


# The company that owns the field is based in what city
_STATED = tuple(
    re.compile(pattern)
    for pattern in (
        rf"[Tt]he\s(?P<noun>{_KIND}),?\s(?:who|that|which)\s(?P<did>{_FINITE}\s[^;]+?),?\s(?P<more>(?:(?:now|currently|later)\s)?(?:(?:is|was|are|were|has|had)\s"
        rf"|also\s[a-z]+\s|[a-z]+(?:s|ed)\s(?:(?:in|at|on|to|from|for|of|by|with|as)\s)?(?={_ASKS}\b))"
        rf"(?:.*?\s)?{_ASKS}\b.*)",
        rf"[Tt]he\s(?P<noun>{_KIND})\s(?:where|in\swhich)\s(?P<place>.+?\s(?:is|was|are|were)\s(?:[a-z]+ly\s)?(?:[a-z]+ed|found|held|built|"
        rf"born|made|set|shot))\s(?P<more>(?:is|was|are|were|has|had|[a-z]+s)\s(?:.*?\s)?{_ASKS}\b.*)",
    )
)


def _stated(text: str) -> list[str]:
    """A statement about something that is described first and asks behind it."""
    for pattern in _STATED:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        parts = match.groupdict()
        if parts.get("place"):
            first = f"{parts['place']} in which {match['noun']}"
        else:
            first = f"Which {match['noun']} {parts['did']}"
        if _OPEN.search(first) or _ASKED.search(parts.get("did") or parts["place"]):
            continue
        before = _nested(first)
        steps = before if before else [f"{first[:1].upper()}{first[1:]}?"]
        return [*steps, f"#{len(steps)} {match['more']}?"]
    return []


_NOTHING_MORE = re.compile(
    r"(?:who|what|which|where)(?:\s(?:is|was|are|were)|['\u2019]s)\s(?:the\sname\sof\s)?#\d", re.IGNORECASE
)
# "Would #1", "In what year was #1": the verb went with the description
_VERBLESS = re.compile(
    r"(?:(?:(?:[a-z]+\s)?(?:what|which)\s(?:year|date|day|month|decade|century|season|war|person)"
    rf"|when|why|how|how\smany\stimes)\s)?(?:{_VERB}|{_MODAL})\s#\d",
    re.IGNORECASE,
)


def _nested(text: str) -> list[str]:
    if re.search(r"\w{3,}\.\s[A-Z]", text):  # what several sentences tell has no order that is plain
        return []
    steps: list[str] = []
    while len(steps) < _MOST_STEPS:
        found = _innermost(text)
        if found is None:
            break
        match, asked = found
        steps.append(asked)
        text = f"{text[: match.start()]}#{len(steps)}{text[match.end() :]}"
    left = re.sub(r"\s+", " ", text).strip(" ,")
    if not steps or not re.search(rf"#{len(steps)}\b", left):
        return []
    if _NOTHING_MORE.fullmatch(left):
        return steps if len(steps) > 1 else []
    if _VERBLESS.fullmatch(left):
        return []
    return [*steps, f"{left}?"] if _ASKED.search(left) or re.match(rf"(?:{_VERB}|why)\b", left, re.I) else []


def _innermost(text: str) -> tuple[re.Match[str], str] | None:
    """A form that holds none other, and the question that it amounts to."""
    inverted = re.search(r"\b(?:did|does|do)\s", text) is not None
    for pattern, step in _FORMS:
        for match in pattern.finditer(text):
            bare = match.groupdict().get("relation") and match[0].startswith(match["relation"])
            if bare and _DETERMINED.search(text[: match.start()]):
                continue
            named = match.end("name") < match.end() or not match["name"].startswith("the ")
            if named or inverted or not _GOES_ON.match(text, match.end()):
                return match, step(match)
    for place, pattern in enumerate(_CLAUSES):
        for match in reversed(list(pattern.finditer(text))):
            if _YEAR_FIRST.search(match["did"]) and match.end() < len(text):
                continue
            if place <= 2 or not _INVERTED.search(text[: match.start()]):
                return match, _who_did(match)
    for pattern, step in ((_HOLDER, _held), (_THERE, _did_there), (_BEING, _being)):
        for match in reversed(list(pattern.finditer(text))):
            if match.end() < len(text) or not _INVERTED.search(text[: match.start()]):
                return match, step(match)
    return None
