"""`TransformersLM`: any Hugging Face decoder as a language model that samples and scores."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from agentprm.budget import record
from agentprm.errors import ConfigurationError, ContextLengthError, InputError, MissingDependencyError
from agentprm.lm.base import Capabilities, Completion, LanguageModel, Prompt, SamplingParams

try:
    import torch
    import transformers  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError.for_extra(missing.name or "torch", "transformers") from missing

from agentprm.lm._decode import Lane, decode
from agentprm.lm._engine import Call, Engine, Span
from agentprm.lm._loading import end_tokens, load_model, load_tokenizer, max_context
from agentprm.lm._plan import common_length, pack, samples_per_row
from agentprm.lm._text import PromptText
from agentprm.lm._verdicts import next_token

__all__ = ["TransformersLM"]

T = TypeVar("T")

_FOLD = 8  # tokens of a mean continuation above which a repeated token is cheaper than a pass


class TransformersLM(LanguageModel):
    """A local model on transformers that computes every distinct token once.

    Keys and values are kept in a tree over token sequences: a prompt that begins like one of an
    earlier call, of the same batch, or like an earlier prompt with its completion, pays for its new
    tokens only. Samples and continuations of one prompt are lanes over one copy of it; those that
    have ended leave the batch. In fp32 neither the batch nor what was computed before changes a
    result beyond rounding: every sample draws its random numbers from the seed, the prompt's text
    and its own number, and every score comes from an fp32 softmax.

    The sampling defaults in a model's `generation_config` (top-k, penalties) are ignored; its end
    tokens are used.

    Args:
        model: A Hugging Face name, a folder, or a loaded `PreTrainedModel`, which is put into
            evaluation mode.
        tokenizer: The tokenizer, its name or folder; by default the model's own. Required with a
            loaded model.
        dtype: `"auto"` (fp32 on a CPU, bfloat16 on one with AMX; elsewhere the checkpoint's),
            or a torch dtype or its name. Only with a name or folder.
        device: For instance `"cpu"` or `"cuda:1"`; by default CUDA if there is any, else the CPU.
            Only with a name or folder.
        on_overflow: What to do with a prompt that, with `max_tokens` or its longest continuation,
            exceeds the model's context. `"error"` raises; `"truncate_left"` keeps the first token if
            it is the tokenizer's BOS and drops as many tokens right after it as needed, so that the
            system message and the oldest text go first and the end of the prompt stays.
        max_batch_tokens: Most token slots (rows times tokens, new and kept ones) of one batch;
            bounds memory. A single row may exceed it.
        cache_bytes: Bound of the keys and values that are kept between calls (1 GiB; a token of a
            135 M model takes 46 kB in fp32, one of a 1.5 B model 28 kB in bfloat16). 0 keeps none.
        template_kwargs: Variables for the chat template, for instance `{"enable_thinking": False}`.

    Attributes:
        model: The transformers model.
        tokenizer: The tokenizer.
        max_context: Positions that the model supports, or `None` where its config names none. With
            position encodings that change with the length of the text (`dynamic`, `longrope`) it is
            the length up to which they do not, as keys computed in one text serve another.

    Raises:
        MissingDependencyError: Without the extra `transformers`.
        ConfigurationError: If the model cannot be loaded, or cannot share prefixes exactly.
    """

    capabilities = Capabilities(n=True, prefill=True, loglikelihood=True, prefix_cache=True)

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        on_overflow: Literal["error", "truncate_left"] = "error",
        max_batch_tokens: int = 16384,
        cache_bytes: int = 2**30,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        if on_overflow not in ("error", "truncate_left"):
            raise ConfigurationError(f"on_overflow must be 'error' or 'truncate_left', not {on_overflow!r}.")
        if max_batch_tokens < 1:
            raise ConfigurationError(f"max_batch_tokens must be at least 1, not {max_batch_tokens}.")
        if cache_bytes < 0:
            raise ConfigurationError(f"cache_bytes must be at least 0, not {cache_bytes}.")
        if isinstance(model, str | Path):
            self.model = load_model(str(model), dtype, device)
            tokenizer = str(model) if tokenizer is None else tokenizer
        else:
            if not hasattr(model, "get_output_embeddings"):
                raise ConfigurationError(
                    f"TransformersLM needs a name, a folder or a loaded model, not a {type(model).__name__}."
                )
            if tokenizer is None:
                raise ConfigurationError(
                    "A loaded model needs its tokenizer: TransformersLM(model, tokenizer)."
                )
            if dtype != "auto" or device is not None:
                raise ConfigurationError(
                    "dtype and device apply to a name or folder. Convert the loaded model with model.to(...)."
                )
            self.model = model
        self.model.eval()
        self.tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
        self.max_context = max_context(self.model.config.get_text_config())
        self._text = PromptText(self.tokenizer, template_kwargs)
        self._ends = end_tokens(self.model, self.tokenizer)
        self._on_overflow = on_overflow
        self._max_batch_tokens = max_batch_tokens
        self._engine = Engine(self.model, cache_bytes)
        self._asked = 0
        self._lock = threading.Lock()

    @property
    def tokens_asked(self) -> int:
        """Tokens that callers asked for so far: every prompt in full, generated and scored tokens."""
        return self._asked

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model so far."""
        return self._engine.computed

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for later calls at the moment."""
        return self._engine.tree.nbytes

    def clear_cache(self) -> None:
        """Forgets all keys and values; needed after the model's weights have changed."""
        self._engine.tree.clear()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without control tokens."""
        return self._text.count(texts)

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Samples `n` completions of each prompt.

        Equal prompts of one call get equal samples if `params.seed` is set, because a sample depends
        on its prompt, number and seed only; without a seed they get samples of their own.

        Raises:
            ContextLengthError: If a prompt and `max_tokens` exceed the context and the policy is
                `"error"`, or if nothing of the prompt would be left.
        """
        return self._sample(prompts, n, params or SamplingParams(), Call())

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`, in a thread; cancelling stops it before its next forward pass."""
        return await _in_thread(lambda call: self._sample(prompts, n, params or SamplingParams(), call))

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each continuation of each prompt, in nats, summed over its tokens.

        Prompt and continuation are tokenized together. Where that joins the end of the prompt and
        the beginning of the continuation in one token, the tokens from there on are scored, given
        those before. Control tokens in a continuation are control tokens: ending it with the
        tokenizer's end token scores the end of the turn.

        Raises:
            InputError: If a continuation is empty or the lists do not match.
            ContextLengthError: As in `sample`, for the longest continuation.
        """
        return self._loglikelihood(prompts, continuations, Call())

    async def aloglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Async twin of `loglikelihood`, in a thread; cancelling stops it before its next pass."""
        return await _in_thread(lambda call: self._loglikelihood(prompts, continuations, call))

    def _sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, call: Call
    ) -> list[list[Completion]]:
        if n < 1:
            raise ConfigurationError(f"n must be at least 1, not {n}.")
        if not prompts:
            return []
        texts = [self._text.render(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(texts))
        encoded = dict(zip(unique, self._text.encode(unique), strict=True))
        ids = {text: self._fit(encoded[text], params.max_tokens) for text in unique}
        seed = secrets.randbits(63) if params.seed is None else params.seed
        greedy = params.temperature == 0
        copies = {t: 1 if greedy else n * (texts.count(t) if params.seed is None else 1) for t in unique}
        lanes = {t: [Lane(ids[t], f"{seed}/{i}/{t}") for i in range(copies[t])] for t in unique}

        try:
            rows: list[list[Lane]] = []
            for text in unique:
                most = samples_per_row(len(ids[text]), params.max_tokens, self._max_batch_tokens)
                rows += [lanes[text][i : i + most] for i in range(0, copies[text], most)]
            slots = [len(row[0].prompt_ids) + len(row) * params.max_tokens for row in rows]
            for batch in self._batches(slots):
                self._decode_batch([rows[i] for i in batch], params, call)
        finally:
            self._engine.tree.trim()
            generated = sum(len(lane.tokens) for some in lanes.values() for lane in some)
            self._account(len(prompts), sum(len(ids[t]) for t in texts), call.computed, generated)

        results, used = [], dict.fromkeys(unique, 0)
        for text in texts:
            at = used[text]
            done = [lane.completion for lane in lanes[text][at : at + n] if lane.completion is not None]
            results.append(done * n if greedy else done)
            if params.seed is None and not greedy:
                used[text] += n
        return results

    def _decode_batch(self, rows: list[list[Lane]], params: SamplingParams, call: Call) -> None:
        prompts = list(dict.fromkeys(tuple(row[0].prompt_ids) for row in rows))
        room = max(len(row) for row in rows) * min(params.max_tokens, 64)
        cache, logits = self._engine.prefill(prompts, room, call)
        if len(rows) > len(prompts):
            index = [prompts.index(tuple(row[0].prompt_ids)) for row in rows]
            cache, logits = cache.select(index, cache.slots + room), logits[index]
        decode(self._engine, cache, logits, rows, params, self._ends, self._text, call)

    def _loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], call: Call
    ) -> list[list[float]]:
        if len(prompts) != len(continuations):
            raise InputError(f"{len(prompts)} prompts, but continuations for {len(continuations)}.")
        if any(not text for texts in continuations for text in texts):
            raise InputError("A continuation to score must not be empty.")
        wanted: dict[str, dict[str, float]] = {}
        texts = [self._text.render(prompt) for prompt in prompts]
        for text, some in zip(texts, continuations, strict=True):
            if some:
                wanted.setdefault(text, {}).update(dict.fromkeys(some, 0.0))
        trunks: dict[str, list[int]] = {}
        spans: dict[str, dict[str, Span]] = {}
        for text, scores in wanted.items():
            trunks[text], spans[text] = self._spans(text, list(scores))

        scored = 0
        try:
            jobs: list[tuple[str, list[str]]] = []
            single: list[str] = []
            for text, scores in wanted.items():
                if all(len(span.tokens) == 1 for span in spans[text].values()):
                    single.append(text)
                    continue
                some = list(scores)
                sizes = [len(spans[text][c].tokens) for c in some]
                parts = pack(sizes, len(trunks[text]), self._max_batch_tokens)
                jobs += [(text, [some[i] for i in part]) for part in parts]
            verdicts = next_token(
                self._engine,
                [trunks[text] for text in single],
                [[span.tokens[0] for span in spans[text].values()] for text in single],
                self._max_batch_tokens,
                call,
            )
            for text, values in zip(single, verdicts, strict=True):
                wanted[text].update(zip(spans[text], values, strict=True))
            slots = [len(trunks[text]) + sum(len(spans[text][c].tokens) for c in part) for text, part in jobs]
            for batch in self._batches(slots):
                self._score_batch([jobs[i] for i in batch], trunks, spans, wanted, call)
        finally:
            self._engine.tree.trim()
            for text, some in zip(texts, continuations, strict=True):
                scored += sum(len(spans[text][c].tokens) - spans[text][c].inner for c in some)
            asked = sum(len(trunks.get(text, ())) for text in texts)
            self._account(len(prompts), asked + scored, call.computed, 0)
        return [[wanted[text][c] for c in some] for text, some in zip(texts, continuations, strict=True)]

    def _score_batch(
        self,
        jobs: list[tuple[str, list[str]]],
        trunks: Mapping[str, Sequence[int]],
        spans: Mapping[str, Mapping[str, Span]],
        results: dict[str, dict[str, float]],
        call: Call,
    ) -> None:
        trunk_of_job = [trunks[text] for text, _ in jobs]
        rows = [[spans[text][c] for c in part] for text, part in jobs]
        room = max(sum(len(span.tokens) for span in row) for row in rows)
        cache = None
        if sum(len(span.tokens) for row in rows for span in row) > _FOLD * sum(map(len, rows)):
            cache = self._engine.recall(trunk_of_job, room)
        if cache is not None:
            # Every lane computes its own copy of the prompt's last token: cheaper than a pass for it.
            rows = [
                [s if s.inner else Span((trunk[-1], *s.tokens), s.start - 1, True) for s in row]
                for row, trunk in zip(rows, trunk_of_job, strict=True)
            ]
            heads = [[0.0] * len(row) for row in rows]
        else:
            prompts = list(dict.fromkeys(text for text, _ in jobs))
            index = [prompts.index(text) for text, _ in jobs]
            cache, logits = self._engine.prefill([trunks[text] for text in prompts], room, call)
            first = logits.log_softmax(dim=-1)
            if len(jobs) > len(prompts):
                cache = cache.select(index, cache.slots + room)
            heads = [
                [0.0 if s.inner else float(first[i, s.tokens[0]]) for s in row]
                for i, row in zip(index, rows, strict=True)
            ]
        totals = self._engine.score(cache, trunk_of_job, rows, call)
        for (text, part), head, total in zip(jobs, heads, totals, strict=True):
            for continuation, a, b in zip(part, head, total, strict=True):
                results[text][continuation] = a + b

    def _spans(self, text: str, continuations: list[str]) -> tuple[list[int], dict[str, Span]]:
        """The prompt's tokens and what of each joint encoding is to be scored."""
        trunk, *joint = self._text.encode([text, *(text + c for c in continuations)])
        spans = {}
        for continuation, ids in zip(continuations, joint, strict=True):
            common = common_length(trunk, ids)
            if common == len(trunk) and len(ids) > common:
                spans[continuation] = Span(tuple(ids[common:]), common, False)
            elif common and len(ids) > common:
                # The boundary lies inside a token: the last common one predicts the first that differs.
                spans[continuation] = Span(tuple(ids[common - 1 :]), common - 1, True)
            else:
                raise InputError(f"The continuation {continuation!r} adds no token to its prompt.")
        longest = max(span.start + len(span.tokens) for span in spans.values()) - len(trunk)
        fitted = self._fit(trunk, longest)
        lost = len(trunk) - len(fitted)
        if any(lost and span.start < lost + 1 for span in spans.values()):
            raise ContextLengthError(
                "A prompt that is cut to its last token cannot be scored; shorten the text."
            )
        return fitted, {c: Span(s.tokens, s.start - lost, s.inner) for c, s in spans.items()}

    def _fit(self, ids: list[int], new: int) -> list[int]:
        """The prompt's tokens within the context, by the overflow policy."""
        if not ids:
            raise InputError("A prompt must have at least one token; this tokenizer adds none of its own.")
        if self.max_context is None or len(ids) + new <= self.max_context:
            return ids
        head = 1 if ids[0] == self.tokenizer.bos_token_id else 0
        room = self.max_context - new - head
        if self._on_overflow == "error" or room < 1:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens and {new} more are asked for, but the model's context is "
                f"{self.max_context}. Shorten the prompt (fewer or shorter passages), lower max_tokens, or "
                "use TransformersLM(on_overflow='truncate_left')."
            )
        return ids[:head] + ids[len(ids) - room :]

    def _batches(self, slots: Sequence[int]) -> list[list[int]]:
        """Groups rows of like length so that each batch stays within `max_batch_tokens`."""
        batches: list[list[int]] = []
        for index in sorted(range(len(slots)), key=lambda i: -slots[i]):
            # Sorted downwards, the first row of a batch is its longest.
            if batches and (len(batches[-1]) + 1) * slots[batches[-1][0]] <= self._max_batch_tokens:
                batches[-1].append(index)
            else:
                batches.append([index])
        return batches

    def _account(self, prompts: int, prompt_tokens: int, computed: int, generated: int) -> None:
        with self._lock:
            self._asked += prompt_tokens + generated
        record(
            model_calls=prompts,
            prompt_tokens=prompt_tokens,
            computed_tokens=computed,
            completion_tokens=generated,
        )


async def _in_thread(work: Callable[[Call], T]) -> T:
    call = Call()
    try:
        return await asyncio.to_thread(work, call)
    except asyncio.CancelledError:
        call.cancelled.set()
        raise
