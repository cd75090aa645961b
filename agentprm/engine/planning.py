"""From texts to rows: what needs computing, each distinct token once.

What waits at the same time is planned together, whoever sent it. Beginnings that several texts share
come first, in levels; then every text's own end with what hangs on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch

from agentprm.engine.cache import Known, PrefixTree, Row
from agentprm.engine.engine import Piece
from agentprm.engine.requests import Branch, Request, Samples, Sink, Text
from agentprm.engine.tokenizing import common_length

__all__ = [
    "Item",
    "Work",
    "levels",
    "pack",
    "samples_per_row",
    "shared_beginnings",
]

# Tokens of a packed row times tokens of its longest lane, per prompt token, up to which packing
# beats a copy of the prompt's keys and values; measured by benchmarks/engine.py.
PACKING: float = 16
_TRIES = 16  # to make the rows of some lanes equally long
_WORTH = 16  # shared tokens below which a pass of their own does not pay

Item = Text | Samples
"""What a request is made of."""


class Work:
    """A row to compute, in one pass or several.

    Args:
        prompt: The row's trunk.
        path: What is known of it.
        branches: What to compute.
        samples: Samples that start from the end of the trunk, if there is nothing else.
    """

    def __init__(
        self,
        prompt: tuple[int, ...],
        path: Known,
        branches: list[Branch],
        samples: Sequence[Samples] = (),
    ) -> None:
        self.prompt = prompt
        self.branches = branches
        self.samples = list(samples)
        self.row: Row | None = None
        self._path = path
        self._done = 0
        self.size = sum(len(branch.ids) for branch in branches)
        self.slots = path.length + self.size
        self.adapter = next(request.adapter for branch in branches for request in branch.requests)
        self.readers = {sink.text.request for b in branches for some in b.reads.values() for sink in some}
        for request in self.readers:
            request.pending += 1

    @property
    def requests(self) -> set[Request]:
        """Who waits for any of it."""
        return {request for branch in self.branches for request in branch.requests}

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return any(branch.wanted for branch in self.branches)

    @property
    def left(self) -> int:
        """Tokens that are still to compute."""
        return self.size - self._done

    def begin(self, device: torch.device) -> None:
        """Drops what nobody waits for any more and makes the row."""
        if self.row is None:
            self.branches = [b for b in self.branches if b.lane == 0 or b.wanted]
            self.size = sum(len(branch.ids) for branch in self.branches)
            room = max((some.room for some in self.samples), default=0)
            self.row = Row(self._path, self.size + room, device, self.adapter)

    def take(self, most: int, readable: int) -> tuple[Piece, list[list[Sink]]]:
        """The next tokens; to be confirmed by `done`.

        Args:
            most: Most tokens.
            readable: Most tokens of which something is to be read; at least 1.

        Returns:
            The piece, and what to read off each of its tokens.
        """
        assert self.row is not None
        ids: list[int] = []
        position: list[int] = []
        lane: list[int] = []
        start: list[int] = []
        reads: list[list[Sink]] = []
        piece = Piece(self.row, ids, position, lane, start)
        at = 0
        for branch in self.branches:
            for i in range(max(0, self._done - at), len(branch.ids)):
                some = branch.reads.get(i, [])
                readable -= bool(some)
                if len(ids) == most or readable < 0:
                    return piece, reads
                ids.append(branch.ids[i])
                position.append(branch.start + i)
                lane.append(branch.lane)
                start.append(branch.start)
                reads.append(some)
            at += len(branch.ids)
        return piece, reads

    def done(self, count: int) -> None:
        """Confirms that the next `count` tokens are computed, and charges them."""
        at = 0
        for branch in self.branches:
            part = min(at + len(branch.ids), self._done + count) - max(at, self._done)
            if part > 0:
                waiting = (r for r in branch.requests if not r.future.done())
                next(waiting, branch.requests[0]).computed += part
            at += len(branch.ids)
        self._done += count

    def start(self, logits: torch.Tensor) -> list[Samples]:
        """Gives the samples that wait for this row a row each, and the logits that they begin with."""
        assert self.row is not None
        begun = [some for some in self.samples if not some.request.future.done()]
        for some in begun:
            some.row = self.row.copy(some.room) if some is not begun[-1] else self.row
            some.logits = logits
        return begun


class _Wants:
    """All that is wanted of one text, by however many.

    Attributes:
        prompt: Token ids.
        requests: Who wants it.
        samples: Samples.
        reads: What is still to be read on the text itself, by position.
        leaves: What hangs on it; the same leaf is computed once.
    """

    def __init__(self, prompt: tuple[int, ...], items: Sequence[Item]) -> None:
        self.prompt = prompt
        self.requests = [item.request for item in items]
        self.samples = [item for item in items if isinstance(item, Samples)]
        self.reads: dict[int, list[Sink]] = {}
        merged: dict[tuple[int, tuple[int, ...], bool], Branch] = {}
        for item in items:
            if isinstance(item, Samples):
                continue
            for position, sinks in item.reads.items():
                self.reads.setdefault(position, []).extend(sinks)
            for leaf in item.leaves:
                key = (leaf.start, leaf.ids, leaf.keep)
                known = merged.setdefault(key, Branch(leaf.ids, leaf.start, {}, leaf.keep))
                known.requests.append(item.request)
                for at, sinks in leaf.reads.items():
                    known.reads.setdefault(at, []).extend(sinks)
        self.leaves = list(merged.values())

    @property
    def fresh(self) -> int:
        """Position from which the text must be computed even if it is known: outputs are not kept."""
        last = len(self.prompt) - bool(self.samples)
        return min([last, *self.reads])

    def trunk(self, begin: int, end: int) -> Branch:
        """The text's own tokens from one position to another."""
        reads = {p - begin: self.reads.pop(p) for p in sorted(self.reads) if p < end}
        return Branch(self.prompt[begin:end], begin, reads, requests=self.requests)

    def hang(self, members: Sequence[int], after: int = 0) -> list[Branch]:
        """Some leaves, as the lanes that come after a number of others."""
        for lane, member in enumerate(members, start=after + 1):
            self.leaves[member].lane = lane
        return [self.leaves[member] for member in members]


def levels(tree: PrefixTree, items: Sequence[Item], max_slots: int) -> Iterator[list[Work]]:
    """What to compute for some items, in levels; each is asked for when the one before is done.

    Args:
        tree: What is known.
        items: What is wanted, all with the same adapter.
        max_slots: Most slots of a packed row.
    """
    adapter = items[0].request.adapter
    askers: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        askers.setdefault(item.prompt, []).append(item)
    texts = [_Wants(prompt, some) for prompt, some in askers.items()]

    known = [tree.match(text.prompt[: text.fresh], adapter).length for text in texts]
    for level in shared_beginnings([text.prompt for text in texts], known):
        begun = [_beginning(tree, [texts[i] for i in members], count) for count, members in level]
        yield [work for work in begun if work.size]

    # Rows that share a text each compute what is not known of it: let that be one token at most.
    parts = {text: pack([len(b.ids) for b in text.leaves], len(text.prompt), max_slots) for text in texts}
    ahead = []
    for text in texts:
        count = len(text.prompt) - bool(text.samples)
        rows = len(parts[text]) + bool(text.samples)
        if rows > 1 and count - tree.match(text.prompt[: text.fresh], adapter).length > 1:
            ahead.append(_beginning(tree, [text], count))
    yield ahead

    works: list[Work] = []
    alike: dict[tuple[tuple[int, int], ...], list[tuple[Known, _Wants]]] = {}
    for text in texts:
        path = tree.match(text.prompt[: text.fresh], adapter)
        at = path.length
        if text.samples:
            works.append(Work(text.prompt, path, [text.trunk(at, len(text.prompt))], text.samples))
            path = tree.match(text.prompt, adapter)
            at = path.length
        if all(leaf.start <= at for leaf in text.leaves):
            if text.reads or text.leaves:
                same = tuple((id(stretch.layers), stretch.count) for stretch in path.stretches)
                alike.setdefault(same, []).append((path, text))
            continue
        for members in parts[text]:
            own = [text.trunk(at, len(text.prompt))] if at < len(text.prompt) else []
            works.append(Work(text.prompt, path, [*own, *text.hang(members)]))
    for some in alike.values():
        works += _packed([text for _, text in some], some[0][0], max_slots)
    for item in items:
        if isinstance(item, Text):
            item.request.pending -= 1
    # Long ones first: short ones fill the passes up.
    yield sorted(works, key=lambda work: -work.size)


def _beginning(tree: PrefixTree, texts: Sequence[_Wants], count: int) -> Work:
    """A beginning that some texts share, with all that is to be read on it."""
    known = texts[0].prompt[: min(count, *(text.fresh for text in texts))]
    path = tree.match(known, texts[0].requests[0].adapter)
    at = path.length
    branch = texts[0].trunk(at, count)
    for text in texts[1:]:
        branch.requests = branch.requests + text.requests
        for index, sinks in text.trunk(at, count).reads.items():
            branch.reads.setdefault(index, []).extend(sinks)
    return Work(texts[0].prompt, path, [branch])


def _packed(texts: Sequence[_Wants], path: Known, max_slots: int) -> list[Work]:
    """Texts with the same known beginning, and what hangs on it: lanes of rows."""
    at = path.length
    works = []
    sizes = [len(text.prompt) - at + sum(len(leaf.ids) for leaf in text.leaves) for text in texts]
    for members in pack(sizes, at, max_slots):
        branches: list[Branch] = []
        lane = 0
        for text in (texts[member] for member in members):
            if at < len(text.prompt) and text.reads:
                own = text.trunk(at, len(text.prompt))
                if len(members) > 1:  # a row of its own needs no lane, and without a mask it is faster
                    lane += 1
                    own.lane = lane
                branches.append(own)
            branches += text.hang(range(len(text.leaves)), lane)
            lane += len(text.leaves)
        works.append(Work(texts[members[0]].prompt, path, branches))
    return works


def samples_per_row(prompt: int, new: int, max_slots: int) -> int:
    """How many samples share a row.

    A row reads its prompt's keys once for all of its lanes, but each lane's attention also runs over
    the others' tokens. Both cost the same at about this number (benchmarks/engine.py).

    Args:
        prompt: Tokens of the prompt.
        new: Tokens of one sample.
        max_slots: Most slots of a row.
    """
    return max(1, min(3 + 4 * prompt // new, (max_slots - prompt) // new))


def pack(sizes: Sequence[int], prompt: int, max_slots: int) -> list[list[int]]:
    """Distributes lanes over rows, weighing a copy of the prompt against attention between lanes.

    Args:
        sizes: Tokens of each lane.
        prompt: Tokens of the prompt below them.
        max_slots: Most slots of a packed row.

    Returns:
        The indices of the lanes of each row. The rows are about equally long, so that threads which
        share them out have equally much to do.
    """
    most = max_slots - prompt
    rows = _filled(sizes, prompt, most)
    if len(rows) > 1:
        # A lane that is too long for any row has one of its own; the others keep to the bound.
        fullest = min(most, max(sum(sizes[i] for i in row) for row in rows))
        even = -(-sum(sizes) // len(rows))
        for bound in range(even, fullest, max(1, (fullest - even) // _TRIES)):
            evener = _filled(sizes, prompt, bound)
            if len(evener) == len(rows):
                return evener
    return rows


def _filled(sizes: Sequence[int], prompt: int, most: int) -> list[list[int]]:
    """One row after the other filled with lanes, the shortest first."""
    rows: list[list[int]] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        packed = total + sizes[index]
        if rows and packed * sizes[index] <= PACKING * prompt and packed <= most:
            rows[-1].append(index)
            total = packed
        else:
            rows.append([index])
            total = sizes[index]
    return rows


def shared_beginnings(
    prompts: Sequence[Sequence[int]], known: Sequence[int]
) -> list[list[tuple[int, list[int]]]]:
    """Unknown beginnings that several prompts share, in levels; each level builds on those before.

    Args:
        prompts: Token ids.
        known: How much of each prompt is in the prefix tree.

    Returns:
        Per level the length of each beginning and the indices of the prompts that share it.
    """
    levels: list[list[tuple[int, list[int]]]] = []
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    shared = [common_length(prompts[a], prompts[b]) for a, b in itertools.pairwise(order)]

    # Prompts nest as deep as there are of them, which is deeper than functions may.
    spans = [(0, len(order), 0, 0)]
    while spans:
        # order[begin:end] share their first `done` tokens, which are known by then.
        begin, end, depth, done = spans.pop()
        if end - begin < 2:
            continue
        depth_now = min(shared[begin : end - 1])
        done = max(done, *(min(depth_now, known[i]) for i in order[begin:end]))
        if depth_now - done >= _WORTH:
            levels.extend([] for _ in range(depth + 1 - len(levels)))
            levels[depth].append((depth_now, order[begin:end]))
            done, depth = depth_now, depth + 1
        cuts = [cut + 1 for cut in range(begin, end - 1) if shared[cut] == depth_now]
        parts = itertools.pairwise([begin, *cuts, end])
        spans += [(first, last, depth, done) for first, last in reversed(list(parts))]
    return levels
