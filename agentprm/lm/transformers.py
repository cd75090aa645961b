"""`TransformersLM`: any Hugging Face decoder as a language model that samples and scores."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from agentprm.budget import record
from agentprm.errors import ConfigurationError, MissingDependencyError, check_least
from agentprm.lm.base import (
    Adaptable,
    Capabilities,
    Completion,
    LanguageModel,
    Prompt,
    SamplingParams,
    Tally,
    check_continuations,
    copies_of,
    dealt,
    listener,
)
from agentprm.packaged import PACKAGED_LANGUAGE_MODEL, language_model_folder
from agentprm.replies import cut_reply

try:
    import torch
    import transformers  # noqa: F401
except ImportError as missing:
    raise MissingDependencyError.for_extra(missing.name or "torch", "transformers") from missing

from agentprm.engine.engine import Engine, OnEngine
from agentprm.engine.loading import end_tokens, load_model, max_context
from agentprm.engine.lora import Adapters, base_of_adapter
from agentprm.engine.planning import Item, samples_per_row
from agentprm.engine.requests import Branch, Request, Sample, Samples, Sink, Text
from agentprm.engine.scheduler import Scheduler
from agentprm.engine.tokenizing import Context, PromptText, Span, load_tokenizer, opened_thought, span_of

__all__ = ["TransformersLM"]

T = TypeVar("T")


class TransformersLM(Adaptable, OnEngine, LanguageModel):
    """A local model on transformers that computes every distinct token once.

    Keys and values are kept in a tree over token sequences: a prompt that begins like one of an
    earlier call, of the same batch, or like an earlier prompt with its completion, pays for its new
    tokens only. Samples and continuations of one prompt are lanes over one copy of it; those that
    have ended leave the batch. In fp32 neither the batch nor what was computed before changes a
    result beyond rounding: every sample draws its random numbers from the seed, the prompt's text
    and its own number, and every score comes from an fp32 softmax.

    Adapters share the model's weights: `lm.with_adapter("planner")` is a model of its own to whoever
    uses it, and its calls run in one batch with those of the others.

    The sampling defaults in a model's `generation_config` (top-k, penalties) are ignored; its end
    tokens are used.

    Args:
        model: A Hugging Face name, a folder, or a loaded `PreTrainedModel`, which is put into
            evaluation mode. The folder of an adapter stands for its base model with that adapter;
            `lm.with_adapter(None)` is the base model then.
        tokenizer: The tokenizer, its name or folder; by default the model's own. Required with a
            loaded model.
        dtype: `"auto"` (fp32 on a CPU, elsewhere the checkpoint's),
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
        adapters: LoRA adapters of the model, by names that you choose for `with_adapter`: folders as
            peft writes them, with `adapter_model.safetensors`, or names on the Hugging Face hub. Plain
            LoRA on the decoder's linear layers, rank-stabilised or not; peft itself is not needed.

    Attributes:
        adapter: Name of the adapter that this model uses; `None` for none.
        model: The transformers model.
        tokenizer: The tokenizer.
        scheduler: What runs the model; for readouts that are no samples and no texts.
        max_context: Positions that the model supports, or `None` where its config names none. With
            position encodings that change with the length of the text (`dynamic`, `longrope`) it is
            the length up to which they do not, as keys computed in one text serve another.

    Raises:
        MissingDependencyError: Without the extra `transformers`.
        ConfigurationError: If the model cannot be loaded, or cannot share prefixes exactly; if an
            adapter cannot be read, is of another kind, or does not fit the model.
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
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        Context(None, on_overflow)
        check_least(1, max_batch_tokens=max_batch_tokens)
        check_least(0, cache_bytes=cache_bytes)
        if isinstance(model, str | Path):
            if (base := base_of_adapter(model)) is not None:
                self.adapter = Path(model).name
                adapters = {**(adapters or {}), self.adapter: model}
                model = language_model_folder() if base == PACKAGED_LANGUAGE_MODEL else base
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
        self.tokenizer = load_tokenizer(tokenizer)
        self.max_context = max_context(self.model.config.get_text_config())
        self._text = PromptText(self.tokenizer, template_kwargs)
        self._context = Context(self.max_context, on_overflow, self.tokenizer.bos_token_id)
        self._max_batch_tokens = max_batch_tokens
        self._engine = Engine(self.model, cache_bytes, Adapters(self.model, adapters) if adapters else None)
        self.scheduler = Scheduler(self._engine, max_batch_tokens)
        self._ends = end_tokens(self.model, self.tokenizer)
        self._tally = Tally()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return () if self._engine.adapters is None else self._engine.adapters.names

    @property
    def tokens_asked(self) -> int:
        """Tokens that callers asked for so far: every prompt in full, generated and scored tokens."""
        return self._tally.asked

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
        return self._answer(self._sampling(prompts, n, params or SamplingParams()))

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`; cancelling it frees its work before the next forward pass."""
        params = params or SamplingParams()
        return await self._aanswer(await asyncio.to_thread(self._sampling, prompts, n, params))

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
        return self._answer(self._scoring(prompts, continuations))

    async def aloglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Async twin of `loglikelihood`; cancelling it frees its work before the next forward pass."""
        return await self._aanswer(await asyncio.to_thread(self._scoring, prompts, continuations))

    def _answer(self, call: _Prepared[T]) -> T:
        with self._under_way(call) as done:
            done.result()
        return call.result()

    async def _aanswer(self, call: _Prepared[T]) -> T:
        with self._under_way(call) as done:
            await asyncio.wrap_future(done)
        return call.result()

    @contextmanager
    def _under_way(self, call: _Prepared[T]) -> Iterator[Future[None]]:
        """Who leaves frees the call's work before the next forward pass, and pays for what was done."""
        try:
            self.scheduler.submit(call.request, call.items)
            yield call.request.future
        finally:
            call.request.future.cancel()  # also after an interrupt while it was submitted
            call.account()

    def _sampling(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams
    ) -> _Prepared[list[list[Completion]]]:
        check_least(1, n=n)
        texts = [self._text.render(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(texts))
        ids: dict[str, tuple[int, ...]] = {}
        for text, whole in zip(unique, self._text.encode(unique), strict=True):
            ids[text] = tuple(self._context.cut(whole, self._context.lost(whole, params.max_tokens)))
        seed = secrets.randbits(63) if params.seed is None else params.seed
        copies = copies_of(texts, n, params)
        hear = listener(len(prompts), n)
        if hear is not None and (tag := opened_thought(texts[0])):
            hear = _after(f"{tag}\n", hear)
        samples = {t: [Sample(ids[t], f"{seed}/{i}/{t}", hear) for i in range(copies[t])] for t in unique}

        cut = functools.partial(cut_reply, stop=params.stop, led=True)
        request = Request(self.adapter)
        items: list[Item] = []
        for text in unique:
            most = samples_per_row(len(ids[text]), params.max_tokens, self._max_batch_tokens)
            own = samples[text]
            items += [
                Samples(request, ids[text], own[i : i + most], params, self._ends, self._text.decode, cut)
                for i in range(0, copies[text], most)
            ]

        def account() -> None:
            generated = sum(len(sample.tokens) for some in samples.values() for sample in some)
            self._account(len(prompts), sum(len(ids[t]) for t in texts), request.computed, generated)

        def result() -> list[list[Completion]]:
            drawn = {text: [_completion(sample) for sample in samples[text]] for text in unique}
            for text in unique:
                if tag := opened_thought(text):  # or nobody could tell the thought from an answer
                    drawn[text] = [replace(c, text=f"{tag}\n{c.text}") for c in drawn[text]]
            return dealt(texts, drawn, n, params)

        return _Prepared(request, items, result, account)

    def _scoring(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> _Prepared[list[list[float]]]:
        check_continuations(prompts, continuations)
        texts = [self._text.render(prompt, answering=True) for prompt in prompts]
        wanted: dict[str, dict[str, int]] = {}
        for text, some in zip(texts, continuations, strict=True):
            numbers = wanted.setdefault(text, {}) if some else {}
            for continuation in some:
                numbers.setdefault(continuation, len(numbers))
        request = Request(self.adapter)
        items: dict[str, Text] = {}
        spans: dict[str, list[Span]] = {}
        for text, numbers in wanted.items():
            trunk, *joint = self._text.encode([text, *(text + c for c in numbers)])
            whole = [span_of(trunk, ids, c) for ids, c in zip(joint, numbers, strict=True)]
            prompt, spans[text] = self._context.fit(trunk, whole)
            items[text] = _scored(request, prompt, spans[text])

        def account() -> None:
            tokens = 0
            for text, some in zip(texts, continuations, strict=True):
                tokens += len(items[text].prompt) if text in items else 0
                tokens += sum(len(spans[text][wanted[text][c]].scored) for c in some)
            self._account(len(prompts), tokens, request.computed, 0)

        def result() -> list[list[float]]:
            return [
                [items[text].scores[wanted[text][c]] for c in some]
                for text, some in zip(texts, continuations, strict=True)
            ]

        return _Prepared(request, list(items.values()), result, account)

    def _account(self, prompts: int, prompt_tokens: int, computed: int, generated: int) -> None:
        self._tally.add(prompt_tokens + generated)
        record(
            model_calls=prompts,
            prompt_tokens=prompt_tokens,
            computed_tokens=computed,
            completion_tokens=generated,
        )


def _after(head: str, hear: Callable[[str], None]) -> Callable[[str], None]:
    """Tells `hear` each text with `head` before it."""
    return lambda text: hear(head + text)


def _completion(sample: Sample) -> Completion:
    assert sample.text is not None
    reason: Literal["stop", "length"] = "stop" if sample.stopped else "length"
    return Completion(sample.text, len(sample.tokens), reason, sample.logprob)


def _scored(request: Request, prompt: Sequence[int], spans: Sequence[Span]) -> Text:
    """Every span's first token is read on the prompt, the others on a branch of their own."""
    text = Text(request, tuple(prompt))
    for number, span in enumerate(spans):
        first, *others = span.scored
        text.reads.setdefault(span.start - 1, []).append(Sink(text, number, first))
        if others:
            reads = {i: [Sink(text, number, token)] for i, token in enumerate(others)}
            text.leaves.append(Branch(span.scored[:-1], span.start, reads))
    return text


@dataclass(frozen=True)
class _Prepared(Generic[T]):
    """A call whose prompts are tokens.

    Attributes:
        request: What the scheduler knows it by.
        items: Its parts.
        result: What to return when it is done.
        account: Reports its cost to the meters of the caller's context; also if it ends early.
    """

    request: Request
    items: Sequence[Item]
    result: Callable[[], T]
    account: Callable[[], None]
