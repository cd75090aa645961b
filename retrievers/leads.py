"""What an untitled passage is about: the names in front of the verb of its first sentence."""

from __future__ import annotations

import re

__all__ = ["lead_names"]

# How far into a passage its first verb may stand, and how many words a name may have.
_REACH = 400
_MOST_WORDS = 10
_VERB = re.compile(r"\s(?:is|was|are|were|refers?|(?:has|have|had) been|may refer)\s")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_KNOWN_AS = re.compile(
    r"\b(?:known|called|credited|nicknamed|titled|stylized)\b[^,;]*?\bas\b"
    r"|\b(?:stage name|pen name|or|born|née|aka)\b",
    re.IGNORECASE,
)
_EDGES = " '“”,;:-\u2013"
_ARTICLE = re.compile(r"(?:the|a|an)\s+", re.IGNORECASE)
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Jr|Sr|No|Vol|c|Gen|Col|Lt|Capt)\.")
# A bracket with a year right behind a name, which only people have.
_LIVED = re.compile(r"[^(]{0,30}\([^()]*\b(?:born|died|[12]\d{3})\b")
_NICKNAME = re.compile(r'"\s*([^"]{2,40}?)\s*"')
# A sentence that begins with one of these opens with an adverbial, not with its subject.
_OPENING_LIST = """
about after although among as at because before both but by despite due during each for from he her his
however if in it its like many most on some such that their then there these they this those though through to
today under until when where while with within you your one several she since
"""
_OPENING = frozenset(_OPENING_LIST.split())
_HONOURS_LIST = """
Sir Dame Lord Lady Saint St. Prince Princess King Queen Dr. Dr Rev. Reverend General Colonel Captain
Lieutenant Major Admiral Jr. Jr Sr. Sr II III IV
"""
_HONOURS = frozenset(_HONOURS_LIST.split())
# Words that a name may hold in small letters.
_SMALL_LIST = """
a af al an and at av bin by d da das de del della der di do dos du e el en et for from ibn in la las le les
los of on or s sur t ten ter the to und van vom von with y zu zum
"""
_SMALL = frozenset(_SMALL_LIST.split())


def lead_names(text: str) -> list[str]:
    """Names of the subject of a passage that begins as an article of an encyclopedia does.

    For "Ann Lee Fox (born 1950), known as Annie Fox, is a judge." these are "Ann Lee Fox", "Annie Fox" and,
    as people are mentioned without their middle names, "Ann Fox". A passage that begins otherwise, or
    whose subject is no proper name, has none.

    Args:
        text: The passage without its title.
    """
    opening = " ".join(text[:_REACH].split())
    blank = _ASIDE.sub(lambda m: "\0" * len(m.group()), opening)
    verb = _VERB.search(blank)
    bracket = re.search(r"[(\[\0]", blank)
    end = verb.start() if verb else bracket.start() if bracket else 0
    subject = " ".join(re.sub(r"\([^()]*\)?|\[[^\[\]]*\]?", " , ", opening[:end]).split())
    if ". " in _ABBREVIATION.sub("", subject):
        return []
    nicknames = _NICKNAME.findall(subject)
    plain = re.sub("[\"“”`]|''", "", subject).strip(" ,")
    parts = re.split(r"\s*[,;:](?:\s+|$)", plain)
    first = re.match(r"\w+", plain)
    if first is None:
        return []
    if first.group().lower() in _OPENING and not subject.startswith('"'):
        words = [word.lower() for word in re.findall(r"\w+", plain)]
        whole = len(parts) == 1 and not re.search(r"\d", plain) and not _OPENING.issuperset(words)
        names = [plain] if whole else []
    else:
        names = [plain.split(" , ")[0], parts[0], ", ".join(parts[:2]), *nicknames]
        names += [re.split(r"\s*[,;]\s*", clause.strip(" ,"))[0] for clause in _KNOWN_AS.split(plain)]
        if _LIVED.match(opening[len(parts[0]) :]):
            names += _without_middle_names([w for w in parts[0].split() if w not in " ".join(nicknames)])
    clean = [" ".join(name.strip(_EDGES).split()) for name in names]
    clean += [_ARTICLE.sub("", name, count=1) for name in clean if _ARTICLE.match(name)]
    return [name for name in dict.fromkeys(clean) if _is_name(name)]


def _without_middle_names(words: list[str]) -> list[str]:
    """First and last name of a person, without titles, suffixes and what stands between them."""
    bare = [word for word in words if word not in _HONOURS and not re.fullmatch(r"[A-Z]{2,5}", word)]
    names = [" ".join(bare)]
    if 3 <= len(bare) <= 6 and all(word[0].isupper() for word in (bare[0], bare[-1])):
        names.append(f"{bare[0]} {bare[-1]}")
    return names


def _is_name(name: str) -> bool:
    """Whether every word that bears meaning is written with a capital or a digit."""
    words = re.findall(r"\w+", name)
    if not words or len(words) > _MOST_WORDS:
        return False
    telling = [word for word in words if word.lower() not in _SMALL]
    return bool(telling) and all(word[0].isupper() or word[0].isdigit() for word in telling)
