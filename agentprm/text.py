r"""Text of any language after Unicode's rules: valid text, words, search terms, folding, sentences, cuts.

Scripts differ in what a blank means. English, Arabic or Hindi put one between words; Chinese, Japanese,
Thai, Lao, Khmer and Burmese put none, and a dictionary would be needed to find their words. Here each
of their characters is a word of its own, and pairs of neighbours stand for words in a search, as is
usual without a dictionary. Characters are grapheme clusters: a letter with its marks.

Every function takes time linear in the length of its text, whatever the text is.
"""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple

import regex

__all__ = [
    "Word",
    "clean_text",
    "cut",
    "cut_words",
    "fold",
    "is_unspaced",
    "normalize_answer",
    "normalize_unicode",
    "one_line",
    "same_text",
    "sentence_ends",
    "terms",
    "words",
]

# Letters of scripts without blanks; the last three belong to several scripts and so to none by name.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{LB=SA}\u30fc\uff70\u3005]"
_SPACED = rf"[\w--{_UNSPACED}]"
_ASCII_WORD = re.compile(r"\w+")
# Half-width voice marks of Japanese and am of Thai and Lao belong to a letter without being marks by name.
_LETTER = rf"{_UNSPACED}[\p{{M}}\uff9e\uff9f\u0e33\u0eb3]*+"
_WORD = regex.compile(rf"{_LETTER}|{_SPACED}++", regex.V1)
# Korean has blanks, but puts particles and endings to its nouns, so that pairs serve it as well.
_RUN = regex.compile(
    rf"(?P<joined>(?:{_LETTER})++|\p{{Hangul}}++)|[\w--[{_UNSPACED}\p{{Hangul}}]]++", regex.V1
)
_CLUSTER = regex.compile(r".\p{M}*+", regex.DOTALL)
_STARTS_UNSPACED = regex.compile(_UNSPACED)
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANY_PUNCTUATION = regex.compile(r"[\p{P}\p{S}]++")
_ARTICLE = re.compile(r"\b(a|an|the)\b")

# Marks that readers and writers of these scripts leave out or that a search should not insist on; in
# others (Hindi, Thai, Japanese) a mark makes another letter.
_MARKED = regex.compile(r"([\p{Latin}\p{Greek}\p{Cyrillic}\p{Arabic}\p{Hebrew}])\p{Mn}++")
_FOREIGN_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
# What only joins, parts or stretches letters: soft hyphen, zero-width characters, Arabic tatweel.
_MEANINGLESS = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff\u0640"))
# Sorting the marks of one letter takes quadratic time; no text has as many (Unicode's stream-safe form).
_CROWD = regex.compile(r"(\p{M}{30})\p{M}++")

_CLOSING = r"[\p{Pe}\p{Pf}\"']"
# A full stop may be a decimal point or part of a name, so that a blank must follow; 。 or । may not.
_SENTENCE_END = regex.compile(
    rf"(?<![.!?…])[.!?…]++{_CLOSING}*+(?=\s|\Z)"
    rf"|[[\p{{SB=STerm}}｡]--[!?]][\p{{SB=STerm}}｡.…]*+{_CLOSING}*+"
    rf"|．(?!\p{{Nd}}){_CLOSING}*+"
    r"|(?<=[\p{Thai}\p{Lao}])(?=\s)",
    regex.V1,
)

_BLANK_OR_CHARACTER = regex.compile(rf"[^\s{_UNSPACED}]++|\X", regex.V1)
_GRAPHEME = regex.compile(r"\X")
_BETWEEN_BLANKS = regex.compile(rf"{_LETTER}|[^\s{_UNSPACED}]++", regex.V1)
_LONGEST_WORD = 64


def clean_text(text: str) -> str:
    """`text` as valid Unicode: two halves of a surrogate pair are joined, a lone half becomes U+FFFD."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str(text)  # not a subclass


def one_line(text: str) -> str:
    """`text` with every run of white space, line breaks included, as one blank."""
    return " ".join(text.split())


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        text: The word, folded; upper and lower case are kept.
        start: Its first character in the text.
        end: The character after its last one.
    """

    text: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of a text; of scripts without blanks its characters.

    Example:
        >>> [word.text for word in words("Café in 東京")]
        ['Cafe', 'in', '東', '京']
    """
    if text.isascii():
        return [Word(match.group(), *match.span()) for match in _ASCII_WORD.finditer(text)]
    found = [Word(fold(match.group()), *match.span()) for match in _WORD.finditer(text)]
    return [word for word in found if word.text]


def terms(text: str, *, single: bool = False) -> list[str]:
    """What a search by words compares: folded words in small letters, and pairs of characters.

    Args:
        text: A text or a query.
        single: Give the single characters of scripts without blanks besides their pairs, so that a
            query of one character finds its texts. Without it only a lone character is given.

    Example:
        >>> terms("The Café, 東京都")
        ['the', 'cafe', '東京', '京都']
    """
    small = fold(text).casefold()
    if small.isascii():
        return _ASCII_WORD.findall(small)
    found: list[str] = []
    for run in _RUN.finditer(small):
        clusters = _CLUSTER.findall(run.group()) if run["joined"] else [run.group()]
        found += [left + right for left, right in pairwise(clusters)]
        if single or len(clusters) == 1:
            found += clusters
    return found


def fold(text: str) -> str:
    """Text without accents, of one width, with ASCII digits; upper and lower case are kept.

    Compatibility forms become plain ones (`ﬁ`, `２`, `Ａ`), and marks go where they do not make another
    letter: those of Latin, Greek, Cyrillic, Arabic and Hebrew.

    Example:
        >>> fold("Ångström, 서울, हिन्दी, ١٩٩٠")
        'Angstrom, 서울, हिन्दी, 1990'
    """
    if text.isascii():
        return text
    bare = _MARKED.sub(r"\1", unicodedata.normalize("NFKD", _CROWD.sub(r"\1", text)))
    bare = _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.digit(match.group(), "")), bare)
    return unicodedata.normalize("NFC", bare.translate(_MEANINGLESS))


def same_text(left: str, right: str) -> bool:
    """Whether two texts differ in case, accents, white space and final punctuation only."""
    return _compared(left) == _compared(right)


@lru_cache(maxsize=4096)  # each proposal is compared with all its siblings
def _compared(text: str) -> str:
    return fold(one_line(text)).casefold().rstrip(" ?.!\u3002\u061f\u06d4\u0964\u2026")


def is_unspaced(text: str) -> bool:
    """Whether a text begins with a letter of a script that puts no blanks between words."""
    return _STARTS_UNSPACED.match(text) is not None


def sentence_ends(text: str) -> list[int]:
    """Where sentences end: the places right behind a full stop and what closes with it.

    Thai and Lao have no mark for it but the blank, which parts clauses as well; each counts.

    Example:
        >>> sentence_ends("Pi is 3.14. 何？はい。")
        [11, 14, 17]
    """
    return [match.end() for match in _SENTENCE_END.finditer(text)]


def cut(text: str, limit: int) -> str:
    """The longest beginning of at most `limit` characters that ends between words.

    A word that is longer than a line is cut between two characters, never within one.

    Args:
        text: Any text.
        limit: Most characters of the result, at least 1.

    Example:
        >>> cut("one two three", 9), cut("東京都の人口", 4)
        ('one two', '東京都の')
    """
    if len(text) <= limit:
        return text
    start = max(0, limit - _LONGEST_WORD)
    window = text[start : limit + _LONGEST_WORD]
    for pattern in (_BLANK_OR_CHARACTER, _GRAPHEME):
        ends = [match.end() for match in pattern.finditer(window) if match.end() <= limit - start]
        kept = text[: start + ends[-1]].rstrip() if ends else ""
        if kept:
            return kept
    return text[:limit]


def cut_words(text: str, most: int) -> str:
    """The beginning of a text with at most so many words, counted between blanks or as characters.

    Args:
        text: Any text.
        most: Most words, at least 1.

    Example:
        >>> cut_words("One, two. Three", 2), cut_words("東京都の人口", 4)
        ('One, two.', '東京都の')
    """
    ends = [match.end() for match in islice(_BETWEEN_BLANKS.finditer(text), most + 1)]
    return text if len(ends) <= most else text[: ends[most - 1]]


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the, with single spaces.

    Example:
        >>> normalize_answer("The  Beatles' last album!")
        'beatles last album'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def normalize_unicode(text: str) -> str:
    """As `normalize_answer`, for any language: typographic punctuation goes, accents and widths are folded.

    Languages that put no blanks between words are compared by their characters.

    Example:
        >>> normalize_unicode("The “Café Bar” of 東京")
        'cafe bar of 東 京'
    """
    if text.isascii():
        return normalize_answer(text)
    bare = _ANY_PUNCTUATION.sub("", fold(text).casefold())
    return " ".join(word.text for word in words(_ARTICLE.sub(" ", bare)))
