"""Questions that ask the same of several things: each is asked for itself, and the answers are compared.

"Are Ann and Bob both musicians?" asks "Is Ann a musician?" and "Is Bob a musician?"; "Which writer was from
England, Ann or Bob?" asks "Was Ann from England?" and "Was Bob from England?".
"""

from __future__ import annotations

import re

from agentprm.questions.comparing import alternatives, split_pair
from agentprm.questions.countries import countries
from agentprm.questions.reducing import NAME
from agentprm.text import fold, sentence_ends, terms

__all__ = ["checks", "states"]

_SINGULAR = {"are": "Is", "were": "Was", "do": "Does", "did": "Did", "have": "Has", "is": "Is", "was": "Was"}
_BE = ("are", "were", "is", "was")
_CLASS = r"(?:(?:the\s)?(?:two\s)?(?!(?:from|in|of)\b)(?:[a-z]+\s)?[a-z]+s,?\s)?"
_PAIR = rf"(?-i:{_CLASS})(?P<first>(?-i:{NAME})),?\sand\s(?P<second>(?-i:{NAME})),?\s(?P<rest>(?-i:[a-z]).+)"
_FORMS = tuple(
    re.compile(rf"(?P<aux>are|were|do|did|have|is|was)\s{form}", re.IGNORECASE)
    for form in (
        rf"both\s{_PAIR}",
        rf"(?-i:{_CLASS})(?P<pair>.+?\sand\s.+?),?\sboth\s(?P<rest>.+)",
        _PAIR,
    )
)
# What makes things compared with each other, not each with something else.
_MUTUAL = re.compile(
    r"\b(?:same|different|similar|share[sd]?|each other|related|common|together|identical|between|than|as)\b",
    re.IGNORECASE,
)
_AS_IT_IS = re.compile(
    r"(?:an?|the|from|in|on|of|at|by|native)\b"
    r"|(?:[a-z]+(?:ed|en)|born|made|known|built)(?:\s(?:in|by|for|as|on|at|to|of|from|with|near)\b|$)"
)
_PLURALS = {
    "people": "person", "men": "man", "women": "woman", "genera": "genus", "species": "species",
    "children": "child", "series": "series",
}  # fmt: skip
_PREDICATE = re.compile(
    r"(?:which|what|who)\b\s*(?:(?!(?:is|was|are|were|has|had|did|does)\b)[\w'-]+\s)*?"
    r"(?P<aux>is|was|are|were|can|could)\s(?P<rest>.+)",
    re.IGNORECASE,
)
_OTHER = re.compile(r"(?:which|what)\s(?:one|[a-z]+)\s(?P<rest>[a-z].+)|who\s(?P<did>[a-z].+)", re.IGNORECASE)
# What is asked for by degree is no matter of yes and no.
_DEGREE = re.compile(
    r"\b(?:more|most|less|least|best|better|worst|first|last|before|after|earlier|later|older|younger|larger|"
    r"longer|higher|(?!northw|southw|for|inter)[a-z]{2,}(?:est|ier))\b"
)
_LONGEST = 400


def checks(question: str) -> list[str]:
    """The plan of such a question, ending with a comparison; empty if it is of another kind.

    Example:
        >>> checks("Are Ann and Bob both musicians?")[:2]
        ['Is Ann a musician?', 'Is Bob a musician?']
    """
    text = question.strip().rstrip(" ?")
    if len(text) > _LONGEST:
        return []
    asked = _each(text) or _options(text)
    if not asked:
        return []
    references = " and ".join(f"#{place}" for place in range(1, len(asked) + 1))
    return [*asked, f"Compare {references}: {question.strip()}"]


def _each(text: str) -> list[str]:
    """One question for each of "both A and B"."""
    for form in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        parts = match.groupdict()
        rest = parts["rest"].strip(" ,")
        if match["aux"].lower() in ("is", "was") and not re.search(r"\bboth\b", text):
            continue  # "Was Trinidad and Tobago …?": one thing
        if _MUTUAL.search(rest):
            return []
        pair = split_pair(parts["pair"], " and ") if parts.get("pair") else (parts["first"], parts["second"])
        if not all(re.match(r"[\"\u201c]?(?:the\s)?[A-Z0-9\"\u201c]", name) for name in pair):
            continue
        aux = match["aux"].lower()
        told = _singular(rest) if aux in _BE else rest
        return [f"{_SINGULAR[aux]} {name.strip(' ,')} {told}?" for name in pair]
    return []


def _options(text: str) -> list[str]:
    """One question for each of "which of A or B"."""
    given = alternatives(text)
    if given is None or _MUTUAL.search(given.asked) or _DEGREE.search(given.asked):
        return []
    match = _PREDICATE.fullmatch(given.asked.strip(" ,"))
    if match is not None:
        return [f"{match['aux'].capitalize()} {option} {match['rest']}?" for option in given.options]
    other = _OTHER.fullmatch(given.asked.strip(" ,"))
    if other is None:
        return []
    return [f"Was it {option} that {other['rest'] or other['did']}?" for option in given.options]


def _singular(rest: str) -> str:
    """What is said of several, of one: "an opera composer of Rome" for "opera composers of Rome"."""
    if _AS_IT_IS.match(rest):
        return rest
    head, of, more = _parted(rest)
    *others, last = head.split()
    if last in _PLURALS:
        last = _PLURALS[last]
    elif re.search(r"[^aeiou]ies$", last):
        last = f"{last[:-3]}y"
    elif re.search(r"(?:ss|x|ch|sh)es$", last):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith("ss"):
        last = last[:-1]
    else:
        return rest
    noun = " ".join([*others, last])
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}{of}{more}"


def _parted(rest: str) -> tuple[str, str, str]:
    match = re.search(r"\s(?:of|in|from|by|that|who|which|for|on|with)\s", rest)
    return (rest[: match.start()], match.group(), rest[match.end() :]) if match else (rest, "", "")


_CHECK = re.compile(r"(?:is|are|was|were|does|do|did)\s+(?:the\s+)?(?P<rest>.+?)\s*\??", re.IGNORECASE)
# Words that say nothing of their own.
_EMPTY = {
    "a", "an", "the", "of", "in", "at", "on", "for", "from", "by", "to", "with", "and", "or", "type", "kind",
    "sort",
    "form", "species", "located", "situated", "based", "found", "known", "considered", "described", "called",
    "used",
    "as", "native", "both", "one", "any",
}  # fmt: skip
# Nouns that are said by others.
_SAID_BY = {
    "musician": "singer songwriter guitarist drummer rapper bassist pianist vocalist violinist musicians",
    "person": "actor actress singer politician writer player",
    "actor": "actress",
    "director": "filmmaker",
    "writer": "author novelist poet playwright essayist",
    "author": "writer novelist poet",
    "film": "movie documentary",
    "documentary": "documentaries",
    "band": "group duo trio quartet",
    "plant": "plants flowering shrub tree herb cacti cactus",
    "animation": "animator animated",
    "magazine": "periodical",
    "city": "municipality capital",
}


def states(question: str, title: str, text: str) -> bool | None:
    """What a passage says to a question of yes and no by its words; `None` if it is about something else.

    "Is Ann Lee an American singer?" is answered with yes by a passage titled "Ann Lee" that has the word
    "singer" and names the United States or what belongs to them, and with no by one that does not.

    Args:
        question: The question.
        title: The passage's title.
        text: The passage.
    """
    match = _CHECK.fullmatch(fold(question).strip())
    name = re.sub(r"^the\s+|\s*\([^()]*\)\s*$", "", fold(title).strip(), flags=re.IGNORECASE)
    if match is None or not name or not match["rest"].casefold().startswith(f"{name.casefold()} "):
        return None
    said = match["rest"][len(name) :]
    nations = countries(said, states=False)
    if nations:
        said = " ".join(word for word in said.split() if not countries(word.strip(".,"), states=False))
    wanted = [word for word in terms(said) if word not in _EMPTY and not (nations and word in _LANDS)]
    if not wanted and not nations:
        return None
    held = {_stem(word) for word in terms(text)}
    ends = sentence_ends(text)
    # Further on, a text names countries that its subject has less to do with.
    return nations <= countries(text[: ends[1]] if len(ends) > 1 else text) and all(
        any(_stem(other) in held for other in [word, *_SAID_BY.get(_stem(word), "").split()])
        for word in wanted
    )


_LANDS = {"united", "states", "kingdom", "u", "s", "us", "uk", "america"}


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")) else word
