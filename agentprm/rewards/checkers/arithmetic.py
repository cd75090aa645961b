r"""Arithmetic: are the equations that a step states true?

Equations are found in plain text, in LaTeX (`\frac{1}{3} \times 18 = 6`) and in the calculator notes of
GSM8K (`<<16-3=13>>`). Prose is unreliable, so the checker would rather say nothing: variables,
percentages, mixed units and roundings never refute a step.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers._numbers import Token, Value, sympy_module, value_of
from agentprm.rewards.checkers.base import CheckResult, Label, combined

__all__ = ["ArithmeticChecker"]

_MAX_CHARS = 20_000

_LATEX = [
    (re.compile(r"<<[^<>]*>>"), ""),
    # Numbers that go on for ever are not written out, hence not comparable.
    (
        re.compile(r"(?:\d{1,20}\.?\d{0,20})?[ ]?(?:\.\.\.|…|\\(?:overline|dot|bar|[lc]?dots)(?![a-zA-Z]))"),
        " | ",
    ),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (
        re.compile(
            r"\\(?:left|right|displaystyle|boxed|Big|big|quad|qquad)(?![a-zA-Z])|\\[!,;: ]|&|\\?\$|[€£]"
        ),
        " ",
    ),
    (re.compile(r"\\\\|\\[\[\]()]"), "\n"),
    (re.compile(r"\\[dt]?frac(?![a-zA-Z])"), "\x01"),
    (re.compile(r"\\sqrt(?![a-zA-Z\[])|√"), "\x02"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])|[×·⋅∗]"), "*"),  # noqa: RUF001
    (re.compile(r"\\div(?![a-zA-Z])|÷"), "/"),
    (re.compile(r"\\approx(?![a-zA-Z])|≈|\\(?:doteq|simeq)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\{,\}"), ","),
    (re.compile("\N{MINUS SIGN}"), "-"),
    # `**` is a power between operands and Markdown elsewhere.
    (re.compile(r"(?<=[\d)])\*\*(?=[\d(])"), "^"),
    (re.compile(r"\*\*|(?<!\w)_+|_+(?!\w)"), " "),
    (re.compile(r"(?<=\d) {1,9}(?:multiplied by|times) {1,9}(?=[\d(])"), " * "),
    (re.compile(r"(?<=\d) {1,9}divided by {1,9}(?=[\d(])"), " / "),
    (re.compile(r"(?<=\d) {1,9}plus {1,9}(?=[\d(])"), " + "),
    (re.compile(r"(?<=\d) {1,9}minus {1,9}(?=[\d(])"), " - "),
    (re.compile(r"\bequals\b"), "="),
]
_REMAINDER = re.compile(
    r"\b(?:remainder|quotient|mod|modulo|pmod|whole|remaining|full|left over)\b", re.IGNORECASE
)
_COINS = frozenset(("cent", "pence", "penny"))
_NOTE = re.compile(r"<<([^<>]*)>>")
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<word>\\?[^\W\d_][\w'\u2019]*)"
    r"|(?P<op>[-+*/^])|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<frac>\x01)|(?P<sqrt>\x02)"
    r"|(?P<subscript>[_|])|(?P<relation>[=≈])|(?P<percent>%)|(?P<factorial>!(?!=))|(?P<space>[^\S\n]+)|(?P<other>.|\n)",
)
_FILLERS = frozenset(
    """about approximately roughly only just exactly a an total of the around nearly""".split()  # noqa: SIM905
)
# Words that change the number which follows or precedes them.
_FUNCTIONS = frozenset(
    """twice double triple thrice half quarter third square squared cube cubed root log ln sin cos tan mod
    modulo floor ceil gcd lcm max min minus negative remainder more less fewer than percent power""".split()  # noqa: SIM905
)
_CONJUNCTIONS = frozenset(
    """and or so then thus hence therefore if where when which with but since because while as is
    are""".split()  # noqa: SIM905
)
_GLUED = frozenset(
    """km cm mm kg mg ml lb lbs oz ft mph kph min mins sec hr hrs st nd rd th""".split()  # noqa: SIM905
)
_SCALES = frozenset(("dozen", "hundred", "thousand", "million", "billion"))


class _TextPiece(NamedTuple):
    kind: str  # a token's kind, or `opaque`, `break`, `relation`, `unit`
    text: str


class _Side(NamedTuple):
    tokens: list[Token]
    text: str
    units: frozenset[str]
    opaque: bool


class ArithmeticChecker:
    """Refutes a step that states a false equation, supports one whose equations are all true.

    Numbers are exact (sympy). `1/3 = 0.33` counts as true, being right to the last place. Sums that run
    on (`5 + 3 = 8 - 2 = 6`) are read as people mean them.

    Needs sympy, which torch brings along; else the extra `formal`.

    Raises:
        MissingDependencyError: If sympy is not installed.
    """

    name = "arithmetic"

    def __init__(self) -> None:
        sympy_module()

    def check(self, question: str, prefix: Trajectory) -> CheckResult:
        """See `Checker.check`."""
        text = prefix[-1]["thought"]
        if len(text) > _MAX_CHARS:
            return CheckResult("unknown", f"longer than {_MAX_CHARS:,} characters", self.name)
        return combined(self.equations(text), self.name)

    def equations(self, text: str) -> list[CheckResult]:
        """A verdict on each equation between numbers that `text` states."""
        verdicts: list[CheckResult] = []
        for part in [*_NOTE.findall(text), text]:
            for segment in _segments(_pieces(part)):
                verdicts += self._chain(segment, text)
        unique = {verdict.evidence: verdict for verdict in verdicts}
        return list(unique.values())

    def _chain(self, segment: list[_TextPiece], text: str) -> Iterator[CheckResult]:
        relations = [piece.text for piece in segment if piece.kind == "relation"]
        if not relations:
            return
        sides = _sides(segment)
        for relation, (left, right) in zip(relations, pairwise(sides), strict=True):
            if left.opaque or right.opaque or not left.tokens or not right.tokens:
                continue
            label = self._label(left, right, relation, text)
            if label is not None:
                sign = {"supported": relation, "refuted": "≠", "unknown": f"{relation}?"}[label]
                yield CheckResult(label, f"{left.text} {sign} {right.text}", self.name)

    def _label(self, left: _Side, right: _Side, relation: str, text: str) -> Label | None:
        kinds = {token.kind for token in (*left.tokens, *right.tokens)}
        percent = "percent" in kinds
        labels = set()
        for reading in (True, False) if percent else (True,):
            a = value_of(left.tokens, percent=reading)
            b = value_of(right.tokens, percent=reading)
            if a is None or b is None or (a.bare and b.bare):
                return None
            labels.add(_compared(a, b, relation == "≈"))
        if "supported" in labels:
            return "supported"
        if percent or "scale" in kinds or "unknown" in labels or len(left.units | right.units) > 1:
            return "unknown"
        if _COINS & (left.units | right.units) and re.search("[$€£]", text):
            return "unknown"
        if any(token.text == "/" for token in left.tokens) and _REMAINDER.search(text):
            return "unknown"  # 9 / 7 = 1 with a remainder of 2
        return "refuted"


def _compared(left: Value, right: Value, approximate: bool) -> Label:
    difference = abs((left.number - right.number).evalf(40))
    size = max(abs(left.number.evalf(40)), abs(right.number.evalf(40)), 1)
    if difference <= size * 1e-25:
        return "supported"
    for value in (left, right):
        # Right to the last place that is written; integers are rounded only where the text says so.
        if value.bare and (value.places or approximate) and difference < _last_place(value, approximate):
            return "supported"
    if not right.bare and right.leading == left.number:
        return "unknown"  # a sum that runs on
    if (approximate or left.decimals or right.decimals) and difference <= size / 100:
        return "unknown"  # the rounding of an earlier result
    return "refuted"


def _last_place(value: Value, approximate: bool) -> Any:
    if value.places or not approximate:
        return 10.0**-value.places
    number, place = abs(int(value.number)), 1
    while number and number % (place * 10) == 0:
        place *= 10  # 300 stands for a number rounded to hundreds
    return place


def _pieces(text: str) -> list[_TextPiece]:
    """Tokens with words resolved to units, factors, opaque operands or breaks."""
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    found = [(str(m.lastgroup), m.group(), m.start()) for m in _TOKEN.finditer(text)]
    ends = {start + len(token): kind for kind, token, start in found}
    pieces: list[_TextPiece] = []
    index = 0
    while index < len(found):
        kind, token, start = found[index]
        if kind == "space":
            index += 1
        elif kind == "other":
            pieces.append(_TextPiece("break", ""))
            index += 1
        elif kind == "subscript" or (kind == "frac" and ends.get(start) == "number"):
            # `2012_3` is no 2012, and `2\frac{6}{7}` is a mixed number or a product.
            pieces.append(_TextPiece("opaque", token))
            index += 1
        elif kind == "word":
            words = []
            glued = ends.get(start) in ("number", "close")
            while index < len(found) and found[index][0] in ("word", "space"):
                if found[index][0] == "word":
                    words.append(found[index][1].lower())
                index += 1
            following = found[index] if index < len(found) else ("end", "", len(text))
            call = following[0] == "open" and (found[index - 1][0] == "word" or len(words[-1]) == 1)
            pieces += _words(words, pieces[-1].kind if pieces else "break", following[0], glued, call)
        else:
            pieces.append(_TextPiece(kind, token))
            index += 1
    return pieces


def _words(words: list[str], before: str, after: str, glued: bool, call: bool) -> list[_TextPiece]:
    """What a run of words between two tokens means."""
    operand_before = before in ("number", "close", "percent", "scale", "factorial")
    operand_after = after in ("number", "open", "frac", "sqrt")
    if call or (_FUNCTIONS & {words[0], words[-1]}) or any(w.startswith("\\") for w in words):
        return [_TextPiece("opaque", " ".join(words))]
    if operand_before:
        if words[0] in _SCALES:
            rest = _words(words[1:], "scale", after, False, False) if words[1:] else []
            return [_TextPiece("scale", words[0]), *rest]
        if operand_after:
            if words in (["of"], ["x"], ["times"]):
                return [_TextPiece("op", "*")]
            return [_TextPiece("opaque", "")] if glued else [_TextPiece("break", " ".join(words))]
        if _CONJUNCTIONS & set(words):
            return [
                _TextPiece("break", " ".join(words)),
                *([_TextPiece("opaque", "")] if after in ("op", "relation") else []),
            ]
        # A single letter after a number is a variable as likely as a unit.
        if len(words[0]) == 1 or not words[0].isalpha() or (glued and words[0] not in _GLUED):
            return [_TextPiece("opaque", words[0])]
        return [_TextPiece("unit", words[0].rstrip("s"))]
    if before == "relation" and operand_after and set(words) <= _FILLERS:
        return []
    if before in ("op", "relation", "open", "frac", "sqrt") or after in ("op", "relation"):
        return [_TextPiece("opaque", " ".join(words))]
    return [_TextPiece("break", " ".join(words))]


def _segments(pieces: list[_TextPiece]) -> Iterator[list[_TextPiece]]:
    """Stretches between breaks. A bare number after words is no left side: "3 and 4 = 7"."""
    segment: list[_TextPiece] = []
    after_words = False
    for piece in [*pieces, _TextPiece("break", "")]:
        if piece.kind != "break":
            segment.append(piece)
            continue
        if segment:
            first = {p.kind for p in itertools.takewhile(lambda p: p.kind != "relation", segment)}
            if after_words and not {"op", "sqrt"} & first:
                segment.insert(0, _TextPiece("opaque", ""))
            yield segment
        segment, after_words = [], bool(piece.text)


def _sides(segment: list[_TextPiece]) -> list[_Side]:
    sides: list[list[_TextPiece]] = [[]]
    for piece in segment:
        if piece.kind == "relation":
            sides.append([])
        else:
            sides[-1].append(piece)
    return [
        _Side(
            [Token(p.kind, p.text) for p in side if p.kind not in ("unit", "opaque")],
            " ".join({"\x01": "frac", "\x02": "sqrt"}.get(p.text, p.text) for p in side if p.kind != "unit"),
            frozenset(p.text for p in side if p.kind == "unit"),
            any(p.kind == "opaque" for p in side),
        )
        for side in sides
    ]
