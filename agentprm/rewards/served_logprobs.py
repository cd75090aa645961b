"""Rewards from the log-probabilities of served language models: verdict words and log-ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from agentprm.engine.tokenizing import Span, load_tokenizer
from agentprm.errors import ConfigurationError
from agentprm.lm.token_lm import Cost, TokenLM
from agentprm.rewards.base import sigmoid
from agentprm.rewards.served_reward import ServedReward
from agentprm.rewards.step_text import Overflow, StepWriter
from agentprm.rewards.templates import Dialogue, StepTemplate, step_shares, two_words
from agentprm.routines import all_of

__all__ = ["ServedLogRatio", "ServedTokenLogits"]


class ServedTokenLogits(ServedReward):
    """`TokenLogits` on a served language model: two words of the vocabulary after each prefix.

    Math-Shepherd and its kind at their tag, RLHFlow and FoVer before the verdict; which one it is
    follows from the template. A prefix is one request that reads the engine's cache, so that a grown
    trajectory costs its new step.

    Args:
        model: A `ServerLM` or `VllmLM` with log-likelihoods.
        tokenizer: The model's tokenizer, its name or folder.
        template: Gives the prefixes, for instance `families()["rlhflow"].template`.
        good: The good word, as the model writes it.
        bad: The bad word.
        words: Their token ids instead, good first.
        step_text: As in `StepReward`.
        on_overflow: As in `TokenLogits`.
        cache_size: As in `StepReward`.

    Raises:
        ConfigurationError: If the model does not score text, or both words have the same token.
    """

    def __init__(
        self,
        model: TokenLM,
        tokenizer: Any,
        *,
        template: StepTemplate,
        good: str = "+",
        bad: str = "-",
        words: Sequence[int] | None = None,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_size: int = 10_000,
    ) -> None:
        _check_scores(model, "ServedTokenLogits")
        # One token of the context stays free: engines generate one to score.
        longest = None if model.max_context is None else model.max_context - 1
        super().__init__(step_text, cache_size, on_overflow, longest)
        self.model, self.template = model, template
        self.tokenizer = load_tokenizer(tokenizer)
        template.check(self.tokenizer)
        self.words = two_words(self.tokenizer, good, bad, words)

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        async def value(k: int) -> float:
            ids = self.template.ids(self.tokenizer, question, steps[: k + 1])
            if not self._fits(len(ids), k):
                return math.nan
            cost.calls += 1
            cost.asked += len(ids)
            good, bad = await self.model.words_after(ids, self.words, cost)
            return sigmoid(good - bad)

        return await all_of(value, new)


class ServedLogRatio(ServedReward):
    """`LogRatio` on served language models: how much likelier a step is under one than under another.

    Scores a step by its own tokens, its separator included (`LogRatio` with `boundary="exact"`), from
    the log-probabilities of prompt tokens.

    Args:
        model: The trained model, a `ServerLM` or `VllmLM`.
        reference: The model it was trained from; `None` counts it as constant.
        tokenizer: The tokenizer of both, its name or folder.
        template: The conversation.
        beta: Factor of the ratio; .05 in training.
        step_text: As in `StepReward`.
        on_overflow: As in `LogRatio`.
        cache_size: As in `StepReward`.

    Raises:
        ConfigurationError: If a model does not score text.
    """

    space = "logit"

    def __init__(
        self,
        model: TokenLM,
        reference: TokenLM | None = None,
        *,
        tokenizer: Any,
        template: Dialogue | None = None,
        beta: float = 0.05,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_size: int = 10_000,
    ) -> None:
        self._sides = [model] if reference is None else [model, reference]
        for side in self._sides:
            _check_scores(side, "ServedLogRatio")
        if not beta > 0:
            raise ConfigurationError(f"beta must be positive, not {beta}.")
        known = [side.max_context for side in self._sides if side.max_context is not None]
        super().__init__(step_text, cache_size, on_overflow, min(known) - 1 if known else None)
        self.beta, self.template = beta, template or Dialogue()
        self.tokenizer = load_tokenizer(tokenizer)

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        ids = self.template.boundaries(self.tokenizer, question, steps, new)
        fitting = [k for k in new if self._fits(len(ids[k]), k)]
        texts, shares = step_shares(ids, fitting)

        async def sums(side: TokenLM) -> list[float]:
            values = await all_of(self._scores, [side] * len(texts), texts, [cost] * len(texts))
            return [
                math.fsum(sign * math.fsum(values[n][low:high]) for n, low, high, sign in parts)
                for parts in shares
            ]

        ours, *theirs = await all_of(sums, self._sides)
        ratios = [a - b for a, b in zip(ours, theirs[0], strict=True)] if theirs else ours
        found = dict(zip(fitting, ratios, strict=True))
        return [self.beta * found.get(k, math.nan) for k in new]

    async def _scores(self, side: TokenLM, text: tuple[list[int], int], cost: Cost) -> list[float]:
        ids, start = text
        if start >= len(ids):
            return []
        cost.calls += 1
        cost.asked += len(ids)
        return await side.token_scores(Span(tuple(ids), start), cost)


def _check_scores(model: Any, needed_by: str) -> None:
    if not isinstance(model, TokenLM):
        raise ConfigurationError(
            f"{needed_by} needs an agentprm.lm.ServerLM or VllmLM, not a {type(model).__name__}; for a local "
            "model there is the class without 'Served'."
        )
    if not model.capabilities.loglikelihood:
        raise ConfigurationError(
            f"{needed_by} needs log-probabilities of prompts. {model.no_loglikelihood()}"
        )
