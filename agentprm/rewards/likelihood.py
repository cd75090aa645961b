"""Rewards without training, read off a language model's likelihoods.

`Grounding` asks how likely the evidence makes the finding, `Relevance` how likely it makes the question,
`SelfJudgement` how likely the model finds it that the step is right. Even a very small model reads well
enough for the first two, where it cannot judge on request. `Fused` makes one reward of several.
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from agentprm.documents import joined
from agentprm.errors import CapabilityError, ConfigurationError, InputError, check_least
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.prompts import PROMPTS, Prompts, known_text
from agentprm.rewards.base import PrefixReward, ProcessRewardModel, Trajectory, sigmoid
from agentprm.rewards.separation import auc
from agentprm.text import one_line

__all__ = [
    "Fused",
    "Fusion",
    "Grounding",
    "LikelihoodReward",
    "Relevance",
    "SelfJudgement",
    "common_space",
    "reliability",
]

Continuations = tuple[list[Prompt], list[list[str]]]
"""Prompts, and the continuations of each whose log-likelihoods are wanted."""

Fusion = Literal["geometric_mean", "mean", "min"]


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
        check_least(1, passages=self.passages)
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


class Fused(ProcessRewardModel):
    """An ensemble: every reward scores, and their scores become one.

    Args:
        rewards: At least one. All score in one space, which becomes the ensemble's.
        how: `geometric_mean` (a step must please all of them; probabilities only), `mean` or `min`
            (the most sceptical decides).
        weights: Shares of the rewards in the mean, at least 0 and not all 0; equal by default.
            `reliability` measures them on labelled steps.

    Raises:
        ConfigurationError: If there is no reward, the spaces differ, or an argument does not fit.
    """

    def __init__(
        self,
        rewards: Sequence[ProcessRewardModel],
        how: Fusion = "geometric_mean",
        *,
        weights: Sequence[float] | None = None,
    ) -> None:
        if not rewards:
            raise ConfigurationError("Fused needs at least one reward.")
        if how not in get_args(Fusion):
            raise ConfigurationError(f"Unknown fusion {how!r}; use one of {list(get_args(Fusion))}.")
        self.space = common_space(rewards, "Fused")
        if how == "geometric_mean" and self.space != "probability":
            raise ConfigurationError(
                f"Fused multiplies probabilities; {type(rewards[0]).__name__} scores in {self.space} space. "
                "Use how='mean' or 'min', or calibrate the rewards first."
            )
        if weights is not None and how == "min":
            raise ConfigurationError("A minimum has no weights; use how='mean' or 'geometric_mean'.")
        self.rewards, self.how = list(rewards), how
        self.weights = _shares(weights, len(self.rewards))

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        return self._fuse([reward.score(question, trajectories) for reward in self.rewards])

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; the rewards are asked one after the other."""
        return self._fuse([await reward.ascore(question, trajectories) for reward in self.rewards])

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`."""
        return sum(reward.model_calls(steps) for reward in self.rewards)

    def remarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """See `ProcessRewardModel.remarks`: what all of them say."""
        return _together([reward.remarks(question, trajectories) for reward in self.rewards])

    async def aremarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """Async twin of `remarks`."""
        return _together([await reward.aremarks(question, trajectories) for reward in self.rewards])

    def __repr__(self) -> str:
        return f"Fused({self.rewards!r}, {self.how!r})"

    def _fuse(self, parts: list[list[list[float]]]) -> list[list[float]]:
        return [
            [self._one(scores) for scores in zip(*rows, strict=True)] for rows in zip(*parts, strict=True)
        ]

    def _one(self, scores: Sequence[float]) -> float:
        if any(map(math.isnan, scores)):
            return math.nan  # a step that one of them could not score has no score
        if self.how == "min":
            return min(scores)
        if self.how == "mean":
            return math.fsum(w * s for w, s in zip(self.weights, scores, strict=True))
        return float(math.prod(s**w for w, s in zip(self.weights, scores, strict=True)))


def _together(rows: list[list[str]]) -> list[str]:
    return ["; ".join(filter(None, said)) for said in zip(*rows, strict=True)]


def reliability(
    scores: Sequence[Sequence[float]], labels: Sequence[bool], *, names: Sequence[str] | None = None
) -> list[float]:
    """Weights for `Fused` from how well each reward tells right steps from wrong ones.

    The weight of a reward is `2 AUC - 1`, what it is better than chance by; a reward that is no better
    gets 0 and could be left out.

    Args:
        scores: For each reward, its scores of the same labelled steps.
        labels: Whether each step is right.
        names: For the error message.

    Raises:
        InputError: If no reward is better than chance, or as `agentprm.rewards.separation.auc`.
    """
    weights = [max(0.0, 2 * auc(row, labels) - 1) for row in scores]
    if not any(weights):
        raise InputError(
            f"None of {list(names) if names else len(scores)} tells right steps from wrong ones better than "
            "chance on these labels, so there is nothing to weigh."
        )
    return weights


def common_space(rewards: Sequence[ProcessRewardModel], name: str) -> Literal["probability", "logit"]:
    """The space in which all of these rewards score.

    Raises:
        ConfigurationError: If there are two.
    """
    spaces = {reward.space for reward in rewards}
    if len(spaces) > 1:
        found = ", ".join(f"{type(reward).__name__}: {reward.space}" for reward in rewards)
        raise ConfigurationError(
            f"The rewards of {name} must score in one space ({found}). Calibrate those that score in "
            "logit space (agentprm.rewards.Calibrated)."
        )
    return spaces.pop()


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1 / count] * count
    values = [float(weight) for weight in weights]
    if len(values) != count:
        raise ConfigurationError(f"{count} rewards need as many weights, not {len(values)}.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in values) or not any(values):
        raise ConfigurationError(f"Weights must be finite, at least 0 and not all 0, not {values}.")
    total = math.fsum(values)
    return [weight / total for weight in values]
