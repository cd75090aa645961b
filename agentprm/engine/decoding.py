"""Samples under way: what they have said, their random numbers, and how the next token is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agentprm.engine.cache import Row
from agentprm.engine.engine import Piece
from agentprm.engine.tokenizing import PromptText, without_partial
from agentprm.lm.base import Completion, SamplingParams
from agentprm.lm.reports import cut_reply

if TYPE_CHECKING:
    from agentprm.engine.requests import Request

__all__ = ["Group", "Lane", "draw"]

_ROOM = 64  # tokens that are reserved for a sample at first


@dataclass
class Lane:
    """One sample under way.

    Attributes:
        prompt_ids: Tokens of the prompt.
        key: Names the sample, for its random numbers: seed, sample number and prompt text.
        hear: Is told the text so far after each token.
    """

    prompt_ids: Sequence[int]
    key: str
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    completion: Completion | None = None
    hear: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.key.encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def uniform(self) -> float:
        """The sample's next random number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def push(
        self, token: int, logprob: float, ends: set[int], params: SamplingParams, text: PromptText
    ) -> None:
        """Takes the next token; sets `completion` if the sample has ended."""
        self.tokens.append(token)
        self.logprob += logprob
        if token in ends:
            self._finish(text.decode(self.prompt_ids, self.tokens[:-1]), stopped=True)
            return
        full = len(self.tokens) >= params.max_tokens
        if not (full or params.stop or self.hear):
            return
        decoded = text.decode(self.prompt_ids, self.tokens)
        answer, stopped = cut_reply(decoded, params.stop, led=True)
        if stopped:
            self._finish(answer, stopped=True)
        elif full:
            self._finish(without_partial(decoded), stopped=False)
        elif self.hear is not None:
            self.hear(without_partial(decoded))

    def _finish(self, text: str, *, stopped: bool) -> None:
        self.completion = Completion(text, len(self.tokens), "stop" if stopped else "length", self.logprob)


@dataclass(eq=False)
class Group:
    """Samples of one prompt that share a row.

    Attributes:
        request: Who wants them.
        prompt: Token ids.
        lanes: The samples; each ends with its `completion` set.
        params: How to sample.
        ends: Token ids that end a turn.
        text: The tokenizer.
        row: Their row, once the prompt is computed.
        logits: `[1, vocabulary]` after the prompt, then `[alive, vocabulary]` after the last step.
    """

    request: Request
    prompt: tuple[int, ...]
    lanes: Sequence[Lane]
    params: SamplingParams
    ends: set[int]
    text: PromptText
    row: Row | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.alive = list(enumerate(self.lanes, start=1))

    @property
    def room(self) -> int:
        """Slots to reserve for the samples."""
        return len(self.lanes) * min(self.params.max_tokens, _ROOM)

    @property
    def slots(self) -> int:
        """Most slots that the row will take."""
        return len(self.prompt) + len(self.lanes) * self.params.max_tokens

    def piece(self) -> Piece:
        """The last token of every sample that goes on."""
        assert self.row is not None
        known = len(self.prompt)
        return Piece(
            self.row,
            [lane.tokens[-1] for _, lane in self.alive],
            [known + len(lane.tokens) - 1 for _, lane in self.alive],
            # A single sample continues the trunk: plain causal attention is faster than a lane's.
            [number if len(self.lanes) > 1 else 0 for number, _ in self.alive],
            [known] * len(self.alive),
        )

    def push(self, tokens: Sequence[int], scores: Sequence[float]) -> None:
        """Gives every sample that goes on its next token."""
        for (_, lane), token, logprob in zip(self.alive, tokens, scores, strict=True):
            lane.push(token, logprob, self.ends, self.params, self.text)

    def leave(self) -> list[tuple[int, tuple[int, ...]]]:
        """Takes out the samples that have ended.

        Returns:
            Lane in the row and computed tokens of each, to be remembered.
        """
        ended = [(number, lane) for number, lane in self.alive if lane.completion is not None]
        self.alive = [(number, lane) for number, lane in self.alive if lane.completion is None]
        return [
            (number if len(self.lanes) > 1 else 0, (*self.prompt, *lane.tokens[:-1]))
            for number, lane in ended
            if len(lane.tokens) > 1
        ]


def draw(
    logits: torch.Tensor, lanes: Sequence[Lane], params: SamplingParams
) -> tuple[list[int], list[float]]:
    """The next token of each lane and its log-probability under the unscaled model.

    Args:
        logits: `[lanes, vocabulary]`, fp32.
        lanes: Where the random numbers come from.
        params: Temperature and nucleus.
    """
    logprobs = logits.log_softmax(dim=-1)
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        chance = (logits / params.temperature).softmax(dim=-1, dtype=torch.float64)
        if params.top_p < 1:
            chance = _nucleus(chance, params.top_p)
        # Inverting in vocabulary order keeps a draw stable when nearly equal tokens change rank.
        total = chance.cumsum(dim=-1)
        uniform = torch.tensor([lane.uniform() for lane in lanes], dtype=torch.float64, device=logits.device)
        tokens = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0]
        # A draw at the very end may land behind the last token that has a chance.
        last = (chance > 0).long().cumsum(dim=-1).argmax(dim=-1)
        tokens = torch.minimum(tokens, last)
    return tokens.tolist(), logprobs.gather(1, tokens[:, None])[:, 0].tolist()


def _nucleus(chance: torch.Tensor, mass: float) -> torch.Tensor:
    """Zeroes what lies outside the smallest set of tokens with at least `mass`."""
    # Sorting a vocabulary costs as much as a small model's pass; a few thousand tokens mostly do.
    for count in (min(4096, chance.shape[-1]), chance.shape[-1]):
        ranked, order = chance.topk(count, dim=-1)
        before = ranked.cumsum(dim=-1) - ranked
        if count == chance.shape[-1] or bool((before[:, -1] >= mass).all()):
            break
    kept = ranked.masked_fill(before >= mass, 0.0)
    return torch.zeros_like(chance).scatter(1, order, kept)
