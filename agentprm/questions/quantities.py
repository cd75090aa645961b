"""Dates and numbers as texts write them, made comparable: exact ones, and those of which a part is known."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Amount", "Period", "amount", "dates"]

_MONTH_LIST = "january february march april may june july august september october november december"
_MONTHS = {name[:3]: number for number, name in enumerate(_MONTH_LIST.split(), 1)}
_MONTH = (
    r"(?P<{}>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_ERA = r"(?:\s?(?P<{}>b\.?c\.?(?:e\.?)?)(?!\w))?"
_YEAR = r"(?P<{}>\d{{1,4}})"
_DAY = r"(?P<{}>\d{{1,2}})(?:st|nd|rd|th)?"
_DATE = re.compile(
    "|".join(
        rf"(?<![\w.,]){form}{era}(?![\w%]|[.,]\d)"
        for form, era in (
            (r"(?P<y0>\d{4})-(?P<m0>\d{2})-(?P<d0>\d{2})", ""),
            (
                _DAY.format("d1") + r"\s+(?:of\s+)?" + _MONTH.format("n1") + r",?\s+" + _YEAR.format("y1"),
                _ERA.format("e1"),
            ),
            (
                _MONTH.format("n2") + r"\s+" + _DAY.format("d2") + r",?\s+" + _YEAR.format("y2"),
                _ERA.format("e2"),
            ),
            (_MONTH.format("n3") + r",?\s+(?P<y3>\d{3,4})", _ERA.format("e3")),
            (r"(?P<c4>\d{1,2})(?:st|nd|rd|th)[ -]century", _ERA.format("e4")),
            (r"(?P<s5>\d{3}0)s", ""),
            (r"(?P<y6>[12]\d{3})", _ERA.format("e6")),
            (r"(?P<y7>\d{1,3})", r"\s?(?P<e7>b\.?c\.?(?:e\.?)?)(?!\w)"),
            (r"(?P<y8>\d{1,3})", r"\s?(?:a\.?d\.?|c\.?e\.?)(?!\w)"),
        )
    ),
    re.IGNORECASE,
)
_DAYS, _MONTHS_A_YEAR = 31, 12


class Period(NamedTuple):
    """A day, or the month, year, decade or century of which no more is known.

    Attributes:
        first: A number for its first day; numbers grow with time and are equal for equal days.
        last: The same for its last day.
    """

    first: int
    last: int

    @property
    def year(self) -> int:
        """The year of its first day; a negative number before Christ."""
        return self.first // (_DAYS * _MONTHS_A_YEAR)


def dates(text: str) -> list[Period]:
    """The dates in a text, in the order in which they stand.

    Example:
        >>> [period.year for period in dates("6 October 1988 to May 2001; 44 BC")]
        [1988, 2001, -44]
    """
    found = (_period(match) for match in _DATE.finditer(text))
    return [period for period in found if period is not None]


def _period(match: re.Match[str]) -> Period | None:
    parts = {key: value for key, value in match.groupdict().items() if value is not None}
    kinds = {key[0]: value for key, value in parts.items()}
    sign = -1 if "e" in kinds else 1
    if "c" in kinds:
        century = int(kinds["c"])
        first, last = sorted((sign * (100 * century - 99), sign * 100 * century))
        return Period(_day(first, 1, 1), _day(last, 12, _DAYS)) if century else None
    if "s" in kinds:
        return Period(_day(int(kinds["s"]), 1, 1), _day(int(kinds["s"]) + 9, 12, _DAYS))
    year = sign * int(kinds["y"])
    month = _MONTHS[kinds["n"][:3].lower()] if "n" in kinds else int(kinds.get("m", 0))
    day = int(kinds.get("d", 0))
    if not year or month > _MONTHS_A_YEAR or day > _DAYS or ("m" in kinds and not month):
        return None
    return Period(_day(year, month or 1, day or 1), _day(year, month or 12, day or _DAYS))


def _day(year: int, month: int, day: int) -> int:
    return (year * _MONTHS_A_YEAR + month - 1) * _DAYS + day - 1


class Amount(NamedTuple):
    """A number with what it counts.

    Attributes:
        value: In the base unit of its dimension.
        dimension: `length`, `area`, `mass`, `time`; empty for a plain number or a unit that is not known.
    """

    value: float
    dimension: str


_WORD_LIST = "zero one two three four five six seven eight nine ten eleven twelve"
_WORDS = {name: float(number) for number, name in enumerate(_WORD_LIST.split())}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_UNITS: dict[str, tuple[float, str]] = {
    **dict.fromkeys(("km", "kilometre", "kilometer"), (1000.0, "length")),
    **dict.fromkeys(("m", "metre", "meter"), (1.0, "length")),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), (0.01, "length")),
    **dict.fromkeys(("mi", "mile"), (1609.344, "length")),
    **dict.fromkeys(("ft", "foot", "feet"), (0.3048, "length")),
    **dict.fromkeys(("in", "inch", "inche"), (0.0254, "length")),
    **dict.fromkeys(("yd", "yard"), (0.9144, "length")),
    **dict.fromkeys(("km2", "km²", "square kilometre", "square kilometer"), (1e6, "area")),
    **dict.fromkeys(("sq mi", "square mile"), (2589988.0, "area")),
    **dict.fromkeys(("ha", "hectare"), (1e4, "area")),
    **dict.fromkeys(("acre",), (4046.86, "area")),
    **dict.fromkeys(("kg", "kilogram"), (1.0, "mass")),
    **dict.fromkeys(("g", "gram"), (0.001, "mass")),
    **dict.fromkeys(("lb", "pound"), (0.45359237, "mass")),
    **dict.fromkeys(("t", "tonne"), (1000.0, "mass")),
    **dict.fromkeys(("second",), (1.0, "time")),
    **dict.fromkeys(("min", "minute"), (60.0, "time")),
    **dict.fromkeys(("h", "hour"), (3600.0, "time")),
    **dict.fromkeys(("day",), (86400.0, "time")),
    **dict.fromkeys(("month",), (2629746.0, "time")),
    **dict.fromkeys(("year",), (31556952.0, "time")),
}
_AMOUNT = re.compile(
    r"(?<![\w.,])(?P<number>-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?|" + "|".join(_WORDS) + r")(?!\d)"
    r"(?:[ -]?(?P<scale>" + "|".join(_SCALES) + r")\b)?"
    r"(?:[ -]?(?P<unit>" + "|".join(sorted(_UNITS, key=len, reverse=True)) + r")s?(?!\w))?",
    re.IGNORECASE,
)


def amount(text: str) -> Amount | None:
    """The first number of a text, with its unit; `None` if there is none.

    Example:
        >>> amount("It is 1.5 million km long")
        Amount(value=1500000000.0, dimension='length')
    """
    match = _AMOUNT.search(text)
    if match is None:
        return None
    number = match["number"].lower()
    value = _WORDS[number] if number in _WORDS else float(number.replace(",", ""))
    factor, dimension = _UNITS[match["unit"].lower()] if match["unit"] else (1.0, "")
    return Amount(value * _SCALES.get((match["scale"] or "").lower(), 1.0) * factor, dimension)
