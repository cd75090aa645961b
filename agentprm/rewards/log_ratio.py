"""Readout: how much likelier a step is under one model than under another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from agentprm.budget import record
from agentprm.errors import ConfigurationError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import Trajectory, sigmoid
from agentprm.rewards.readouts import LocalReward, in_thread
from agentprm.rewards.step_text import Overflow, StepWriter, Wanted, fits_context
from agentprm.rewards.templates import Dialogue, Shares, step_shares

import torch  # isort: skip

from agentprm.engine.reading import Call, read_tokens
from agentprm.lm.transformers import TransformersLM
from agentprm.rewards.checkpoints import load_causal

__all__ = ["LogRatio"]


class _ReadModel(NamedTuple):
    """A model and how the conversation reads to it."""

    model: TransformersLM
    template: Dialogue


class LogRatio(LocalReward):
    """beta times the log-likelihood ratio of a step's tokens under two models.

    Implicit PRM and EurusPRM: a model trained on outcomes alone, r = beta * log(pi / ref), rewards
    each step by its own tokens' share (arXiv 2412.01981, section 3). With `reference=None` the
    reference counts as constant, the authors' cheaper variant.

    Boundaries: `"exact"` scores a step by its own tokens, its separator included, and only ever by
    what stands before; a grown trajectory pays for its new step. `"official"` reproduces the
    published evaluation, whose inner boundaries fall where the end-of-turn token and a separator
    would stand, about two tokens late: a step's score then depends on the next step's first tokens,
    so every trajectory is scored whole and on its own.

    Args:
        model: The trained model: a `TransformersLM`, a name or folder, or a loaded causal model.
        reference: The model it was trained from, of the same tokenizer; `None` for none.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: The conversation.
        reference_template: The reference's, by default the same. With `Dialogue(question=False)` and
            the same model on both sides the reward is what the question adds to a step's likelihood.
        beta: Factor of the ratio; .05 in training. The authors score with .001, which changes no order
            but the sigmoid's thresholds.
        boundary: See above.
        accumulate: `False` gives each step its own reward, `True` the sum of all up to it (the
            Q-value of the prefix).
        sigmoid: Squash scores to [0, 1]; `space` is then `probability`, else `logit`.
        step_text: As in `StepReward`.
        on_overflow: As in `TreeReward`.
        max_batch_tokens: As in `TransformersLM`, for what is not one yet.
        cache_size: As in `StepReward`.
        dtype: As in `TransformersLM`, for names and folders.
        device: As in `TransformersLM`, for names and folders.

    Raises:
        ConfigurationError: If the two models do not share a vocabulary.
    """

    def __init__(
        self,
        model: Any,
        reference: Any = None,
        *,
        tokenizer: Any = None,
        template: Dialogue | None = None,
        reference_template: Dialogue | None = None,
        beta: float = 0.05,
        boundary: Literal["exact", "official"] = "exact",
        accumulate: bool = False,
        sigmoid: bool = False,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        max_batch_tokens: int = 16384,
        cache_size: int = 10_000,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(step_text, cache_size, on_overflow)
        self._encoding = ForkSafeLock()
        check_least(1, max_batch_tokens=max_batch_tokens)
        check_choice("boundary", boundary, "exact", "official")
        if not beta > 0:
            raise ConfigurationError(f"beta must be positive, not {beta}.")
        self.beta, self.boundary, self.accumulate, self.sigmoid = beta, boundary, accumulate, sigmoid
        self.space = "probability" if sigmoid else "logit"
        template = template or Dialogue()
        ours = _side(model, tokenizer, template, dtype, device, max_batch_tokens)
        self._sides = [ours]
        if reference is not None:
            shared = ours.model.tokenizer if tokenizer is None else tokenizer
            theirs = _side(reference, shared, reference_template or template, dtype, device, max_batch_tokens)
            known, needed = theirs.model.scheduler.engine.vocab_size, len(ours.model.tokenizer)
            if known < needed:
                raise ConfigurationError(
                    f"The reference knows {known} tokens, the model's tokenizer has {needed}: a log-ratio "
                    "needs two models of one vocabulary."
                )
            self._sides.append(theirs)

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through either model so far."""
        return sum(engine.computed for engine in {side.model.scheduler.engine for side in self._sides})

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`."""
        return self._rewards(question, trajectories, Call())

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`, in a thread; cancelling stops it before its next forward pass."""
        return await in_thread(lambda call: self._rewards(question, trajectories, call))

    def _rewards(self, question: str, trajectories: Sequence[Trajectory], call: Call) -> list[list[float]]:
        if self.boundary == "exact":
            rows = self._score(question, trajectories, call)
        else:
            texts = [[self.step_text(step) for step in trajectory] for trajectory in trajectories]
            # A score depends on the whole trajectory here, so nothing of another one's serves.
            rows = self._official(question, [steps for steps in texts if steps], call)
            record(reward_calls=sum(map(len, rows)))
            found = iter(rows)
            rows = [next(found) if steps else [] for steps in texts]
        if self.accumulate:
            rows = [[math.fsum(row[: k + 1]) for k in range(len(row))] for row in rows]
        return [[sigmoid(score) for score in row] for row in rows] if self.sigmoid else rows

    def _score_steps(self, question: str, trajectories: Wanted, call: Call) -> list[list[float]]:
        """See `LocalReward._score_steps`: each step's own share, by exact boundaries."""
        totals = [[0.0] * len(new) for _, new in trajectories]
        for sign, side in zip((1, -1), self._sides, strict=False):
            for number, values in enumerate(self._shares(side, question, trajectories, call)):
                totals[number] = [a + sign * b for a, b in zip(totals[number], values, strict=True)]
        return [[self.beta * total for total in row] for row in totals]

    def _shares(self, side: _ReadModel, question: str, trajectories: Wanted, call: Call) -> list[list[float]]:
        """Log-likelihood that each wanted step adds to that of the steps before it."""
        texts: list[tuple[list[int], int]] = []
        sums: list[dict[int, Shares]] = []
        for steps, new in trajectories:
            with self._encoding:
                ids = side.template.boundaries(side.model.tokenizer, question, steps, new)
            fitting = [
                k for k in new if fits_context(len(ids[k]), side.model.max_context, self.on_overflow, k)
            ]
            own, shares = step_shares(ids, fitting)
            at = len(texts)
            moved = [[(at + n, low, high, sign) for n, low, high, sign in parts] for parts in shares]
            sums.append(dict(zip(fitting, moved, strict=True)))
            texts += own
        values = _read(side, texts, call)

        def total(parts: Shares) -> float:
            return math.fsum(sign * float(values[n][low:high].double().sum()) for n, low, high, sign in parts)

        return [
            [total(row[k]) if k in row else math.nan for k in new]
            for (_, new), row in zip(trajectories, sums, strict=True)
        ]

    def _official(self, question: str, trajectories: Sequence[list[str]], call: Call) -> list[list[float]]:
        """Differences of the cumulative reward at the published boundaries."""
        rewards = [[0.0] * len(steps) for steps in trajectories]
        for sign, side in zip((1, -1), self._sides, strict=False):
            texts: list[tuple[list[int], int]] = []
            bounds: list[list[int]] = []
            for steps in trajectories:
                with self._encoding:
                    counts = official_counts(side.template, side.model.tokenizer, question, steps)
                    whole = official_ids(side.template, side.model.tokenizer, question, steps)
                for k, count in enumerate(counts):
                    fits_context(min(count, len(whole)), side.model.max_context, "error", max(0, k - 1))
                # Tokens from the first boundary on count; a boundary is the index of a prefix's last.
                texts.append((whole, counts[0] - 1))
                bounds.append([min(count, len(whole)) - counts[0] + 1 for count in counts[1:]])
            values = _read(side, texts, call)
            for row, some, ends in zip(rewards, values, bounds, strict=True):
                total = [float(some[:end].double().sum()) for end in ends]
                for k in range(len(row)):
                    row[k] += sign * (total[k] - (total[k - 1] if k else 0.0))
        return [[self.beta * value for value in row] for row in rewards]


def _read(side: _ReadModel, texts: Sequence[tuple[list[int], int]], call: Call) -> list[torch.Tensor]:
    """Log-probabilities of each text's tokens from its index on, and their cost on record."""
    before = call.computed
    try:
        return read_tokens(side.model.scheduler, texts, call, side.model.adapter)
    finally:
        asked = sum(len(ids) for ids, _ in texts)
        record(model_calls=len(texts), prompt_tokens=asked, computed_tokens=call.computed - before)


def official_ids(template: Dialogue, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
    """The whole conversation as the published evaluation of implicit rewards renders it."""
    return _rendered(template, tokenizer, question, steps, strip=False)


def official_counts(template: Dialogue, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
    """Tokens of the conversation with no step, with one, and so on, counted as published.

    Each is rendered with its end of turn, stripped, and for inner steps followed by the separator.
    """
    counts = []
    for k in range(len(steps) + 1):
        joiner = template.joiner if 0 < k < len(steps) else ""
        counts.append(len(_rendered(template, tokenizer, question, steps[:k], strip=True, joiner=joiner)))
    return counts


def _rendered(
    template: Dialogue, tokenizer: Any, question: str, steps: Sequence[str], *, strip: bool, joiner: str = ""
) -> list[int]:
    answer = template.joiner.join(template.written(tokenizer, steps))
    messages = [*template.messages(tokenizer, question), {"role": "assistant", "content": answer}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    text = text.strip() + joiner if strip else text
    ids: list[int] = tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return ids


def _side(
    model: Any,
    tokenizer: Any,
    template: Dialogue,
    dtype: str | torch.dtype,
    device: str | torch.device | None,
    max_batch_tokens: int,
) -> _ReadModel:
    if not isinstance(model, TransformersLM):
        named = isinstance(model, str | Path)
        tokenizer = str(model) if named and tokenizer is None else tokenizer
        causal = load_causal(model, dtype, device) if named else model
        model = TransformersLM(causal, tokenizer, max_batch_tokens=max_batch_tokens)
    template.check(model.tokenizer)
    return _ReadModel(model, template)
