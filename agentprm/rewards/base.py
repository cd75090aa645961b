"""The contract of a process reward model, a memory of scores, and the check of what a reward gives."""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypeVar

from typing_extensions import TypedDict

from agentprm.budget import record
from agentprm.errors import ConfigurationError, InputError, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rewards.aggregation import Aggregation
from agentprm.routines import Routine, adrive, drive, wait

__all__ = [
    "Memory",
    "PrefixMemory",
    "PrefixReward",
    "ProcessRewardModel",
    "Recall",
    "RemarkingReward",
    "RewardStep",
    "RoutineReward",
    "Trajectory",
    "as_score",
    "check_scores",
    "logit",
    "sigmoid",
]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SLACK = 1e-6  # what rounding may carry a probability beyond 0 or 1


class RewardStep(TypedDict):
    """One reasoning step as a reward model sees it.

    Attributes:
        query: The sub-question of the step; empty for a concluding step.
        passages: Texts of the passages that the step was given; empty without retrieval.
        thought: What the step found.
        final_answer: The answer to the whole question, if the step concludes.
        cited: Which of the passages the finding cites, as indices; missing where that is not known.
        confidence: Probability that the reader that found it gave it, if it was a reader.
    """

    query: str
    passages: list[str]
    thought: str
    final_answer: str | None
    cited: NotRequired[list[int]]
    confidence: NotRequired[float]


Trajectory = Sequence[RewardStep]


def check_trajectories(trajectories: Sequence[Trajectory]) -> None:
    """Tells plain texts and a single trajectory from a list of trajectories.

    Raises:
        InputError: If `trajectories` is no list of lists of steps.
    """
    for trajectory in trajectories:
        steps = [] if isinstance(trajectory, str | Mapping) else trajectory
        if steps is not trajectory or not all(isinstance(step, Mapping) for step in steps):
            raise InputError(
                "A reward model scores a list of trajectories, each a list of steps: "
                "score(question, [as_trajectory(solution)])."
            )


class ProcessRewardModel(ABC):
    """Scores every step of reasoning trajectories. Outcome models and judges share the interface.

    Attributes:
        space: `probability` (scores in [0, 1]) or `logit` (any real number).
        calibrated: Whether a score of .8 means right in about 80 % of the cases.
        threshold: Score below which a step is held wrong, where the reward or its calibration says so.
        rise: Least rise of the score from one step to the next that promises more, where the calibration
            says so: a look-ahead goes on as long as scores rise by it (`agentprm.search.TD`).
        aggregation: How its authors make one score of a trajectory's steps, for `aggregate`; `None` where
            they do not say.
    """

    space: Literal["probability", "logit"] = "probability"
    calibrated: bool = False
    threshold: float | None = None
    rise: float | None = None
    aggregation: Aggregation | None = None

    @property
    def gate(self) -> float:
        """Score up to which a step is weak: `threshold`, else the middle of the space, .5 or 0."""
        middle = 0.5 if self.space == "probability" else 0.0
        return middle if self.threshold is None else self.threshold

    def model_calls(self, steps: int) -> int:
        """Most calls of a language model that scoring so many new steps takes; a budget counts on it."""
        return 0

    @abstractmethod
    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Scores each step given the steps before it.

        Args:
            question: The question that all trajectories answer.
            trajectories: Any number of trajectories, of any lengths.

        Returns:
            For each trajectory exactly one float per step. Other trajectories of the call never
            change a score.
        """

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; by default it runs in a thread."""
        return await asyncio.to_thread(self.score, question, trajectories)

    def remarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """What there is to say about the last step of each trajectory besides its score; "" for nothing.

        Critiques that a judge wrote, evidence that a checker found: they reach whoever refines the step.
        Asked after `score`, of the same trajectories, so what was remembered costs nothing.
        """
        return [""] * len(trajectories)

    async def aremarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """Async twin of `remarks`; by default it runs in a thread."""
        return await asyncio.to_thread(self.remarks, question, trajectories)

    def __repr__(self) -> str:
        inner = getattr(self, "model", None)
        return f"{type(self).__name__}({'' if inner is None else type(inner).__name__})"


class RoutineReward(ProcessRewardModel):
    """Base of the rewards that work by a routine (`agentprm.routines`), with or without an event loop."""

    @abstractmethod
    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        """What `score` gives."""

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        return drive(self._scoring(question, trajectories))

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`."""
        return await adrive(self._scoring(question, trajectories))


class RemarkingReward(RoutineReward):
    """The same, of those that have more to say than a score."""

    @abstractmethod
    def _remarking(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[str]]:
        """What `remarks` gives."""

    def remarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """See `ProcessRewardModel.remarks`."""
        return drive(self._remarking(question, trajectories))

    async def aremarks(self, question: str, trajectories: Sequence[Trajectory]) -> list[str]:
        """Async twin of `remarks`."""
        return await adrive(self._remarking(question, trajectories))


class Memory(Generic[K, V]):
    """Keeps the entries that were used last.

    Args:
        size: Entries that are kept.
        name: What the setting is called where the user makes it, for errors.
    """

    def __init__(self, size: int, name: str = "cache_size") -> None:
        check_least(1, **{name: size})
        self.size = size
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._lock = ForkSafeLock()

    def known(self, keys: Iterable[K]) -> dict[K, V]:
        """Those of the keys that are kept, with their values; they count as used."""
        with self._lock:
            found = {key: self._entries[key] for key in keys if key in self._entries}
            for key in found:
                self._entries.move_to_end(key)
        return found

    def get(self, key: K) -> V | None:
        """The value of one key, if it is kept."""
        return self.known((key,)).get(key)

    def keep(self, entries: Mapping[K, V]) -> None:
        """Takes entries in, the last one as the one used last; what is over `size` goes."""
        with self._lock:
            for key, value in entries.items():
                self._entries[key] = value
                self._entries.move_to_end(key)
            while len(self._entries) > self.size:
                self._entries.popitem(last=False)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True)
class Recall(Generic[V]):
    """What is known of a call's trajectories.

    Attributes:
        keys: A key per step of each trajectory, for the prefix that ends there.
        known: Values by key.
        new: The unknown prefixes, each once: from its key to its place, the numbers of a trajectory and
            of its step.
    """

    keys: list[list[str]]
    known: dict[str, V]
    new: dict[str, tuple[int, int]]

    def new_steps(self) -> list[tuple[int, list[int]]]:
        """The trajectories with unknown prefixes, and the numbers of these steps, ascending."""
        steps: dict[int, list[int]] = {}
        for row, step in self.new.values():
            steps.setdefault(row, []).append(step)
        return list(steps.items())


class PrefixMemory(Generic[V]):
    """A bounded memory of a value per prefix; shared by threads.

    A prefix's key is made of the one before it, so that a trajectory costs time linear in its length.

    Args:
        size: Prefixes that are kept; the least recently used go first.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._values = Memory[str, V](size)

    def recall(self, question: str, rows: Sequence[Sequence[str]], *, whole: bool = False) -> Recall[V]:
        """What is known, and what is not.

        Args:
            question: The question.
            rows: The steps of each trajectory as texts that tell them apart.
            whole: A value belongs to its step in the light of the later ones too.
        """
        keys = [_keys(question, steps) for steps in rows]
        if whole:
            keys = [[f"{row[-1]} {k}" for k in range(len(row))] for row in keys]
        known = self._values.known(key for row in keys for key in row)
        new: dict[str, tuple[int, int]] = {}
        for i, row in enumerate(keys):
            for k, key in enumerate(row):
                if key not in known:
                    new.setdefault(key, (i, k))
        return Recall(keys, known, new)

    def settle(self, recall: Recall[V], found: Iterable[V]) -> list[list[V]]:
        """Remembers the values of `recall.new`, in its order, and gives those of the whole call."""
        known = {**recall.known, **dict(zip(recall.new, found, strict=True))}
        self._values.keep({key: known[key] for row in recall.keys for key in row})
        return [[known[key] for key in row] for row in recall.keys]

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()


def _keys(question: str, steps: Sequence[str]) -> list[str]:
    digest, keys = hashlib.sha256(question.encode("utf-8", "surrogatepass")), []
    for step in steps:
        data = step.encode("utf-8", "surrogatepass")
        digest = digest.copy()
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
        keys.append(digest.hexdigest())
    return keys


def step_key(step: RewardStep) -> str:
    """A text that tells a step from others, whatever the order of its keys."""
    return repr(sorted(step.items()))


class PrefixReward(RoutineReward):
    """Base of rewards that score a step from its prefix alone, and remember what they scored.

    A trajectory that extends a scored one costs its new steps only. Subclasses implement
    `score_prefixes`; its items are distinct and none was scored before (unless it was evicted).

    Args:
        cache_size: Number of prefixes whose scores are kept; the least recently used go first.
    """

    def __init__(self, cache_size: int = 10_000) -> None:
        self._known = PrefixMemory[float](cache_size)

    @abstractmethod
    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """Score of the last step of each prefix, in order."""

    async def ascore_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """Async twin of `score_prefixes`; by default it runs in a thread."""
        return await asyncio.to_thread(self.score_prefixes, question, prefixes)

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        check_trajectories(trajectories)
        recall = self._known.recall(question, [[step_key(step) for step in row] for row in trajectories])
        found: list[float] = []
        if recall.new:
            prefixes = [trajectories[i][: k + 1] for i, k in recall.new.values()]
            found = yield from wait(self.score_prefixes, self.ascore_prefixes, question, prefixes)
            record(reward_calls=len(prefixes))
        return self._known.settle(recall, map(float, found))


def check_scores(
    reward: ProcessRewardModel, rows: Any, trajectories: Sequence[Trajectory]
) -> list[list[float]]:
    """A reward's scores as floats, NaN for a step without a score.

    Whatever calls a reward that a user may have written checks what it gives.

    Args:
        reward: The reward.
        rows: What its `score` returned.
        trajectories: What it was asked about.

    Raises:
        ConfigurationError: If it is not one number per step of each trajectory, or one is no
            probability though the reward says that it is.
    """
    name = type(reward).__name__
    wanted = "a reward model gives a list per trajectory with exactly one score per step"
    if not _is_list(rows) or not all(map(_is_list, rows)):
        raise ConfigurationError(f"{name} returned {_brief(rows)}; {wanted}: [[0.5, 0.9], [0.2]].")
    rows = [list(row) for row in rows]
    if len(rows) != len(trajectories):
        raise ConfigurationError(
            f"{name} returned {len(rows)} lists of scores for {len(trajectories)} trajectories; {wanted}."
        )
    for row, trajectory in zip(rows, trajectories, strict=True):
        if len(row) != len(trajectory):
            raise ConfigurationError(
                f"{name} returned {len(row)} scores for {len(trajectory)} steps; {wanted}."
            )
    return [[as_score(value, reward) for value in row] for row in rows]


def as_score(value: Any, reward: ProcessRewardModel) -> float:
    """What a reward gave for a step as a float, NaN for no score.

    Raises:
        ConfigurationError: If it is no number, or no probability though the reward says that it is.
    """
    if value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ConfigurationError(
            f"{reward!r} gave {_brief(value)} as a score; a score is a number, or None for no score."
        ) from error
    if isinstance(value, str) or math.isinf(number):
        raise ConfigurationError(f"{reward!r} gave {_brief(value)} as a score; a score is a finite number.")
    if reward.space == "probability" and not math.isnan(number):
        if not -_SLACK <= number <= 1 + _SLACK:
            raise ConfigurationError(
                f"{reward!r} gave {number:g} as a probability. Scale its scores to lie between 0 and 1, or "
                "set its space to 'logit'."
            )
        return min(max(number, 0.0), 1.0)
    return number


def _is_list(value: Any) -> bool:
    # Arrays and tensors are lists too, of no class in common.
    listed = hasattr(value, "__len__") and hasattr(value, "__iter__")
    return listed and not isinstance(value, str | bytes | dict)


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "…"


def logit(probability: float, edge: float = 1e-6) -> float:
    """The log-odds of a probability that is kept `edge` away from 0 and 1, so that they are finite."""
    kept = min(max(probability, edge), 1 - edge)
    return math.log(kept / (1 - kept))


def sigmoid(x: float) -> float:
    """The probability of a logit, 1 / (1 + exp(-x)), without overflow; NaN of NaN."""
    if x < 0:
        small = math.exp(x)
        return small / (1 + small)
    return 1 / (1 + math.exp(-x))
