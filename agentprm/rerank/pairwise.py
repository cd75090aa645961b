"""Pairwise ranking prompting: a comparator, a tournament, and a memory of verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import Field, PrivateAttr, model_validator

from agentprm.errors import ConfigurationError, check_least
from agentprm.forking import ForkSafeLock
from agentprm.lm import LanguageModel, as_language_model
from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.comparator import (
    Comparator,
    DecisionComparator,
    FunctionComparator,
    Policy,
    is_decision_model,
    usable,
)
from agentprm.rerank.judging import Assessor, Judging, Missing
from agentprm.rerank.prompted import GenerationComparator, ScoringComparator
from agentprm.rerank.tournaments import Left, Pair, Tournament, active, all_pairs, heapsort, sliding
from agentprm.rewards.base import Memory, ProcessRewardModel
from agentprm.routines import Routine

__all__ = ["VERDICTS", "PairwiseReranker", "TournamentMaker", "VerdictCache", "as_comparator"]


class VerdictCache:
    """Verdicts by comparator (model, prompt, policy), query and unordered pair of passages.

    Passages count by what the comparator sees of them, not by their ids: a document that changes under
    its id is judged anew, and the same text in two indexes is not. Unusable answers are not kept. Safe
    to use from several threads.

    Args:
        size: Verdicts that are kept, about 200 bytes each; the least recently used go first.

    Attributes:
        hits: Questions that were answered from memory.
        misses: Questions that were not.
    """

    def __init__(self, size: int = 100_000) -> None:
        self.hits = self.misses = 0
        self._verdicts = Memory[bytes, float](size, "size")
        self._lock = ForkSafeLock()

    def get(self, fingerprint: str, query: str, first: str, second: str) -> float | None:
        """Probability that `first` is better than `second`, if it is known."""
        key, turned = _key(fingerprint, query, first, second)
        p = self._verdicts.get(key)
        with self._lock:
            if p is None:
                self.misses += 1
                return None
            self.hits += 1
        return 1 - p if turned else p

    def put(self, fingerprint: str, query: str, first: str, second: str, p: float) -> None:
        """Remembers that `first` is better than `second` with probability `p`."""
        key, turned = _key(fingerprint, query, first, second)
        self._verdicts.keep({key: 1 - p if turned else p})

    def __len__(self) -> int:
        return len(self._verdicts)

    def clear(self) -> None:
        """Forgets everything, the counts included."""
        self._verdicts.clear()
        with self._lock:
            self.hits = self.misses = 0


def _key(fingerprint: str, query: str, first: str, second: str) -> tuple[bytes, bool]:
    """The key of an unordered pair, and whether the pair was turned for it."""
    turned = second < first
    digest = hashlib.sha256()
    for text in (fingerprint, query, *((second, first) if turned else (first, second))):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest(), turned


VERDICTS = VerdictCache()
"""The cache that rerankers share unless they are given one of their own."""


TournamentMaker = Callable[[int, int, Left], Tournament]
"""From the number of documents, the ranks that matter and the budget left to a tournament."""

_NAMED: dict[str, TournamentMaker] = {
    "all_pair": all_pairs,
    "heapsort": heapsort,
    "sliding": sliding,
    "active": active,
}


def as_comparator(judge: Any, *, policy: Policy = "mean") -> Comparator:
    """The comparator behind whatever a user passes.

    Args:
        judge: A `Comparator`, which is returned as it is; a language model or the name or folder of
            one, compared by scores if it has log-likelihoods, else by what it writes; a LangChain chat
            model, by what it writes; a decision model of `langchain_core.decisions`; or a function or
            `RunnableLambda`, see `FunctionComparator`.
        policy: How the answers in both orders become one; a comparator keeps its own.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(judge, Comparator):
        return judge
    if is_decision_model(judge):
        return DecisionComparator(judge, policy=policy)
    if isinstance(judge, type):
        raise ConfigurationError(f"{judge.__name__} is a class; pass an object of it, {judge.__name__}(…).")
    if isinstance(judge, ProcessRewardModel):
        raise ConfigurationError(
            f"A {type(judge).__name__} scores passages one by one; rank with CriticReranker(critic=reward)."
        )
    if isinstance(judge, RunnableLambda) or (
        callable(judge) and not isinstance(judge, LanguageModel | Runnable)
    ):
        return FunctionComparator(judge, policy=policy)
    model = as_language_model(judge)
    if model.capabilities.loglikelihood:
        return ScoringComparator(model, policy=policy)
    return GenerationComparator(model, policy=policy)


class PairwiseReranker(Reranker):
    """Ranks passages by comparing them in pairs (Pairwise Ranking Prompting, arXiv 2306.17563).

    Both orders of a pair are asked. Equals keep their incoming order. No pair is asked twice: verdicts
    are remembered across passes, calls and rerankers. An unusable answer is a tie and a failure, never
    a win.

    The score of a passage is the share of its comparisons that it won, a tie counting half: with
    `all_pair` the expected number of wins over the number of others.

    Args:
        model: Who compares: a language model, chat model or decision model, the name or folder of a
            local model, a function, or a `Comparator`; see `as_comparator`. Small models compare badly
            when asked; `suggest_comparator` probes a model and returns the comparator that suits it.
        aggregation: `all_pair` compares everybody and depends least on the incoming order;
            `heapsort` and `sliding` settle the best `k` with fewer comparisons; `active` makes the most
            of a given number (`max_judgements`). Or a tournament of your own.
        k: Ranks that matter: passes of `sliding`, the top of `heapsort` and `active`; 10 as in the paper.
        cache: Where verdicts are remembered; shared by all rerankers unless given. `None` remembers
            them for one list only.
        top_n: See `Reranker`.
        max_judgements: Most pairs that are asked (each in both orders); known verdicts are free.
        deadline: See `Reranker`.
    """

    model: Any
    aggregation: Literal["all_pair", "heapsort", "sliding", "active"] | TournamentMaker = "sliding"
    k: int = 10
    cache: VerdictCache | None = Field(default_factory=lambda: VERDICTS)
    _comparator: Comparator = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_least(1, k=self.k)
        self._comparator = as_comparator(self.model)
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        if self.aggregation == "all_pair":
            return "pairwise all-pair"
        name = self.aggregation if isinstance(self.aggregation, str) else _name_of(self.aggregation)
        return f"pairwise {name}-{self.k}"

    @property
    def calls_per_judgement(self) -> int:
        """Most model calls of one pair."""
        return self._comparator.calls

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.routine`."""
        comparator = self._comparator
        views = [comparator.view(document) for document in documents]
        fingerprint = comparator.fingerprint
        judge = Assessor(
            lambda pairs: comparator.compare(query, pairs),
            lambda pairs: comparator.acompare(query, pairs),
            comparator.width,
            comparator.calls,
        )
        # Failures are ties for this list only: they are not asked again here, but not remembered either.
        known: dict[tuple[str, str], float] = {}

        def recall(pair: Pair) -> float | None:
            first, second = views[pair[0]], views[pair[1]]
            if first == second:
                return 0.5
            if (first, second) in known:
                return known[first, second]
            return 1 - known[second, first] if (second, first) in known else None

        def look_up(pair: Pair) -> bool:
            """Whether the pair is known, here or from before."""
            if recall(pair) is not None:
                return True
            first, second = views[pair[0]], views[pair[1]]
            p = None if self.cache is None else self.cache.get(fingerprint, query, first, second)
            if p is not None:
                known[first, second] = p
            return p is not None

        make = _NAMED[self.aggregation] if isinstance(self.aggregation, str) else self.aggregation
        tournament = make(len(documents), self.k, lambda: judging.judgements_left)
        try:
            wanted = next(tournament)
            while True:
                # By what is shown: of two copies of a passage one is asked about.
                ask: dict[frozenset[str], Pair] = {}
                for pair in wanted:
                    if not look_up(pair):
                        ask.setdefault(frozenset((views[pair[0]], views[pair[1]])), pair)
                pairs = list(ask.values())
                replies = yield from judging.ask(judge, [(documents[a], documents[b]) for a, b in pairs])
                for (a, b), reply in zip(pairs, replies, strict=True):
                    if reply is Missing.UNASKED:
                        continue
                    p = None if reply is Missing.FAILED else usable(reply.p)
                    known[views[a], views[b]] = 0.5 if p is None else p
                    if reply is Missing.FAILED:
                        continue
                    failures = reply.failures if p is not None else max(1, reply.failures)
                    judging.book(reply.calls, failures)
                    if self.cache is not None and p is not None and not failures:
                        self.cache.put(fingerprint, query, views[a], views[b], p)
                wanted = tournament.send([recall(pair) for pair in wanted])
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def _name_of(aggregation: Any) -> str:
    function = getattr(aggregation, "func", aggregation)
    return str(getattr(function, "__name__", type(function).__name__))
