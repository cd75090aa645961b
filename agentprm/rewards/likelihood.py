"""Rewards without training, read off a language model's likelihoods.

`Grounding` asks how likely the evidence makes the finding, `Relevance` how likely it makes the question,
`SelfJudgement` how likely the model finds it that the step is right. Even a very small model reads well
enough for the first two, where it cannot judge on request.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from agentprm.documents import joined
from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.prompts import PROMPTS, Prompts, known_text
from agentprm.rewards.base import PrefixReward, Trajectory, sigmoid
from agentprm.text import one_line

__all__ = ["Grounding", "LikelihoodReward", "Relevance", "SelfJudgement"]

Continuations = tuple[list[Prompt], list[list[str]]]
"""Prompts, and the continuations of each whose log-likelihoods are wanted."""


class LikelihoodReward(PrefixReward):
    """Base of the rewards from likelihoods: what to ask for, and how a score is read off it.

    Args:
        model: A language model with log-likelihoods, or whatever `as_language_model` takes.
        passages: Most passages of a step that are shown; by default `default_passages`.
        prompts: Templates.
        cache_size: Scores that are remembered.

    Raises:
        CapabilityError: If the model gives no log-likelihoods, as chat models do not.
    """

    default_passages: ClassVar[int] = 1

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`: a prompt a step."""
        return steps

    def __init__(
        self,
        model: LanguageModel | Any,
        *,
        passages: int | None = None,
        prompts: Prompts = PROMPTS,
        cache_size: int = 10_000,
    ) -> None:
        super().__init__(cache_size)
        self.model = as_language_model(model)
        name = type(self).__name__
        if not self.model.capabilities.loglikelihood:
            raise CapabilityError(
                f"{name} needs log-likelihoods (the capability 'loglikelihood'), which "
                f"{type(getattr(self.model, 'model', self.model)).__name__} does not give. Let the model "
                "judge in words: agentprm.rewards.default_reward(model) or VerdictReward(model); or pass "
                "another one that has them, for instance agentprm.lm.TransformersLM('path or name')."
            )
        self.passages = self.default_passages if passages is None else passages
        if self.passages < 1:
            raise ConfigurationError(f"passages must be at least 1, not {passages}.")
        self.prompts = prompts

    @abstractmethod
    def ask(self, question: str, prefixes: Sequence[Trajectory]) -> Continuations:
        """What to ask the model for."""

    @abstractmethod
    def read(self, question: str, prefixes: Sequence[Trajectory], rows: list[list[float]]) -> list[float]:
        """A score per prefix from the log-likelihoods."""

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        rows = self.model.loglikelihood(*self.ask(question, prefixes))
        return self.read(question, prefixes, rows)

    async def ascore_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """Async twin of `score_prefixes`, on the model's own async path."""
        rows = await self.model.aloglikelihood(*self.ask(question, prefixes))
        return await asyncio.to_thread(self.read, question, prefixes, rows)  # it may count tokens


def _continued(prompts: list[Prompt], texts: Sequence[str]) -> Continuations:
    # After a prefix that ends in a word a continuation begins with a blank.
    return prompts, [
        [(" " if prompt.prefix else "") + text] for prompt, text in zip(prompts, texts, strict=True)
    ]


class Grounding(LikelihoodReward):
    """Sigmoid of the log-ratio of a finding's likelihood with and without its evidence.

    The ratio is divided by the square root of the number of tokens: the sum would favour long
    findings, the mean short ones.

    The evidence of a search step is its passages, given what the steps before it found; so a step
    that repeats what is known gains little. The evidence of a conclusion without passages is what
    the steps before it found. Above .5 means that the evidence speaks for the finding.

    The templates `complete` and `summarise` are used. Show as many `passages` as the step was completed
    from, so that a prefix cache has its prompt.
    """

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`: each with and without the evidence."""
        return 2 * steps

    def ask(self, question: str, prefixes: Sequence[Trajectory]) -> Continuations:
        """See `LikelihoodReward.ask`."""
        findings = [one_line(prefix[-1]["thought"]) for prefix in prefixes]
        grounded = [self._prompt(question, prefix, evidence=True) for prefix in prefixes]
        bare = [self._prompt(question, prefix, evidence=False) for prefix in prefixes]
        return _continued([*grounded, *bare], [*findings, *findings])

    def read(self, question: str, prefixes: Sequence[Trajectory], rows: list[list[float]]) -> list[float]:
        """See `LikelihoodReward.read`."""
        lengths = self.model.count_tokens([one_line(prefix[-1]["thought"]) for prefix in prefixes])
        pairs = zip(rows[: len(prefixes)], rows[len(prefixes) :], lengths, strict=True)
        return [sigmoid((a - b) / math.sqrt(max(1, length))) for (a,), (b,), length in pairs]

    def _prompt(self, question: str, prefix: Trajectory, *, evidence: bool) -> Prompt:
        step = prefix[-1]
        prefill = self.model.capabilities.prefill
        if step["passages"]:
            return self.prompts.complete.render(
                passages=joined(step["passages"][: self.passages] if evidence else []),
                known=known_text(prefix[:-1]),
                query=one_line(step["query"]),
                prefill=prefill,
            )
        return self.prompts.summarise.render(
            question=one_line(question), known=known_text(prefix[:-1] if evidence else []), prefill=prefill
        )


class Relevance(LikelihoodReward):
    """Sigmoid of the log-ratio of the question's likelihood with and without the step's evidence.

    The ratio is divided by the square root of the number of tokens, as in `Grounding`.

    The query likelihood of a passage, turned into a reward: a step whose passages have nothing to do
    with the question scores low, however well its finding is read off from them. The evidence is the
    step's passages, or without any the step's finding. The template `relate` is used.
    """

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`: each, and once without evidence."""
        return steps + 1 if steps else 0

    def ask(self, question: str, prefixes: Sequence[Trajectory]) -> Continuations:
        """See `LikelihoodReward.ask`."""
        evidence = [
            joined(prefix[-1]["passages"][: self.passages] or [one_line(prefix[-1]["thought"])])
            for prefix in prefixes
        ]
        prefill = self.model.capabilities.prefill
        prompts = [
            self.prompts.relate.render(prefill=prefill, passages=text) for text in ["(none)", *evidence]
        ]
        return _continued(prompts, [one_line(question)] * len(prompts))

    def read(self, question: str, prefixes: Sequence[Trajectory], rows: list[list[float]]) -> list[float]:
        """See `LikelihoodReward.read`."""
        (without,), *related = rows
        length = max(1, self.model.count_tokens([one_line(question)])[0])
        return [sigmoid((likelihood - without) / math.sqrt(length)) for (likelihood,) in related]


class SelfJudgement(LikelihoodReward):
    """P(Yes) / (P(Yes) + P(No)) of a question about the step; needs no training.

    Models from about 1.5 B parameters on judge usefully when asked; smaller ones barely better than
    chance, for which `Grounding` is the better reward. The template `judge` is used, by default with
    three passages.
    """

    default_passages = 3

    def ask(self, question: str, prefixes: Sequence[Trajectory]) -> Continuations:
        """See `LikelihoodReward.ask`."""
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
        return prompts, [["Yes", "No"]] * len(prompts)

    def read(self, question: str, prefixes: Sequence[Trajectory], rows: list[list[float]]) -> list[float]:
        """See `LikelihoodReward.read`."""
        return [sigmoid(yes - no) for yes, no in rows]
