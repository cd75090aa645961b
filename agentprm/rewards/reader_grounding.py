"""A reward without training from a reader: how sure it is of a finding, against all others and none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, check_least
from agentprm.readers.base import Reader, ReaderAnswer
from agentprm.rewards.base import PrefixReward, RewardStep, Trajectory
from agentprm.text import fold, one_line, words

__all__ = ["ReaderGrounding", "gives_answer"]

_CANDIDATES = 8  # a finding that is not among so many of the reader's has no support


class ReaderGrounding(PrefixReward):
    """Probability that a reader gives the finding from the step's passages, rather than another or none.

    A finding in a sentence is scored by the likeliest of the reader's answers that it holds.

    A step that the reader itself completed brings its probability along, so that it costs nothing. A step
    without passages, such as a comparison of what was found before, is as sure as the least sure of the steps
    before it.

    Args:
        reader: The reader.
        passages: Most passages of a step that are read.
        cache_size: Scores that are remembered.
    """

    def __init__(self, reader: Reader, *, passages: int = 5, cache_size: int = 10_000) -> None:
        super().__init__(cache_size)
        self.aggregation = "product"  # a path is right where all its findings are
        if not isinstance(reader, Reader):
            raise ConfigurationError(
                f"A {type(reader).__name__} is no reader. Pass agentprm.default_reader(), "
                "agentprm.readers.SpanReader(folder) or a Reader of your own; for a language model as reward "
                "there is Grounding."
            )
        check_least(1, passages=passages)
        self.model, self.passages = reader, passages

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        unread: dict[str, RewardStep] = {}
        for prefix in prefixes:
            for step in prefix:
                if step["passages"] and "confidence" not in step:
                    unread.setdefault(_key(step), step)  # siblings ask the same of the same
        rows = self.model.candidates(
            [one_line(step["query"]) or question for step in unread.values()],
            [[Document(text) for text in step["passages"][: self.passages]] for step in unread.values()],
            n=_CANDIDATES,
        ) if unread else []  # fmt: skip
        read = dict(zip(unread, rows, strict=True))
        return [_score(prefix, read) for prefix in prefixes]


def _score(prefix: Trajectory, read: Mapping[str, Sequence[ReaderAnswer]]) -> float:
    step = prefix[-1]
    if "confidence" in step:
        return float(step["confidence"])
    if step["passages"]:
        found = (a.score for a in read[_key(step)] if gives_answer(step["thought"], a.text))
        return float(max(found, default=0.0))
    # What rests on nothing is neither likely nor unlikely.
    return min((_score(prefix[:place], read) for place in range(1, len(prefix))), default=0.5)


def _key(step: RewardStep) -> str:
    return repr((step["query"], step["passages"]))


def gives_answer(finding: str, answer: str) -> bool:
    """Whether a finding gives an answer, alone or in a sentence; case, accents and articles do not count."""
    said, wanted = _words(finding), _words(answer)
    places = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(said[at : at + len(wanted)] == wanted for at in places)


def _words(text: str) -> list[str]:
    return [w for word in words(fold(text)) if (w := word.text.casefold()) not in ("the", "a", "an")]
