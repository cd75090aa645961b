"""What all rerankers share: one routine for sync and async, new documents, cost, budget, failures.

A reranker writes its algorithm once, as a generator that asks a judge about items (pairs, passages,
windows) through `Judging.ask` and returns an order. `Reranker` runs it with or without an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.runnables.config import ensure_config, merge_configs, set_config_context
from pydantic import ConfigDict, ValidationError, model_validator

from agentprm.errors import AgentPRMError, ConfigurationError, InputError, check_least
from agentprm.rerank.judging import Judging
from agentprm.retrievers.retrieving import reciprocal_ranks
from agentprm.routines import Routine, adrive, drive

__all__ = ["Ranked", "Ranking", "Reranker"]

_logger = logging.getLogger(__name__)


class Ranked(NamedTuple):
    """What a routine returns.

    Attributes:
        order: Places in the incoming list, best first. Places that are left out follow in their
            incoming order, so that no document can be lost.
        scores: One score per incoming place, higher is better.
    """

    order: Sequence[int]
    scores: Sequence[float]


@dataclass(frozen=True)
class Ranking:
    """The outcome of `Reranker.rank`, in places of the incoming list.

    Attributes:
        order: All places, best first.
        scores: One score per place, higher is better; JSON-plain floats.
        method: Name of the method.
        judging: What it cost, what failed and why it stopped.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    method: str
    judging: Judging


class Reranker(BaseDocumentCompressor):
    """Base of the rerankers: a LangChain document compressor with an async twin.

    `compress_documents` returns new documents, best first, with
    `metadata["rerank"] = {score, rank, prior_rank, method, calls, failures}`: the passage's score, its
    places (from 0) now and before, the method, and the judge calls and unusable answers of the whole
    list. If the budget or the deadline ended the work early, `stopped` says which; the order is then
    valid, made of what was known. Documents stay apart even if they share an id or a text. An exception
    of the judge on one item counts as a failure and never loses the list; errors of configuration pass.

    Subclasses implement `routine` and `method`.

    Args:
        top_n: Passages that are returned; all by default.
        max_judgements: Most items (pairs, passages, windows) that are judged per list; unbounded by default.
        deadline: Seconds per list after which nothing more is asked; unbounded by default. Requests in
            flight are given up, a running batch of a local model is waited for.
        prior_weight: Weight of the incoming order, if it is to have a say in the new one; the judge's order
            has weight 1. A judge that is weaker than the retriever loses less so. The two are fused by
            reciprocal ranks (constant 60; Cormack et al., SIGIR 2009), and `score` is the fused one.

    Raises:
        ConfigurationError: If a setting is wrong.
        pydantic.ValidationError: If a field is of the wrong type or does not exist.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    top_n: int | None = None
    max_judgements: int | None = None
    deadline: float | None = None
    prior_weight: float = 0.0

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            # pydantic wraps what validators raise; callers get the error that names the remedy.
            for detail in error.errors():
                cause = detail.get("ctx", {}).get("error")
                if isinstance(cause, AgentPRMError):
                    raise cause from error
            raise

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        check_least(1, top_n=self.top_n)
        check_least(0, max_judgements=self.max_judgements)
        if self.deadline is not None and not self.deadline >= 0:
            raise ConfigurationError(f"deadline must be at least 0 seconds, not {self.deadline}.")
        if not 0 <= self.prior_weight < math.inf:
            raise ConfigurationError(f"prior_weight must be at least 0, not {self.prior_weight}.")
        return self

    def __repr__(self) -> str:
        """The settings that are not the default ones; objects by the names of their classes."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        shown = {
            name: repr(value) if isinstance(value, str | int | float | tuple) else type(value).__name__
            for name, value in own.items()
        }
        return f"{type(self).__name__}({', '.join(f'{name}={text:.80}' for name, text in shown.items())})"

    __str__ = __repr__  # pydantic's own shows all of them

    @property
    @abstractmethod
    def method(self) -> str:
        """Name of the method, as it stands in the records."""

    @abstractmethod
    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """The algorithm: `results = yield from judging.ask(judge, items)`, in the end a `Ranked`.

        It must return an order at any time: once `judging.stopped` is set nothing more is judged.
        It is not called for an empty list.
        """

    def rank(self, documents: Sequence[Document], query: str, callbacks: Callbacks = None) -> Ranking:
        """The order, the scores and the cost, without touching the documents.

        Raises:
            InputError: If the query is empty or something else than documents was given.
        """
        _check(documents, query)
        judging = Judging(self.max_judgements, self.deadline)
        with _context(callbacks) as context:
            ranked = context.run(drive, self._routine(query, documents, judging))
        return self._ranking(ranked, len(documents), judging)

    async def arank(self, documents: Sequence[Document], query: str, callbacks: Callbacks = None) -> Ranking:
        """Async twin of `rank`."""
        _check(documents, query)
        judging = Judging(self.max_judgements, self.deadline)
        with _context(callbacks) as context:
            work = asyncio.create_task(adrive(self._routine(query, documents, judging)), context=context)
            try:
                ranked = await work
            finally:
                work.cancel()
        return self._ranking(ranked, len(documents), judging)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """The documents in their new order, as new objects."""
        return self._documents(documents, self.rank(documents, query, callbacks))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> list[Document]:
        """Async twin of `compress_documents`."""
        return self._documents(documents, await self.arank(documents, query, callbacks))

    def _routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        if not documents:
            return Ranked([], [])
        return (yield from self.routine(query, documents, judging))

    def _ranking(self, ranked: Ranked, count: int, judging: Judging) -> Ranking:
        if judging.failures:
            useless = judging.failures >= judging.calls
            _logger.warning(
                "%s: %d of %d judge calls gave no usable answer%s; %s",
                self.method,
                judging.failures,
                judging.calls,
                f" ({judging.errors[0]})" if judging.errors else "",
                "the passages keep their order: check the judge." if useless else "they count as ties.",
            )
        order = dict.fromkeys(int(place) for place in ranked.order)
        order.update(dict.fromkeys(range(count)))
        if len(order) != count or len(ranked.scores) != count:
            raise ConfigurationError(
                f"The routine of {type(self).__name__} must rank {count} documents: it gave the places "
                f"{list(ranked.order)} and {len(ranked.scores)} scores."
            )
        scores, method = [float(s) for s in ranked.scores], self.method
        if self.prior_weight:
            scores = reciprocal_ranks(count, self.prior_weight)
            for place, score in zip(order, reciprocal_ranks(count), strict=True):
                scores[place] += score
            order = dict.fromkeys(sorted(range(count), key=lambda place: -scores[place]))
            method += f" with prior {self.prior_weight:g}"
        return Ranking(tuple(order), tuple(scores), method, judging)

    def _documents(self, documents: Sequence[Document], ranking: Ranking) -> list[Document]:
        cost = ranking.judging
        stopped = {"stopped": cost.stopped} if cost.stopped else {}
        return [
            documents[place].model_copy(
                update={
                    "metadata": {
                        **documents[place].metadata,
                        "rerank": {
                            "score": ranking.scores[place],
                            "rank": rank,
                            "prior_rank": place,
                            "method": ranking.method,
                            "calls": cost.calls,
                            "failures": cost.failures,
                            **stopped,
                        },
                    }
                }
            )
            for rank, place in enumerate(ranking.order[: self.top_n])
        ]


def _check(documents: Sequence[Document], query: str) -> None:
    if not isinstance(query, str) or not query.strip():
        raise InputError("A reranker needs a query that is not empty.")
    for document in documents:
        if not isinstance(document, Document):
            raise InputError(
                f"A reranker takes LangChain documents, not {type(document).__name__}: "
                "Document(page_content=text)."
            )


@contextlib.contextmanager
def _context(callbacks: Callbacks) -> Iterator[Context]:
    """The context in which a judge's own LangChain calls report to the caller's callbacks."""
    if callbacks is None:
        yield copy_context()
        return
    with set_config_context(merge_configs(ensure_config(), {"callbacks": callbacks})) as context:
        yield context
