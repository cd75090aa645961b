"""Readers: where in some passages a question is answered, as an exact quotation.

`base` holds the contract (`Reader`, `ReaderAnswer`), `span_reader` the small encoder that marks a span or
says yes, no or none (`SpanReader`, trained by `agentprm.training.span_reader`).
"""

from agentprm.readers.base import Reader, ReaderAnswer
from agentprm.readers.span_reader import SpanReader

__all__ = ["Reader", "ReaderAnswer", "SpanReader"]
