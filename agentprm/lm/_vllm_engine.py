"""One way to run requests on vLLM, whichever of its engines is there."""

from __future__ import annotations

import asyncio
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agentprm.errors import ConfigurationError, MissingDependencyError, ModelServerError
from agentprm.lm._background import all_of

__all__ = ["VllmEngine", "is_vllm_engine"]


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

    Attributes:
        vllm: The library.
        config: The engine's `VllmConfig`.
    """

    def __init__(self, model: Any, options: Mapping[str, Any]) -> None:
        try:
            import vllm
        except ImportError as error:
            raise MissingDependencyError.for_extra("vllm", "vllm") from error
        self.vllm: Any = vllm
        self._lock = threading.Lock()
        if isinstance(model, str | Path):
            self.engine: Any = self._start(str(model), options)
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

    async def run(self, prompts: Sequence[Sequence[int]], params: Sequence[Any]) -> list[Any]:
        """The final outputs of prompts, given as ids, with `SamplingParams` or `PoolingParams` each."""
        kind = {"type": "token"} if self._async else {}  # what the renderer would make of a prompt
        inputs = [{**kind, "prompt_token_ids": list(ids)} for ids in prompts]
        if not inputs:
            return []
        pooling = isinstance(params[0], self.vllm.PoolingParams)
        try:
            if not self._async:
                return await asyncio.to_thread(self._run_here, inputs, list(params), pooling)
            return await all_of(self._one, inputs, params, [pooling] * len(inputs))
        except ValueError as error:
            raise ModelServerError(f"vLLM refuses the request: {error}") from error
        except Exception as error:
            if type(error).__module__.startswith("vllm."):
                raise ModelServerError(
                    f"vLLM's engine failed ({type(error).__name__}: {error}). If it is dead, make a new one."
                ) from error
            raise

    def _run_here(self, inputs: list[Any], params: list[Any], pooling: bool) -> list[Any]:
        with self._lock:
            if pooling:
                task = params[0].task
                return list(self.engine.encode(inputs, params, pooling_task=task, use_tqdm=False))
            return list(self.engine.generate(inputs, params, use_tqdm=False))

    async def _one(self, prompt: Any, params: Any, pooling: bool) -> Any:
        name = uuid.uuid4().hex
        stream = (
            self.engine.encode(prompt, params, name)
            if pooling
            else self.engine.generate(prompt, params, name)
        )
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
