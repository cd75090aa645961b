"""What callers want of a model: plain records, which the scheduler fills in."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

__all__ = ["Branch", "Request", "Sink", "Text"]


@dataclass(eq=False)
class Request:
    """One call of a caller.

    Attributes:
        adapter: Name of the adapter that the model is read with; `None` for none.
        future: Done when all of it is. Cancelling it drops the rest before the next pass.
        computed: Tokens that went through the model for it.
        pending: Samples and rows that it waits for, and texts that are not planned yet.
    """

    adapter: str | None = None
    future: Future[None] = field(default_factory=Future)
    computed: int = 0
    pending: int = 0


@dataclass(eq=False)
class Text:
    """A text and what is read on it.

    Attributes:
        request: Who wants it.
        prompt: Token ids.
        reads: What to read on the text itself, by position.
        leaves: What hangs on it.
        scores: Sums of log-probabilities, by result.
        outputs: Whole outputs, fp32, by result.
    """

    request: Request
    prompt: tuple[int, ...]
    reads: dict[int, list[Sink]] = field(default_factory=dict)
    leaves: list[Branch] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sink:
    """What is read off the model's output at one token, and where it goes.

    Attributes:
        text: Whose result it is.
        number: Which of the text's results.
        token: The token whose log-probability is added to the result; `None` takes all outputs.
    """

    text: Text
    number: int
    token: int | None = None


@dataclass(eq=False)
class Branch:
    """Tokens that follow one another in a row and are computed together.

    Attributes:
        ids: Token ids.
        start: Position of the first one; of the trunk, what lies below it is seen.
        reads: What to read, by index in `ids`.
        keep: Whether the prefix tree remembers them.
        lane: Their lane; 0 continues the trunk.
        requests: Who needs them; the first that is still there pays.
    """

    ids: tuple[int, ...]
    start: int
    reads: dict[int, list[Sink]]
    keep: bool = True
    lane: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return any(not request.future.done() for request in self.requests)
