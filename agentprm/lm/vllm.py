"""`VllmLM`: vLLM's engine in this process as a language model that samples and scores."""

from __future__ import annotations

import asyncio
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from agentprm.engine.tokenizing import Context, PromptText, Span
from agentprm.errors import ConfigurationError, MissingDependencyError, ModelServerError
from agentprm.forking import ForkSafeLock
from agentprm.lm.base import Adaptable, Capabilities, Completion, Prompt
from agentprm.lm.token_lm import Cost, Job, LocalText, TokenLM
from agentprm.routines import all_of, drive, wait_on_loop

__all__ = ["VllmEngine", "VllmLM", "is_vllm_engine"]

_SEED_BITS = 62
_MOST_TOKEN_IDS = 128  # that vLLM scores at one position
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # for which vLLM makes room


class VllmLM(Adaptable, TokenLM):
    """A model on vLLM's engine, which batches what callers send at once and caches common prefixes.

    Prompts are rendered as `TransformersLM` renders them and sent as token ids. A sample depends on
    the seed, the prompt and its number; vLLM's kernels may round differently by batch.

    Verdicts of one token read their prompt from the prefix cache. For longer continuations vLLM skips
    its cache by default, because the log-probabilities of cached tokens are missing. Only those of
    the continuation are read here, so the cache is used where a check at construction finds that it
    gives the same numbers (`scores_from_cache`); a continuation that is itself cached is computed
    again.

    Args:
        model: A name or folder, for which an engine is made; or a `vllm.LLM` that you made, which takes
            one call at a time and whose calls cannot be cancelled.
        template_kwargs: Variables for the chat template, for instance `{"enable_thinking": False}`.
        on_overflow: What to do with a prompt that is too long, as in `TransformersLM`.
        adapters: LoRA adapters by names for `with_adapter`, as in `TransformersLM`. An engine that is
            made here is made for them; one that you made needs `enable_lora=True`.
        options: Options of the engine, `vllm.AsyncEngineArgs`, for instance `max_model_len=4096` or
            `gpu_memory_utilization=0.8`. No remote code is run unless they ask for it.

    Attributes:
        adapter: Name of the adapter that this model uses; `None` for none.
        scores_from_cache: Whether multi-token continuations read their prompt from the cache.

    Raises:
        MissingDependencyError: Without vLLM.
        ConfigurationError: If vLLM cannot serve the model, or an adapter is no plain LoRA.
    """

    capabilities = Capabilities(n=True, prefill=True, loglikelihood=True, prefix_cache=True)

    def __init__(
        self,
        model: Any,
        *,
        template_kwargs: Mapping[str, Any] | None = None,
        on_overflow: Literal["error", "truncate_left"] = "error",
        adapters: Mapping[str, str | Path] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        Context(None, on_overflow)
        self._engine = VllmEngine(str(model) if isinstance(model, Path) else model, options, adapters)
        tokenizer = self._engine.tokenizer
        self._prompt_text = PromptText(tokenizer, template_kwargs)
        self._text = LocalText(self._prompt_text)
        self._context = Context(self._engine.max_context, on_overflow, tokenizer.bos_token_id)
        self.scores_from_cache = False
        self.scores_from_cache = drive(wait_on_loop(self._check_cache()))

    def __enter__(self) -> VllmLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine if it was made here; one that was passed stays."""
        self._engine.close()

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters."""
        return tuple(self._engine.adapters)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._prompt_text.tokenizer

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, without control tokens."""
        return self._prompt_text.count(texts)

    async def _complete(self, job: Job, cost: Cost) -> list[Completion]:
        vllm = self._engine.vllm
        guided = (
            vllm.sampling_params.StructuredOutputsParams(choice=list(job.choices)) if job.choices else None
        )
        params = [
            vllm.SamplingParams(
                max_tokens=job.params.max_tokens,
                temperature=job.params.temperature,
                top_p=job.params.top_p,
                stop=list(job.params.stop) or None,
                seed=job.seed_of(number, _SEED_BITS),
                logprobs=0,
                structured_outputs=guided,
            )
            for number in range(job.count)
        ]
        # One request a sample: each has a seed of its own, and all but the first find the prompt cached.
        outputs = await self._engine.run([job.ids] * job.count, params, self.adapter)
        return [self._completion(output, cost) for output in outputs]

    def _completion(self, output: Any, cost: Cost) -> Completion:
        done = output.outputs[0]
        if done.finish_reason not in ("stop", "length"):
            raise ModelServerError(f"vLLM ended a completion for the reason {done.finish_reason!r}.")
        tokens = len(done.token_ids)
        self._computed_prompt(output, cost)
        cost.computed += max(0, tokens - 1)  # the last token is not read any more
        return Completion(done.text, tokens, done.finish_reason, done.cumulative_logprob)

    def _computed_prompt(self, output: Any, cost: Cost) -> None:
        cost.computed += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)

    async def _next_token(self, ids: Sequence[int], tokens: Sequence[int], cost: Cost) -> list[float] | None:
        if len(tokens) > _MOST_TOKEN_IDS:
            return None
        params = self._engine.vllm.SamplingParams(
            max_tokens=1, temperature=0.0, logprob_token_ids=list(tokens), detokenize=False
        )
        (output,) = await self._engine.run([ids], [params], self.adapter)
        self._computed_prompt(output, cost)
        scores = output.outputs[0].logprobs[0]
        return [float(scores[token].logprob) for token in tokens]

    async def token_scores(self, span: Span, cost: Cost) -> list[float]:
        """See `TokenLM.token_scores`."""
        values, cached = await self._prompt_scores(span.ids, self.scores_from_cache, cost)
        if cached >= span.start:
            # The continuation itself was found in the cache, and with it its scores are missing.
            values, _ = await self._prompt_scores(span.ids, False, cost)
        return [_of(values, at, token) for at, token in enumerate(span.ids) if at >= span.start]

    async def _prompt_scores(self, ids: Sequence[int], from_cache: bool, cost: Cost) -> tuple[Any, int]:
        """Log-probabilities of a text's tokens, and how many of the first ones are not valid."""
        # Without a cached prefix's scores their places hold anything, so nothing must be made text.
        params = self._engine.vllm.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=0,
            detokenize=False,
            skip_reading_prefix_cache=not from_cache,
        )
        (output,) = await self._engine.run([ids], [params], self.adapter)
        self._computed_prompt(output, cost)
        return output.prompt_logprobs, output.num_cached_tokens or 0

    async def _check_cache(self) -> bool:
        """Whether scores after a cached prefix are those of the whole text."""
        cost = Cost()
        (text,) = await self._text.tokens(Prompt((("user", " ".join(map(str, range(60)))),)))
        # Two blocks of the cache and a rest that has to be computed.
        length = min(self._engine.block_size * 2 + 8, self._engine.max_context - 1)
        ids = [text[at % len(text)] for at in range(length)]
        expected, _ = await self._prompt_scores(ids, False, cost)
        try:
            found, cached = await self._prompt_scores(ids, True, cost)
            rest = [(at, token) for at, token in enumerate(ids) if at > cached]
            return bool(cached) and all(
                abs(_of(found, at, token) - _of(expected, at, token)) < 1e-2 for at, token in rest
            )
        except (ModelServerError, IndexError, KeyError, TypeError):
            return False


def _of(scores: Any, at: int, token: int) -> float:
    return float(scores[at][token].logprob)


def _rank(name: str, folder: str | Path) -> int:
    """The largest rank of an adapter, which is read as far as that needs it."""
    from agentprm.engine.lora import plain_adapter

    try:
        config, _ = plain_adapter(folder)
    except ConfigurationError as error:
        raise ConfigurationError(f"Adapter {name!r} from {str(folder)!r}: {error}") from error
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise ConfigurationError(f"Adapter {name!r} from {str(folder)!r}: its ranks are {ranks}.")
    return int(max(ranks))


def is_vllm_engine(value: object) -> bool:
    """Whether a value is a `vllm.LLM`, without importing vLLM."""
    return any(cls.__module__.startswith("vllm.") and cls.__name__ == "LLM" for cls in type(value).__mro__)


class VllmEngine:
    """Runs requests, sampling or pooling, on an `AsyncLLM` of its own or on a `vllm.LLM`.

    The former batches whatever callers send at the same time; the latter takes one call at a time.
    An `AsyncLLM` made elsewhere belongs to an event loop that may wait for this very call.

    Args:
        model: A name or folder, for which an `AsyncLLM` is made; or a `vllm.LLM`.
        options: Options of the engine (`vllm.AsyncEngineArgs`); none with an engine.
        adapters: LoRA adapters, folders or names on the hub.

    Attributes:
        adapters: What vLLM calls an adapter in a request, by its name here.
        vllm: The library.
        config: The engine's `VllmConfig`.
    """

    def __init__(
        self, model: Any, options: Mapping[str, Any], adapters: Mapping[str, str | Path] | None = None
    ) -> None:
        try:
            import vllm
        except ImportError as error:
            raise MissingDependencyError.for_extra("vllm", "vllm") from error
        self.vllm: Any = vllm
        self._lock = ForkSafeLock()
        ranks = {name: _rank(name, folder) for name, folder in (adapters or {}).items()}
        if isinstance(model, str | Path):
            for_adapters: dict[str, Any] = {}
            if ranks:
                rank = next((most for most in _RANKS if most >= max(ranks.values())), max(ranks.values()))
                for_adapters = {"enable_lora": True, "max_loras": len(ranks), "max_lora_rank": rank}
            self.engine: Any = self._start(str(model), {**for_adapters, **options})
            # vLLM's engine is a process of its own: it has to end with this object, or with Python.
            self._end: Callable[[], Any] | None = weakref.finalize(self, self.engine.shutdown)
        elif is_vllm_engine(model):
            if options:
                raise ConfigurationError(f"Options {sorted(options)} belong to the engine that you made.")
            self.engine = model
            self._end = None
        else:
            raise ConfigurationError(f"Pass a name, a folder or a vllm.LLM, not a {type(model).__name__}.")
        self._async = not isinstance(self.engine, vllm.LLM)
        self.config: Any = self.engine.vllm_config if self._async else self.engine.llm_engine.vllm_config
        if ranks and getattr(self.config, "lora_config", None) is None:
            raise ConfigurationError(
                f"This engine was made without adapters: pass enable_lora=True, max_loras={len(ranks)} and "
                f"max_lora_rank={max(ranks.values())} to vllm.LLM."
            )
        self.adapters = self._requests(adapters or {})

    def _requests(self, adapters: Mapping[str, str | Path]) -> dict[str, Any]:
        if not adapters:
            return {}
        from vllm.lora.request import LoRARequest

        return {
            name: LoRARequest(name, number, str(Path(folder).expanduser()))
            for number, (name, folder) in enumerate(adapters.items(), start=1)
        }

    def _start(self, model: str, options: Mapping[str, Any]) -> Any:
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            args = self.vllm.AsyncEngineArgs(model=model, **{"disable_log_stats": True, **options})
            # Made inside a running loop it would answer there, while that loop waits here.
            with ThreadPoolExecutor(1) as outside:
                return outside.submit(AsyncLLM.from_engine_args, args).result()
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            raise ConfigurationError(f"vLLM cannot serve {model!r} with {dict(options)}: {error}") from error

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.engine.get_tokenizer()

    @property
    def max_context(self) -> int:
        """Longest text of the engine, prompt and completion."""
        return int(self.config.model_config.max_model_len)

    @property
    def block_size(self) -> int:
        """Tokens of one block of the prefix cache; only whole blocks are found again."""
        return int(self.config.cache_config.block_size)

    async def run(
        self, prompts: Sequence[Sequence[int]], params: Sequence[Any], adapter: str | None = None
    ) -> list[Any]:
        """The final outputs of prompts, given as ids, with `SamplingParams` or `PoolingParams` each."""
        more = {} if adapter is None else {"lora_request": self.adapters[adapter]}
        kind = {"type": "token"} if self._async else {}  # what the renderer would make of a prompt
        inputs = [{**kind, "prompt_token_ids": list(ids)} for ids in prompts]
        if not inputs:
            return []
        pooling = isinstance(params[0], self.vllm.PoolingParams)
        try:
            if not self._async:
                return await asyncio.to_thread(self._run_here, inputs, list(params), pooling, more)
            return await all_of(self._one, inputs, params, [pooling] * len(inputs), [more] * len(inputs))
        except ValueError as error:
            raise ModelServerError(f"vLLM refuses the request: {error}") from error
        except Exception as error:
            if type(error).__module__.startswith("vllm."):
                raise ModelServerError(
                    f"vLLM's engine failed ({type(error).__name__}: {error}). If it is dead, make a new one."
                ) from error
            raise

    def _run_here(
        self, inputs: list[Any], params: list[Any], pooling: bool, more: dict[str, Any]
    ) -> list[Any]:
        with self._lock:
            if pooling:
                task = params[0].task
                return list(self.engine.encode(inputs, params, pooling_task=task, use_tqdm=False, **more))
            return list(self.engine.generate(inputs, params, use_tqdm=False, **more))

    async def _one(self, prompt: Any, params: Any, pooling: bool, more: dict[str, Any]) -> Any:
        start = self.engine.encode if pooling else self.engine.generate
        stream = start(prompt, params, uuid.uuid4().hex, **more)
        last = None
        async for output in stream:
            last = output
        if last is None:
            raise ModelServerError("vLLM ended a request without an output.")
        return last

    def close(self) -> None:
        """Ends an engine that was made here; one that was passed stays."""
        if self._end is not None:
            self._end()
