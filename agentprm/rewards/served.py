"""Reward models with a token head on vLLM, in this process or behind an address; nothing here needs torch."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agentprm.engine.tokenizing import load_tokenizer
from agentprm.errors import ConfigurationError, ModelServerError, check_choice
from agentprm.lm.json_http import JsonHttp, served_model
from agentprm.lm.server import ServerLM
from agentprm.lm.token_lm import Cost
from agentprm.lm.vllm import VllmEngine
from agentprm.rewards.base import sigmoid
from agentprm.rewards.served_reward import ServedReward
from agentprm.rewards.step_text import Overflow, StepWriter
from agentprm.rewards.templates import StepTemplate
from agentprm.routines import all_of, drive, wait_on_loop

__all__ = ["ServedTokenHead"]


class _HttpPooling:
    """Pooling by a vLLM server's `/pooling`."""

    def __init__(self, http: JsonHttp, model: str, longest: int | None) -> None:
        self._http, self._model, self.longest = http, model, longest
        root = http.base_url.removesuffix("/v1")
        self._url = root + "/pooling"

    async def rows(self, ids: Sequence[int], cost: Cost) -> list[list[float]]:
        body = {
            "model": self._model,
            "input": list(ids),
            "task": "token_classify",
            "use_activation": False,
            "encoding_format": "float",
        }
        reply = await self._http.post(self._url, body)
        data = reply.get("data") if isinstance(reply, dict) else None
        found = data[0].get("data") if isinstance(data, list) and data and isinstance(data[0], dict) else None
        rows = _table(found, self._url)
        _count(cost, len(ids), len(rows))
        return rows


class _EnginePooling:
    """Pooling by vLLM's engine in this process."""

    def __init__(self, engine: VllmEngine) -> None:
        self.engine, self.longest = engine, engine.max_context
        self.reads_cache = False

    async def rows(self, ids: Sequence[int], cost: Cost) -> list[list[float]]:
        params = self.engine.vllm.PoolingParams(
            task="token_classify", use_activation=False, skip_reading_prefix_cache=not self.reads_cache
        )
        (output,) = await self.engine.run([ids], [params])
        rows = _table(output.outputs.data.float().tolist(), "vLLM's engine")
        _count(cost, len(ids), len(rows))
        return rows


class ServedTokenHead(ServedReward):
    """`TokenHead` on vLLM: a classification head over every token, read at step separators.

    vLLM has to pool every token (`ALL`), so that positions are chosen here; a server that is set to
    pool by steps is refused. The outputs are normalised here, in double precision. Outputs that come
    short because a cached prefix has none are aligned at their end. With an engine in this process
    the cache is read, so that a grown trajectory costs its new step, where a check at construction
    finds that the numbers are the same (`reads_cache`); a server reads it if its version does so.

    Serve a checkpoint with `vllm serve MODEL --runner pooling --pooler-config
    '{"tok_pooling_type": "ALL"}'`.

    Args:
        model: Address of a server (`http://…/v1`), or a `ServerLM` of it; a `vllm.LLM` for pooling; or a
            name or folder, for which an engine is made.
        tokenizer: The tokenizer, its name or folder; by default the engine's. Required with a server.
        template: Gives the prefixes, for instance `families()["qwen-prm"].template`.
        positive: Classes that count as right; their probabilities are added.
        activation: `softmax` over the classes, `sigmoid` of the first positive class, or `none`, for which
            `space` is `logit`.
        name: Name of the model on the server; by default the only one.
        api_key: Key of the server.
        headers: Further headers.
        max_concurrency: Most requests at a time.
        max_retries: As in `ServerLM`.
        timeout_s: As in `ServerLM`.
        step_text: As in `StepReward`.
        on_overflow: As in `TokenHead`.
        cache_size: As in `StepReward`.
        options: Options of an engine that is made here (`vllm.AsyncEngineArgs`).

    Attributes:
        reads_cache: Whether outputs of cached tokens are left to the cache.

    Raises:
        ConfigurationError: If the server or engine does not pool every token, or has no such classes.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        template: StepTemplate,
        positive: Sequence[int] = (1,),
        activation: Literal["softmax", "sigmoid", "none"] = "softmax",
        name: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrency: int = 32,
        max_retries: int = 4,
        timeout_s: float = 600.0,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_size: int = 10_000,
        **options: Any,
    ) -> None:
        if not positive or min(positive) < 0:
            raise ConfigurationError("positive must name at least one class.")
        check_choice("activation", activation, "softmax", "sigmoid", "none")
        self.positive, self.activation = list(positive), activation
        self.space = "logit" if activation == "none" else "probability"
        source: _HttpPooling | _EnginePooling
        addressed = isinstance(model, str) and model.startswith(("http://", "https://"))
        if addressed or isinstance(model, ServerLM):
            if tokenizer is None:
                raise ConfigurationError("With a server, pass its model's tokenizer.")
            http = (
                model.connection
                if isinstance(model, ServerLM)
                else JsonHttp(
                    model,
                    api_key=api_key,
                    headers=headers,
                    timeout_s=timeout_s,
                    max_retries=max_retries,
                    max_concurrency=max_concurrency,
                )
            )
            name = model.model if name is None and isinstance(model, ServerLM) else name
            source = _HttpPooling(http, *drive(wait_on_loop(served_model(http, name))))
        else:
            if isinstance(model, str | Path):
                options = {"runner": "pooling", "pooler_config": {"tok_pooling_type": "ALL"}, **options}
            source = _EnginePooling(VllmEngine(model, options))
            tokenizer = source.engine.tokenizer if tokenizer is None else tokenizer
        super().__init__(step_text, cache_size, on_overflow, source.longest)
        self._source = source
        self.template = template
        self.tokenizer = load_tokenizer(tokenizer)
        template.check(self.tokenizer)
        self._activated = False
        drive(wait_on_loop(self._check()))

    @property
    def reads_cache(self) -> bool:
        """Whether cached tokens are left to vLLM's cache; on a server that is its own business."""
        return isinstance(self._source, _EnginePooling) and self._source.reads_cache

    def close(self) -> None:
        """Ends an engine that was made here, or the connections."""
        if isinstance(self._source, _EnginePooling):
            self._source.engine.close()

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        prefixes = {k: self.template.ids(self.tokenizer, question, steps[: k + 1]) for k in new}
        fitting = [k for k in new if self._fits(len(prefixes[k]), k)]
        if not fitting:
            return [math.nan] * len(new)
        trunk = prefixes[fitting[-1]]
        rows = await self._source.rows(trunk, cost)
        missing = len(trunk) - len(rows)

        async def value(k: int) -> float:
            ids = prefixes[k]
            if k not in fitting:
                return math.nan
            if ids == trunk[: len(ids)] and len(ids) > missing:
                return self._value(rows[len(ids) - 1 - missing])
            # The end of every text is computed, whatever is cached.
            return self._value((await self._source.rows(ids, cost))[-1])

        return await all_of(value, new)

    def _value(self, outputs: Sequence[float]) -> float:
        chosen = [outputs[label] for label in self.positive]
        if self._activated:
            return math.fsum(chosen)
        if self.activation == "none":
            return chosen[0]
        if self.activation == "sigmoid":
            return sigmoid(chosen[0])
        top = max(outputs)
        return math.fsum(math.exp(x - top) for x in chosen) / math.fsum(math.exp(x - top) for x in outputs)

    async def _check(self) -> None:
        """Finds out how the outputs come: all of them, as logits, and the same after a cached prefix."""
        # Never seen before, so that nothing but the template's beginning can be in a cache.
        question = " ".join(uuid.uuid4().hex for _ in range(2))
        ids = self.template.ids(self.tokenizer, question, ["It is so.", "It is not."])
        size = self._source.engine.block_size if isinstance(self._source, _EnginePooling) else 0
        while len(ids) < 2 * size + 8:
            question += f" {uuid.uuid4().hex}"
            ids = self.template.ids(self.tokenizer, question, ["It is so.", "It is not."])
        if self.max_context is not None:
            ids = ids[: self.max_context]
        rows = await self._source.rows(ids, Cost())
        if len(rows) > len(ids) or len(rows) < min(20, len(ids)):
            raise ConfigurationError(
                f"{len(rows)} rows of outputs came back for {len(ids)} tokens, but every token has to be "
                "pooled. "
                'Start vLLM with --pooler-config \'{"tok_pooling_type": "ALL"}\'.'
            )
        width = min(map(len, rows))
        if width <= max(self.positive):
            raise ConfigurationError(
                f"The model has {width} classes, so there is no class {max(self.positive)}."
            )
        # Servers before `use_activation` normalise whatever they are asked for.
        self._activated = self.activation == "softmax" and width > 1 and all(map(_is_distribution, rows))
        if isinstance(self._source, _EnginePooling):
            self._source.reads_cache = True
            try:
                tail = await self._source.rows(ids, Cost())
            except ModelServerError:
                tail = []
            self._source.reads_cache = bool(tail) and all(
                math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3)
                for left, right in zip(rows[::-1], tail[::-1], strict=False)
                for a, b in zip(left, right, strict=True)
            )


def _table(value: Any, source: str) -> list[list[float]]:
    """Rows of numbers; a head of one number may come as a flat list."""
    if isinstance(value, list) and value and all(isinstance(x, int | float) for x in value):
        value = [[x] for x in value]
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(row, list) and row for row in value)
        or not all(isinstance(x, int | float) for row in value for x in row)
    ):
        raise ModelServerError(f"{source} sent no table of numbers for a text.")
    return value


def _count(cost: Cost, length: int, computed: int) -> None:
    cost.calls += 1
    cost.asked += length
    cost.computed += min(length, computed)


def _is_distribution(row: Sequence[float]) -> bool:
    return all(0 <= x <= 1 for x in row) and abs(math.fsum(row) - 1) < 1e-3
