"""The one rule of what documents and state may carry: plain values and valid Unicode.

It is applied where data enters: at loaders, stores, nodes and traces. What passes can be saved in an
index and in a checkpoint; what does not is refused with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from agentprm.errors import InputError

__all__ = ["clean_text", "plain"]

_DEEPEST = 100
# What a checkpoint holds beyond JSON's types.
_ATOMS = (bytes, datetime, date, time, timedelta, Decimal, UUID)


def clean_text(text: str) -> str:
    """`text` as valid Unicode: two halves of a surrogate pair are joined, a lone half becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return str(text)  # not a subclass


def plain(value: Any, where: str = "value", *, json_only: bool = False) -> Any:
    """Copy of `value` that a checkpoint can hold: numpy and torch numbers become Python's.

    Strings are cleaned (`clean_text`); tuples, and sets where they are allowed, become lists.

    Args:
        value: Anything made of dicts, sequences and scalars.
        where: Name of the value in an error message.
        json_only: Whether only JSON's types may pass: no dates, bytes or sets, and no keys but strings.

    Raises:
        InputError: Something in it cannot be stored (a live object, a function, a huge integer), or it is
            nested more than 100 deep, as a value that contains itself is.
    """
    return _plain(value, where, json_only, 0)


def _plain(value: Any, where: str, json_only: bool, depth: int) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if value is None or type(value) in (bool, float):
        return value
    if type(value) is int:
        if not -(2**63) <= value < 2**64:
            raise InputError(f"{where} is an integer of more than 64 bits; store it as a string.")
        return value
    if depth > _DEEPEST:
        raise InputError(f"{where[:40]}… is nested more than {_DEEPEST} deep, or contains itself.")
    if isinstance(value, Mapping):
        return {
            _key(key, where, json_only): _plain(v, f"{where}[{key!r:.40}]", json_only, depth + 1)
            for key, v in value.items()
        }
    if isinstance(value, list | tuple) or (isinstance(value, set | frozenset) and not json_only):
        return [_plain(item, f"{where}[{place}]", json_only, depth + 1) for place, item in enumerate(value)]
    if isinstance(value, _ATOMS) and not json_only:
        return value
    # numpy scalars and arrays, torch tensors: duck-typed, since neither need be installed
    if callable(getattr(value, "tolist", None)):
        converted = _listed(value, where)
        if type(converted) is not type(value):  # as for numpy's long double, which is no number of Python's
            return _plain(converted, where, json_only, depth + 1)
    elif isinstance(value, float):  # enumerations and other subclasses
        return float(value)
    elif isinstance(value, int):
        return _plain(int(value), where, json_only, depth + 1)
    raise InputError(
        f"{where} is a {type(value).__name__}, which {'an index' if json_only else 'a checkpoint'} "
        "cannot hold. Convert it to strings and numbers first."
    )


def _key(key: Any, where: str, json_only: bool) -> str:
    if isinstance(key, str):
        return clean_text(key)
    if json_only:
        raise InputError(f"The key {key!r} of {where} is not a string; use str({key!r}).")
    return str(_plain(key, f"a key of {where}", json_only, 0))


def _listed(value: Any, where: str) -> Any:
    try:
        return value.tolist()
    except Exception as error:  # whatever a foreign library raises
        raise InputError(f"{where} is a {type(value).__name__} that cannot be converted ({error}).") from None
