"""A small grammar of arithmetic, evaluated by sympy in exact numbers.

Text is parsed here and never handed to sympy's own parser, which runs Python's `eval`. Sizes are
bounded before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentprm.errors import MissingDependencyError

__all__ = ["Token", "Value", "sympy_module", "value_of"]

_MAX_TOKENS = 200
_MAX_DIGITS = 40
_MAX_DEPTH = 30
_MAX_BITS = 4096
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}


class Token(NamedTuple):
    """A piece of an expression: its kind and text.

    Kinds: `number`, `op` (one of `+ - * / ^`), `open`, `close`, `frac`, `sqrt`, `percent`, `scale`,
    `factorial`.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Value:
    """An evaluated expression.

    Attributes:
        number: A sympy number, exact.
        bare: Whether it is a single number, without an operation.
        places: Decimal places of a bare number; 0 for an integer.
        leading: Value of the first number of the expression.
        decimals: Whether one of its numbers has decimal places, which may come from rounding.
    """

    number: Any
    bare: bool
    places: int
    leading: Any
    decimals: bool


class _NoExpression(Exception):
    """The tokens form no expression of this grammar, or one that is too large."""


def sympy_module() -> Any:
    """Sympy, imported when it is first needed.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import sympy
    except ImportError as error:
        raise MissingDependencyError.for_extra("sympy", "formal") from error
    return sympy


def value_of(tokens: Sequence[Token], *, percent: bool) -> Value | None:
    """Value of an expression, or `None` if it is none, too large or undefined (division by zero).

    Args:
        tokens: The whole expression.
        percent: Whether `20%` is a fifth; otherwise it is 20.

    Raises:
        MissingDependencyError: If sympy is not installed.
    """
    if not tokens or len(tokens) > _MAX_TOKENS:
        return None
    sympy = sympy_module()
    parser = _Parser(tokens, sympy, percent)
    try:
        number = parser.sum(0)
        parser.expect_end()
    except _NoExpression:
        return None
    numbers = [token.text for token in tokens if token.kind == "number"]
    bare = len(numbers) == 1 and not any(t.kind in ("op", "frac", "sqrt", "factorial") for t in tokens[1:])
    places = len(numbers[0].partition(".")[2]) if bare else 0
    leading = sympy.Rational(numbers[0].replace(",", ""))
    return Value(number, bare, places, leading, any("." in text for text in numbers))


def _is_zero(value: Any) -> bool:
    """Whether a number is zero; a sum of roots may be without looking like it."""
    return bool(value == 0 or (not value.is_Rational and abs(value.evalf(60)) < 1e-40))


class _Parser:
    """Recursive descent: sum > product > sign > power > atom."""

    def __init__(self, tokens: Sequence[Token], sympy: Any, percent: bool) -> None:
        self._tokens, self._place, self._sympy, self._percent = tokens, 0, sympy, percent

    def sum(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _NoExpression
        total = self._product(depth)
        while (operator := self._take_op("+-")) is not None:
            term = self._product(depth)
            total = total + term if operator == "+" else total - term
        return self._bounded(total)

    def expect_end(self) -> None:
        if self._peek() is not None:
            raise _NoExpression

    def _product(self, depth: int) -> Any:
        total = self._sign(depth)
        while True:
            operator = self._take_op("*/")
            if operator is None:
                # Two brackets side by side, or a number before one, are a product.
                token = self._peek()
                if token is None or token.kind not in ("open", "frac", "sqrt"):
                    return total
                operator = "*"
            factor = self._sign(depth)
            if operator == "/":
                if _is_zero(factor):
                    raise _NoExpression
                total = self._bounded(total / factor)
            else:
                total = self._bounded(total * factor)

    def _sign(self, depth: int) -> Any:
        negative = False
        while (operator := self._take_op("+-")) is not None:
            negative ^= operator == "-"
        value = self._power(depth)
        return -value if negative else value

    def _power(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise _NoExpression
        base = self._atom(depth)
        if self._take_op("^") is None:
            return base
        negative = self._take_op("-") is not None
        exponent = self._power(depth + 1)  # right-associative
        return self._raised(base, -exponent if negative else exponent)

    def _raised(self, base: Any, exponent: Any) -> Any:
        half = self._sympy.Rational(1, 2)
        if exponent == half:
            if base.is_negative:
                raise _NoExpression
            return self._sympy.sqrt(base)
        if not (exponent.is_Integer and base.is_Rational) or abs(exponent) > _MAX_BITS:
            raise _NoExpression
        bits = max(abs(int(base.p)).bit_length(), int(base.q).bit_length())
        if bits * abs(int(exponent)) > _MAX_BITS or (base == 0 and exponent <= 0):
            raise _NoExpression
        return base**exponent

    def _atom(self, depth: int) -> Any:
        token = self._next()
        if token.kind == "number":
            digits = token.text.replace(",", "")
            if len(digits) > _MAX_DIGITS:
                raise _NoExpression
            value = self._sympy.Rational(digits)
        elif token.kind == "open":
            value = self.sum(depth + 1)
            if self._next().kind != "close":
                raise _NoExpression
        elif token.kind == "frac":
            top, bottom = self._atom(depth + 1), self._atom(depth + 1)
            if _is_zero(bottom):
                raise _NoExpression
            value = top / bottom
        elif token.kind == "sqrt":
            value = self._raised(self._atom(depth + 1), self._sympy.Rational(1, 2))
        else:
            raise _NoExpression
        while (after := self._peek()) is not None and after.kind in ("percent", "scale", "factorial"):
            self._place += 1
            if after.kind == "percent":
                value = value / 100 if self._percent else value
            elif after.kind == "scale":
                value = value * _SCALES[after.text]
            else:
                if not (value.is_Integer and 0 <= value <= 100):
                    raise _NoExpression
                value = self._sympy.factorial(value)
        return self._bounded(value)

    def _bounded(self, value: Any) -> Any:
        # Roots stay symbolic; a handful of them is all that a step of this grammar can hold.
        if value.is_Rational and max(abs(int(value.p)).bit_length(), int(value.q).bit_length()) > _MAX_BITS:
            raise _NoExpression
        return value

    def _peek(self) -> Token | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _next(self) -> Token:
        token = self._peek()
        if token is None:
            raise _NoExpression
        self._place += 1
        return token

    def _take_op(self, operators: str) -> str | None:
        token = self._peek()
        if token is None or token.kind != "op" or token.text not in operators:
            return None
        self._place += 1
        return token.text
