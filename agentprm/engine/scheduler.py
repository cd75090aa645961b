"""One thread that runs the requests of all callers on a model as one changing batch.

Every turn is one forward pass: the last token of each sample under way, and as many tokens of prompts
and continuations as make a pass worth its while. A request that arrives joins at the next turn;
samples that have ended, and everything of a caller who has gone, leave before it.

The thread starts with the first request and ends when there has been nothing to do for a moment. It
never outlives the interpreter's exit, and a forked process starts one of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass

import torch

from agentprm.engine.engine import Engine, Piece
from agentprm.engine.planning import Item, Work, levels
from agentprm.engine.requests import Request, Samples, Sink, Text, draw, logprobs_at
from agentprm.forking import after_fork

__all__ = ["Scheduler"]

# Most tokens of prompts and continuations that a thread computes in one pass. On a CPU larger ones are
# slower, as what lies between the layers leaves the caches (benchmarks/engine.py passes); a GPU wants
# more at once.
PASS = 512
_PASSES_ON_GPU = 8  # times as many
_FULLER = 1.25  # so much more is better than a small pass of its own
_LOGITS = 2**26  # most logits of one pass (256 MB in fp32)
_LINGER_S = 1.0  # starting a thread is cheap, but not as cheap as keeping it between two steps


@dataclass(eq=False)
class _Schedule:
    """Items that were planned together: what of the current level is to do, and the next ones."""

    items: Sequence[Item]
    rest: Iterator[list[Work]]
    works: list[Work]


class Scheduler:
    """Runs requests on an engine.

    Args:
        engine: The model.
        max_slots: Most slots of a batch; a single row may exceed it.

    Attributes:
        engine: The model.
    """

    def __init__(self, engine: Engine, max_slots: int) -> None:
        self.engine = engine
        self._max_slots = max_slots
        self._reset()
        _schedulers.add(self)
        after_fork(self, Scheduler._reset)

    def _reset(self) -> None:
        """Begins without requests and without a thread, at first and in a forked process."""
        self._wake = threading.Condition()
        self._turns = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._inbox: list[Item] = []
        self._forget()

    def _forget(self) -> None:
        self._waiting: list[Samples] = []
        self._schedules: list[_Schedule] = []
        self._running: list[Samples] = []
        self._finished: list[Request] = []
        self._ended = False

    @property
    def row_bytes(self) -> int:
        """Bytes of keys and values that the requests under way hold."""
        rows = [some.row for some in self._running] + [w.row for p in self._schedules for w in p.works]
        return sum(row.nbytes for row in rows if row is not None)

    def submit(self, request: Request, items: Sequence[Item]) -> None:
        """Starts a request; its future tells when it is done."""
        request.pending = len(items)
        if not items:
            request.future.set_result(None)
            return
        with self._wake:
            self._inbox += items
            if self._thread is not None:
                self._wake.notify()
                return
            if not self._closed:
                thread = threading.Thread(target=self._loop, name="agentprm-lm", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                    return
                except RuntimeError:  # no more threads: too many, or the interpreter is going down
                    pass
        while not request.future.done():
            with self._turns:
                if not request.future.done():
                    self._turn()

    def close(self) -> None:
        """Ends all requests with an error, and the thread after its current pass."""
        with self._wake:
            self._closed = True
            thread = self._thread
            self._wake.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _loop(self) -> None:
        while True:
            with self._wake:
                if not self._closed and self._idle():
                    self._wake.wait(_LINGER_S)
                if self._closed or self._idle():
                    self._thread = None
                    break
            # An error has been reported to every request that it ended; the next ones need the thread.
            with self._turns, contextlib.suppress(BaseException):
                self._turn()
        if self._closed:
            self._fail_all(RuntimeError("The interpreter is going down; the language model has stopped."))

    def _idle(self) -> bool:
        return not (self._inbox or self._waiting or self._schedules or self._running)

    def _turn(self) -> None:
        """Takes in what has arrived, makes one forward pass, and draws the samples' next tokens."""
        try:
            self._drop()
            self._admit()
            for schedule in list(self._schedules):
                self._advance(schedule)
            works = self._next_works()
            # By adapter, so that each has one run of tokens.
            decoding = sorted(self._running, key=lambda some: some.request.adapter or "")
            try:
                self._pass(decoding, works)
            except Exception as error:
                self._pass_singly(decoding, works, error)
            self._draw([some for some in self._running if some.logits is not None])
            for schedule in list(self._schedules):
                self._advance(schedule)
            if self._ended or not self._schedules:
                # What a schedule has put there for its next level should last as long as the schedule.
                self.engine.tree.trim()
                self._ended = False
            finished, self._finished = self._finished, []
            for request in finished:
                _settle(request)
        except BaseException as error:
            # What belongs to one request is caught where it happens. This is the rest.
            self._fail_all(error)
            if not isinstance(error, Exception):
                raise

    def _fail_all(self, error: BaseException) -> None:
        with self._wake:
            items: list[Item] = [*self._inbox, *self._waiting, *self._running]
            self._inbox = []
        items += [item for schedule in self._schedules for item in schedule.items]
        self._forget()
        for item in items:
            _settle(item.request, error)

    def _drop(self) -> None:
        """Forgets what nobody waits for any more."""
        self._running = [some for some in self._running if not some.request.future.done()]
        self._waiting = [some for some in self._waiting if not some.request.future.done()]
        for schedule in self._schedules:
            schedule.works = [work for work in schedule.works if work.wanted]
        wanted = [p for p in self._schedules if any(not item.request.future.done() for item in p.items)]
        if len(wanted) < len(self._schedules):
            self._schedules, self._ended = wanted, True

    def _admit(self) -> None:
        """Begins to plan what has arrived, as far as there is room for samples."""
        with self._wake:
            arrived, self._inbox = self._inbox, []
        self._waiting += [item for item in arrived if isinstance(item, Samples)]
        items: list[Item] = [item for item in arrived if isinstance(item, Text)]
        held = {item for schedule in self._schedules for item in schedule.items if isinstance(item, Samples)}
        held.update(self._running)
        slots = sum(some.slots for some in held if some.alive and not some.request.future.done())
        while self._waiting and (not slots or slots + self._waiting[0].slots <= self._max_slots):
            some = self._waiting.pop(0)
            slots += some.slots
            items.append(some)
        items = [item for item in items if not item.request.future.done()]
        # What one adapter computes is of no use to another.
        for adapter in dict.fromkeys(item.request.adapter for item in items):
            own = [item for item in items if item.request.adapter == adapter]
            self._schedules.append(_Schedule(own, levels(self.engine.tree, own, self._max_slots), []))

    def _advance(self, schedule: _Schedule) -> None:
        """Goes on to the next level with something to do, if this one is done."""
        while not schedule.works:
            works = next(schedule.rest, None)
            if works is None:
                self._schedules.remove(schedule)
                self._ended = True
                return
            schedule.works = [work for work in works if work.wanted]
            self._finished += {
                i.request for i in schedule.items if isinstance(i, Text) and not i.request.pending
            }

    def _next_works(self) -> list[Work]:
        """Rows that the next pass takes tokens of."""
        # Shortest first among what each schedule would go on with: a small call must not wait for a large
        # one, and what it leaves of the pass goes to the large one.
        heads = sorted((schedule.works[0] for schedule in self._schedules), key=lambda work: work.left)
        others = [work for schedule in self._schedules for work in schedule.works[1:]]
        most, most_of_row = self._most_tokens()
        chosen: list[Work] = []
        tokens, slots = 0, 0
        for work in [*heads, *others]:
            if chosen and (tokens >= most or slots + work.slots > self._max_slots):
                break
            work.begin(self.engine.device)
            chosen.append(work)
            tokens += min(work.left, most_of_row)
            slots += work.slots
        return chosen

    def _most_tokens(self) -> tuple[int, int]:
        """Most tokens of a pass, and of one of its rows. The threads of a CPU share out the rows."""
        on_cpu = self.engine.device.type == "cpu"
        return (PASS * torch.get_num_threads(), PASS) if on_cpu else (PASS * _PASSES_ON_GPU,) * 2

    def _shares(self, works: Sequence[Work]) -> list[int]:
        """Most tokens that each row gives to a pass."""
        most, most_of_row = self._most_tokens()
        wanted = [min(work.left, most_of_row) for work in works]
        if most == most_of_row:
            before = itertools.accumulate(wanted, initial=0)
            return [min(own, max(0, most - done)) for own, done in zip(wanted, before, strict=False)]
        # Threads share out the rows. Each row gives equally much, rather than the first ones all and the
        # last ones a rest, so that no thread waits, in this pass or in the next one.
        if sum(wanted) <= _FULLER * most:
            return wanted
        left = most
        for number, own in enumerate(sorted(wanted)):
            share = left // (len(wanted) - number)
            if own > share:
                return [min(own, share) for own in wanted]
            left -= own
        return wanted

    def _pass_singly(self, decoding: Sequence[Samples], works: Sequence[Work], error: Exception) -> None:
        """After a pass that failed one for each row, so that only the one at fault suffers."""
        rows = [*(([some], []) for some in decoding), *(([], [work]) for work in works)]
        for some, work in rows:
            try:
                if len(rows) == 1:
                    raise error
                self._pass(some, work)
            except Exception as own:
                for request in {g.request for g in some} | {r for w in work for r in w.requests}:
                    _settle(request, own)
        self._drop()

    def _pass(self, decoding: Sequence[Samples], works: Sequence[Work]) -> None:
        """One forward pass, and what is read off it. Until it has succeeded it changes nothing."""
        pieces: list[Piece] = [some.piece() for some in decoding]
        counts = [len(piece.ids) for piece in pieces]
        keep = list(range(sum(counts)))
        at, most = len(keep), max(1, _LOGITS // self.engine.outputs)
        taken: list[tuple[Work, int]] = []
        sinks: list[tuple[int, Sink]] = []  # with the logits that they read
        ends: list[tuple[Work, int]] = []  # prompts from which samples start, with their last logits
        for work, room in zip(works, self._shares(works), strict=True):
            readable = most - len(keep) if taken else max(1, most - len(keep))
            piece, reads = work.take(room, readable)
            if not piece.ids:
                break
            for offset, read in enumerate(reads):
                sinks += [(len(keep), sink) for sink in read]
                keep += [at + offset] if read else []
            at += len(piece.ids)
            if work.samples and len(piece.ids) == work.left:
                ends.append((work, len(keep)))
                keep.append(at - 1)
            pieces.append(piece)
            taken.append((work, len(piece.ids)))
        if not pieces:  # whoever wanted them has gone since
            return
        logits = self.engine.forward(pieces, keep)
        tokens = [(row, sink, sink.token) for row, sink in sinks if sink.token is not None]
        whole = [(row, sink) for row, sink in sinks if sink.token is None]
        scores = logprobs_at(logits, [row for row, _, _ in tokens], [token for _, _, token in tokens])
        outputs = logits[[row for row, _ in whole]].float().cpu()
        for some, own in zip(decoding, torch.split(logits[: sum(counts)], counts), strict=True):
            some.logits = own.float()
        firsts = [logits[index : index + 1].float() for _, index in ends]

        # The rest changes the state of things and must happen once.
        self.engine.commit(pieces)
        for (_, sink, _), score in zip(tokens, scores, strict=True):
            sink.text.scores[sink.number] = sink.text.scores.get(sink.number, 0.0) + score
        for (_, sink), output in zip(whole, outputs, strict=True):
            sink.text.outputs[sink.number] = output
        for some, count in zip(decoding, counts, strict=True):
            some.request.computed += count
        for work, count in taken:
            work.done(count)
            if not work.left:
                self._finish(work)
        for (work, _), first in zip(ends, firsts, strict=True):
            self._running += work.start(first)

    def _finish(self, work: Work) -> None:
        """Keeps what a row has computed, as far as somebody still waits for it."""
        assert work.row is not None
        for branch in work.branches:
            if branch.keep and branch.wanted:
                self.engine.tree.insert((*work.prompt[: branch.start], *branch.ids), work.row, branch.lane)
        for request in work.readers:
            self._done(request)
        for schedule in self._schedules:
            if work in schedule.works:
                schedule.works.remove(work)

    def _done(self, request: Request) -> None:
        request.pending -= 1
        if not request.pending:
            self._finished.append(request)

    def _draw(self, groups: Sequence[Samples]) -> None:
        """The next token of every sample; those that end leave."""
        alike: dict[tuple[float, float], list[Samples]] = {}
        for some in groups:
            alike.setdefault((some.params.temperature, some.params.top_p), []).append(some)
        for same in alike.values():
            logits = [s.logits.expand(len(s.alive), -1) for s in same if s.logits is not None]
            for some in same:
                some.logits = None
            try:
                drawn = draw(torch.cat(logits), [x for s in same for _, x in s.alive], same[0].params)
            except Exception as error:
                for some in same:
                    _settle(some.request, error)
                continue
            following = zip(*drawn, strict=True)
            for some in same:
                own = list(itertools.islice(following, len(some.alive)))
                try:
                    for (_, sample), (token, logprob) in zip(some.alive, own, strict=True):
                        sample.push(token, logprob, some)
                except Exception as error:
                    _settle(some.request, error)
        for some in groups:
            assert some.row is not None
            for lane, tokens in some.leave():
                if not some.request.future.done():
                    self.engine.tree.insert(tokens, some.row, lane)
            if not some.alive:
                self._running.remove(some)
                some.row = None
                self._done(some.request)


def _settle(request: Request, error: BaseException | None = None) -> None:
    """Tells whoever waits that a request is done, or why it failed."""
    with contextlib.suppress(InvalidStateError):  # it is known already, or the caller has gone
        if error is None:
            request.future.set_result(None)
        else:
            request.future.set_exception(error)


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for scheduler in list(_schedulers):
        scheduler.close()
