"""Forward passes over rows and lanes on a transformers model: prefill, decode, score."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentprm.errors import ConfigurationError
from agentprm.lm._kv import KVCache
from agentprm.lm._plan import shared_beginnings
from agentprm.lm._prefix_tree import PrefixTree, Stretch

__all__ = ["Call", "Cancelled", "Engine", "Span"]

CHUNK = 1024  # most new tokens per row of one forward pass; bounds masks and activations
_WASTE = 256  # padded tokens of one pass that are put up with
_LOGITS = 2**26  # most logits of one scoring pass (256 MB in fp32)


class Cancelled(Exception):
    """Nobody waits for the result any more."""


class Call:
    """One caller's request: what it has computed, and whether it is still wanted.

    Attributes:
        computed: Tokens that went through the model for it.
        cancelled: Set it to stop the work before its next forward pass.
    """

    def __init__(self) -> None:
        self.computed = 0
        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raises `Cancelled` if the caller has gone."""
        if self.cancelled.is_set():
            raise Cancelled


@dataclass(frozen=True)
class Span:
    """Tokens of one lane to score.

    Attributes:
        tokens: Token ids from position `start` on.
        start: Position of the first one. The lane sees the trunk's positions below it.
        inner: The first token belongs to the prompt and is context only.
    """

    tokens: tuple[int, ...]
    start: int
    inner: bool


class Engine:
    """A causal language model behind one lock.

    Args:
        model: The model, in evaluation mode.
        cache_bytes: Bound of the prefix tree.

    Raises:
        ConfigurationError: If the model does not compute the same with explicit masks and shared
            prefixes as without (recurrent layers, position biases of its own, …).
    """

    def __init__(self, model: Any, cache_bytes: int) -> None:
        self.model = model
        self.tree = PrefixTree(cache_bytes)
        self.device: torch.device = model.device
        self.computed = 0
        self._lock = threading.Lock()
        config = model.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        window = getattr(config, "sliding_window", None)
        types = list(getattr(config, "layer_types", None) or [])
        kinds = set(types) or {"sliding_attention" if window else "full_attention"}
        unknown = kinds - {"full_attention", "sliding_attention"}
        if unknown:
            self._refuse(f"layers of type {', '.join(sorted(unknown))}")
        self._windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
        self._probe()

    def forward(
        self,
        cache: KVCache,
        ids: torch.Tensor,
        position: torch.Tensor,
        lane: torch.Tensor,
        start: torch.Tensor,
        keep: int | torch.Tensor,
        call: Call,
    ) -> torch.Tensor:
        """Computes new tokens and appends them to the cache.

        Args:
            cache: The rows so far.
            ids: `[rows, new]` token ids.
            position: `[rows, new]`, -1 for padding.
            lane: `[rows, new]`.
            start: `[rows, new]`, see `KVCache.mask`.
            keep: Number of last columns to return logits for, 0 for all; or the columns.
            call: The request that it is for.

        Returns:
            Logits `[rows, keep, vocabulary]` in the model's precision.
        """
        call.check()
        plain = cache.slots == 0 and bool(
            (position[0] == torch.arange(ids.shape[1], device=self.device)).all()
        )
        plain = plain and bool((position == position[:1]).all()) and not bool(lane.any())
        cache.append(position, lane)
        mask: Any = None
        if not plain or any(w is not None and w < ids.shape[1] for w in self._windows.values()):
            masks = {
                kind: cache.mask(position, lane, start, w, self.model.dtype)
                for kind, w in self._windows.items()
            }
            mask = masks if len(masks) > 1 else next(iter(masks.values()))
        with self._lock, torch.no_grad():
            logits: torch.Tensor = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position.clamp(min=0),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=keep,
            ).logits
            fresh = int((position >= 0).sum())
            self.computed += fresh
            call.computed += fresh
        return logits

    def prefill(
        self, prompts: Sequence[Sequence[int]], capacity: int, call: Call
    ) -> tuple[KVCache, torch.Tensor]:
        """Computes what is not yet known of prompts.

        Beginnings that several prompts share are computed first, each once; then the rest of all
        prompts in one pass. Everything goes into the prefix tree, which is trimmed at the end.

        Args:
            prompts: Token ids, none empty.
            capacity: Slots to reserve per row for what follows.
            call: The request that it is for.

        Returns:
            The cache, one row per prompt, and the logits after each prompt, fp32 `[rows, vocabulary]`.
        """
        try:
            self.compute_shared(prompts, call)
            rests = [len(p) - path_length(self.tree.match(p[:-1])) for p in prompts]
            if len(rests) * max(rests) > 1.5 * sum(rests) + _WASTE:
                self._compute([p for p, rest in zip(prompts, rests, strict=True) if rest > 1], call)
            return self._extend(prompts, capacity, call)
        finally:
            self.tree.trim()

    def compute_shared(self, prompts: Sequence[Sequence[int]], call: Call) -> None:
        """Puts the unknown beginnings that several prompts share into the tree."""
        known = [path_length(self.tree.match(prompt[:-1])) for prompt in prompts]
        for level in shared_beginnings(prompts, known):
            self._compute(level, call)

    def _compute(self, prompts: Sequence[Sequence[int]], call: Call) -> None:
        """Puts prompts into the tree, in passes of like-sized rows so that padding stays small."""
        rests = [len(p) - path_length(self.tree.match(p)) for p in prompts]
        order = sorted((i for i in range(len(prompts)) if rests[i]), key=lambda i: -rests[i])
        while order:
            size = sum(1 for i in order if rests[i] * 4 > rests[order[0]] * 3)
            self._extend([prompts[i] for i in order[:size]], 0, call)
            order = order[size:]

    def _extend(
        self, prompts: Sequence[Sequence[int]], capacity: int, call: Call
    ) -> tuple[KVCache, torch.Tensor]:
        """Computes the unknown end of each prompt, right-aligned in one pass, and remembers it."""
        # The last token is computed in any case: its logits are needed.
        paths = [self.tree.match(prompt[:-1]) for prompt in prompts]
        rests = [prompt[path_length(path) :] for prompt, path in zip(prompts, paths, strict=True)]
        width = max(len(rest) for rest in rests)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        position = torch.full_like(ids, -1)
        for row, (prompt, rest) in enumerate(zip(prompts, rests, strict=True)):
            ids[row, width - len(rest) :] = torch.tensor(rest)
            position[row, width - len(rest) :] = torch.arange(len(prompt) - len(rest), len(prompt))
        ids, position = ids.to(self.device), position.to(self.device)
        cache = KVCache.of_paths(paths, width + capacity, self.device)
        for at in range(0, width, CHUNK):
            part = slice(at, at + CHUNK)
            zero = torch.zeros_like(ids[:, part])
            logits = self.forward(cache, ids[:, part], position[:, part], zero, zero, keep=1, call=call)
        for row, prompt in enumerate(prompts):
            self.remember(cache, row, 0, prompt)
        return cache, logits[:, -1].float()

    def recall(self, prompts: Sequence[Sequence[int]], capacity: int) -> KVCache | None:
        """A cache, one row per prompt, of all but each prompt's last token; `None` if one is unknown."""
        paths = [self.tree.match(prompt[:-1]) for prompt in prompts]
        if any(path_length(path) < len(prompt) - 1 for path, prompt in zip(paths, prompts, strict=True)):
            return None
        return KVCache.of_paths(paths, capacity, self.device)

    def remember(self, cache: KVCache, row: int, lane: int, tokens: Sequence[int]) -> None:
        """Puts a lane and the trunk below it into the prefix tree.

        Args:
            cache: Where they are.
            row: The row.
            lane: The lane, 0 for the trunk alone.
            tokens: All of the tokens from the first on.
        """
        self.tree.insert(tokens, lambda begin, end: cache.fetch(row, lane, begin, end))

    def score(
        self,
        cache: KVCache,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[Sequence[Span]],
        call: Call,
    ) -> list[list[float]]:
        """Scores the spans of each row, each in a lane of its own.

        Args:
            cache: One row per prompt, filled with the prompt.
            prompts: Token ids of the prompt of each row.
            rows: The spans of each row.
            call: The request that it is for.

        Returns:
            Per span the summed log-probability of `tokens[1:]`; the first token's follows from the
            logits after the prompt, or is not asked for.
        """
        device = self.device
        width = max(sum(len(s.tokens) - 1 for s in spans) for spans in rows)
        totals = [[0.0] * len(spans) for spans in rows]
        if not width:
            return totals
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        position, target = torch.full_like(ids, -1), torch.full_like(ids, -1)
        lane, start = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, spans in enumerate(rows):
            at = 0
            for number, span in enumerate(spans):
                count = len(span.tokens) - 1
                part = slice(at, at + count)
                ids[row, part] = torch.tensor(span.tokens[:-1], dtype=torch.long)
                position[row, part] = torch.arange(span.start, span.start + count)
                lane[row, part], start[row, part] = number + 1, span.start
                target[row, part] = torch.tensor(span.tokens[1:], dtype=torch.long)
                at += count
        ids, position, lane, start = (t.to(device) for t in (ids, position, lane, start))
        step = max(1, min(CHUNK, _LOGITS // (self.vocab_size * len(rows))))
        for at in range(0, width, step):
            part = slice(at, at + step)
            logits = self.forward(
                cache, ids[:, part], position[:, part], lane[:, part], start[:, part], keep=0, call=call
            )
            where = (target[:, part] >= 0).nonzero()
            wanted = where.to(device)
            picked = target[:, part][where[:, 0], where[:, 1]].to(device)
            scores = token_logprobs(logits, wanted, picked).tolist()
            lanes = lane[:, part].cpu()
            for (row, column), score in zip(where.tolist(), scores, strict=True):
                totals[row][int(lanes[row, column]) - 1] += score
        for row, (spans, prompt) in enumerate(zip(rows, prompts, strict=True)):
            for number, span in enumerate(spans):
                if len(span.tokens) > 1:
                    self.remember(cache, row, number + 1, [*prompt[: span.start], *span.tokens[:-1]])
        return totals

    def _probe(self) -> None:
        """Compares a shared-prefix computation with plain forward passes on random tokens."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.vocab_size, (2, 9), generator=generator).to(self.device)
        ids[1, :5] = ids[0, :5]
        try:
            with torch.no_grad():
                plain = self.model(input_ids=ids, use_cache=False).logits[:, 4:].float()
            cache, _ = self.prefill([ids[0, :3].tolist(), ids[0, :5].tolist()], 8, Call())
            cache.keep([1])
            tokens = torch.cat([ids[0, 5:], ids[1, 5:]])[None]
            position = torch.arange(5, 9, device=self.device).repeat(2)[None]
            lane = torch.tensor([[1] * 4 + [2] * 4], device=self.device)
            ours = self.forward(cache, tokens, position, lane, torch.full_like(lane, 5), keep=0, call=Call())
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            self._refuse(f"a forward pass with its own cache and mask fails ({error})", error)
        gap = (ours[0].float().view(2, 4, -1) - plain[:, 1:]).abs().max().item()
        exact = plain.dtype == ours.dtype
        if not gap <= (1e-2 if exact else 0.1) * max(1.0, plain.abs().max().item()):
            self._refuse(f"sharing a prefix changes its logits by {gap:.2g}")
        self.computed = 0
        self.tree.clear()

    def _refuse(self, reason: str, cause: Exception | None = None) -> None:
        raise ConfigurationError(
            f"{type(self.model).__name__} cannot be used by TransformersLM: {reason}. Use a decoder with "
            "plain or sliding-window attention (Llama, Qwen2/3, Mistral, Gemma, …), or serve the model and "
            "pass a LangChain chat model to agentprm.lm.ChatLM."
        ) from cause


def token_logprobs(logits: torch.Tensor, where: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of single tokens under a full softmax, fp32.

    Args:
        logits: `[rows, columns, vocabulary]`.
        where: `[count, 2]` rows and columns to read.
        tokens: `[count]` token ids.

    Returns:
        `[count]` natural log-probabilities. Rows that are not asked for cost nothing.
    """
    parts = []
    for index, token in zip(torch.split(where, 256), torch.split(tokens, 256), strict=True):
        rows = logits[index[:, 0], index[:, 1]].float()
        parts.append(rows.gather(1, token[:, None])[:, 0] - rows.logsumexp(dim=1))
    return torch.cat(parts) if parts else torch.zeros(0)


def path_length(path: Sequence[Stretch]) -> int:
    """Tokens of a path through the prefix tree."""
    return sum(stretch.count for stretch in path)
