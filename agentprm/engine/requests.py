"""What requests want of a model, and the rows in which it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from agentprm.engine.cache import Row, Stretch
from agentprm.engine.decoding import Group
from agentprm.engine.engine import Engine, Piece, path_length

__all__ = ["Item", "Leaf", "Reading", "Request", "Segment", "Sink", "Work"]


class Request:
    """One call of a caller.

    Attributes:
        future: Done when all of its items are. Cancelling it drops them before the next pass.
        computed: Tokens that went through the model for it.
        pending: Items that are not finished.
    """

    def __init__(self) -> None:
        self.future: Future[None] = Future()
        self.computed = 0
        self.pending = 0

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for it."""
        return not self.future.done()

    def finish_one(self) -> None:
        """Counts a finished item."""
        self.pending -= 1
        if not self.pending:
            self._settle(lambda: self.future.set_result(None))

    def fail(self, error: BaseException) -> None:
        """Ends it with an error."""
        self._settle(lambda: self.future.set_exception(error))

    def _settle(self, how: Callable[[], None]) -> None:
        try:
            if self.wanted:
                how()
        except Exception:  # the caller cancelled it in between
            if not self.future.cancelled():
                raise


@dataclass(frozen=True, eq=False)
class Sink:
    """What is read off the model's output at one token.

    Attributes:
        item: Whose result it is.
        number: Which of the item's results.
        token: The token whose log-probability is added to the result; `None` takes all outputs.
    """

    item: Reading
    number: int
    token: int | None = None


@dataclass(frozen=True, eq=False)
class Leaf:
    """Tokens that follow a beginning of the text and that nothing else sees.

    Attributes:
        start: How much of the text they see.
        ids: Token ids.
        reads: What to read, by index in `ids`.
        keep: Whether a later text may go on from them.
    """

    start: int
    ids: tuple[int, ...]
    reads: dict[int, list[Sink]]
    keep: bool = True


@dataclass(eq=False)
class Reading:
    """A text and what is read on it.

    Attributes:
        request: Who wants it.
        prompt: Token ids.
        reads: What to read on the text itself, by position.
        leaves: What hangs on it.
        scores: Sums of log-probabilities, by result.
        outputs: Whole outputs, fp32, by result.
        rows: Rows that results come from and that are not done; one more until all are planned.
        settled: Whether its request has been told.
    """

    request: Request
    prompt: tuple[int, ...]
    reads: dict[int, list[Sink]] = field(default_factory=dict)
    leaves: list[Leaf] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)
    rows: int = 1
    settled: bool = False


Item = Reading | Group
"""What a request is made of."""


@dataclass(eq=False)
class Segment:
    """New tokens of one lane of a row.

    Attributes:
        ids: Token ids.
        position: Position of the first one.
        lane: The lane; 0 continues the trunk.
        start: The trunk's positions below this one are seen.
        requests: Who needs it; the first that is still there pays.
        reads: What to read, by index in `ids`.
        memory: Everything from the first token on, to be remembered; `None` if it is not.
    """

    ids: Sequence[int]
    position: int
    lane: int
    start: int
    requests: list[Request]
    reads: dict[int, list[Sink]]
    memory: Sequence[int] | None


class Work:
    """A row to compute, in one pass or several.

    Args:
        path: What is known of it.
        segments: What to compute.
        groups: Samples that start from the end of its trunk, if it is a trunk alone.
    """

    def __init__(
        self, path: Sequence[Stretch], segments: list[Segment], groups: Sequence[Group] = ()
    ) -> None:
        self._path = path
        self._segments = segments
        self.groups = list(groups)
        self.row: Row | None = None
        self._at = 0
        self.size = sum(len(segment.ids) for segment in segments)
        self.slots = path_length(path) + self.size
        for item in self._items():
            item.rows += 1

    def _items(self) -> set[Reading]:
        return {sink.item for s in self._segments for some in s.reads.values() for sink in some}

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for any of it."""
        return any(request.wanted for segment in self._segments for request in segment.requests)

    @property
    def requests(self) -> set[Request]:
        """Who waits for any of it."""
        return {request for segment in self._segments for request in segment.requests}

    @property
    def left(self) -> int:
        """Tokens that are still to compute."""
        return self.size - self._at

    def begin(self, device: torch.device) -> None:
        """Drops what nobody waits for any more and makes the row."""
        if self.row is None:
            lanes = [s for s in self._segments if s.lane == 0 or any(r.wanted for r in s.requests)]
            self._segments = lanes
            self.size = sum(len(segment.ids) for segment in lanes)
            room = max((group.room for group in self.groups), default=0)
            self.row = Row(self._path, self.size + room, device)

    def take(self, most: int, readable: int) -> tuple[Piece, list[list[Sink]], bool]:
        """The next tokens; to be confirmed by `done`.

        Args:
            most: Most tokens.
            readable: Most tokens of which something is to be read; at least 1.

        Returns:
            The piece, what to read off each of its tokens, and whether it ends with the last token of
            a prompt from which samples start.
        """
        assert self.row is not None
        ids: list[int] = []
        position: list[int] = []
        lane: list[int] = []
        start: list[int] = []
        reads: list[list[Sink]] = []
        piece = Piece(self.row, ids, position, lane, start)
        at = 0
        for segment in self._segments:
            for i in range(max(0, self._at - at), len(segment.ids)):
                some = segment.reads.get(i, [])
                readable -= bool(some)
                if len(ids) == most or readable < 0:
                    return piece, reads, False
                ids.append(segment.ids[i])
                position.append(segment.position + i)
                lane.append(segment.lane)
                start.append(segment.start)
                reads.append(some)
            at += len(segment.ids)
        return piece, reads, bool(self.groups)

    def done(self, count: int) -> bool:
        """Confirms that the next `count` tokens are computed; tells whether that was all."""
        at = 0
        for segment in self._segments:
            size = len(segment.ids)
            part = min(at + size, self._at + count) - max(at, self._at)
            if part > 0:
                payer = next((r for r in segment.requests if r.wanted), segment.requests[0])
                payer.computed += part
            at += size
        self._at += count
        return self._at == self.size

    def start(self, logits: torch.Tensor) -> list[Group]:
        """Gives the samples that wait for this row a row each, and the logits that they begin with."""
        assert self.row is not None
        begun = [group for group in self.groups if group.request.wanted]
        for group in begun:
            group.row = self.row.copy(group.room) if group is not begun[-1] else self.row
            group.logits = logits
        return begun

    def finish(self, engine: Engine) -> set[Reading]:
        """Remembers what was computed, as far as somebody still waits for it.

        Returns:
            What was read.
        """
        assert self.row is not None
        for segment in self._segments:
            if segment.memory is not None and any(request.wanted for request in segment.requests):
                engine.remember(self.row, segment.lane, segment.memory)
        items = self._items()
        for item in items:
            item.rows -= 1
        return items
