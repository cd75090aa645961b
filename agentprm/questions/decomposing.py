"""Plans without a model: sub-questions read off the syntax of a question.

"Where was the director of Up born?" asks for the director of Up, and then for where that person was born;
"Who is older, Ann or Bob?" asks for two dates. Questions of other forms are left as they are. The forms are
those of English.
"""

from __future__ import annotations

import re

from agentprm.questions.checking import checks
from agentprm.questions.comparing import alternatives, has_direction, split_pair, without_heading
from agentprm.questions.reducing import RELATIONS, reduced
from agentprm.text import one_line

__all__ = ["decompose"]

_MOST_STEPS = 8
_LONGEST = 600  # characters of a question that is taken apart

# Relations with a question of their own; others are asked for as "Who is the … of …?".
_RELATIONS: dict[str, str] = {
    **dict.fromkeys(("director", "filmmaker"), "Who directed {}?"),
    **dict.fromkeys(("composer", "music composer"), "Who composed {}?"),
    **dict.fromkeys(("performer", "singer", "artist"), "Who is the performer of {}?"),
    **dict.fromkeys(("author", "writer"), "Who is the author of {}?"),
    **dict.fromkeys(("screenwriter",), "Who wrote the screenplay of {}?"),
    **dict.fromkeys(("founder", "creator of the company"), "Who founded {}?"),
    "creator": "Who created {}?",
    "developer": "Who developed {}?",
    "owner": "Who owns {}?",
    "producer": "Who produced {}?",
    "publisher": "Which company published {}?",
    "record label": "Which record label released {}?",
    **dict.fromkeys(("wife", "husband", "spouse"), "Who is the spouse of {}?"),
    **dict.fromkeys(("child", "son", "daughter"), "Who is a child of {}?"),
    **dict.fromkeys(("sibling", "brother", "sister"), "Who is a sibling of {}?"),
    **dict.fromkeys(("place of birth", "birthplace", "birth place"), "Where was {} born?"),
    **dict.fromkeys(("place of death", "death place"), "Where did {} die?"),
    **dict.fromkeys(("place of burial", "burial place"), "Where was {} buried?"),
    **dict.fromkeys(("date of birth", "birth date", "birthday"), "When was {} born?"),
    **dict.fromkeys(("date of death",), "When did {} die?"),
    **dict.fromkeys(("cause of death",), "What was the cause of death of {}?"),
    **dict.fromkeys(("nationality",), "What is the country of citizenship of {}?"),
    **dict.fromkeys(("alma mater",), "Where was {} educated?"),
    "country": "Which country does {} belong to?",
    "country of citizenship": "What is the country of citizenship of {}?",
    "country of origin": "What is the country of origin of {}?",
    "place of formation": "Where was {} formed?",
    "location": "Where is {} located?",
    **dict.fromkeys(("headquarters", "headquarters location"), "Where is the headquarters of {}?"),
    "employer": "Who is the employer of {}?",
    "award": "Which award did {} receive?",
    "military branch": "In which military branch did {} serve?",
    "notable work": "What is a notable work of {}?",
    "political party": "Which political party is {} a member of?",
    "league": "In which league does {} play?",
    "position": "Which position does {} play?",
}
# Relations of relations: what is asked first, and what of the answer.
_KINSHIP: dict[str, tuple[str, str]] = {
    "paternal grandfather": ("father", "father"),
    "paternal grandmother": ("father", "mother"),
    "maternal grandfather": ("mother", "father"),
    "maternal grandmother": ("mother", "mother"),
    "grandfather": ("father", "father"),
    "grandmother": ("father", "mother"),
    "father-in-law": ("spouse", "father"),
    "mother-in-law": ("spouse", "mother"),
    "stepfather": ("mother", "spouse"),
    "stepmother": ("father", "spouse"),
    "uncle": ("father", "sibling"),
    "aunt": ("mother", "sibling"),
    "sibling-in-law": ("sibling", "spouse"),
    "brother-in-law": ("sibling", "spouse"),
    "sister-in-law": ("sibling", "spouse"),
    "child-in-law": ("child", "spouse"),
    "son-in-law": ("child", "spouse"),
    "daughter-in-law": ("child", "spouse"),
}
_PERSON = re.compile(
    r"(?:father|mother|parent|wife|husband|spouse|king|queen|prince|princess|president|head|head of \w+|chief"
    r"|captain|ceo|chairman|chairwoman|coach|star|governor|architect|child|son|daughter|sibling|brother|sister|pope|bishop"
    r"|\w+(?:er|or|ist|ian|ant))$"
)
_PLAINLY = re.compile(r"[^a-z\s]|(?:de|von|van|al|el|bin|the [A-Z])")
_KIND = re.compile(
    r"^(?:the\s+)?(?:(?:film|movie|song|album|single|book|novel|band|group|company|play|musical|village|city|town|"
    r"river|university|school|tv series|television series|series|video game|game|magazine|person|singer)s?)"
    r"(?:\s+(?:called|named|titled))?\s*[:,]?\s+(?=[^a-z\s])"
)
_WORDS = r"(?:[a-z][a-z-]*\s){0,4}[a-z][a-z-]*"
_RELATION = re.compile(rf"(?:the\s+|an?\s+)?(?P<relation>{_WORDS})")
# What makes one relation of two nouns: "country of citizenship", "head of state".
_HALF = re.compile(
    r"(?:citizenship|origin|birth|death|burial|formation|residence|state|government|staff|office|education|music|"
    r"nationality|manufacture|publication|release|establishment|administration|operations)\b"
)
_ARTICLE = re.compile(r"(?:the|an?)\s")
_OWN = re.compile(rf"(?P<rest>.+?)\s?['\u2019]s?\s+(?P<relation>{_WORDS})")
_WHO = re.compile(
    rf"(?:the\s+)?(?P<kind>{_WORDS})\s+(?:that|who|which)\s+"
    r"(?P<verb>(?:was\s|has\s|is\s)?[a-z]+(?:\s(?:by|to|in|at|for|with))?)\s+(?P<rest>.+)"
)
_WHICH = re.compile(
    rf"(?:the\s+)?(?P<kind>{_WORDS})\s+(?P<place>of|in|on|at|into|to|from|for|by|next to)\s+which\s+"
    r"(?P<rest>.+?)\s+(?P<verb>is\s(?:a\s)?[a-z]{3,}|[a-z]{3,}(?:\s[a-z]+)?)"
)
_BASE = {"took": "take", "flows": "flow", "plays": "play", "belongs": "belong", "served": "serve"}

# What is asked of a person or thing: the form of the question, and of the last sub-question.
_FRAMES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), template)
    for pattern, template in (
        (r"(?:when|on what date|what year|in what year|in which year) (?:was|were|is) (?P<np>.+?) born",
         "When was {} born?"),
        (r"when(?: is|'s)? (?P<np>.+?)\s?['\u2019]s? birthday", "When was {} born?"),
        (r"(?:when|what year|in what year|in which year) did (?P<np>.+?) die", "When did {} die?"),
        (r"where (?:was|were) (?P<np>.+?) born", "Where was {} born?"),
        (r"where did (?P<np>.+?) die", "Where did {} die?"),
        (r"where was (?P<np>.+?) buried", "Where was {} buried?"),
        (r"(?:why|how) did (?P<np>.+?) die", "What was the cause of death of {}?"),
        (r"where was the place of (?P<of>birth|death|burial) of (?P<np>.+)", ""),
        (r"(?:what|which) (?:nationality|citizenship) (?:is|was) (?P<np>.+)",
         "What is the country of citizenship of {}?"),
        (r"(?:which|what) country (?:is |was )?(?P<np>.+?)(?: is| was)? from",
         "What is the country of citizenship of {}?"),
        (r"(?:(?:which|what) award (?:did )?|what is the award (?:that )?)(?P<np>.+?)"
         r" (?:received?|got|won|win|earned|earn)",
         "Which award did {} receive?"),
        (r"where did (?P<np>.+?) (?:study|graduate(?: from)?)", "Where was {} educated?"),
        (r"where does (?P<np>.+?) work(?: at)?", "Who is the employer of {}?"),
        (r"(?:who|what|which) (?:is|was|are|were) (?P<np>.+)", ""),
        (r"what (?P<np>.+)", ""),
    )
)  # fmt: skip
_OUTER = re.compile(
    r"(?P<head>(?:(?:[Ii]n|[Oo]n|[Aa]t|[Tt]o|[Ff]rom|[Nn]ext to|[Ii]nto)\s+)?"
    r"(?:[Ww]hich|[Ww]hat|[Ww]ho|[Ww]hom|[Ww]hen|[Ww]here|[Ww]hose|[Ww]hy|[Hh]ow(?:\s[a-z]+)?)(?:\s[a-z]+){0,4}?"
    r"\s(?:is|was|are|were|did|does|do|has|had|owns|[a-z]+ed))\s+(?P<rest>.+)"
)
# Behind these something is said of what is described.
_UNFINISHED = re.compile(
    r".*\s(?:did|does|do)|(?:when|why|how\smany\stimes|(?:[a-z]+\s)?(?:what|which)\s(?:year|date|day|month|war|season))\s"
    r"(?:is|was|are|were)|where\s(?:was|were)",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?:who|what|which|where) (?:is|was|are|were)", re.IGNORECASE)
# How a question may end behind the description of what it is about.
_TAIL = re.compile(
    r"\s(?:(?:is\s)?(?:located|founded|formed|established|released|published|born|buried|educated|built|"
    r"from|set|used|named|based|die|play|play for|speak|live|work|begin|end|start|win|write|direct|belong to|"
    r"take part|take place|a member of|part of|known for|married to|come from|graduate from|serve|"
    r"study|stand|lie|join|flow|retire|teach|sit|lead|end up))$"
)
_PROPERTIES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), questions)
    for pattern, questions in (
        (r"born in the same country", ("In which country was {} born?",)),
        (r"born (?:in|at) the same (?:place|city|town|village|state|county|province|region)",
         ("Where was {} born?",)),
        (r"died? (?:in|at) the same (?:place|city|town|village|country|state|county|province|region)",
         ("Where did {} die?",)),
        (r"lived? (?:the )?(?:long|short)\w*|longer li\w+", ("When was {} born?", "When did {} die?")),
        (r"died?|dead|death|pass(?:ed)? away", ("When did {} die?",)),
        (r"born|birth|older|oldest|younger|youngest|elder", ("When was {} born?",)),
        (r"released|come out|came out|premiered?|aired|debuted", ("When was {} released?",)),
        (r"founded|established|formed|started|began|created|originated|organized",
         ("When was {} founded?",)),
        (r"published", ("When was {} published?",)),
        (r"built|constructed|opened|completed", ("When was {} built?",)),
        (r"fought", ("When was {} fought?",)),
        (r"population|populous|inhabitants|people", ("What is the population of {}?",)),
        (r"nationality|citizenship", ("What is the country of citizenship of {}?",)),
        (r"located in the same country", ("Which country is {} in?",)),
        (r"from the same country|(?<!some of the )same country\b(?!['\u2019])",
         ("What is the country of citizenship of {}?",)),
        (r"taller|tallest|higher|highest", ("How high is {}?",)),
        (r"longer|longest|shorter|shortest", ("How long is {}?",)),
        (r"larger|largest|bigger|biggest|smaller|smallest", ("What is the area of {}?",)),
    )
)  # fmt: skip
_WORKS = re.compile(r"\b(?:film|movie|song|album|book|novel|magazine|game|show|series|band|group)s?\b", re.I)
_OF_WORKS = "What is the country of origin of {}?"
_RELATED = re.compile(
    r"\b(director|composer|performer|singer|author|writer|founder|producer|screenwriter)s?\b", re.I
)
_OF_KIND = re.compile(
    r"(?:(?:of|between|among)\s)?(?:which|what|who)\s+(?:(?!whose|has|had|have|with)[a-z-]+\s)?"
    r"(?:director|composer|performer|singer|author|writer|founder|producer|screenwriter)s?\b",
    re.IGNORECASE,
)


def decompose(question: str) -> list[str]:
    """The sub-questions of a question, in order; itself alone where its form is none of those known.

    Each may name the answers of earlier ones as `#1`, `#2`, …; comparisons end with one that compares.

    Example:
        >>> decompose("Where was the director of film Up born?")
        ['Who directed Up?', 'Where was #1 born?']
        >>> decompose("Who is older, Ann Lee or Bob Ray?")[-1]
        'Compare #1 and #2: Who is older, Ann Lee or Bob Ray?'
    """
    text = one_line(question)
    if len(text) > _LONGEST:
        return [text]
    plan = _comparison(text) or checks(text) or _chain(text) or reduced(text)
    return plan if plan and len(plan) <= _MOST_STEPS else [text]


def _chain(question: str) -> list[str]:
    """A question about something that is described rather than named."""
    text = question.strip().rstrip("?").strip() if not question.endswith("??") else question[:-1]
    for pattern, last in _FRAMES:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        steps: list[str] = []
        parts = match.groupdict()
        template = _RELATIONS[f"place of {parts['of'].lower()}"] if "of" in parts else last
        referent = _resolve(match["np"], steps)
        if not steps:
            continue
        if template:
            steps.append(template.format(referent))
        return steps if len(steps) > 1 and referent.startswith("#") else []
    match = _OUTER.fullmatch(text)
    if match is None:
        return []
    tails = [found.start() for found in [_TAIL.search(match["rest"])] if found]
    for end in [*tails, None]:
        steps = []
        described, tail = (match["rest"][:end], match["rest"][end:]) if end else (match["rest"], "")
        if not tail and _UNFINISHED.fullmatch(match["head"]):
            break  # its verb stands somewhere behind what is described
        referent = _resolve(described, steps)
        if referent.startswith("#") and not (_BARE.fullmatch(match["head"]) and not tail):
            return [*steps, f"{match['head']} {referent}{tail}?"]
        if len(steps) > 1:  # "Where is the seat of the owner of …?" asks for nothing beyond the seat
            return steps
    return []


def _resolve(phrase: str, steps: list[str]) -> str:
    """What a noun phrase stands for: its name, or the finding of the last of the steps it needs."""
    phrase = phrase.strip()
    bare = _KIND.sub("", phrase, count=1)
    if bare != phrase and _PLAINLY.match(bare):
        return bare.strip(' "“”')
    if match := _WHICH.fullmatch(phrase):
        referent = _resolve(match["rest"], steps)
        verb, place, kind = match["verb"], match["place"], match["kind"]
        if verb.startswith("is "):
            rest = verb.removeprefix("is ")
            asked = f"Which {kind} is {referent} {rest} of?" if place == "of" else ""
            steps.append(asked or f"{place.capitalize()} which {kind} is {referent} {rest}?")
        else:
            first, *others = verb.split()
            base = " ".join([_BASE.get(first, first), *others])
            aux = "does" if first.endswith("s") else "did"
            steps.append(f"{place.capitalize()} which {kind} {aux} {referent} {base}?")
        return f"#{len(steps)}"
    if (match := _WHO.fullmatch(phrase)) and _PLAINLY.match(match["rest"]) and _asks(match["kind"]):
        relation, of, _ = match["kind"].partition(" of ")
        inner = phrase[phrase.find(" of ") + len(" of ") :]
        if of and not _HALF.match(inner):  # "the architect of the museum that …": the museum does
            return _related(relation, inner, steps)
        referent = _resolve(match["rest"], steps)
        head = "Who" if _PERSON.search(match["kind"]) else f"Which {match['kind']}"
        steps.append(f"{head} {match['verb']} {referent}?")
        return f"#{len(steps)}"
    if parts := _relation_of(phrase):
        return _related(*parts, steps)
    if (match := _OWN.fullmatch(phrase)) and _is_owned(match["relation"].lower()):
        own = re.fullmatch(rf"(?P<rest>.+)['\u2019]s?\s+(?P<relation>{_WORDS})", phrase) or match
        return _related(own["relation"], own["rest"], steps)
    return phrase.strip(' "“”')


# Words that no relation has.
_NO_RELATION = {
    "that", "who", "which", "whose", "is", "was", "are", "were", "did", "has", "in", "by", "the", "a", "an",
    "starring", "featuring", "directed", "written",
}  # fmt: skip


def _asks(relation: str) -> bool:
    return not _NO_RELATION & set(relation.split())


_OWNED = {
    "club", "company", "university", "school", "college", "profession", "occupation", "career",
    "career field", "field", "full name", "real name", "birth name", "debut album", "first album",
    "native language", "book",
    "novel", "film", "song", "city", "village",
}  # fmt: skip


def _is_owned(relation: str) -> bool:
    """Whether what somebody has is something to find: no "hunger strike", but a team, and all persons."""
    known = relation in _RELATIONS or relation in _KINSHIP or relation in RELATIONS or relation in _OWNED
    return known or (bool(_PERSON.search(relation)) and _asks(relation))


def _relation_of(phrase: str) -> tuple[str, str] | None:
    """The relation and the rest of "the father of the director of Up"."""
    usual = None
    for match in re.finditer(r"\s(?:of|for)\s", phrase):
        head = _RELATION.fullmatch(phrase[: match.start()])
        if head is None:
            break
        relation, rest = head["relation"].lower(), phrase[match.end() :]
        named = _PLAINLY.match(_KIND.sub("", rest, count=1)) or _ARTICLE.match(rest)
        if _HALF.match(rest):
            continue
        if relation in _RELATIONS or relation in _KINSHIP:
            if named or _relation_of(rest):
                return relation, rest
        elif named and usual is None and _asks(relation):
            usual = relation, rest
    return usual


def _related(relation: str, rest: str, steps: list[str]) -> str:
    referent = _resolve(rest, steps)
    relation = relation.strip().lower()
    if relation == "name" and referent.startswith("#"):
        return referent  # a finding is a name already
    for one in _KINSHIP.get(relation, (relation,)):
        steps.append(_question(one).format(referent))
        referent = f"#{len(steps)}"
    return referent


def _question(relation: str) -> str:
    if relation in _RELATIONS:
        return _RELATIONS[relation]
    return f"{'Who' if _PERSON.search(relation) else 'What'} is the {relation} of {{}}?"


def _comparison(question: str) -> list[str]:
    """Two chains of the same form and their comparison."""
    given = alternatives(question)
    pair = (given.asked, given.options) if given is not None else _both(question)
    if pair is None:
        return []
    asked, options = pair
    asked_of = _in_the_same(asked)
    if not asked_of and (given is None or has_direction(asked)):
        # "Who founded the town, Ann or Bob" asks for no date.
        asked_of = next((questions for pattern, questions in _PROPERTIES if pattern.search(asked)), ())
    if not asked_of:
        asked_of = _counted(asked) or _same(asked)
    if not asked_of:
        return []
    related = _RELATED.search(asked)
    if related is not None and _OF_KIND.match(asked):
        related = None  # "Which composer was born earlier": the options are composers
    if related is None and _WORKS.search(asked) and "citizenship" in asked_of[0]:
        asked_of = (_OF_WORKS,)
    if (
        related is None
        and _WORKS.search(asked)
        and asked_of[0] == "When was {} founded?"
        and re.search(r"\b(?:film|movie|song|album)s?\b", asked, re.IGNORECASE)
    ):
        asked_of = ("When was {} released?",)
    steps: list[str] = []
    referents = [_plain(option) for option in options]
    if related is not None:
        relation = related.group(1).lower()
        steps += [_question(relation).format(name) for name in referents]
        referents = [f"#{place}" for place in range(1, len(steps) + 1)]
    else:
        referents = [_resolve(option, steps) for option in options]
    last = []
    for name in referents:
        for template in asked_of:
            steps.append(template.format(name))
            last.append(f"#{len(steps)}")
    return [*steps, f"Compare {' and '.join(last)}: {without_heading(question)}"]


_DONE = {
    "has": "have", "had": "have", "have": "have", "won": "win", "wins": "win", "written": "write",
    "wrote": "write",
    "made": "make", "sold": "sell", "scored": "score", "released": "release", "published": "publish",
    "directed": "direct", "produced": "produce", "recorded": "record", "received": "receive",
    "played": "play",
    "earned": "earn", "contains": "contain", "holds": "hold", "held": "hold", "employs": "employ",
}  # fmt: skip


def _counted(asked: str) -> tuple[str, ...]:
    """What "which band had more members" asks of each."""
    match = re.search(
        rf"\b(?P<done>{'|'.join(_DONE)})\s(?:the\s)?(?:more|most|fewer|fewest)\s"
        r"(?P<what>(?!well\b|diverse\b|of\b|in\b|for\b)(?:(?:[A-Z]\w+|[a-z]+)\s){0,2}?[a-z]+s(?:\s(?!in\b|of\b|for\b)[a-z]+)?)"
        r"(?:\s(?:in|of|for|at|on|from)\s.*)?$",
        asked.strip(" ,"),
    )
    return (f"How many {match['what']} did {{}} {_DONE[match['done']]}?",) if match else ()


_NO_KIND = {"type", "kind", "sort", "way", "thing", "number", "amount", "level", "fate", "one"}


def _in_the_same(asked: str) -> tuple[str, ...]:
    """What "patented in the same country" asks of each."""
    match = re.search(
        r"\b(?!(?:located|situated|based|born)\b)(?P<done>[a-z]{3,}ed|made|built|held|set|found)\sin\sthe\ssame\s"
        r"(?P<kind>country|city|town|state|county|province|region|year|decade|century)$",
        asked.strip(" ,?"),
    )
    return (f"In which {match['kind']} was {{}} {match['done']}?",) if match else ()


def _same(asked: str) -> tuple[str, ...]:
    """What "located in the same province" asks of each."""
    match = re.search(
        r"(?P<before>(?:[a-z]+(?:\s[a-z]+)?\s)?)(?<!some of )the\ssame\s(?P<kind>[a-z]+)\b(?!['\u2019])",
        asked,
    )
    if match is None:
        return ()
    before, kind = match["before"].strip(), match["kind"]
    if kind in _NO_KIND:
        return ()
    if before.endswith(("native to", "belong to", "belongs to")):
        return (f"Which {kind} {'is {} native' if before.startswith('native') else 'does {} belong'} to?",)
    if before.endswith("in") and kind not in ("year", "decade", "century"):
        return (f"In which {kind} is {{}} located?",)
    if before.endswith(("members of", "member of", "part of")):
        return (f"Which {kind} is {{}} a member of?",)
    return (f"What is the {kind} of {{}}?",)


def _plain(option: str) -> str:
    return _KIND.sub("", option.strip(), count=1).strip(' ,"“”')


_NOUNS = (
    r"(?-i:films?|movies?|songs?|albums?|bands?|groups?|people|persons?|genus(?:es)?|genera|plants?|"
    r"villages?|towns?|cities|rivers?|lakes?|"
    r"islands?|mountains?|universities|colleges|schools?|high schools|airports?|"
    r"buildings?|companies|magazines?|artists?)"
)
_BOTH_FORMS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Are (both) the directors of both films A and B from the same country?
        rf"(?:are|do|did|were|have)\s+(?:both\s+)?(?:the\s+)?(?P<related>\w+s)\s+of\s+(?:both\s+)?(?:the\s+)?(?:{_NOUNS}[:,]?\s+)?"
        r"(?P<pair>.+?)(?P<rest>,?\s+(?:both\s+)?(?-i:from|share|have|having)\s.*)",
        # Do director of film A and director of film B share the same nationality?
        rf"(?:are|is|do|does|did|were|have)\s+(?:both\s+)?(?:the\s+)?(?P<related>\w+)\s+of\s+(?:the\s+)?(?:{_NOUNS}\s+)?"
        rf"(?P<first>.+?)\s+and\s+(?:the\s+)?(?P=related)\s+of\s+(?:the\s+)?(?:{_NOUNS}\s+)?(?P<second>.+?)"
        r"(?P<rest>,?\s+(?:both\s+)?(?-i:from|share|have|having)\s.*)",
        # Do both films A and B have the directors that share the same nationality?
        rf"(?:do|did)\s+(?:both\s+)?(?:the\s+)?(?:{_NOUNS}\s*[:,]?\s+)?(?P<pair>.+?)(?:\s+{_NOUNS})?,?\s+"
        r"(?P<rest>(?:have|has)\s+(?:the\s+)?(?P<related>\w+?s?)\s+(?:that|who|from|with).*)",
        # Do/Are both A and B …
        rf"(?:are|were|is|was|do|did|does|have|has)\s+(?:both\s+)?(?:the\s+)?(?:two\s+)?(?:{_NOUNS}\s*[:,]?\s+)?"
        r"(?:both\s+)?(?P<pair>.+?\sand\s.+?)(?P<rest>,?\s+(?:both\s+)?(?-i:(?:from|of|located|situated|born|originate|"
        r"in|on|at|[a-z]{3,}ed|made|built|held|set|found|die|work|the)\s(?:[\w-]+\s){0,4}?same\b|(?:share[ds]?|ha[ds]|have)\s).*)",
    )
)
_AS = re.compile(
    r"(?:does|do|did|has|have|is|was|are|were)\s+(?P<first>.+?)\s+"
    r"(?P<rest>(?:have|share|from|of|born in)\s+the\s+same\s+\w+|the\s+same\s+"
    r"(?:length|height|width|size|age|nationality|genre|religion|profession|occupation|population|area))\s+"
    r"(?:as|with)\s+(?P<second>.+)",
    re.IGNORECASE,
)


def _both(question: str) -> tuple[str, tuple[str, ...]] | None:
    """What is asked of two things, and the two, of "Are A and B from the same country?" and its like."""
    text = question.strip().rstrip("?").strip()
    if match := _AS.fullmatch(text):
        return match["rest"], (match["first"], match["second"])
    if not re.search(r"\b(?:same|share)\b", text):
        return None
    for pattern in _BOTH_FORMS:
        match = pattern.fullmatch(text)
        if match is None:
            continue
        parts = match.groupdict()
        related = parts.get("related") or ""
        if related and not _RELATED.fullmatch(related):
            continue
        left, right = parts.get("first"), parts.get("second")
        if not (left and right):
            left, right = split_pair(parts["pair"].strip(" ,"), " and ")
        right = re.sub(r"(?<=[^a-z\s])(\S*)(?:\s[a-z]+)+$", r"\1", right)  # "… and Ann Lee members"
        if left and right:
            kind = " ".join(_WORKS.findall(text[: text.index(left)]))
            return f"{kind} {related} {parts['rest']}".strip(), (_plain(left), _plain(right))
    return None
