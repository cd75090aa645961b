"""Comparing two passages by how likely they make the query."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from langchain_core.documents import Document

from agentprm.errors import check_least
from agentprm.lm import Prompt, as_language_model, require
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank.asking import passage_text
from agentprm.rerank.comparator import Comparison, DocumentPair, RoutineComparator, token_of
from agentprm.rewards.base import Memory, sigmoid
from agentprm.routines import Routine, wait
from agentprm.text import one_line

__all__ = ["QueryLikelihoodComparator"]


class QueryLikelihoodComparator(RoutineComparator):
    """Compares by which passage makes the query likelier; for models too small to judge on request.

    P(a better) = sigmoid((log P(query | a) - log P(query | b)) / sqrt(n)) with n tokens in the query:
    the sum's spread grows with the square root of its terms. There is no position that it could be
    biased to. Each passage is scored once per query, however many comparisons it takes part in: pairs
    go to the model together, in one call.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        prompts: Templates; `relate` is used.
        max_chars: Where a passage is cut.
        cache_size: Likelihoods that are remembered; the least recently used go first.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    def __init__(
        self, model: Any, *, prompts: Prompts = PROMPTS, max_chars: int = 1200, cache_size: int = 10_000
    ) -> None:
        check_least(1, max_chars=max_chars)
        self.model = as_language_model(model)
        require(self.model, "loglikelihood", "QueryLikelihoodComparator")
        self.template, self.max_chars = prompts.relate, max_chars
        self._known = Memory[tuple[str, str], float](cache_size)

    @property
    def fingerprint(self) -> str:
        """See `Comparator.fingerprint`."""
        digest = hashlib.sha256(repr((astuple(self.template), self.max_chars)).encode()).hexdigest()
        return f"{type(self).__name__}/{token_of(self.model)}/{digest}"

    def view(self, document: Document) -> str:
        """See `Comparator.view`; here the passage as it stands in the prompt."""
        return passage_text(document, self.max_chars)

    def verdicts(self, query: str, pairs: Sequence[DocumentPair]) -> Routine[list[Comparison]]:
        """See `RoutineComparator.verdicts`."""
        views = [(self.view(a), self.view(b)) for a, b in pairs]
        wanted = dict.fromkeys(view for both in views for view in both)
        kept = self._known.known((query, view) for view in wanted)
        known = {view: value for (_, view), value in kept.items()}
        unpaid = {view for view in wanted if view not in known}
        if unpaid:
            missing = [view for view in wanted if view in unpaid]
            asked = self._scored(query, missing)
            rows = yield from wait(self.model.loglikelihood, self.model.aloglikelihood, *asked)
            known |= {view: float(row[0]) for view, row in zip(missing, rows, strict=True)}
            self._known.keep({(query, view): known[view] for view in missing})
        spread = math.sqrt(max(1, self.model.count_tokens([one_line(query)])[0]))
        verdicts = []
        for a, b in views:
            calls = len({a, b} & unpaid)
            unpaid -= {a, b}
            gap = known[a] - known[b]
            if math.isfinite(gap):
                verdicts.append(Comparison(round(sigmoid(gap / spread), 12), calls))
            else:
                verdicts.append(Comparison(0.5, calls, calls))
        return verdicts

    def _scored(self, query: str, views: Sequence[str]) -> tuple[list[Prompt], list[list[str]]]:
        prefill = self.model.capabilities.prefill
        prompts = [self.template.render(prefill=prefill, passages=view) for view in views]
        # After a prefix that ends in a word the query begins with a blank.
        return prompts, [[(" " if prompt.prefix else "") + one_line(query)] for prompt in prompts]
