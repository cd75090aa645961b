"""Readers: where in some passages a question is answered, as an exact quotation.

What lives where:

- `base`: the contract `Reader` and its record `ReaderAnswer`.
- `span_reader`: a small encoder that marks a span or says yes, no or none; `agentprm.training` trains it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentprm.readers.base import Reader, ReaderAnswer

if TYPE_CHECKING:
    from agentprm.readers.span_reader import SpanReader

__all__ = ["Reader", "ReaderAnswer", "SpanReader"]


def __getattr__(name: str) -> Any:
    """Loads `SpanReader`, which needs torch, when it is first asked for."""
    if name != "SpanReader":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from agentprm.errors import MissingDependencyError

    try:
        from agentprm.readers.span_reader import SpanReader
    except ImportError:
        raise MissingDependencyError.for_extra("SpanReader", "transformers") from None
    return SpanReader
