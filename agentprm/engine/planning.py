"""From texts to rows: what a set of items needs computed, each distinct token once.

Items that wait at the same time are planned together, whoever sent them. Beginnings that several of
their texts share come first, in levels; then every text's own end with what hangs on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from agentprm.engine.cache import Stretch
from agentprm.engine.decoding import Group
from agentprm.engine.engine import Engine, path_length
from agentprm.engine.requests import Item, Leaf, Reading, Request, Segment, Sink, Work

__all__ = ["common_length", "levels", "pack", "samples_per_row", "shared_beginnings"]

# Tokens of a packed row times tokens of its longest lane, per prompt token, up to which packing
# beats a copy of the prompt's keys and values; measured by benchmarks/engine.py.
PACKING: float = 16
_WORTH = 16  # shared tokens below which a pass of their own does not pay


class _Text:
    """All that is wanted of one text.

    Attributes:
        prompt: Token ids.
        requests: Who wants it.
        groups: Samples.
        reads: What is still to be read on the text itself, by position.
        leaves: What hangs on it, with who wants it; the same leaf is computed once.
    """

    def __init__(self, prompt: tuple[int, ...], items: Sequence[Item]) -> None:
        self.prompt = prompt
        self.requests = [item.request for item in items]
        self.groups = [item for item in items if isinstance(item, Group)]
        self.reads: dict[int, list[Sink]] = {}
        merged: dict[tuple[int, tuple[int, ...], bool], tuple[Leaf, list[Request]]] = {}
        for item in items:
            if isinstance(item, Group):
                continue
            for position, sinks in item.reads.items():
                self.reads.setdefault(position, []).extend(sinks)
            for leaf in item.leaves:
                key = (leaf.start, leaf.ids, leaf.keep)
                known, who = merged.setdefault(key, (Leaf(leaf.start, leaf.ids, {}, leaf.keep), []))
                who.append(item.request)
                for at, sinks in leaf.reads.items():
                    known.reads.setdefault(at, []).extend(sinks)
        self.leaves = list(merged.values())

    @property
    def fresh(self) -> int:
        """Position from which the text must be computed even if it is known: outputs are not kept."""
        last = len(self.prompt) - bool(self.groups)
        return min([last, *self.reads])

    def match(self, engine: Engine) -> list[Stretch]:
        """What is known and need not be computed."""
        return engine.tree.match(self.prompt[: self.fresh])

    def trunk(self, begin: int, end: int) -> Segment:
        """The text's own tokens from one position to another."""
        reads = {p - begin: self.reads.pop(p) for p in sorted(self.reads) if p < end}
        return Segment(self.prompt[begin:end], begin, 0, 0, self.requests, reads, self.prompt[:end])

    def hang(self, number: int, lane: int) -> Segment:
        """A leaf as a lane."""
        leaf, who = self.leaves[number]
        memory = (*self.prompt[: leaf.start], *leaf.ids) if leaf.keep else None
        return Segment(leaf.ids, leaf.start, lane, leaf.start, who, leaf.reads, memory)


def levels(engine: Engine, items: Sequence[Item], max_slots: int) -> Iterator[list[Work]]:
    """What to compute for some items, in levels; each is asked for when the one before is done.

    Args:
        engine: The model.
        items: What is wanted.
        max_slots: Most slots of a packed row.
    """
    askers: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        askers.setdefault(item.prompt, []).append(item)
    texts = [_Text(prompt, some) for prompt, some in askers.items()]

    known = [path_length(text.match(engine)) for text in texts]
    for level in shared_beginnings([text.prompt for text in texts], known):
        begun = [_beginning(engine, [texts[i] for i in members], count) for count, members in level]
        yield [work for work in begun if work.size]

    # Rows that share a text each compute what is not known of it: let that be one token at most.
    parts = {
        text: pack([len(leaf.ids) for leaf, _ in text.leaves], len(text.prompt), max_slots) for text in texts
    }
    ahead = []
    for text in texts:
        count = len(text.prompt) - bool(text.groups)
        rows = len(parts[text]) + bool(text.groups)
        if rows > 1 and count - path_length(text.match(engine)) > 1:
            ahead.append(_beginning(engine, [text], count))
    yield ahead

    works: list[Work] = []
    alike: dict[tuple[tuple[int, int], ...], list[tuple[Sequence[Stretch], _Text]]] = {}
    for text in texts:
        path = text.match(engine)
        at = path_length(path)
        if text.groups:
            works.append(Work(path, [text.trunk(at, len(text.prompt))], text.groups))
            path = engine.tree.match(text.prompt)
            at = path_length(path)
        if all(leaf.start <= at for leaf, _ in text.leaves):
            if text.reads or text.leaves:
                same = tuple((id(stretch.layers), stretch.count) for stretch in path)
                alike.setdefault(same, []).append((path, text))
            continue
        for members in parts[text]:
            own = [text.trunk(at, len(text.prompt))] if at < len(text.prompt) else []
            lanes = [text.hang(member, lane) for lane, member in enumerate(members, start=1)]
            works.append(Work(path, [*own, *lanes]))
    for some in alike.values():
        works += _side_by_side([text for _, text in some], some[0][0], max_slots)
    for item in items:
        if isinstance(item, Reading):
            item.rows -= 1
    # Long ones first: short ones fill the passes up.
    yield sorted(works, key=lambda work: -work.size)


def _beginning(engine: Engine, texts: Sequence[_Text], count: int) -> Work:
    """A beginning that some texts share, with all that is to be read on it."""
    path = engine.tree.match(texts[0].prompt[: min(count, *(text.fresh for text in texts))])
    at = path_length(path)
    segment = texts[0].trunk(at, count)
    for text in texts[1:]:
        segment.requests = segment.requests + text.requests
        for index, sinks in text.trunk(at, count).reads.items():
            segment.reads.setdefault(index, []).extend(sinks)
    return Work(path, [segment])


def _side_by_side(texts: Sequence[_Text], path: Sequence[Stretch], max_slots: int) -> list[Work]:
    """Texts with the same known beginning, on which what hangs on them hangs: lanes of rows."""
    at = path_length(path)
    works = []
    sizes = [len(text.prompt) - at + sum(len(leaf.ids) for leaf, _ in text.leaves) for text in texts]
    for members in pack(sizes, at, max_slots):
        segments: list[Segment] = []
        lane = 0
        for text in (texts[member] for member in members):
            if at < len(text.prompt) and text.reads:
                own = text.trunk(at, len(text.prompt))
                if len(members) > 1:  # a row of its own needs no lane, and without a mask it is faster
                    lane += 1
                    own.lane, own.start = lane, at
                segments.append(own)
            for number in range(len(text.leaves)):
                lane += 1
                segments.append(text.hang(number, lane))
        works.append(Work(path, segments))
    return works


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


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
        The indices of the lanes of each row.
    """
    rows: list[list[int]] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        packed = total + sizes[index]
        if rows and packed * sizes[index] <= PACKING * prompt and prompt + packed <= max_slots:
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

    def visit(begin: int, end: int, depth: int, done: int) -> None:
        # order[begin:end] share their first `done` tokens, which are known by then.
        if end - begin < 2:
            return
        depth_now = min(shared[begin : end - 1])
        done = max(done, *(min(depth_now, known[i]) for i in order[begin:end]))
        if depth_now - done >= _WORTH:
            levels.extend([] for _ in range(depth + 1 - len(levels)))
            levels[depth].append((depth_now, order[begin:end]))
            done, depth = depth_now, depth + 1
        at = begin
        for cut in range(begin, end):
            if cut == end - 1 or shared[cut] == depth_now:
                visit(at, cut + 1, depth, done)
                at = cut + 1

    visit(0, len(order), 0, 0)
    return levels
