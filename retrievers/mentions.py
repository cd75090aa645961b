"""Finds mentions of passages' titles in a text: the links of a collection that has none written down.

A mention is the longest run of words that spells a title or an alias of it, upper and lower case and
accents aside, on word boundaries. To tell "Home" the film from a home, a title of one word counts only
where it is written with a capital, does not begin a sentence if the collection also writes it small,
and is no part of a longer name ("Los" in "Los Angeles"). Scripts without capitals have only whole words to
go by, and those without blanks not even these: there any two characters that spell a title are a mention.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from langchain_core.documents import Document

from agentprm.retrievers.leads import lead_names
from agentprm.text import Word, is_unspaced, words

__all__ = ["Mention", "MentionIndex", "title_names"]

# Particles that Korean writes behind a noun without a blank.
_PARTICLE = re.compile(
    r"(?<=[가-힣])(?:에서|에게|으로|까지|부터|이다|은|는|이|가|을|를|의|에|와|과|도|로|만)$"
)
# Words that cannot be a title by themselves, and do not make a preceding word part of a name.
_FUNCTION_WORD_LIST = """
a an and are as at be been but by did do does for from had has have he her his how i in into is it
its more most no not of on one or s same she t than that the their then they this to two was were
what when where which who whom whose why with
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
# A word that is written small at least this often in the collection is an ordinary word.
_ORDINARY = 0.1
# Share of untitled passages that open with a name in a collection of articles; measured: biomedical
# abstracts .11, paragraphs out of the middle of articles .65, openings of articles .83 to .93.
_ARTICLES = 0.4
# Words, and characters, in a first line that is taken for a heading.
_LONGEST_HEADING = 12
_WIDEST_HEADING = 120
# Longer titles are nothing that a text mentions.
_LONGEST_NAME = 40
# How far back to look for the mark that begins a sentence.
_BEHIND = 64


_Table = dict[tuple[str, ...], tuple[str, ...]]
"""Ids by the words of a title."""


class Mention(NamedTuple):
    """Titles that a text mentions.

    Attributes:
        ids: Passages with that title; several when it is ambiguous.
        rarity: 1 / log2(2 + passages that hold the title's rarest word), at most 1.
        start: First character of the mention.
        end: Character after its last one.
    """

    ids: tuple[str, ...]
    rarity: float
    start: int
    end: int


def title_names(document: Document) -> list[str]:
    """Names under which other passages mention a document: its title without "(…)", and its aliases.

    They are taken from the metadata `title` and `aliases` (a list). Without a title the heading of a
    Markdown text stands in, or a short first line.
    """
    title = document.metadata.get("title")
    names = [title] if isinstance(title, str) and title.strip() else _untitled_names(document.page_content)
    aliases = document.metadata.get("aliases")
    if isinstance(aliases, list):
        names += [alias for alias in aliases if isinstance(alias, str)]
    return [name for n in names for name in dict.fromkeys((n, _without_bracket(n))) if name.strip()]


def _untitled_names(text: str) -> list[str]:
    heading = re.match(r"\s*#{1,6}[ \t]+(.+)", text)
    if heading:
        return [heading.group(1).strip("# \t")]
    line, _, rest = text.strip().partition("\n")
    if not rest or len(line) > _WIDEST_HEADING or line.rstrip()[-1:] in ".?!:;,。！？：；，、।؟":
        return []
    most = _LONGEST_HEADING * (2 if is_unspaced(line) else 1)
    return [line] if len(words(line)) <= most else []


def _without_bracket(name: str) -> str:
    """A title without the bracket at its end that tells it from others of that name."""
    bare = name.rstrip()
    for opening, closing in ("()", "（）"):
        start = bare.rfind(opening)
        if bare.endswith(closing) and start > bare.rfind(closing, 0, -1):
            return bare[:start].rstrip()
    return name


class MentionIndex:
    """Titles of a collection, and how often its words occur; kept up to date by `add` and `remove`.

    A passage for which `names` has none is known by the names in its first sentence (`lead_names`), if
    the collection is one of articles about named things: if at least 40 % of such passages have them.

    Args:
        names: Gives the titles and aliases of a document.
    """

    def __init__(self, names: Callable[[Document], list[str]] = title_names) -> None:
        self._names = names
        self._titles: _Table = {}
        self._guesses: _Table = {}
        self._nameless = self._guessed = 0
        # Lengths of the titles that begin with a word, longest first: a hash table of titles looked up at
        # each word costs what an automaton costs, and titles can be taken out of it again.
        self._lengths: dict[str, tuple[int, ...]] = {}
        self._passages: Counter[str] = Counter()
        self._small: Counter[str] = Counter()

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], names: Callable[[Document], list[str]] = title_names
    ) -> Self:
        """Index of documents, whose ids must be set."""
        index = cls(names)
        for document in documents:
            index.add(document)
        return index

    def __len__(self) -> int:
        return len(self._titles) + (len(self._guesses) if self._guessing else 0)

    def add(self, document: Document) -> None:
        """Takes in a document that is not yet in the index."""
        table, keys = self._keys(document, 1)
        for key in keys:
            self._put(table, key, (*table.get(key, ()), str(document.id)))
        self._count(document, 1)

    def remove(self, document: Document) -> None:
        """Forgets a document that is in the index, given as it was added."""
        table, keys = self._keys(document, -1)
        for key in keys:
            ids = tuple(i for i in table.get(key, ()) if i != str(document.id))
            if ids:
                table[key] = ids
            else:
                table.pop(key, None)
        self._count(document, -1)

    @property
    def _guessing(self) -> bool:
        """Whether names in first sentences are what passages of this collection are about."""
        return self._guessed >= _ARTICLES * self._nameless

    def find(self, text: str) -> list[Mention]:
        """Mentions in a text, from left to right, without overlaps."""
        found = words(text)
        small = [word.text.casefold() for word in found]
        cased = any(word.text[0].isupper() for word in found[1:])
        guesses = self._guesses if self._guessing else {}
        mentions = []
        place = 0
        while place < len(found):
            for key in self._spelt(small, place):
                ids = self._titles.get(key, ()) + guesses.get(key, ())
                if ids and self._is_name(text, found, place, len(key), cased):
                    end = found[place + len(key) - 1].end
                    mentions.append(Mention(ids, self._rarity(key), found[place].start, end))
                    place += len(key) - 1
                    break
            place += 1
        return mentions

    def _spelt(self, small: list[str], place: int) -> Iterator[tuple[str, ...]]:
        """What may be a title from `place` on, longest first, with and without a particle at its end."""
        for count in self._lengths.get(small[place], ()):
            key = tuple(small[place : place + count])
            yield key
            if not key[-1].isascii():
                yield (*key[:-1], _PARTICLE.sub("", key[-1]))
        if not small[place].isascii():
            yield (_PARTICLE.sub("", small[place]),)

    def to_json(self) -> str:
        """Everything that `from_json` needs."""
        titles, guesses = (
            [[" ".join(key), *ids] for key, ids in table.items()] for table in (self._titles, self._guesses)
        )
        return json.dumps(
            {
                "titles": titles,
                "guesses": guesses,
                "nameless": [self._nameless, self._guessed],
                "passages": self._passages,
                "small": self._small,
            }
        )

    @classmethod
    def from_json(cls, text: str, names: Callable[[Document], list[str]] = title_names) -> Self:
        """Index that `to_json` wrote.

        Raises:
            ValueError: The text is damaged.
        """
        index = cls(names)
        try:
            data: Mapping[str, Any] = json.loads(text)
            for table, rows in ((index._titles, data["titles"]), (index._guesses, data["guesses"])):
                for title, *ids in rows:
                    index._put(table, tuple(title.split(" ")), tuple(str(i) for i in ids))
            index._nameless, index._guessed = (int(number) for number in data["nameless"])
            index._passages = Counter({str(w): int(n) for w, n in data["passages"].items()})
            index._small = Counter({str(w): int(n) for w, n in data["small"].items()})
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a mention index ({error})") from None
        return index

    def _put(self, table: _Table, key: tuple[str, ...], ids: tuple[str, ...]) -> None:
        table[key] = tuple(dict.fromkeys(ids))
        known = self._lengths.get(key[0], ())
        if len(key) not in known:
            self._lengths[key[0]] = tuple(sorted((*known, len(key)), reverse=True))

    def _keys(self, document: Document, step: int) -> tuple[_Table, set[tuple[str, ...]]]:
        """Names of a document as words, and the table that they belong in; counts it among the nameless."""
        table, names = self._titles, self._names(document)
        if not names:
            table, names = self._guesses, lead_names(document.page_content)
            self._nameless += step
            self._guessed += step * bool(names)
        keys = (tuple(word.text.casefold() for word in words(name)) for name in names)
        return table, {
            key for key in keys if 0 < len(key) <= _LONGEST_NAME and not _FUNCTION_WORDS.issuperset(key)
        }

    def _count(self, document: Document, step: int) -> None:
        written = {word.text for word in words(document.page_content)}
        small = {word for word in written if word[0].islower()}
        for counter, found in ((self._passages, written), (self._small, small)):
            for word in {w.casefold() for w in found}:
                counter[word] += step
                if counter[word] <= 0:
                    del counter[word]

    def _rarity(self, key: tuple[str, ...]) -> float:
        return 1 / math.log2(2 + min(self._passages[word] for word in key))

    def _is_name(self, text: str, found: list[Word], place: int, count: int, cased: bool) -> bool:
        """Whether the words that spell a title are meant as one.

        Args:
            text: The text.
            found: Its words.
            place: First word of the title.
            count: Words of the title.
            cased: Whether the text uses capitals beyond its first letter.
        """
        span = found[place : place + count]
        if cased and not any(_written_as_name(word.text) for word in span):
            return False
        if count > 1:
            return True
        word = span[0]
        if word.text.isdigit() or is_unspaced(word.text):
            return False
        if (
            _has_case(word.text)
            and self._small[word.text.casefold()] >= _ORDINARY * self._passages[word.text.casefold()]
        ):
            before = text[max(0, word.start - _BEHIND) : word.start].rstrip(" \t\n\"'(")
            if not cased or not before or before[-1] in ".?!:":
                return False
        return not self._joined(text, found, place)

    @staticmethod
    def _joined(text: str, found: list[Word], place: int) -> bool:
        """Whether a capitalised word stands right before or after the one at `place`."""
        word = found[place]
        if place + 1 < len(found):
            after = found[place + 1]
            if after.text[0].isupper() and text[word.end : after.start] == " ":
                return True
        if place < 2:  # the word before begins the text, where a capital says nothing
            return False
        before = found[place - 1]
        proper = before.text[0].isupper() and before.text.lower() not in _FUNCTION_WORDS
        return proper and text[before.end : word.start] == " "


def _has_case(word: str) -> bool:
    """Whether a word begins with a letter that may be a capital: not a digit, not a script without them."""
    return word[0].upper() != word[0].lower()


def _written_as_name(word: str) -> bool:
    """Whether a word is written as part of a name: the T of "T cell" and the The of a sentence are not."""
    if not _has_case(word):
        return True
    return word[0].isupper() and len(word) > 1 and word.lower() not in _FUNCTION_WORDS
