"""Metrics of extractive question answering and of the evidence behind it.

The normalisation and the scores are the ones of SQuAD (Rajpurkar et al., 2016) and HotpotQA (Yang et
al., 2018), so that numbers can be put beside published ones. These scripts know English in ASCII only:
`normalize_unicode` does the same for every language, and gives the same for ASCII.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from agentprm.errors import InputError
from agentprm.text import normalize_answer, normalize_unicode, words

__all__ = [
    "CLOSED_ANSWERS",
    "contains_answer",
    "exact_match",
    "normalize_answer",
    "normalize_unicode",
    "recall_at_k",
    "token_f1",
]

# Answers of which a part is no answer at all.
CLOSED_ANSWERS = frozenset({"yes", "no", "noanswer"})


def exact_match(
    prediction: str, answers: Iterable[str], *, normalize: Callable[[str], str] = normalize_answer
) -> float:
    """1 if the normalised prediction equals a normalised answer, else 0.

    Args:
        prediction: What the system said; one without letters and digits, say "?!", never matches an
            answer of which normalisation leaves nothing, say "A".
        answers: The right answers, at least one.
        normalize: `normalize_answer` for published numbers, `normalize_unicode` for other languages.

    Raises:
        InputError: If there is no right answer to compare with.
    """
    said = normalize(prediction)
    matches = [said == normalize(answer) for answer in _some(answers)]
    return float(bool(said or words(prediction)) and any(matches))


def token_f1(
    prediction: str,
    answers: Iterable[str],
    *,
    hotpot: bool = False,
    normalize: Callable[[str], str] = normalize_answer,
) -> float:
    """Harmonic mean of the precision and recall of tokens, against the best of the answers.

    Args:
        prediction: What the system said.
        answers: The right answers, at least one.
        hotpot: Apply the rule of the official HotpotQA script: where the prediction or the answer is
            yes, no or noanswer, anything but equality scores 0.
        normalize: As for `exact_match`.

    Raises:
        InputError: If there is no right answer to compare with.
    """
    said = normalize(prediction)
    return max(_f1(said, normalize(answer), hotpot) for answer in _some(answers))


def _f1(said: str, gold: str, hotpot: bool) -> float:
    if hotpot and said != gold and (said in CLOSED_ANSWERS or gold in CLOSED_ANSWERS):
        return 0.0
    tokens, gold_tokens = said.split(), gold.split()
    shared = sum((Counter(tokens) & Counter(gold_tokens)).values())
    return 2 * shared / (len(tokens) + len(gold_tokens)) if shared else 0.0


def contains_answer(
    prediction: str,
    answers: Iterable[str],
    *,
    whole_words: bool = True,
    normalize: Callable[[str], str] = normalize_unicode,
) -> float:
    """ACC_R: 1 if the prediction contains an answer, both normalised, else 0.

    It has no official script, so that it is aware of Unicode by default.

    Args:
        prediction: What the system said.
        answers: The right answers, at least one.
        whole_words: Match at word boundaries, so that "not known" does not contain "no". Published
            numbers often come from a bare substring test; pass `False` to compare with those.
        normalize: As for `exact_match`.

    Raises:
        InputError: If there is no right answer to compare with.
    """
    edge = " " if whole_words else ""
    said = f"{edge}{normalize(prediction)}{edge}"
    golds = [normalize(answer) for answer in _some(answers)]
    # an answer that consists of articles and punctuation is nothing that could be contained
    return float(any(gold and f"{edge}{gold}{edge}" in said for gold in golds))


def recall_at_k(retrieved: Iterable[str], gold: Collection[str], k: int) -> float:
    """Share of the gold passages among the first `k` retrieved ones.

    Args:
        retrieved: Ids, best first; a repeated id takes one place only.
        gold: Ids of the passages that the question needs.
        k: How many of the retrieved ones count, at least 1.

    Raises:
        InputError: If there are no gold passages or `k` is below 1.
    """
    if not gold:
        raise InputError("Recall needs at least one gold passage; leave questions without any out.")
    if k < 1:
        raise InputError(f"recall@k needs a k of at least 1, not {k}.")
    return len(set(list(dict.fromkeys(retrieved))[:k]) & set(gold)) / len(set(gold))


def _some(answers: Iterable[str]) -> list[str]:
    found = [answers] if isinstance(answers, str) else list(answers)
    if not found:
        raise InputError("There is no right answer to compare with; leave questions without any out.")
    return found
