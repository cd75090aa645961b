"""A verdict's probability, from the likeliest tokens that a model reports where it wrote the verdict."""

from __future__ import annotations

import math
from bisect import bisect_right

from agentprm.engine.tokenizing import common_length
from agentprm.lm import Completion
from agentprm.rewards.verdict_templates import Found

__all__ = ["listed_probability"]

_MARKS = " \t\r\n*_`\"'"  # that a token may hold before a word


def listed_probability(found: Found, text: str, completion: Completion) -> float | None:
    """P(good) / (P(good) + P(bad)) at a verdict, over all listed tokens that begin either word.

    Read at the token where the two words part: " Yes" or " No", but "in" of "incorrect". A word of which
    no token is listed counts as likely as it may be at most: as the last one listed, or all that the
    list leaves.

    Args:
        found: The verdict.
        text: The assistant's turn that it was found in.
        completion: The completion that the turn ends with.

    Returns:
        The probability, or `None` if the completion does not say.
    """
    start = text.rfind(completion.text)
    if found.at is None or not completion.token_logprobs or start < 0:
        return None
    words = [word.strip().lower() for word in found.words]
    begin = found.at - start + len(found.words[0]) - len(found.words[0].lstrip())
    common = common_length(*words)
    if begin < 0 or common == min(map(len, words)):  # one word begins the other
        return None
    tokens = completion.token_logprobs
    token = tokens[bisect_right(tokens, begin + common, key=lambda t: t.at) - 1]
    lead = completion.text[token.at : begin].lower()  # of the token, before the word
    rests = [word[max(0, token.at - begin) :] for word in words]
    listed = {**dict(token.top), token.token: token.logprob}
    likely = {said: math.exp(min(logprob, 0.0)) for said, logprob in listed.items()}
    masses = [0.0, 0.0]
    for said, probability in likely.items():
        bare = said.lower().removeprefix(lead).lstrip(_MARKS)
        begins = [_begins(bare, rest) for rest in rests]
        if begins.count(True) == 1:
            masses[begins.index(True)] += probability
    if not any(masses):
        return None
    least = min(math.exp(min(logprob, 0.0)) for _, logprob in token.top or [("", token.logprob)])
    unseen = min(least, max(0.0, 1 - math.fsum(likely.values())))
    good, bad = (mass or unseen for mass in masses)
    return good / (good + bad)


def _begins(said: str, word: str) -> bool:
    """Whether a token is the beginning of a word, or the word and what may follow it."""
    if said.startswith(word):
        return not said[len(word) :][:1].isalnum()
    return bool(said) and word.startswith(said)
