"""Grounding: how much the evidence raises the likelihood of a step's finding."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentprm._numbers import sigmoid
from agentprm.lm import LanguageModel, Prompt, require
from agentprm.prompts import PROMPTS, Prompts, joined, known_text, one_line
from agentprm.rewards.base import PrefixReward, Trajectory

__all__ = ["Grounding"]


class Grounding(PrefixReward):
    """Sigmoid of the log-ratio of a finding's likelihood with and without its evidence.

    The ratio is divided by the square root of the number of tokens: the sum would favour long
    findings, the mean short ones.

    The evidence of a search step is its passages, given what the steps before it found; so a step
    that repeats what is known gains little. The evidence of a conclusion without passages is what
    the steps before it found. Above .5 means that the evidence speaks for the finding.

    Even a very small model reads well enough for this, where it cannot judge on request.

    Args:
        model: A language model with log-likelihoods.
        passages: Most passages of a step that are shown; as many as the step was completed from.
        prompts: Templates; `complete` and `summarise` are used.
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
        require(model, "loglikelihood", "Grounding")
        super().__init__(cache_size)
        self.model, self.passages, self.prompts = model, passages, prompts

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        findings = [one_line(prefix[-1]["thought"]) for prefix in prefixes]
        grounded = [self._prompt(question, prefix, evidence=True) for prefix in prefixes]
        bare = [self._prompt(question, prefix, evidence=False) for prefix in prefixes]
        prompts = [*grounded, *bare]
        # After a prefix that ends in a word the finding begins with a blank.
        texts = [
            (" " if prompt.prefix else "") + finding
            for prompt, finding in zip(prompts, [*findings, *findings], strict=True)
        ]
        rows = self.model.loglikelihood(prompts, [[text] for text in texts])
        scores = [row[0] for row in rows]
        lengths = self.model.count_tokens(findings)
        ratios = [
            (with_evidence - without) / math.sqrt(max(1, length))
            for with_evidence, without, length in zip(
                scores[: len(prefixes)], scores[len(prefixes) :], lengths, strict=True
            )
        ]
        return [sigmoid(ratio) for ratio in ratios]

    def _prompt(self, question: str, prefix: Trajectory, *, evidence: bool) -> Prompt:
        step = prefix[-1]
        if step["passages"]:
            # The same prompt that the step was completed from, so that a prefix cache has it.
            return self.prompts.complete.render(
                passages=joined(step["passages"][: self.passages] if evidence else []),
                known=known_text(prefix[:-1]),
                query=one_line(step["query"]),
                prefill=self.model.capabilities.prefill,
            )
        return self.prompts.summarise.render(
            question=one_line(question),
            known=known_text(prefix[:-1] if evidence else []),
            prefill=self.model.capabilities.prefill,
        )
