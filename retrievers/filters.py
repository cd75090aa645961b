"""Filters over metadata: dictionaries with operators, or any function of a document."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langchain_core.documents import Document

from agentprm.errors import CapabilityError, ConfigurationError

__all__ = [
    "Filter",
    "compile_filter",
    "compile_metadata_filter",
    "document_test",
    "plain_test",
    "signature",
]

Filter = Mapping[str, Any] | Callable[[Document], bool] | None
"""What searches accept as `filter`: see `compile_filter`."""

_MISSING = object()


def compile_filter(spec: Filter) -> Callable[[Document], bool]:
    """Predicate of a filter.

    A dictionary maps metadata keys to a wanted value or to operators; all its entries must hold::

        {"lang": "en"}                                  equal
        {"year": {"$gte": 1990, "$lt": 2000}}           $eq $ne $gt $gte $lt $lte
        {"tag": {"$in": ["a", "b"]}}                    $in $nin
        {"tags": {"$contains": "a"}}                    a list or a text that contains the value
        {"author": {"$exists": True}}
        {"$or": [{...}, {...}]}                         $and $or (lists), $not (one filter)

    A dotted key reaches into nested dictionaries when there is no such key itself. Ordering operators
    are false on a missing value and between values that cannot be ordered; `$ne` and `$nin` are true
    on a missing value.

    Args:
        spec: A dictionary as above, a function of a `Document`, or `None` for everything.

    Raises:
        ConfigurationError: An operator is unknown or its operand has the wrong type.
    """
    if spec is None:
        return lambda document: True
    if callable(spec):
        function = spec
        return lambda document: bool(function(document))
    test = compile_metadata_filter(spec)
    return lambda document: test(document.metadata)


def document_test(index: Any, filter: Any) -> Callable[[Document], bool]:
    """Whether a document passes a filter of an index, for documents that were not found by its search.

    Args:
        index: Where the documents are. Its own `document_test` knows what its filters mean; without one
            only plain filters are understood.
        filter: A filter in the language of that index.

    Raises:
        CapabilityError: The filter means what only that index knows.
        ConfigurationError: The filter is malformed.
    """
    own: Callable[[Any], Callable[[Document], bool]] | None = getattr(index, "document_test", None)
    return plain_test(filter, type(index).__name__) if own is None else own(filter)


def plain_test(filter: Any, store: str) -> Callable[[Document], bool]:
    """Predicate of what every store understands in the same way: keys and plain values, or nothing.

    Args:
        filter: A filter in a store's own language.
        store: The store's name.

    Raises:
        CapabilityError: The filter is more than that.
    """
    plain = isinstance(filter, Mapping) and all(
        not str(key).startswith("$") and isinstance(value, str | int | float | bool)
        for key, value in filter.items()
    )
    if not (filter is None or plain):
        raise CapabilityError(
            f"This filter of a {store} cannot be applied to documents that words or links bring in: "
            "use a dictionary of keys and plain values, or FaissStore."
        )
    return compile_filter(filter)


def compile_metadata_filter(spec: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """Predicate of a dictionary filter on metadata alone; see `compile_filter`.

    Raises:
        ConfigurationError: As `compile_filter`.
    """
    if not isinstance(spec, Mapping):
        raise ConfigurationError(
            f"filter must be a dictionary or a function of a document, not {type(spec).__name__}."
        )
    try:
        return _all_of(spec)
    except RecursionError:
        raise ConfigurationError("The filter contains itself or is nested too deep.") from None


def signature(spec: Mapping[str, Any]) -> str | None:
    """Text that is equal for dictionary filters of equal meaning only.

    Args:
        spec: A filter that `compile_metadata_filter` accepts.

    Returns:
        The text, or `None` for a filter with values that cannot be told apart by what they look like.
    """
    try:
        return _signature(spec)
    except TypeError:
        return None


def _signature(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{','.join(sorted(f'{_signature(k)}:{_signature(v)}' for k, v in value.items()))}}}"
    if type(value) in (list, tuple):
        return f"{type(value).__name__}({','.join(map(_signature, value))})"
    if type(value) in (set, frozenset):
        return f"set({','.join(sorted(map(_signature, value)))})"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    raise TypeError


_Test = Callable[[Mapping[str, Any]], bool]


def _all_of(spec: Mapping[str, Any]) -> _Test:
    tests = [_entry(key, value) for key, value in spec.items()]
    return lambda metadata: all(test(metadata) for test in tests)


def _entry(key: Any, value: Any) -> _Test:
    if not isinstance(key, str):
        raise ConfigurationError(f"The filter's key {key!r} is not a string; metadata keys are.")
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value or not all(isinstance(v, Mapping) for v in value):
            raise ConfigurationError(f"The filter's {key} needs a list of at least one dictionary.")
        parts = [_all_of(part) for part in value]
        combine = all if key == "$and" else any
        return lambda metadata: combine(part(metadata) for part in parts)
    if key == "$not":
        if not isinstance(value, Mapping):
            raise ConfigurationError("The filter's $not needs a dictionary.")
        part = _all_of(value)
        return lambda metadata: not part(metadata)
    if key.startswith("$"):
        raise ConfigurationError(
            f"Unknown operator {key} in a filter; use $and, $or, $not or a metadata key."
        )
    if isinstance(value, Mapping) and any(str(name).startswith("$") for name in value):
        tests = [_operation(name, operand) for name, operand in value.items()]
        return lambda metadata: _every(tests, _lookup(metadata, key))
    return lambda metadata: bool(_lookup(metadata, key) == value)


def _every(tests: list[Callable[[Any], bool]], value: Any) -> bool:
    return all(test(value) for test in tests)


def _lookup(metadata: Mapping[str, Any], key: str) -> Any:
    if key in metadata:
        return metadata[key]
    value: Any = metadata
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def _operation(name: str, operand: Any) -> Callable[[Any], bool]:
    if name in _ORDER:
        compare = _ORDER[name]
        return lambda value: _ordered(compare, value, operand)
    if name == "$eq":
        return lambda value: bool(value == operand)
    if name == "$ne":
        return lambda value: bool(value != operand)
    if name in ("$in", "$nin"):
        if not isinstance(operand, list | tuple | set | frozenset):
            raise ConfigurationError(f"The filter's {name} needs a list of values, not {operand!r}.")
        among = _membership(operand)
        return lambda value: among(value) == (name == "$in")
    if name == "$contains":
        return lambda value: isinstance(value, list | str) and _within(operand, value)
    if name == "$exists":
        if not isinstance(operand, bool):
            raise ConfigurationError(f"The filter's $exists needs True or False, not {operand!r}.")
        return lambda value: (value is not _MISSING) == operand
    known = ", ".join([*_ORDER, "$eq", "$ne", "$in", "$nin", "$contains", "$exists"])
    raise ConfigurationError(f"Unknown operator {name} in a filter; known are {known}.")


def _membership(choices: Iterable[Any]) -> Callable[[Any], bool]:
    """Whether a value is one of many, at the cost of one look where both are hashable."""
    quick: set[Any] = set()
    slow: list[Any] = []
    for choice in choices:
        try:
            quick.add(choice)
        except TypeError:
            slow.append(choice)

    def among(value: Any) -> bool:
        try:
            return value in quick or value in slow
        except TypeError:  # a list or a dictionary equals nothing that can be hashed
            return value in slow

    return among


def _ordered(compare: Callable[[Any, Any], bool], value: Any, operand: Any) -> bool:
    if value is _MISSING:
        return False
    try:
        return bool(compare(value, operand))
    except TypeError:
        return False


def _within(operand: Any, value: Any) -> bool:
    try:
        return operand in value
    except TypeError:
        return False
