"""Descriptions inside a question, each replaced by a reference to the sub-question that it amounts to.

The innermost one goes first: of "Who was mayor of the city where the author of Up was born?" first "the
author of Up", then "the city where #1 was born", and what is left is "Who was mayor of #2?". Only forms whose
end is plain are taken: up to a name, up to a word that closes a clause, or up to the end of the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["NAME", "reduced"]

_MOST_STEPS = 6
_WORD = r"(?:[A-ZÀ-ÖØ-Þ0-9][\w.'\u2019&!/-]*(?<!['\u2019]s)(?<![.,])|[A-Z]\.)"
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
_FINITE = rf"(?:{_VERB}|[a-z]{{3,}}ed|[a-z]{{3,}}s|{_PAST})"

Step: TypeAlias = Callable[[re.Match[str]], str]
_RELATIONS: dict[str, str] = {
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
            "sibling", "successor", "predecessor", "screenwriter", "architect", "designer", "employer",
            "leader",
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
_RELATION = "|".join(sorted(_RELATIONS, key=len, reverse=True))


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
    asked, rank = _RELATIONS[match["relation"].lower()], parts.get("rank") or parts.get("more")
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
_KIND = rf"(?:(?!{_NO_PART})[\w'\u2019-]+\s){{0,5}}?(?!{_NO_PART})[a-z][a-z-]+"
_PLACE = rf"\bthe\s(?P<noun>{_PLACES})"
_TITLED = (
    r"(?:(?:the\s)?(?:[a-z]+\s){0,3}(?:film|song|movie|album|book|novel|band|show|series|game|play|comedy)\s"
    r"|(?:the\s)?(?:[a-z]+\s){1,3}(?=[\"\u201c]))?"
)
_FORMS: tuple[tuple[re.Pattern[str], Step], ...] = tuple(
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
        # the lead singer of Up: what stands before a relation belongs to it
        (rf"\b(?:(?:[Tt]he|[Tt]his|an?)\s(?P<rank>{_KIND}\s)?|(?P<more>{_RANK}\s)?)(?P<relation>{_RELATION})\sof\s{_TITLED}"
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
_INVERTED = re.compile(rf"\b(?:did|does|do|(?:when|where|why)\s{_VERB})\s$", re.IGNORECASE)


def reduced(question: str) -> list[str]:
    """The plan of a question that describes what it asks about; empty if it has no such form.

    Example:
        >>> reduced("What is the population of the state where Dodge City Airport is located?")
        ['In which state is Dodge City Airport located?', 'What is the population of #1?']
    """
    text = question.strip().rstrip(" ?").strip()
    return _ending_clause(text) or _nested(text) or _closed_clause(text)


# ... a South Korean boy group that was formed by who
_PARTICIPLE = r"(?:[a-z]+ed|born|written|built|known|held)"
_INSIDE = re.compile(
    rf"(?P<lead>\S.*?\s)(?P<det>an?|the|another)\s(?P<noun>{_KIND}),?\s"
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


# When was the man who led the strike of 1926 born: what follows the clause is the last word
_CLOSED = re.compile(
    rf"(?P<head>(?:[Ww]hen|[Ww]here|[Ii]n\s(?:what|which)\s[a-z]+)\s(?P<aux>was|were|is|did))\s[Tt]he\s"
    rf"(?P<noun>{_KIND}|(?:{_KIND}\s)?{_WORD}),?\s(?:who|that|which)\s(?P<did>(?:[a-z]+ly\s|also\s|once\s)?{_FINITE}\s.+?),?\s"
    r"(?P<last>(?:(?:first|originally)\s)?(?:born|buried|educated|founded|formed|established|released|published|built|"
    r"located|based|recorded|opened|held|die|live|study|begin|start|end|open))"
)
_OPEN = re.compile(r"\b(?:is|was|are|were|been|be|has|had|did|does|to)$")


def _closed_clause(text: str) -> list[str]:
    match = _CLOSED.fullmatch(text)
    if match is None or _OPEN.search(match["did"]):
        return []
    return [f"Which {match['noun']} {match['did']}?", f"{match['head']} #1 {match['last']}?"]


_NOTHING_MORE = re.compile(
    r"(?:who|what|which|where)(?:\s(?:is|was|are|were)|['\u2019]s)\s(?:the\sname\sof\s)?#\d", re.IGNORECASE
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
    return [*steps, f"{left}?"] if _ASKED.search(left) or re.match(rf"(?:{_VERB}|why)\b", left, re.I) else []


def _innermost(text: str) -> tuple[re.Match[str], str] | None:
    """A form that holds none other, and the question that it amounts to."""
    inverted = re.search(r"\b(?:did|does|do)\s", text) is not None
    for pattern, step in _FORMS:
        for match in pattern.finditer(text):
            named = match.end("name") < match.end() or not match["name"].startswith("the ")
            if named or inverted or not _GOES_ON.match(text, match.end()):
                return match, step(match)
    for place, pattern in enumerate(_CLAUSES):
        for match in reversed(list(pattern.finditer(text))):
            if place <= 2 or not _INVERTED.search(text[: match.start()]):
                return match, _who_did(match)
    for pattern, step in ((_HOLDER, _held), (_THERE, _did_there), (_BEING, _being)):
        for match in reversed(list(pattern.finditer(text))):
            if match.end() < len(text) or not _INVERTED.search(text[: match.start()]):
                return match, step(match)
    return None
