"""Rewards that learn while they are used: PRIME (arXiv 2502.01456).

A log-ratio reward needs outcomes alone, so it can go on learning from the very samples that a policy is
trained on, which keeps it from being gamed. `OnlineReward` gives the tokens' rewards of a batch and updates
itself on their outcomes; `leave_one_out` and `prime_advantages` make advantages for the policy of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from agentprm.errors import ConfigurationError, InputError
from agentprm.training.language_model import CausalRow, causal_batch, decoder_and_head, reply_states
from agentprm.training.losses import implicit_cross_entropy

__all__ = ["OnlineReward", "OnlineScores", "leave_one_out", "prime_advantages"]


@dataclass(frozen=True)
class OnlineScores:
    """What a batch of samples was worth.

    Attributes:
        rewards: Per sample its tokens' rewards, beta * (log π - log ref).
        loss: Cross-entropy of the outcomes before the update.
        accuracy: Share of the samples whose summed reward has the sign of the outcome.
    """

    rewards: list[list[float]]
    loss: float
    accuracy: float


class OnlineReward:
    """A log-ratio reward that is updated on the samples that it scores.

    Args:
        model: The reward model, a causal language model with what is to be trained requiring gradients, for
            instance an adapter that `agentprm.training.lora.add_lora` put into it.
        reference: The reference: another causal model, or `None` for `model` without its adapter.
        beta: Factor of the ratio.
        learning_rate: Of AdamW.
        clip: Longest gradient.
        update: `after` scores a batch and then learns from it, as the authors do; `before` learns first and
            gives the scores of the updated model; `none` only scores.
        pad: Token id that fills short rows.
    """

    def __init__(
        self,
        model: Any,
        reference: Any = None,
        *,
        beta: float = 0.05,
        learning_rate: float = 1e-6,
        clip: float = 10.0,
        update: Literal["after", "before", "none"] = "after",
        pad: int = 0,
    ) -> None:
        if update not in ("after", "before", "none"):
            raise ConfigurationError(f"update must be 'after', 'before' or 'none', not {update!r}.")
        if reference is None and not hasattr(model, "disable_adapter"):
            raise ConfigurationError("Without a reference the model needs an adapter to be switched off.")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if update != "none" and not trained:
            raise ConfigurationError("Nothing of the model requires a gradient, so it cannot be updated.")
        self.model, self.reference, self.update = model, reference, update
        self._beta, self._clip, self._pad = beta, clip, pad
        self._trained = trained
        self._ours = decoder_and_head(model)
        self._theirs = None if reference is None else decoder_and_head(reference)
        # None: plain Adam's decay would pull an adapter back to the reference.
        self._optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0) if trained else None

    def step(self, samples: Sequence[CausalRow], outcomes: Sequence[float | bool]) -> OnlineScores:
        """Scores a batch of samples, and learns from their outcomes.

        Args:
            samples: Prompts with their sampled replies, as tokens.
            outcomes: Whether each reply was right, or the probability of it.
        """
        if not samples or len(samples) != len(outcomes):
            raise InputError(f"{len(samples)} samples with {len(outcomes)} outcomes: give one each.")
        device = next(self.model.parameters()).device
        batch = {name: part.to(device) for name, part in causal_batch(samples, self._pad).items()}
        labels = torch.tensor([float(outcome) for outcome in outcomes], device=device)
        with torch.no_grad():
            reference = self._reference(batch)
        scores = None
        if self.update == "none":
            with torch.no_grad():
                scores = self._scores(batch, reference, labels)
        else:
            token_ratios = _token_logprobs(self._ours, batch) - reference
            summed = _summed(token_ratios, batch, len(labels))
            loss = implicit_cross_entropy(summed, labels, self._beta) / len(labels)
            if self.update == "after":
                scores = self._as_scores(token_ratios.detach(), batch, labels)
            self._learn(loss)
            if scores is None:
                with torch.no_grad():
                    scores = self._scores(batch, reference, labels)
        return scores

    def _reference(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        if self._theirs is not None:
            return _token_logprobs(self._theirs, batch)
        with self.model.disable_adapter():
            return _token_logprobs(self._ours, batch)

    def _learn(self, loss: torch.Tensor) -> None:
        assert self._optimizer is not None
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained, self._clip)
        self._optimizer.step()

    def _scores(
        self, batch: dict[str, torch.Tensor], reference: torch.Tensor, labels: torch.Tensor
    ) -> OnlineScores:
        return self._as_scores(_token_logprobs(self._ours, batch) - reference, batch, labels)

    def _as_scores(
        self, token_ratios: torch.Tensor, batch: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> OnlineScores:
        count = len(labels)
        summed = _summed(token_ratios, batch, count)
        rewards = (self._beta * token_ratios).tolist()
        rows: list[list[float]] = [[] for _ in range(count)]
        for owner, reward in zip(batch["owner"].tolist(), rewards, strict=True):
            rows[owner].append(reward)
        loss = float(implicit_cross_entropy(summed, labels, self._beta)) / count
        return OnlineScores(rows, loss, float(((summed > 0) == (labels > 0.5)).float().mean()))


def _token_logprobs(parts: tuple[Any, Any], batch: dict[str, torch.Tensor]) -> torch.Tensor:
    decoder, head = parts
    logits = head(reply_states(decoder, batch)).float()
    picked: torch.Tensor = logits.log_softmax(-1).gather(1, batch["wanted"][:, None])[:, 0]
    return picked


def _summed(values: torch.Tensor, batch: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    return torch.zeros(count, device=values.device).index_add(0, batch["owner"], values)


def leave_one_out(values: Sequence[float]) -> list[float]:
    """Each sample's value less the mean of the other samples of its prompt (RLOO)."""
    if len(values) < 2:
        raise InputError("A sample has a baseline only beside others of its prompt; give at least two.")
    total, count = sum(values), len(values)
    return [value - (total - value) / (count - 1) for value in values]


def prime_advantages(
    rewards: Sequence[Sequence[float]], outcomes: Sequence[float | bool], *, discount: float = 1.0
) -> list[list[float]]:
    """Advantages of the tokens of several samples of one prompt.

    The token at place t gets its outcome's leave-one-out value, and the discounted sum of what its own and
    all later tokens are worth more than the mean reward of the other samples' tokens (each sample's mean
    counting once).

    Args:
        rewards: Per sample its tokens' rewards.
        outcomes: Per sample whether it was right.
        discount: How much later rewards count.
    """
    if len(rewards) != len(outcomes) or any(not row for row in rewards):
        raise InputError("Give one outcome and at least one token's reward for each sample.")
    by_outcome = leave_one_out([float(outcome) for outcome in outcomes])
    means = [sum(row) / len(row) for row in rewards]
    advantages = []
    for number, row in enumerate(rewards):
        baseline = (sum(means) - means[number]) / (len(means) - 1)
        after, own = 0.0, []
        for reward in reversed(row):
            after = reward - baseline + discount * after
            own.append(after + by_outcome[number])
        advantages.append(own[::-1])
    return advantages
