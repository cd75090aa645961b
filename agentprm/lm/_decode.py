"""The decode loop: lanes of samples over shared prompts, until each has ended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from agentprm.lm._engine import Call, Engine
from agentprm.lm._kv import KVCache
from agentprm.lm._text import PromptText, cut_at_stop, without_partial
from agentprm.lm.base import Completion, SamplingParams

__all__ = ["Lane", "decode"]


@dataclass
class Lane:
    """One sample under way.

    Attributes:
        prompt_ids: Tokens of the prompt.
        key: Names the sample, for its random numbers: seed, sample number and prompt text.
    """

    prompt_ids: Sequence[int]
    key: str
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    completion: Completion | None = None

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
        if not (full or params.stop):
            return
        decoded = text.decode(self.prompt_ids, self.tokens)
        cut = cut_at_stop(decoded, params.stop)
        if cut is not None:
            self._finish(cut, stopped=True)
        elif full:
            self._finish(without_partial(decoded), stopped=False)

    def _finish(self, text: str, *, stopped: bool) -> None:
        self.completion = Completion(text, len(self.tokens), "stop" if stopped else "length", self.logprob)


def decode(
    engine: Engine,
    cache: KVCache,
    logits: torch.Tensor,
    rows: Sequence[Sequence[Lane]],
    params: SamplingParams,
    ends: set[int],
    text: PromptText,
    call: Call,
) -> None:
    """Decodes all lanes; each ends with its `completion` set.

    Lanes that have ended leave the pass at once and go into the prefix tree; rows without lanes
    leave the cache.

    Args:
        engine: The model.
        cache: One row per prompt, filled with the prompt.
        logits: `[rows, vocabulary]` after each prompt.
        rows: The lanes of each row.
        params: How to sample.
        ends: Token ids that end a turn.
        text: The tokenizer.
        call: The request that it is for.
    """
    alive = [[(number + 1, lane) for number, lane in enumerate(lanes)] for lanes in rows]
    owner = torch.tensor([row for row, lanes in enumerate(alive) for _ in lanes], device=logits.device)
    logits = logits[owner]
    while True:
        lanes = [lane for row in alive for _, lane in row]
        tokens, logprobs = _draw(logits, lanes, params)
        for lane, token, logprob in zip(lanes, tokens, logprobs, strict=True):
            lane.push(token, logprob, ends, params, text)
        for row, some in enumerate(alive):
            for number, lane in some:
                if lane.completion is not None and len(lane.tokens) > 1:
                    engine.remember(cache, row, number, [*lane.prompt_ids, *lane.tokens[:-1]])
        alive = [[(number, lane) for number, lane in row if lane.completion is None] for row in alive]
        going = [row for row, left in enumerate(alive) if left]
        if not going:
            return
        if len(going) < len(alive):
            alive = [alive[row] for row in cache.keep(going)]
        logits = _step(engine, cache, alive, call)


def _step(engine: Engine, cache: KVCache, alive: list[list[tuple[int, Lane]]], call: Call) -> torch.Tensor:
    """One forward pass with the last token of every lane; logits `[lanes, vocabulary]`."""
    width = max(len(row) for row in alive)
    ids = torch.zeros(len(alive), width, dtype=torch.long)
    position, lane_ids = torch.full_like(ids, -1), torch.zeros_like(ids)
    start = torch.zeros_like(ids)
    for row, lanes in enumerate(alive):
        for column, (number, lane) in enumerate(lanes):
            ids[row, column] = lane.tokens[-1]
            position[row, column] = len(lane.prompt_ids) + len(lane.tokens) - 1
            lane_ids[row, column], start[row, column] = number, len(lane.prompt_ids)
    used = position >= 0
    ids, position, lane_ids, start = (t.to(engine.device) for t in (ids, position, lane_ids, start))
    return engine.forward(cache, ids, position, lane_ids, start, keep=0, call=call)[
        used.to(engine.device)
    ].float()


def _draw(logits: torch.Tensor, lanes: list[Lane], params: SamplingParams) -> tuple[list[int], list[float]]:
    """The next token of each lane and its log-probability under the unscaled model."""
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
