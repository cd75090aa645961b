"""Relevance: how much a step makes the question itself more likely."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentprm._numbers import sigmoid
from agentprm.lm import LanguageModel, require
from agentprm.prompts import PROMPTS, Prompts, joined, one_line
from agentprm.rewards.base import PrefixReward, Trajectory

__all__ = ["Relevance"]


class Relevance(PrefixReward):
    """Sigmoid of the log-ratio of the question's likelihood with and without the step's evidence.

    The ratio is divided by the square root of the number of tokens, as in `Grounding`.

    The query likelihood of a passage, turned into a reward: a step whose passages have nothing to do
    with the question scores low, however well its finding is read off from them. The evidence is the
    step's passages, or without any the step's finding.

    Args:
        model: A language model with log-likelihoods.
        passages: Most passages of a step that are shown.
        prompts: Templates; `relate` is used.
        cache_size: Scores that are remembered.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        passages: int = 1,
        prompts: Prompts = PROMPTS,
        cache_size: int = 10_000,
    ) -> None:
        require(model, "loglikelihood", "Relevance")
        super().__init__(cache_size)
        self.model, self.passages, self.prompts = model, passages, prompts

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        question = one_line(question)
        evidence = [
            joined(prefix[-1]["passages"][: self.passages] or [one_line(prefix[-1]["thought"])])
            for prefix in prefixes
        ]
        prefill = self.model.capabilities.prefill
        prompts = [
            self.prompts.relate.render(prefill=prefill, passages=text) for text in ["(none)", *evidence]
        ]
        texts = [(" " if prompt.prefix else "") + question for prompt in prompts]
        rows = self.model.loglikelihood(prompts, [[text] for text in texts])
        (without, *related) = [row[0] for row in rows]
        length = max(1, self.model.count_tokens([question])[0])
        return [sigmoid((likelihood - without) / math.sqrt(length)) for likelihood in related]
