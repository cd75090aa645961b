"""Self-judgement: how probable a language model finds it that a step is right."""

from __future__ import annotations

from collections.abc import Sequence

from agentprm._numbers import sigmoid
from agentprm.lm import LanguageModel, require
from agentprm.prompts import PROMPTS, Prompts, joined, known_text, one_line
from agentprm.rewards.base import PrefixReward, Trajectory

__all__ = ["SelfJudgement"]


class SelfJudgement(PrefixReward):
    """P(Yes) / (P(Yes) + P(No)) of a question about the step; needs no training.

    Models from about 1.5 B parameters on judge usefully when asked; smaller ones barely better than
    chance, for which `Grounding` is the better reward.

    Args:
        model: A language model with log-likelihoods.
        passages: Most passages of a step that are shown.
        prompts: Templates; `judge` is used.
        cache_size: Scores that are remembered.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        passages: int = 3,
        prompts: Prompts = PROMPTS,
        cache_size: int = 10_000,
    ) -> None:
        require(model, "loglikelihood", "SelfJudgement")
        super().__init__(cache_size)
        self.model, self.passages, self.prompts = model, passages, prompts

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        prompts = [
            self.prompts.judge.render(
                question=one_line(question),
                known=known_text(prefix[:-1]),
                query=one_line(prefix[-1]["query"]) or "conclude",
                passages=joined(prefix[-1]["passages"][: self.passages]),
                thought=one_line(prefix[-1]["thought"]),
            )
            for prefix in prefixes
        ]
        rows = self.model.loglikelihood(prompts, [["Yes", "No"]] * len(prompts))
        return [sigmoid(yes - no) for yes, no in rows]
