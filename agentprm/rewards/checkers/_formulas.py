# ruff: noqa: RUF001
"""A grammar of formulas: propositions, predicates with quantifiers, and arithmetic comparisons.

Reads the notation of formal-logic data (`(x): {A}x -> ¬{B}x`) and the usual one (`forall x. A(x) -> not
B(x)`, `2*x + 4 = 10 and x > 0`). A formula is a nested tuple whose first item is its kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["Formula", "FormulaError", "parse_formula"]

Formula = tuple[Any, ...]

_MAX_CHARS = 2000
_MAX_DEPTH = 60
_DIGITS = "0123456789₀₁₂₃₄₅₆₇₈₉"  # of numbers, and within names; x², ½ and 三 are no names
_TOKEN = re.compile(
    r"\s*(?:(?P<curly>\{\w+\})|(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|(?P<name>[^\W\d]\w*)"
    r"|(?P<sign><->|<=>|->|=>|<=|>=|!=|==|&&|\|\||\*\*|[↔→∧∨¬≤≥≠∀∃⊥×·÷]|[-+*/^=<>&|~!(),.:]))"
)
_AND, _OR = {"and", "&", "&&", "∧"}, {"or", "v", "|", "||", "∨"}
_NOT = {"not", "¬", "~", "!"}
_IMPLIES, _SAME = {"->", "=>", "→", "implies"}, {"<->", "<=>", "↔", "iff"}
_ALL, _SOME = {"forall", "∀", "all"}, {"exists", "∃", "some"}
_COMPARE = {"=": "=", "==": "=", "!=": "!=", "≠": "!=", "<": "<", "<=": "<=", "≤": "<="}
_COMPARE |= {">": ">", ">=": ">=", "≥": ">="}
_RESERVED = _AND | _OR | _NOT | _IMPLIES | _SAME | _ALL | _SOME


class FormulaError(ValueError):
    """The text is no formula of this grammar."""


def parse_formula(text: str) -> Formula:
    """Parses a formula.

    Returns:
        One of `("and"|"or"|"implies"|"iff", left, right)`, `("not", part)`, `("all"|"some", variable,
        body)`, `("holds", predicate, arguments)`, `("compare", sign, term, term)`, `("false",)`. A term is
        `("number", text)`, `("name", name)`, `("neg", term)` or `("+"|"-"|"*"|"/"|"^", term, term)`.

    Raises:
        FormulaError: If it is none, or too long or too deeply nested.
    """
    if len(text) > _MAX_CHARS:
        raise FormulaError(f"longer than {_MAX_CHARS} characters")
    tokens: list[tuple[str, str]] = []
    place, text = 0, text.strip().rstrip(".")
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise FormulaError(f"cannot read {text[place : place + 20]!r}")
        place = match.end()
        if any(char.isnumeric() and char not in _DIGITS for char in match.group()):
            raise FormulaError(f"cannot read the number in {match.group().strip()!r}")
        tokens.append((str(match.lastgroup), match.group(str(match.lastgroup))))
        if text[place:].isspace():
            break
    parser = _Parser(tokens)
    formula = parser.formula(0)
    if parser.peek()[0] != "end":
        raise FormulaError(f"did not expect {parser.peek()[1]!r}")
    return formula


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens, self._place = [*tokens, ("end", "")], 0
        self._work = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        return self._tokens[min(self._place + ahead, len(self._tokens) - 1)]

    def formula(self, depth: int) -> Formula:
        return self._chain(depth, _SAME, "iff", self._implication)

    def _implication(self, depth: int) -> Formula:
        left = self._chain(depth, _OR, "or", self._conjunction)
        if self._take(_IMPLIES):
            return ("implies", left, self._implication(depth + 1))
        return left

    def _conjunction(self, depth: int) -> Formula:
        return self._chain(depth, _AND, "and", self._unary)

    def _chain(self, depth: int, signs: set[str], kind: str, part: Callable[[int], Formula]) -> Formula:
        left = part(depth)
        while self._take(signs):
            left = (kind, left, part(depth))
        return left

    def _unary(self, depth: int) -> Formula:
        # Brackets are tried in two ways, so the work is bounded as well as the depth.
        self._work += 1
        if depth > _MAX_DEPTH or self._work > 20_000:
            raise FormulaError("too deeply nested")
        if self._take(_NOT):
            return ("not", self._unary(depth + 1))
        quantifier = self._quantifier()
        if quantifier is not None:
            return (*quantifier, self.formula(depth + 1))
        if self._take({"⊥"}) or (self.peek()[1].lower() == "false" and self._take({self.peek()[1]})):
            return ("false",)
        start = self._place
        try:
            return self._comparison(depth)
        except FormulaError:
            self._place = start
        if self._take({"("}):
            inner = self.formula(depth + 1)
            self._expect(")")
            return inner
        return self._predicate()

    def _quantifier(self) -> tuple[str, str] | None:
        """`(x):`, `(Ex):`, `forall x.` or `∃x:`."""
        (_, first), (_, second), (_, third), (_, fourth) = (self.peek(i) for i in range(4))
        if first == "(" and third == ")" and fourth == ":" and second.isidentifier():
            self._place += 4
            if len(second) > 1 and second[0] == "E":
                return ("some", second[1:])
            return ("all", second)
        kind = "all" if first.lower() in _ALL else "some" if first.lower() in _SOME else None
        if kind is None or self.peek(1)[0] != "name":
            return None
        self._place += 2
        self._take({".", ":"})
        return (kind, second)

    def _predicate(self) -> Formula:
        kind, text = self.peek()
        if kind == "curly":
            self._place += 1
            arguments = []
            # `{A}{a}` and `{A}x`; a bare name after it is an argument if it stands close, which tokens
            # no longer show, so operators are left out.
            while self.peek()[0] == "curly" or (self.peek()[0] == "name" and self.peek()[1] not in _RESERVED):
                arguments.append(self.peek()[1].strip("{}"))
                self._place += 1
            return ("holds", text.strip("{}"), tuple(arguments))
        if kind != "name" or text.lower() in _RESERVED:
            raise FormulaError(f"expected a statement, found {text!r}" if text else "the formula ends early")
        self._place += 1
        arguments = []
        if self._take({"("}):
            while True:
                kind, argument = self.peek()
                if kind not in ("name", "curly", "number"):
                    raise FormulaError(f"expected an argument, found {argument!r}")
                arguments.append(argument.strip("{}"))
                self._place += 1
                if not self._take({","}):
                    break
            self._expect(")")
        return ("holds", text, tuple(arguments))

    def _comparison(self, depth: int) -> Formula:
        left = self._term(depth)
        sign = _COMPARE.get(self.peek()[1])
        if sign is None:
            raise FormulaError("no comparison")
        result: Formula | None = None
        while (sign := _COMPARE.get(self.peek()[1])) is not None:
            self._place += 1
            right = self._term(depth)
            part: Formula = ("compare", sign, left, right)
            result = part if result is None else ("and", result, part)
            left = right
        assert result is not None
        return result

    def _term(self, depth: int) -> Formula:
        left = self._product(depth)
        while self.peek()[1] in ("+", "-"):
            sign = self.peek()[1]
            self._place += 1
            left = (sign, left, self._product(depth))
        return left

    def _product(self, depth: int) -> Formula:
        left = self._factor(depth)
        while True:
            kind, text = self.peek()
            sign = {"*": "*", "×": "*", "·": "*", "/": "/", "÷": "/"}.get(text)
            if sign is not None:
                self._place += 1
            elif kind == "name" and text.lower() not in _RESERVED and left[0] == "number":
                sign = "*"  # 2x
            else:
                return left
            left = (sign, left, self._factor(depth))

    def _factor(self, depth: int) -> Formula:
        self._work += 1
        if depth > _MAX_DEPTH or self._work > 20_000:
            raise FormulaError("too deeply nested")
        if self._take({"-"}):
            return ("neg", self._factor(depth + 1))
        kind, text = self.peek()
        if kind == "number":
            self._place += 1
            base: Formula = ("number", text)
        elif kind == "name" and text.lower() not in _RESERVED:
            self._place += 1
            base = ("name", text)
        elif self._take({"("}):
            base = self._term(depth + 1)
            self._expect(")")
        else:
            raise FormulaError(f"expected a number or a name, found {text!r}")
        if self._take({"^", "**"}):
            kind, text = self.peek()
            if kind != "number" or not text.isdigit() or int(text) > 8:
                raise FormulaError("exponents are whole numbers up to 8")
            self._place += 1
            return ("^", base, ("number", text))
        return base

    def _take(self, texts: set[str]) -> bool:
        kind, text = self.peek()
        if kind not in ("end", "curly") and (text in texts or (kind == "name" and text.lower() in texts)):
            self._place += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take({text}):
            raise FormulaError(f"expected {text!r}, found {self.peek()[1]!r}")
