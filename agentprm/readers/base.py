"""What a reader is asked and what it answers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.documents import Document

__all__ = ["LEAD", "Reader", "ReaderAnswer"]

LEAD = "prm_lead"
"""Metadata of a passage: a text that readers with `reads_leads` read before it and never quote."""


@dataclass(frozen=True)
class ReaderAnswer:
    """What the passages say to a question.

    Attributes:
        text: The quoted answer, `yes` or `no`; empty if the passages do not answer.
        score: Probability of this answer among all answers that the passages could give and none.
        no_answer: Probability that none of the passages answers.
        passage: Place of the passage that says so in the given list; `None` without an answer.
        start: Where the quotation begins in its `page_content`, in characters; -1 if it is no quotation.
        end: Where it ends, exclusive; -1 if it is no quotation.
    """

    text: str
    score: float
    no_answer: float
    passage: int | None = None
    start: int = -1
    end: int = -1


class Reader(ABC):
    """Reads answers off passages. Subclasses implement `candidates`."""

    @abstractmethod
    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """The likeliest different answers of each question, best first, whether or not none is likelier.

        Args:
            questions: Questions.
            passages: For each question the passages to read, best first.
            n: Most answers of a question.

        Returns:
            For each question at most `n` answers that have a text.
        """

    def read(self, questions: Sequence[str], passages: Sequence[Sequence[Document]]) -> list[ReaderAnswer]:
        """The answer of each question; its text is empty where none is likelier than any answer."""
        found = []
        for answers in self.candidates(questions, passages, n=1):
            best = answers[0] if answers else ReaderAnswer("", 0.0, 1.0)
            refused = ReaderAnswer("", best.no_answer, best.no_answer)
            found.append(best if best.text and best.no_answer <= self.refusal else refused)
        return found

    reads_leads: bool = False
    """Whether passages may come with a `LEAD`."""

    refusal: float = 0.5
    """A question whose `no_answer` is above this is not answered by `read`."""

    async def acandidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """Async twin of `candidates`; in a thread unless a subclass knows better."""
        return await asyncio.to_thread(self.candidates, questions, passages, n=n)

    async def aread(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]]
    ) -> list[ReaderAnswer]:
        """Async twin of `read`."""
        return await asyncio.to_thread(self.read, questions, passages)
