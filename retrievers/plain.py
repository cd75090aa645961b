"""What a store takes: text, and metadata that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentprm.errors import InputError
from agentprm.plain import clean_text, plain

__all__ = ["metadata_json", "stored_text"]


def stored_text(text: str, where: str) -> str:
    """`text` as valid Unicode.

    Raises:
        InputError: It is no string.
    """
    if not isinstance(text, str):
        raise InputError(f"{where} is a {type(text).__name__} and not a string.")
    return clean_text(text)


def metadata_json(metadata: Mapping[str, Any] | None) -> str:
    """JSON text of a document's metadata; `None` counts as empty.

    Raises:
        InputError: It is no dictionary, or a value cannot be stored; the message names its key.
    """
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InputError(f"The metadata is a {type(metadata).__name__} and not a dictionary.")
    return json.dumps(plain(metadata, "metadata", json_only=True), ensure_ascii=False)
