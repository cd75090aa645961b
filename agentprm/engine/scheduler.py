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
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from agentprm.engine.decoding import Group, draw
from agentprm.engine.engine import Engine, Piece, token_logprobs
from agentprm.engine.planning import levels
from agentprm.engine.requests import Item, Reading, Request, Sink, Work
from agentprm.forking import after_fork

__all__ = ["Scheduler"]

# Most tokens of prompts and continuations that a thread computes in one pass. On a CPU larger ones are
# slower, as what lies between the layers leaves the caches (benchmarks/engine.py passes); a GPU wants
# more at once.
PASS = 512
_PASSES_ON_GPU = 8  # times as many
_LOGITS = 2**26  # most logits of one pass (256 MB in fp32)
_LINGER_S = 1.0  # starting a thread is cheap, but not as cheap as keeping it between two steps


@dataclass(eq=False)
class _Plan:
    """Requests that were planned together: what of the current level is to do, and the next ones."""

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
        self._waiting: list[Group] = []
        self._plans: list[_Plan] = []
        self._running: list[Group] = []
        self._settled: list[Request] = []
        self._ended = False

    @property
    def _most_of_row(self) -> int:
        """Most tokens of one row in a pass."""
        return PASS if self.engine.device.type == "cpu" else PASS * _PASSES_ON_GPU

    @property
    def _most_tokens(self) -> int:
        """Most tokens of a pass. The threads of a CPU share out its rows."""
        return self._most_of_row * (torch.get_num_threads() if self.engine.device.type == "cpu" else 1)

    @property
    def row_bytes(self) -> int:
        """Bytes of keys and values that the requests under way hold."""
        rows = [group.row for group in self._running] + [w.row for p in self._plans for w in p.works]
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
        while request.wanted:
            with self._turns:
                if request.wanted:
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
        return not (self._inbox or self._waiting or self._plans or self._running)

    def _turn(self) -> None:
        """Takes in what has arrived, and makes one forward pass."""
        try:
            self._drop()
            self._admit()
            works = self._next_works()
            decoding = list(self._running)
            if decoding or works:
                self._pass(decoding, works)
            if self._ended or not self._plans:
                # What a plan has put there for its next level should last as long as the plan.
                self.engine.tree.trim()
                self._ended = False
            settled, self._settled = self._settled, []
            for request in settled:
                request.finish_one()
        except BaseException as error:
            # What belongs to one request is caught where it happens. This is the rest.
            self._fail_all(error)
            if not isinstance(error, Exception):
                raise

    def _fail_all(self, error: BaseException) -> None:
        with self._wake:
            items: list[Item] = [*self._inbox, *self._waiting, *self._running]
            self._inbox = []
        items += [item for plan in self._plans for item in plan.items]
        self._forget()
        for item in items:
            item.request.fail(error)

    def _drop(self) -> None:
        """Forgets what nobody waits for any more."""
        self._running = [group for group in self._running if group.request.wanted]
        self._waiting = [group for group in self._waiting if group.request.wanted]
        for plan in self._plans:
            plan.works = [work for work in plan.works if work.wanted]
        wanted = [p for p in self._plans if any(item.request.wanted for item in p.items)]
        if len(wanted) < len(self._plans):
            self._plans, self._ended = wanted, True
        for plan in list(self._plans):
            self._advance(plan)

    def _admit(self) -> None:
        """Plans what has arrived, as far as there is room for samples."""
        with self._wake:
            arrived, self._inbox = self._inbox, []
        self._waiting += [item for item in arrived if isinstance(item, Group)]
        items: list[Item] = [item for item in arrived if isinstance(item, Reading)]
        held = {item for plan in self._plans for item in plan.items if isinstance(item, Group)}
        held.update(self._running)
        slots = sum(group.slots for group in held if group.alive and group.request.wanted)
        while self._waiting and (not slots or slots + self._waiting[0].slots <= self._max_slots):
            group = self._waiting.pop(0)
            slots += group.slots
            items.append(group)
        items = [item for item in items if item.request.wanted]
        if items:
            plan = _Plan(items, levels(self.engine, items, self._max_slots), [])
            self._plans.append(plan)
            self._advance(plan)

    def _advance(self, plan: _Plan) -> None:
        """Goes on to the next level with something to do, if this one is done."""
        while not plan.works:
            works = next(plan.rest, None)
            if works is None:
                self._plans.remove(plan)
                self._ended = True
                return
            plan.works = [work for work in works if work.wanted]
            self._settle(item for item in plan.items if isinstance(item, Reading))

    def _settle(self, items: Iterable[Reading]) -> None:
        for item in items:
            if not item.rows and not item.settled:
                item.settled = True
                self._settled.append(item.request)

    def _next_works(self) -> list[Work]:
        """Rows that the next pass takes tokens of."""
        # Shortest first among what each plan would go on with: a small call must not wait for a large
        # one, and what it leaves of the pass goes to the large one.
        heads = sorted((plan.works[0] for plan in self._plans), key=lambda work: work.left)
        others = [work for plan in self._plans for work in plan.works[1:]]
        chosen: list[Work] = []
        tokens, slots = 0, 0
        for work in [*heads, *others]:
            if chosen and (tokens >= self._most_tokens or slots + work.slots > self._max_slots):
                break
            work.begin(self.engine.device)
            chosen.append(work)
            tokens += min(work.left, self._most_of_row)
            slots += work.slots
        return chosen

    def _pass(self, decoding: Sequence[Group], works: Sequence[Work]) -> None:
        """One forward pass; if it fails, one for each row, so that only the one at fault suffers."""
        try:
            self._run(decoding, works)
            return
        except Exception as error:
            if len(decoding) + len(works) == 1:
                self._blame(decoding, works, error)
                return
        for group in decoding:
            self._pass([group], [])
        for work in works:
            self._pass([], [work])

    def _blame(self, decoding: Sequence[Group], works: Sequence[Work], error: Exception) -> None:
        for request in {g.request for g in decoding} | {r for work in works for r in work.requests}:
            request.fail(error)
        self._drop()

    def _run(self, decoding: Sequence[Group], works: Sequence[Work]) -> None:
        pieces: list[Piece] = [group.piece() for group in decoding]
        counts = [len(piece.ids) for piece in pieces]
        keep = list(range(sum(counts)))
        at, room, most_of_row = len(keep), self._most_tokens, self._most_of_row
        most = max(1, _LOGITS // self.engine.outputs)
        taken: list[tuple[Work, int]] = []
        sinks: list[Sink] = []
        where: list[int] = []
        ends: list[tuple[Work, int]] = []
        for work in works:
            readable = most - len(keep) if taken else max(1, most - len(keep))
            piece, reads, last = work.take(min(room, most_of_row), readable)
            if not piece.ids:
                break
            for offset, some in enumerate(reads):
                where += [len(keep)] * len(some)
                sinks += some
                keep += [at + offset] if some else []
            at, room = at + len(piece.ids), room - len(piece.ids)
            if last:
                ends.append((work, len(keep)))
                keep.append(at - 1)
            pieces.append(piece)
            taken.append((work, len(piece.ids)))
        if not pieces:  # whoever wanted them has gone since
            return
        logits = self.engine.forward(pieces, keep)
        tokens = [(row, sink) for row, sink in zip(where, sinks, strict=True) if sink.token is not None]
        whole = [(row, sink) for row, sink in zip(where, sinks, strict=True) if sink.token is None]
        scores = token_logprobs(logits, [row for row, _ in tokens], [sink.token or 0 for _, sink in tokens])
        outputs = logits[[row for row, _ in whole]].float().cpu()
        for group, own in zip(decoding, torch.split(logits[: sum(counts)], counts), strict=True):
            group.logits = own.float()
        firsts = [logits[index : index + 1].float() for _, index in ends]

        # The rest changes the state of things and must happen once.
        self.engine.commit(pieces)
        for (_, sink), score in zip(tokens, scores, strict=True):
            sink.item.scores[sink.number] = sink.item.scores.get(sink.number, 0.0) + score
        for (_, sink), output in zip(whole, outputs, strict=True):
            sink.item.outputs[sink.number] = output
        for group, count in zip(decoding, counts, strict=True):
            group.request.computed += count
        for work, count in taken:
            if work.done(count):
                self._finish(work)
        begun = [g for (w, _), first in zip(ends, firsts, strict=True) for g in w.start(first)]
        self._running += begun
        self._draw([*decoding, *begun])

    def _finish(self, work: Work) -> None:
        self._settle(work.finish(self.engine))
        for plan in list(self._plans):
            if work in plan.works:
                plan.works.remove(work)
                self._advance(plan)

    def _draw(self, groups: Sequence[Group]) -> None:
        """The next token of every sample; those that end leave."""
        alike: dict[tuple[float, float], list[Group]] = {}
        for group in groups:
            alike.setdefault((group.params.temperature, group.params.top_p), []).append(group)
        for some in alike.values():
            logits = [g.logits.expand(len(g.alive), -1) for g in some if g.logits is not None]
            lanes = [lane for group in some for _, lane in group.alive]
            try:
                tokens, scores = draw(torch.cat(logits), lanes, some[0].params)
            except Exception as error:
                for group in some:
                    group.request.fail(error)
                continue
            at = 0
            for group in some:
                end = at + len(group.alive)
                try:
                    group.push(tokens[at:end], scores[at:end])
                except Exception as error:
                    group.request.fail(error)
                at = end
        for group in groups:
            group.logits = None
            for lane, memory in group.leave():
                assert group.row is not None
                if group.request.wanted:
                    self.engine.remember(group.row, lane, memory)
            if not group.alive:
                self._running.remove(group)
                group.row = None
                self._settled.append(group.request)


_schedulers: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for scheduler in list(_schedulers):
        scheduler.close()
