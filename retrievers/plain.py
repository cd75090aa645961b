"""Makes document metadata plain: what goes into a store comes out as JSON types, or is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from agentprm.errors import InputError

__all__ = ["check_text", "metadata_json", "plain_value"]


_DEEPEST = 100


def plain_value(value: Any, where: str = "metadata", *, depth: int = 0) -> Any:
    """Copy of `value` made of None, bool, int, float, str, list and dict only.

    NumPy scalars and arrays become Python numbers and lists, tuples become lists.

    Args:
        value: What to convert.
        where: Path of the value, for the message of the error.
        depth: How deep the value lies in what is converted.

    Raises:
        InputError: A value is of another type, a key is not a string, text is not valid Unicode, or
            the nesting is deeper than 100, as that of a value that contains itself.
    """
    if depth > _DEEPEST:
        raise InputError(f"{where[:40]}… is nested more than {_DEEPEST} deep, or contains itself.")
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        return check_text(str(value), where)
    if isinstance(value, np.generic):
        return plain_value(value.item(), where, depth=depth + 1)
    if isinstance(value, np.ndarray):
        return plain_value(value.tolist(), where, depth=depth + 1)
    if isinstance(value, bool | int | float):  # enumerations and other subclasses
        return plain_value(int(value) if isinstance(value, int) else float(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"The key {key!r} of {where} is not a string; use str({key!r}).")
        return {
            check_text(str(k), where): plain_value(v, f"{where}[{k!r}]", depth=depth + 1)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_value(item, f"{where}[{i}]", depth=depth + 1) for i, item in enumerate(value)]
    raise InputError(
        f"{where} is a {type(value).__name__}, which cannot be stored: "
        "convert it to a string, number, list or dictionary."
    )


def check_text(text: str, where: str) -> str:
    """`text` itself when it can be stored as UTF-8.

    Raises:
        InputError: It is no string, or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise InputError(f"{where} is a {type(text).__name__} and not a string.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} is not valid Unicode at character {error.start}: "
            "clean it with text.encode('utf-8', 'replace').decode()."
        ) from None
    return text


def metadata_json(metadata: Mapping[str, Any] | None) -> str:
    """JSON text of a document's metadata; `None` counts as empty.

    Raises:
        InputError: It is no dictionary, or a value cannot be stored; the message names its key.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InputError(f"The metadata is a {type(metadata).__name__} and not a dictionary.")
    return json.dumps(plain_value(metadata), ensure_ascii=False)
