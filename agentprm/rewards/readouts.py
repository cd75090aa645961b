"""Readouts of one local model at the end of every prefix: of a head, or of two words of the vocabulary."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from agentprm.budget import record
from agentprm.errors import ConfigurationError, MissingDependencyError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import Trajectory
from agentprm.rewards.step_text import Overflow, StepReward, StepWriter, Wanted, fits_context
from agentprm.rewards.templates import StepTemplate, two_words

try:
    import torch
    import transformers  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError.for_extra(missing.name or "torch", "transformers") from missing

from agentprm.engine.engine import Engine, OnEngine
from agentprm.engine.loading import max_context
from agentprm.engine.reading import Call, Reading, read_outputs
from agentprm.engine.scheduler import Scheduler
from agentprm.engine.tokenizing import common_length, load_tokenizer
from agentprm.rewards.checkpoints import (
    HeadModel,
    load_backbone,
    load_causal,
    load_head,
    split_model,
    word_model,
)

__all__ = [
    "HeadReward",
    "LocalReward",
    "PrefixScalar",
    "TokenHead",
    "TokenLogits",
    "TreeReward",
    "ValueHead",
    "as_tokenizer",
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


class TreeReward(OnEngine, LocalReward):
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
        check_least(0, cache_bytes=cache_bytes)
        check_least(1, max_batch_tokens=max_batch_tokens)
        self.template = template
        self.tokenizer = as_tokenizer(tokenizer)
        template.check(self.tokenizer)
        self.max_context = max_context(model.config.get_text_config())
        self._engine = Engine(model, cache_bytes)
        self._scheduler = Scheduler(self._engine, max_batch_tokens)

    def clear_cache(self) -> None:
        """Forgets all keys, values and scores; needed after the model's weights have changed."""
        super().clear_cache()
        self._known.clear()

    @abstractmethod
    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """From outputs `[count, outputs]`, fp32, to scores `[count]`."""

    def _score_steps(self, question: str, trajectories: Wanted, call: Call) -> list[list[float]]:
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


def as_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer, loaded if it is a name or folder."""
    if tokenizer is None:
        raise ConfigurationError("A loaded model needs its tokenizer: pass tokenizer=….")
    return tokenizer if hasattr(tokenizer, "all_special_tokens") else load_tokenizer(tokenizer)


class HeadReward(TreeReward):
    """Base of the rewards that are read off a head over the decoder.

    Args:
        model: A name or folder, or a loaded model with a head.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        outputs: Numbers that the head gives.
        template: Gives the prefixes.
        head_key: How the names of the head's tensors begin, where a checkpoint holds several.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`: `step_text`, `on_overflow`, `cache_bytes`, `max_batch_tokens`,
            `cache_size`.

    Raises:
        ConfigurationError: If the checkpoint has no such head.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        outputs: int,
        template: StepTemplate,
        head_key: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, str | Path):
            backbone = load_backbone(model, dtype, device)
            width = backbone.config.get_text_config().hidden_size
            read = HeadModel(backbone, load_head(model, width, outputs, head_key).to(backbone.device))
            tokenizer = str(model) if tokenizer is None else tokenizer
        else:
            backbone, layer = split_model(model)
            width = [m for m in layer.modules() if hasattr(m, "out_features")][-1].out_features
            if width != outputs:
                raise ConfigurationError(
                    f"{type(model).__name__} has a head of {width} numbers, not of {outputs}."
                )
            model.eval()
            read = HeadModel(backbone, layer)
        super().__init__(read, tokenizer, template=template, **options)


class TokenHead(HeadReward):
    """Probability that a step is right, from a head of two (or more) classes at its separator.

    Qwen2.5-Math-PRM and -PRM800K, ReasonFlux-PRM-7B, TRL's PRMTrainer, PURE. The head's outputs are
    gathered by position and normalised in fp32, so a probability that fp16 would round to zero stays
    a number and no pair can be taken for another's.

    Args:
        model: As in `HeadReward`; a loaded one has a `score` head.
        tokenizer: As in `HeadReward`.
        classes: Number of classes.
        positive: Classes that count as right; their probabilities are added (ReasonEval counts
            neutral and positive).
        options: As in `HeadReward`.

    Raises:
        ConfigurationError: If the checkpoint has no such head, or the tokenizer no such separator.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        classes: int = 2,
        positive: Sequence[int] = (1,),
        **options: Any,
    ) -> None:
        if not positive or not all(0 <= label < classes for label in positive):
            raise ConfigurationError(f"positive must name some of the classes 0 to {classes - 1}.")
        self.positive = list(positive)
        super().__init__(model, tokenizer, outputs=classes, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(dim=-1)[:, self.positive].sum(dim=-1)


class ValueHead(HeadReward):
    """One number at each step's last separator token, from a linear layer on its hidden state.

    Skywork-o1-Open-PRM (with a sigmoid) and PQM (without). Both keep the layer under
    `v_head.summary`.

    Args:
        model: As in `HeadReward`; a loaded one has a `v_head`.
        tokenizer: As in `HeadReward`.
        activation: `sigmoid` scores in [0, 1]; `none` leaves the number (`space` is `logit`).
        options: As in `HeadReward`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        activation: Literal["sigmoid", "none"] = "sigmoid",
        **options: Any,
    ) -> None:
        check_choice("activation", activation, "sigmoid", "none")
        self.activation = activation
        self.space = "probability" if activation == "sigmoid" else "logit"
        super().__init__(model, tokenizer, outputs=1, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 0].sigmoid() if self.activation == "sigmoid" else outputs[:, 0]


class PrefixScalar(ValueHead):
    """One number for a whole text, at its last token: a text per step.

    Universal-PRM (with and without a reference answer), ReasonFlux-PRM-1.5B, HRM (with steps merged),
    and any outcome reward model with one label. What closes a text for the readout only, an end token
    or the heading of the step to judge, hangs on the prefix as a leaf: a trajectory of T steps is one
    pass, not T. Arguments as in `ValueHead`; a loaded model is one for sequence classification.
    """


class TokenLogits(TreeReward):
    """P(good) / (P(good) + P(bad)) from a language model's logits where the template says.

    At the tag itself: Math-Shepherd, ER-PRM, Math-psa, dORM and dPRM. Before the assistant's word:
    RLHFlow and FoVer. Which of the two it is follows from the template alone: it gives the tokens
    after which the word is judged. Only the two words' rows of the vocabulary head are computed, and
    the softmax is over these two, not over the vocabulary.

    Args:
        model: A name or folder, or a loaded causal language model.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: Gives the prefixes.
        good: The good word, as the model writes it: with the space before it, if there is one.
        bad: The bad word.
        words: Their token ids instead, good first, where the published ones are to be pinned.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`.

    Raises:
        ConfigurationError: If both words have the same token.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        template: StepTemplate,
        good: str = "+",
        bad: str = "-",
        words: Sequence[int] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        named = isinstance(model, str | Path)
        tokenizer = as_tokenizer(str(model) if named and tokenizer is None else tokenizer)
        self.words = two_words(tokenizer, good, bad, words)
        causal = load_causal(model, dtype, device) if named else model
        causal.eval()
        super().__init__(word_model(causal, self.words), tokenizer, template=template, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.softmax(dim=-1)[:, 0]
