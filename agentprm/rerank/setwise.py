"""Setwise ranking: which of several passages is the best?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from typing import Any, Literal, Self

from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.errors import ConfigurationError, check_least
from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams, as_language_model, require
from agentprm.prompts import PROMPTS, Prompts
from agentprm.replies import without_thought
from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.judging import DEFINITION, Assessor, Judging, Missing, passage_text, sampling, scoring
from agentprm.rerank.tournaments import abreast
from agentprm.routines import Routine
from agentprm.text import one_line

__all__ = ["LABELS", "SetTournament", "SetwiseReranker", "heap_selection", "parse_member", "window_selection"]

LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Members = tuple[int, ...]
SetTournament = Generator[list[Members], Sequence[int | None], list[int]]
"""Yields sets of places that may be asked at once, is sent the winner of each (`None`: nobody was
asked, the budget has run out), and returns the places that it could order, best first."""


def heap_selection(count: int, size: int, k: int) -> SetTournament:
    """The best `k` of `count` places by a heap whose nodes have `size - 1` children.

    While the heap is built all nodes of a level are asked about together; taking the best out goes
    down one path and is sequential.
    """
    heap, children = list(range(count)), size - 1

    def sift(at: int, end: int) -> Generator[Members, int | None, bool]:
        while (first := children * at + 1) < end:
            nodes = [at, *range(first, min(first + children, end))]
            winner = yield tuple(sorted(heap[node] for node in nodes))
            if winner is None:
                return False
            best = next(node for node in nodes if heap[node] == winner)
            if best == at:
                return True
            heap[at], heap[best] = heap[best], heap[at]
            at = best
        return True

    level, first = [], 0
    while first < count:
        last = min(children * first + 1, count)
        level.append(range(first, last))
        first = last
    for nodes in reversed(level):
        if not (yield from abreast([sift(node, count) for node in nodes])):
            return []
    order: list[int] = []
    for end in range(count - 1, -1, -1):
        order.append(heap[0])
        heap[0] = heap[end]
        if len(order) == k or not (yield from abreast([sift(0, end)])):
            break
    return order


def window_selection(count: int, size: int, k: int) -> SetTournament:
    """The best `k` of `count` places by windows that go up the list, `k` passes.

    The winner of a window moves to its top, the others keep their order, and the next window ends
    with the winner. A pass stops below the places that are settled. Passes run side by side where
    their windows do not touch, which changes nothing about the result. With `size` 2 this is the
    sliding method of pairwise ranking.
    """
    order = list(range(count))
    passes = min(k, count - 1)
    ends = [count] * passes  # where the next window of each pass ends; 0 once the pass is done
    while any(ends):
        now: list[tuple[int, int]] = []
        for number, end in enumerate(ends):
            start = max(number, end - size)
            if end and (number == 0 or ends[number - 1] <= start):
                now.append((number, start))
        winners = yield [tuple(sorted(order[start : ends[number]])) for number, start in now]
        for (number, start), winner in zip(now, winners, strict=True):
            if winner is None:
                continue
            order.remove(winner)
            order.insert(start, winner)
            ends[number] = 0 if start == number else start + 1
        if None in winners:
            break
    return order


def parse_member(text: str, labels: str) -> str | None:
    """The one label that a model's answer names; `None` if it names none, several or a foreign one.

    Only the first line that is not blank counts. `B`, `[B]`, `Passage B.` and `**Passage B**` name B;
    "A good passage" names nothing. Thinking is not read.
    """
    line = next((line for line in without_thought(text).splitlines() if line.strip()), "")
    alone = re.fullmatch(r"\W*(?:passage\W*)?([A-Za-z])\W*", line, re.IGNORECASE)
    named = {alone.group(1).upper()} if alone else set(_NAMED.findall(line))
    return named.pop() if len(named) == 1 and named <= set(labels) else None


# "Passage B", but neither "passage a reader" nor "Passage A's".
_NAMED = re.compile(r"\b[Pp](?:assage|ASSAGE)\W{0,3}([A-Z])\b(?!['\u2019]\w)")


class SetwiseReranker(Reranker):
    """Finds the best `k` passages by asking which of several is the best (arXiv 2310.09497).

    A set costs one prompt and settles what several comparisons would. With log-likelihoods the label
    that the model finds likeliest wins; otherwise the model generates one, and an answer that names
    no label, or several, is a failure. Sets without a usable answer, and equal labels, go to the
    passage that stood highest. In a prompt the passages stand in their incoming order, and a set that
    comes again is not asked again.

    A model may prefer a label whatever stands behind it. With `rotations` each set is asked several
    times, the passages moved on by one label each time, and log-likelihoods are added up (labels are
    put to the vote); with as many rotations as passages a constant preference cancels exactly.

    The score of a passage is the share of its sets that it won; the order is that of the selection.

    Args:
        model: A language model, or any LangChain chat model.
        size: Passages of a set; 3 is the best published setting (two children a node).
        k: How many places are settled; the rest follows in its incoming order.
        selection: `heap`, or `window` for passes from the bottom, of which many run side by side.
        rotations: Prompts of a set, at most `size`.
        mode: `scoring`, `generation`, or by default the former where the model has log-likelihoods.
        max_tokens: Most tokens of a generated answer; more for models that think first.
        definition: What makes a passage relevant in this task, a sentence for the prompt.
        prompts: Templates; `choose` is used.
        max_chars: Where a passage is cut.
    """

    model: Any
    size: int = 3
    k: int = 10
    selection: Literal["heap", "window"] = "heap"
    rotations: int = 1
    mode: Literal["auto", "scoring", "generation"] = "auto"
    max_tokens: int = 8
    definition: str = DEFINITION
    prompts: Prompts = PROMPTS
    max_chars: int = 1200
    _chooser: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 2 <= self.size <= len(LABELS):
            raise ConfigurationError(f"size must be from 2 to {len(LABELS)}, not {self.size}.")
        if not 1 <= self.rotations <= self.size:
            raise ConfigurationError(
                f"rotations must be from 1 to the size {self.size}, not {self.rotations}."
            )
        check_least(1, k=self.k)
        self._chooser = as_language_model(self.model)
        if self.mode == "scoring":
            require(self._chooser, "loglikelihood", "SetwiseReranker with mode='scoring'")
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return f"setwise {self.selection}-{self.k} of {self.size}"

    @property
    def calls_per_judgement(self) -> int:
        """Most judge calls that one judgement takes."""
        return self.rotations

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.routine`."""
        judge = self._judge(query, documents)
        known: dict[Members, int] = {}
        won, stood = Counter[int](), Counter[int]()
        choose = heap_selection if self.selection == "heap" else window_selection
        selection = choose(len(documents), self.size, min(self.k, len(documents)))
        try:
            sets = next(selection)
            while True:
                new = [members for members in dict.fromkeys(sets) if members not in known]
                replies = yield from judging.ask(judge, new)
                for members, reply in zip(new, replies, strict=True):
                    if reply is Missing.UNASKED:
                        continue
                    known[members] = self._winner(members, reply, judging)
                    won[known[members]] += 1
                    stood.update(members)
                sets = selection.send([known.get(members) for members in sets])
        except StopIteration as done:
            order: list[int] = done.value
        return Ranked(order, [won[i] / stood[i] if stood[i] else 0.0 for i in range(len(documents))])

    def _winner(self, members: Members, reply: Any, judging: Judging) -> int:
        """The winner of a set from its prompts' votes; its highest passage without any."""
        if isinstance(reply, Missing):
            return members[0]
        judging.book(len(reply), sum(vote is None for vote in reply))
        votes = [vote for vote in reply if vote is not None]
        if not votes:
            return members[0]
        sums = [sum(values) for values in zip(*votes, strict=True)]
        return members[max(range(len(members)), key=lambda i: (sums[i], -i))]

    def _judge(self, query: str, documents: Sequence[Document]) -> Assessor:
        """From members to one list per prompt, of a number per member; `None` for an unusable answer."""
        chooser = self._chooser
        scores = self.mode == "scoring" or (self.mode == "auto" and chooser.capabilities.loglikelihood)

        def turns(members: Members) -> list[Members]:
            shifts = dict.fromkeys(len(members) * i // self.rotations for i in range(self.rotations))
            return [members[shift:] + members[:shift] for shift in shifts]

        def prompts(members: Members) -> list[Prompt]:
            return [self._prompt(query, [documents[i] for i in turn]) for turn in turns(members)]

        def ask(members: Members) -> tuple[list[Prompt], list[list[str]]]:
            asked = prompts(members)
            labels = LABELS[: len(members)]
            return asked, [[f" {x}" if prompt.prefix else f"Passage {x}" for x in labels] for prompt in asked]

        def likelihoods(members: Members, rows: list[list[float]]) -> list[list[float] | None]:
            return [
                [row[turn.index(i)] for i in members] for turn, row in zip(turns(members), rows, strict=True)
            ]

        def parsed(members: Members, rows: list[list[Completion]]) -> list[list[float] | None]:
            votes: list[list[float] | None] = []
            for turn, prompt, row in zip(turns(members), prompts(members), rows, strict=True):
                label = parse_member(prompt.prefix + row[0].text, LABELS[: len(members)])
                chosen = None if label is None else turn[LABELS.index(label)]
                votes.append(None if chosen is None else [float(i == chosen) for i in members])
            return votes

        if scores:
            return scoring(chooser, ask, likelihoods, self.rotations)
        greedy = SamplingParams(max_tokens=self.max_tokens, temperature=0.0, seed=0)
        return sampling(chooser, prompts, parsed, greedy, 1, self.rotations)

    def _prompt(self, query: str, documents: Sequence[Document]) -> Prompt:
        lines = [
            f"Passage {label}: {passage_text(document, self.max_chars)}"
            for label, document in zip(LABELS, documents, strict=False)
        ]
        return self.prompts.choose.render(
            prefill=self._chooser.capabilities.prefill,
            definition=one_line(self.definition),
            query=one_line(query),
            passages="\n\n".join(lines),
        )
