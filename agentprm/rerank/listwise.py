"""Listwise ranking: the model orders a window of passages at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.errors import ConfigurationError, check_least
from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams, as_language_model, require
from agentprm.prompts import PROMPTS, Prompts
from agentprm.replies import without_thought
from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.judging import DEFINITION, Assessor, Judging, Missing, passage_text, sampling, scoring
from agentprm.routines import Routine
from agentprm.text import one_line

__all__ = ["ListwiseReranker", "parse_permutation", "sliding_windows"]


def sliding_windows(count: int, size: int, step: int) -> list[tuple[int, int]]:
    """Windows over `count` places from the bottom to the top, each `(start, end)`.

    Clamped: the last window begins at the top whatever the numbers are, and a list shorter than a
    window is one window, so that every place is in one.

    Example:
        >>> sliding_windows(25, 20, 10)
        [(5, 25), (0, 20)]
    """
    starts = [max(0, count - size)]
    while starts[-1] > 0:
        starts.append(max(0, starts[-1] - step))
    return [(start, min(count, start + size)) for start in starts]


def parse_permutation(text: str, count: int) -> list[int] | None:
    """The order that a model's answer gives for passages 1 to `count`, as places from 0.

    Read are numbers in square brackets, or if there are none a first line of bare numbers such as
    `2 > 1 > 3`. What is out of range or comes again is left out, passages that are not named follow
    in their order. `None` if no passage is named. Thinking is not read.
    """
    text = without_thought(text)
    found = re.findall(r"\[\s*(\d{1,3})\s*\]", text)
    if not found:
        line = next((line for line in text.splitlines() if line.strip()), "")
        bare = re.fullmatch(r"\W*\d{1,3}(?:[>,\s]+\d{1,3})*\W*", line)
        found = re.findall(r"\d+", line) if bare else []
    named = dict.fromkeys(place for number in found if 0 <= (place := int(number) - 1) < count)
    if not named:
        return None
    named.update(dict.fromkeys(range(count)))
    return list(named)


class ListwiseReranker(Reranker):
    """Ranks windows of passages from the bottom of the list to its top (RankGPT, arXiv 2304.09542).

    Windows overlap, so that a good passage is carried up. Without log-likelihoods the model writes
    the order; what it leaves out keeps its order behind what it names, and an answer that names
    nothing is a failure that keeps the window as it is. With log-likelihoods the passages are ordered
    by how likely the model finds their number as the first one (FIRST, arXiv 2406.15657), one
    pass instead of a long answer.

    A judgement is a window. If `max_judgements` allows fewer than a pass needs, the windows at the
    top are ranked.

    An order has no scores: the score of a passage is the share of the list that stands below it.

    Args:
        model: A language model, or any LangChain chat model.
        size: Passages of a window; 20 in the paper.
        step: Places by which it moves up; 10 in the paper, so that half of a window is carried on.
        passes: How often the list is gone through; more repair what one misses.
        mode: `scoring`, `generation`, or by default the former where the model has log-likelihoods.
        max_tokens: Most tokens of a generated answer; by default six a passage.
        definition: What makes a passage relevant in this task, a sentence for the prompt.
        prompts: Templates; `arrange` is used.
        max_chars: Where a passage is cut.
    """

    model: Any
    size: int = 20
    step: int = 10
    passes: int = 1
    mode: Literal["auto", "scoring", "generation"] = "auto"
    max_tokens: int | None = None
    definition: str = DEFINITION
    prompts: Prompts = PROMPTS
    max_chars: int = 1200
    _sorter: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_least(2, size=self.size)
        if not 1 <= self.step < self.size:
            raise ConfigurationError(
                f"step must be from 1 to {self.size - 1}, below the size, not {self.step}: windows that do "
                "not overlap carry nothing up."
            )
        check_least(1, passes=self.passes, max_tokens=self.max_tokens)
        self._sorter = as_language_model(self.model)
        if self.mode == "scoring":
            require(self._sorter, "loglikelihood", "ListwiseReranker with mode='scoring'")
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return f"listwise {self.size}/{self.step}" + (f" x{self.passes}" if self.passes > 1 else "")

    @property
    def calls_per_judgement(self) -> int:
        """Most judge calls that one judgement takes."""
        return 1

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.routine`."""
        count = len(documents)
        order = list(range(count))
        judge = self._judge(query, documents)
        for _ in range(self.passes):
            spans = sliding_windows(count, self.size, self.step) if count > 1 else []
            # Too few for a pass: those at the top, so that at least these are in order.
            affordable = int(min(len(spans), judging.judgements_left))
            cut, spans = affordable < len(spans), spans[len(spans) - affordable :]
            for start, end in spans:
                (reply,) = yield from judging.ask(judge, [tuple(order[start:end])])
                if isinstance(reply, Missing):
                    continue
                judging.book(1, int(reply is None))
                order[start:end] = reply or order[start:end]
            if cut or judging.stopped:
                judging.stopped = judging.stopped or "max_judgements"
                break
        rank = {place: number for number, place in enumerate(order)}
        return Ranked(order, [(count - 1 - rank[i]) / max(1, count - 1) for i in range(count)])

    def _judge(self, query: str, documents: Sequence[Document]) -> Assessor:
        """From the places of a window to their order; `None` for an unusable answer."""
        sorter = self._sorter

        def prompt(places: Sequence[int]) -> Prompt:
            lines = [
                f"[{number}] {passage_text(documents[place], self.max_chars)}"
                for number, place in enumerate(places, 1)
            ]
            return self.prompts.arrange.render(
                prefill=sorter.capabilities.prefill,
                definition=one_line(self.definition),
                query=one_line(query),
                passages="\n\n".join(lines),
                count=str(len(places)),
            )

        def ask(places: Sequence[int]) -> tuple[list[Prompt], list[list[str]]]:
            asked = prompt(places)
            blank = " " if asked.prefix else ""
            return [asked], [[f"{blank}[{number}]" for number in range(1, len(places) + 1)]]

        def by_likelihood(places: Sequence[int], rows: list[list[float]]) -> list[int]:
            return [
                place for _, place in sorted(zip(rows[0], places, strict=True), key=lambda pair: -pair[0])
            ]

        def parsed(places: Sequence[int], rows: list[list[Completion]]) -> list[int] | None:
            permutation = parse_permutation(rows[0][0].text, len(places))
            return None if permutation is None else [places[i] for i in permutation]

        if self.mode == "scoring" or (self.mode == "auto" and sorter.capabilities.loglikelihood):
            return scoring(sorter, ask, by_likelihood)
        most = self.max_tokens or 6 * min(self.size, len(documents))
        params = SamplingParams(max_tokens=most, temperature=0.0, seed=0)
        return sampling(sorter, lambda places: [prompt(places)], parsed, params)
