"""A model asked to choose one of a few words, and how likely it finds each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from agentprm.lm import Completion, LanguageModel, Prompt
from agentprm.nodes.reporting import reported, sampled
from agentprm.prompts import reply_params
from agentprm.replies import parse_choice
from agentprm.rewards.verdict import listed_probability
from agentprm.rewards.verdict_templates import Found
from agentprm.routines import Routine

__all__ = ["LISTED", "chosen", "said_yes"]

#: Likeliest tokens to ask a model for, the most that OpenAI's interface gives.
LISTED = 20


def chosen(
    model: LanguageModel, prompts: Sequence[Prompt], words: Sequence[str], about: str = ""
) -> Routine[list[list[float] | None]]:
    """How likely each of `words` is as the reply to each prompt; they add up to 1.

    A model that continues a prefix and has log-likelihoods is asked for those of the words. Any other one
    replies: the word that it says has probability 1, or of two words what its log-probabilities say, where
    it reports them.

    Args:
        model: The model.
        prompts: Each ends where the word begins, behind a blank.
        words: What may be chosen; for verdicts the good word first.
        about: What the choice is about, for callbacks.

    Returns:
        For each prompt a number for each word; `None` where the reply names none of them, or several.
    """
    if model.capabilities.prefill and model.capabilities.loglikelihood:
        asked = prompts, [[f" {word}" for word in words]] * len(prompts)
        rows, _ = yield from reported(
            type(model).__name__,
            about or prompts[0].messages[-1][1],
            lambda: model.loglikelihood(*asked),
            lambda: model.aloglikelihood(*asked),
        )
        return [_shares(row) for row in rows]
    params = replace(reply_params(model, max_tokens=16), top_logprobs=LISTED if len(words) == 2 else 0)
    replies = yield from sampled(model, prompts, 1, params)
    return [_read(row[0], words) for row in replies]


def said_yes(
    model: LanguageModel, prompts: Sequence[Prompt], about: str = "", words: tuple[str, str] = ("Yes", "No")
) -> Routine[list[float | None]]:
    """The probability of the first of two words as the reply to each prompt; `None` as in `chosen`."""
    rows = yield from chosen(model, prompts, words, about)
    return [None if row is None else row[0] for row in rows]


def _shares(logprobs: Sequence[float]) -> list[float]:
    highest = max(logprobs)
    if not math.isfinite(highest):
        return [1 / len(logprobs)] * len(logprobs)
    weights = [math.exp(value - highest) for value in logprobs]
    return [weight / math.fsum(weights) for weight in weights]


def _read(completion: Completion, words: Sequence[str]) -> list[float] | None:
    found = parse_choice(completion.text, words)
    if found is None:
        return None
    index, at = found
    if len(words) == 2:
        pair = (words[0], words[1])
        listed = listed_probability(Found(float(index == 0), at, pair), completion.text, completion)
        if listed is not None:
            return [listed, 1 - listed]
    return [float(place == index) for place in range(len(words))]
