"""What the readouts of local models share: prefixes on a prefix tree, within the context."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from agentprm.budget import record
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import Trajectory
from agentprm.rewards.step_reward import Overflow, StepReward, Wanted, fits_context
from agentprm.rewards.step_text import StepWriter
from agentprm.rewards.templates import StepTemplate

try:
    import torch
    import transformers  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError.for_extra(missing.name or "torch", "transformers") from missing

from agentprm.engine.engine import Engine
from agentprm.engine.loading import max_context
from agentprm.engine.planning import common_length
from agentprm.engine.reading import Call, Reading, read_outputs
from agentprm.engine.scheduler import Scheduler
from agentprm.engine.tokenizing import load_tokenizer

__all__ = [
    "LocalReward",
    "TreeReward",
    "as_tokenizer",
    "check_limits",
    "in_thread",
]

T = TypeVar("T")


async def in_thread(work: Callable[[Call], T]) -> T:
    """Runs `work` in a thread; cancelling stops it before its next forward pass."""
    call = Call()
    try:
        return await asyncio.to_thread(work, call)
    except asyncio.CancelledError:
        call.cancel()
        raise


class LocalReward(StepReward):
    """A reward whose new prefixes a local model scores, in a thread on the async path."""

    @abstractmethod
    def _score_steps(self, question: str, trajectories: Wanted, call: Call) -> list[list[float]]:
        """Scores of steps that were not scored before.

        Args:
            question: The question.
            trajectories: What to score; at least one.
            call: The request that it is for.
        """

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`.

        Raises:
            ContextLengthError: If a prefix does not fit the context and the policy is `"error"`.
            InputError: If a step has no finding.
        """
        return self._score(question, trajectories, Call())

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`, in a thread; cancelling stops it before its next forward pass."""
        return await in_thread(lambda call: self._score(question, trajectories, call))

    def _score(self, question: str, trajectories: Sequence[Trajectory], call: Call) -> list[list[float]]:
        recall, wanted = self._recall(question, trajectories)
        return self._settle(recall, self._score_steps(question, wanted, call) if wanted else [])


class TreeReward(LocalReward):
    """A reward that is read off one model's outputs at the end of every prefix.

    Args:
        model: What the engine runs: a decoder whose `logits` are the outputs to read.
        tokenizer: The tokenizer, its name or folder.
        template: Gives the tokens of a prefix.
        step_text: As in `StepReward`.
        on_overflow: As in `StepReward`.
        cache_bytes: Bound of the keys and values that are kept between calls.
        max_batch_tokens: Most token slots of one pass; a single trajectory may exceed it.
        cache_size: As in `StepReward`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        template: StepTemplate,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_bytes: int = 2**30,
        max_batch_tokens: int = 16384,
        cache_size: int = 10_000,
    ) -> None:
        super().__init__(step_text, cache_size, on_overflow)
        self._encoding = ForkSafeLock()
        check_limits(cache_bytes, max_batch_tokens)
        self.template = template
        self.tokenizer = as_tokenizer(tokenizer)
        template.check(self.tokenizer)
        self.max_context = max_context(model.config.get_text_config())
        self._engine = Engine(model, cache_bytes)
        self._scheduler = Scheduler(self._engine, max_batch_tokens)

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model so far."""
        return self._engine.computed

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for later calls at the moment."""
        return self._engine.tree.nbytes

    def clear_cache(self) -> None:
        """Forgets all keys, values and scores; needed after the model's weights have changed."""
        self._engine.tree.clear()
        self._known.clear()

    @abstractmethod
    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """From outputs `[count, outputs]`, fp32, to scores `[count]`."""

    def _score_steps(self, question: str, trajectories: Wanted, call: Call) -> list[list[float]]:
        """See `LocalReward._score_steps`."""
        readings: list[Reading] = []
        fitting: list[list[bool]] = []
        for steps, new in trajectories:
            with self._encoding:
                prefixes = [self.template.ids(self.tokenizer, question, steps[: k + 1]) for k in new]
            fits = [
                fits_context(len(ids), self.max_context, self.on_overflow, k)
                for k, ids in zip(new, prefixes, strict=True)
            ]
            fitting.append(fits)
            readings.append(_reading([ids for ids, fit in zip(prefixes, fits, strict=True) if fit]))
        try:
            outputs = read_outputs(self._scheduler, readings, call)
        finally:
            asked = sum(count + len(leaf) for reading in readings for count, leaf in reading.ends[-1:])
            record(prompt_tokens=asked, computed_tokens=call.computed)
        rows = []
        for found, fits in zip(outputs, fitting, strict=True):
            values = iter(self._values(found).tolist() if any(fits) else [])
            rows.append([next(values) if fit else math.nan for fit in fits])
        return rows


def _reading(prefixes: Sequence[list[int]]) -> Reading:
    """One trunk, the longest prefix, on which the others end or hang as leaves."""
    if not prefixes:
        return Reading((), ())
    trunk = prefixes[-1]
    ends = []
    for ids in prefixes:
        common = common_length(ids, trunk)
        ends.append((common, tuple(ids[common:])))
    return Reading(trunk, ends)


def check_limits(cache_bytes: int = 0, max_batch_tokens: int = 1) -> None:
    """Raises `ConfigurationError` for settings that cannot be meant."""
    if cache_bytes < 0:
        raise ConfigurationError(f"cache_bytes must be at least 0, not {cache_bytes}.")
    if max_batch_tokens < 1:
        raise ConfigurationError(f"max_batch_tokens must be at least 1, not {max_batch_tokens}.")


def as_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, loaded if it is a name or folder."""
    if tokenizer is None:
        raise ConfigurationError("A loaded model needs its tokenizer: pass tokenizer=….")
    return tokenizer if hasattr(tokenizer, "all_special_tokens") else load_tokenizer(tokenizer)
