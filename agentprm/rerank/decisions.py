"""Comparing two passages with a decision model of `langchain_core.decisions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document

from agentprm.budget import record
from agentprm.errors import CapabilityError, ConfigurationError, check_least
from agentprm.rerank.asking import DEFINITION, passage_text
from agentprm.rerank.comparator import (
    Comparator,
    Comparison,
    DocumentPair,
    Policy,
    checked_policy,
    comparisons_of,
    token_of,
    usable,
)
from agentprm.text import one_line

__all__ = ["DecisionComparator", "is_decision_model"]

_LABELS = ("Passage A", "Passage B")


def is_decision_model(model: Any) -> bool:
    """Whether `model` is a LangChain decision model; false where LangChain has none yet."""
    try:
        from langchain_core.decisions import BaseDecisionModel  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    return isinstance(model, BaseDecisionModel)


class DecisionComparator(Comparator):
    """Compares by the probabilities that a decision model gives to two labels, in both orders.

    Args:
        model: A `langchain_core.decisions.BaseDecisionModel` (langchain-core 1.8 or newer).
        policy: How the answers in both orders become one verdict, see `comparison_of`.
        definition: What makes a passage relevant in this task.
        max_chars: Where a passage is cut.
        width: Pairs that are compared at a time, two requests each.

    Raises:
        CapabilityError: If the installed LangChain has no decision models.
    """

    def __init__(
        self,
        model: Any,
        *,
        policy: Policy = "mean",
        definition: str = DEFINITION,
        max_chars: int = 1200,
        width: int = 4,
    ) -> None:
        try:
            from langchain_core.decisions import Choice  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise CapabilityError(
                "The installed langchain-core has no decision models. Use langchain-core 1.8 or newer, or "
                "pass a chat model."
            ) from error
        if not is_decision_model(model):
            raise ConfigurationError(
                f"A {type(model).__name__} is no decision model. Pass a langchain_core.decisions."
                "BaseDecisionModel."
            )
        check_least(1, max_chars=max_chars, width=width)
        self.model, self.policy = model, checked_policy(policy)
        self.definition, self.max_chars, self.width = one_line(definition), max_chars, width
        self._question = Choice(
            instructions=f"{self.definition} Which of the two passages answers the question better?",
            criteria={_LABELS[0]: "passage_a answers better", _LABELS[1]: "passage_b answers better"},
        )

    @property
    def fingerprint(self) -> str:
        """See `Comparator.fingerprint`."""
        return f"DecisionComparator/{token_of(self.model)}/{self.policy}/{self.max_chars}/{self.definition}"

    def view(self, document: Document) -> str:
        """See `Comparator.view`; here the passage as it is shown."""
        return passage_text(document, self.max_chars)

    def compare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.compare`."""
        return self._verdicts(self.model.batch(self._requests(query, pairs)))

    async def acompare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.acompare`."""
        requests = self._requests(query, pairs)
        return self._verdicts(await asyncio.gather(*(self.model.ainvoke(one) for one in requests)))

    def _requests(self, query: str, pairs: Sequence[DocumentPair]) -> list[dict[str, Any]]:
        orders = [order for a, b in pairs for order in ((a, b), (b, a))]
        return [
            {
                "state": {
                    "question": one_line(query),
                    "passage_a": passage_text(first, self.max_chars),
                    "passage_b": passage_text(second, self.max_chars),
                },
                "questions": {"better": self._question},
            }
            for first, second in orders
        ]

    def _verdicts(self, responses: Sequence[Any]) -> list[Comparison]:
        answers = [self._first_wins(response) for response in responses]
        return comparisons_of(answers, self.policy)

    @staticmethod
    def _first_wins(response: Any) -> float | None:
        """P(first label) of a response; `None` if it holds no such choice."""
        used = response.usage or {}
        asked, new = int(used.get("input_tokens", 0)), int(used.get("output_tokens", 0))
        record(model_calls=1, prompt_tokens=asked, computed_tokens=asked + new, completion_tokens=new)
        answer = response.choices.get("better")
        if answer is None:
            return None
        first, second = (usable(answer.probabilities.get(label)) for label in _LABELS)
        if first is None or second is None or first + second == 0:
            return None
        return first / (first + second)
