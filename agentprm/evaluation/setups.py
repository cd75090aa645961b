"""What an evaluation compares: set-ups, what they cost, and what they answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentprm.budget import Usage
from agentprm.errors import ConfigurationError
from agentprm.evaluation.runner import Answerer, QaRecord
from agentprm.trace.schema import Trace, load_trace

__all__ = ["Prices", "Run", "Setup"]


@dataclass(frozen=True)
class Prices:
    """What a model costs, for a million tokens, in any currency.

    Attributes:
        input: Of prompts.
        output: Of what it writes.
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ConfigurationError(
                    f"The price of {name} must be a number of at least 0, not {value!r}."
                )

    def cost(self, usage: Usage) -> float:
        """What a run cost."""
        return (self.input * usage["prompt_tokens"] + self.output * usage["completion_tokens"]) / 1e6


@dataclass(frozen=True)
class Setup:
    """One row of the comparison.

    Attributes:
        name: Its name in the report; set-ups that differ in their seed alone share it, and are averaged.
        graph: A compiled graph or another runnable that takes `{"question": ...}`, or a function without
            arguments that makes one: it is called when the first question is asked, if any is.
        settings: How it is made, plain. Answers in the log belong to these settings; with others, the
            questions are asked again.
        prices: Of its model.
    """

    name: str
    graph: Answerer | Callable[[], Answerer]
    settings: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices | None = None


@dataclass(frozen=True)
class Run:
    """The answers of one set-up.

    Attributes:
        setup: The set-up.
        records: One a question, in their order.
        traces: Folder of their traces, or `None`.
    """

    setup: Setup
    records: Sequence[QaRecord]
    traces: Path | None = None

    def trace(self, record: QaRecord) -> Trace | None:
        """The trace of an answer; `None` if there is none."""
        name = record.get("trace")
        if self.traces is None or not name or not (self.traces / name).is_file():
            return None
        return load_trace(self.traces / name)
