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
from itertools import islice
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
# Small words within a name.
_JOINING = frozenset(("of", "the", "de", "la", "von", "van"))
# A word that is written small at least this often in the collection is an ordinary word.
_ORDINARY = 0.1
# Passages that are read to see whether a collection is linked.
_SAMPLE = 200
# Share of untitled passages that open with a name in a collection of articles; measured: biomedical
# abstracts .11, paragraphs out of the middle of articles .65, openings of articles .83 to .93.
_ARTICLES = 0.4
# Words, and characters, in a first line that is taken for a heading.
_LONGEST_HEADING = 12
_WIDEST_HEADING = 120
# Longer titles are nothing that a text mentions.
_LONGEST_NAME = 40
# Misspelt names are sought in questions of so many words, for words of so many letters and more, which
# are part of names of so many words and fewer.
_LONGEST_QUESTION = 200
_SHORTEST_MISSPELT = 3
_LONGEST_MISSPELT = 8
_LONGEST_WORD = 30
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# How far back to look for the mark that begins a sentence.
_BEHIND = 64


_Table = dict[tuple[str, ...], dict[str, str]]
"""Ids by the words of a name; with each the whole title, unless it is that name."""


class Mention(NamedTuple):
    """A name that a text mentions.

    Attributes:
        targets: Titles of that name, each with the ids of its passages; several when the name is ambiguous.
        rarity: 1 / log2(2 + passages that hold the title's rarest word), at most 1.
        start: First character of the mention.
        end: Character after its last one.
        misspelt: Whether one letter differs.
    """

    targets: tuple[tuple[str, ...], ...]
    rarity: float
    start: int
    end: int
    misspelt: bool = False

    @property
    def ids(self) -> tuple[str, ...]:
        """All passages of these titles."""
        return tuple(i for target in self.targets for i in target)


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
        self._linked: tuple[int, float] | None = None

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
            self._put(table, key, str(document.id), keys[key])
        self._count(document, 1)

    def remove(self, document: Document) -> None:
        """Forgets a document that is in the index, given as it was added."""
        table, keys = self._keys(document, -1)
        for key in keys:
            ids = table.get(key, {})
            ids.pop(str(document.id), None)
            if not ids:
                table.pop(key, None)
        self._count(document, -1)

    @property
    def _guessing(self) -> bool:
        """Whether names in first sentences are what passages of this collection are about."""
        return self._guessed >= _ARTICLES * self._nameless

    def find(self, text: str, *, misspelt: bool = False) -> list[Mention]:
        """Mentions in a text, from left to right, without overlaps.

        Args:
            text: The text.
            misspelt: Also find names in which one letter is wrong, missing, doubled or exchanged with its
                neighbour, where nothing else is found; takes longer, and is meant for questions.
        """
        found = words(text)
        small = [word.text.casefold() for word in found]
        cased = any(word.text[0].isupper() for word in found[1:])
        spans: list[tuple[int, int, Mention]] = []
        told: dict[tuple[str, ...], Mention] = {}  # a name that is written often is looked up once
        place = 0
        while place < len(found):
            for key in self._spelt(small, place):
                if self._known(key) and self._is_name(text, found, place, len(key), cased):
                    last = place + len(key) - 1
                    if key not in told:
                        told[key] = self._mention(key, found[place], found[last])
                    mention = told[key]._replace(start=found[place].start, end=found[last].end)
                    spans.append((place, last, mention))
                    place = last
                    break
            place += 1
        if misspelt and len(found) <= _LONGEST_QUESTION:
            spans = self._with_misspelt(spans, found, small, cased)
        return [mention for _, _, mention in spans]

    def linked(self, get_by_ids: Callable[[list[str]], list[Document]]) -> float:
        """Share of passages that mention the title of another, in a sample of them.

        Measured once, and again when the collection has grown or shrunk by a fifth.

        Args:
            get_by_ids: Gives the documents of the ids that exist.
        """
        table = {**self._titles, **self._guesses} if self._guessing else self._titles
        measured = self._linked
        if measured is None or abs(len(table) - measured[0]) > 0.2 * measured[0]:
            step = max(1, len(table) // _SAMPLE)
            ids = [next(iter(table[key])) for key in islice(table, 0, None, step)]
            sample = get_by_ids(list(dict.fromkeys(ids)))
            linked = sum(any(str(d.id) not in m.ids for m in self.find(d.page_content)) for d in sample)
            self._linked = measured = (len(table), linked / max(1, len(sample)))
        return measured[1]

    def names(self, text: str) -> dict[str, float]:
        """Names that a text writes with capitals, whether they are titles or not, each with its rarity."""
        found = words(text)
        names: dict[str, float] = {}
        place = 0
        while place < len(found):
            last = place
            if found[place].text[0].isupper():
                for after in range(place + 1, min(len(found), place + _LONGEST_NAME)):
                    if text[found[after - 1].end : found[after].start] not in (" ", "-"):
                        break
                    if found[after].text[0].isupper():
                        last = after
                    elif after != last + 1 or found[after].text not in _JOINING:
                        break
                key = tuple(word.text.casefold() for word in found[place : last + 1])
                if not all(map(self._is_ordinary, key)):
                    names[text[found[place].start : found[last].end]] = self._rarity(key)
            place = last + 1
        return names

    def _is_ordinary(self, word: str) -> bool:
        """Whether the collection writes a word small, or it is too short to tell anything."""
        return len(word) < 3 or self._small[word] >= _ORDINARY * max(1, self._passages[word])

    def _known(self, key: tuple[str, ...]) -> bool:
        return key in self._titles or (key in self._guesses and self._guessing)

    def _mention(self, key: tuple[str, ...], first: Word, last: Word, misspelt: bool = False) -> Mention:
        titles: dict[str, list[str]] = {}
        for table in (self._titles, self._guesses) if self._guessing else (self._titles,):
            for i, title in table.get(key, {}).items():
                titles.setdefault(title, []).append(i)
        targets = tuple(tuple(ids) for ids in titles.values())
        return Mention(targets, self._rarity(key), first.start, last.end, misspelt)

    def _with_misspelt(
        self, spans: list[tuple[int, int, Mention]], found: list[Word], small: list[str], cased: bool
    ) -> list[tuple[int, int, Mention]]:
        """Adds names with one wrong letter; the longest that covers more than what it takes the place of."""
        for place, word in enumerate(small):
            if any(first <= place <= last for first, last, _ in spans) and word in self._passages:
                continue
            if len(word) < _SHORTEST_MISSPELT or (cased and not _written_as_name(found[place].text)):
                continue
            best = self._misspelt(small, place)
            if best is None:
                continue
            first, key = best
            last = first + len(key) - 1
            within = [span for span in spans if span[0] <= last and span[1] >= first]
            if all(first <= span[0] and span[1] <= last for span in within):
                spans = [span for span in spans if span not in within]
                spans.append((first, last, self._mention(key, found[first], found[last], misspelt=True)))
        return sorted(spans, key=lambda span: span[0])

    def _misspelt(self, small: list[str], place: int) -> tuple[int, tuple[str, ...]] | None:
        """The longest name that becomes one when the word at `place` is put right, and where it begins."""
        best: tuple[int, tuple[str, ...]] | None = None
        unknown = small[place] not in self._passages
        corrections = _corrections(small[place])
        for first in range(max(0, place - _LONGEST_MISSPELT + 1), place):
            for count in self._lengths.get(small[first], ()):
                if not place - first < count <= _LONGEST_MISSPELT or (best and count <= len(best[1])):
                    continue
                before, after = tuple(small[first:place]), tuple(small[place + 1 : first + count])
                for right in corrections:
                    if self._known((*before, right, *after)):
                        best = (first, (*before, right, *after))
                        break
        for right in corrections:
            for count in self._lengths.get(right, ()):
                if count > _LONGEST_MISSPELT or (best and count <= len(best[1])):
                    continue
                # A single word that is short, or that the collection knows, is no misspelt name.
                if count == 1 and (not unknown or len(small[place]) <= _SHORTEST_MISSPELT):
                    continue
                key = (right, *small[place + 1 : place + count])
                if len(key) == count and self._known(key):
                    best = (place, key)
        return best

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
            [[" ".join(key), ids] for key, ids in table.items()] for table in (self._titles, self._guesses)
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
                for name, ids in rows:
                    for i, title in ids.items():
                        index._put(table, tuple(name.split(" ")), str(i), str(title))
            index._nameless, index._guessed = (int(number) for number in data["nameless"])
            index._passages = Counter({str(w): int(n) for w, n in data["passages"].items()})
            index._small = Counter({str(w): int(n) for w, n in data["small"].items()})
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a mention index ({error})") from None
        return index

    def _put(self, table: _Table, key: tuple[str, ...], name: str, title: str) -> None:
        table.setdefault(key, {})[name] = title
        known = self._lengths.get(key[0], ())
        if len(key) not in known:
            self._lengths[key[0]] = tuple(sorted((*known, len(key)), reverse=True))

    def _keys(self, document: Document, step: int) -> tuple[_Table, dict[tuple[str, ...], str]]:
        """Table that a document's names belong in, and the names as words, each with the whole title.

        Counts the document among the nameless.
        """
        table, names = self._titles, self._names(document)
        if not names:
            table, names = self._guesses, lead_names(document.page_content)
            self._nameless += step
            self._guessed += step * bool(names)
        keys = [tuple(word.text.casefold() for word in words(name)) for name in names]
        title = " ".join(keys[0]) if keys else ""
        return table, {
            key: "" if key == keys[0] else title
            for key in keys
            if 0 < len(key) <= _LONGEST_NAME and not _FUNCTION_WORDS.issuperset(key)
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


def _corrections(word: str) -> list[str]:
    """Words that differ from one in a letter: left out, put in, exchanged, or swapped with its neighbour."""
    if len(word) > _LONGEST_WORD:
        return []
    parts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    swapped = [head + tail[1] + tail[0] + tail[2:] for head, tail in parts if len(tail) > 1]
    missing = [head + tail[1:] for head, tail in parts if tail]
    exchanged = [head + letter + tail[1:] for head, tail in parts if tail for letter in _LETTERS]
    put_in = [head + letter + tail for head, tail in parts for letter in _LETTERS]
    return [other for other in dict.fromkeys((*swapped, *missing, *exchanged, *put_in)) if other != word]
