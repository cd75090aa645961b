"""`ServerLM`: a model behind an OpenAI-compatible address, with what vLLM's server adds to it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentprm.engine.tokenizing import Context, PromptText, Span, load_tokenizer
from agentprm.errors import (
    CapabilityError,
    ConfigurationError,
    ContextLengthError,
    ModelServerError,
    check_least,
)
from agentprm.lm.base import Capabilities, Completion, Prompt, SamplingParams, check_choices, listener
from agentprm.lm.json_http import JsonHttp, served_model
from agentprm.lm.reports import content_text, indexed, is_cut_off, token_usage
from agentprm.lm.server_chat import ChatRequests
from agentprm.lm.token_lm import Cost, Job, LocalText, ServerText, TokenLM
from agentprm.routines import adrive, all_of, drive, wait_on_loop

__all__ = ["ServerLM"]

_SEED_BITS = 31  # what every server takes for an integer
_MOST_TOKEN_IDS = 128  # that vLLM scores in one request
_PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # instead of the model's own defaults


class ServerLM(TokenLM):
    """A model on a vLLM server, or on any server with OpenAI's completions, that samples and scores.

    The address may be that of a router over several replicas: every request stands for itself, so
    they spread over the replicas, and a failed one is tried again and may reach another. A router
    that keeps requests with a common beginning on one replica makes the most of their caches.

    When it is constructed it asks the server what it can do:

    - Where it tokenizes (vLLM's `/tokenize`) or `tokenizer` is given, prompts are sent as token ids,
      rendered as `TransformersLM` renders them: `n` samples cost one request, prefixes are
      continued exactly, and text is scored if the server echoes log-probabilities of prompts.
      Verdicts of one token read the prompt from vLLM's prefix cache; longer continuations are
      computed in full, as vLLM does not read its cache for log-probabilities of a prompt.
    - Elsewhere prompts are sent as chat messages. A prefix needs `continue_final_message=True`, and
      there are no log-likelihoods.

    Control tokens inside messages are pulled apart, so that a passage cannot end the turn: those of
    the tokenizer if it is given, else what looks like one (`<|im_end|>`, `</s>`, `[INST]`).

    Usage is what the server reports. What it read from its cache counts as not computed, if it says
    so (vLLM: `--enable-prompt-tokens-details`).

    Args:
        base_url: The address, for instance `http://localhost:8000/v1`.
        model: Name of the model; by default the only one that the server has.
        tokenizer: A Hugging Face tokenizer, its name or folder, for servers that do not tokenize.
        api_key: Key of the server, if it asks for one.
        headers: Further headers, for instance the session key of a router.
        continue_final_message: The server's chat API continues a final assistant message if asked to
            (`continue_final_message`, as vLLM and SGLang know it). Only used without token ids.
        template_kwargs: Variables for the chat template, for instance `{"enable_thinking": False}`.
        on_overflow: What to do with a prompt that is too long, as in `TransformersLM`; needs token
            ids and a server that says how long its context is.
        thinking_tokens: Most tokens of a thought, beyond `SamplingParams.max_tokens`, for a model that is
            seen to think before it answers; with chat messages only.
        max_concurrency: Most requests at a time, over all threads and tasks.
        max_retries: Repetitions of a request that failed in a way that may pass (408, 409, 425, 429,
            5xx, time-outs, broken connections), with growing random waits; `Retry-After` is kept to.
        timeout_s: Seconds after which a request that has not been answered in full counts as failed.

    Attributes:
        model: The model's name.

    Raises:
        TransientModelError: If the server cannot be reached.
        ConfigurationError: If the address, the key or the model's name is wrong.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        tokenizer: Any = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        on_overflow: Literal["error", "truncate_left"] = "error",
        thinking_tokens: int = 4096,
        max_concurrency: int = 32,
        max_retries: int = 4,
        timeout_s: float = 600.0,
    ) -> None:
        super().__init__()
        self._http = JsonHttp(
            base_url,
            api_key=api_key,
            headers=headers,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
        )
        check_least(0, thinking_tokens=thinking_tokens)
        self._kwargs, self._thinking_tokens = dict(template_kwargs or {}), thinking_tokens
        Context(None, on_overflow)
        self.model, length = drive(wait_on_loop(served_model(self._http, model)))
        self._local = None if tokenizer is None else PromptText(load_tokenizer(tokenizer), self._kwargs)
        bos = None if self._local is None else self._local.tokenizer.bos_token_id
        self._context = Context(length, on_overflow, bos)
        self._root = re.sub(r"/v1$", "", self._http.base_url)
        self._vllm = False
        self._structured = self._scores_ids = True
        self._chat: ChatRequests | None = None
        self.capabilities = drive(wait_on_loop(self._probe(continue_final_message)))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text; an estimate if no tokenizer was given."""
        return super().count_tokens(texts) if self._local is None else self._local.count(texts)

    def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        drive(wait_on_loop(self._http.close()))

    async def aclose(self) -> None:
        """Async twin of `close`."""
        await adrive(wait_on_loop(self._http.close()))

    async def _probe(self, continues: bool) -> Capabilities:
        """Finds out what the server can do, with three short requests."""
        probe = Prompt((("user", "Is this a test?"),))
        if self._local is not None:
            self._text: Any = LocalText(self._local)
        else:
            self._text = ServerText(self._http, self._root, self.model, self._kwargs)
            try:
                await self._text.tokens(probe)
            except (ModelServerError, ConfigurationError):
                self._chat = ChatRequests(self._post, self._kwargs, self._thinking_tokens)
                # Whether it sends several samples at once is seen when it is asked for them.
                return Capabilities(prefill=continues, structured=not continues)
        version = await self._version()
        if version is not None:
            self._vllm = True
            self._structured = version >= (0, 12)
        (ids,) = await self._text.tokens(probe)
        scores = await self._echoes(ids)
        return Capabilities(n=True, prefill=True, loglikelihood=scores, prefix_cache=version is not None)

    async def _version(self) -> tuple[int, ...] | None:
        """Version of vLLM, or `None` if it is another server."""
        try:
            reply = await self._http.get(self._root + "/version")
        except (ModelServerError, ConfigurationError):
            return None
        text = reply.get("version") if isinstance(reply, dict) else None
        found = re.match(r"(\d+)\.(\d+)", text) if isinstance(text, str) else None
        return tuple(map(int, found.groups())) if found else None

    async def _echoes(self, ids: list[int]) -> bool:
        """Whether the server gives log-probabilities of a prompt's tokens."""
        try:
            await self.token_scores(Span(tuple(ids), 1), Cost())
        except (ModelServerError, ConfigurationError, ContextLengthError):
            return False
        return True

    @property
    def connection(self) -> JsonHttp:
        """The connection to the server, for what is no request of a language model."""
        return self._http

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that was given, or `None`."""
        return None if self._local is None else self._local.tokenizer

    def no_loglikelihood(self) -> str:
        """See `TokenLM.no_loglikelihood`."""
        if self._chat is not None:
            why = "does not tokenize, so that only its chat API can be used"
            remedy = "Pass tokenizer='name or folder' if the server has /v1/completions"
        else:
            why = "does not echo log-probabilities of prompts (completions with echo and logprobs)"
            remedy = "Serve the model with vLLM"
        return (
            f"ServerLM gives no log-likelihoods here: the server at {self._http.base_url} {why}. {remedy}, "
            "or use a local model, agentprm.lm.TransformersLM('name or folder')."
        )

    def _no_prefill(self) -> str:
        return (
            f"The server at {self._http.base_url} does not tokenize, and was not declared to continue an "
            "assistant message, but a prompt has a prefix. Pass tokenizer='name or folder', or "
            "continue_final_message=True if its chat API knows that."
        )

    async def _sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, cost: Cost
    ) -> list[list[Completion]]:
        if self._chat is None:
            return await super()._sample(prompts, n, params, cost)
        check_least(1, n=n)
        if not self.capabilities.prefill and any(prompt.prefix for prompt in prompts):
            raise CapabilityError(self._no_prefill())

        hear = listener(len(prompts), n)

        async def samples(prompt: Prompt) -> list[Completion]:
            return await self._chat.samples(prompt, n, params, cost, hear)  # type: ignore[union-attr]

        return await all_of(samples, prompts)

    async def _complete(self, job: Job, cost: Cost) -> list[Completion]:
        params = job.params
        body: dict[str, Any] = {
            "prompt": list(job.ids),
            "n": job.count,
            "max_tokens": params.max_tokens,
            "logprobs": 1,
            "temperature": params.temperature,
            "top_p": params.top_p,
            **({"stop": list(params.stop)} if params.stop else {}),
            **(_PLAIN if self._vllm else {}),
        }
        seed = job.seed_of(0, _SEED_BITS)
        if seed is not None:
            body["seed"] = seed
        if job.choices:
            texts = list(job.choices)
            body |= (
                {"structured_outputs": {"choice": texts}} if self._structured else {"guided_choice": texts}
            )
        reply = await self._post("/completions", body)
        choices = self._choices(reply, job.count)
        done = [self._completion(choice, choice.get("text"), params) for choice in choices]
        self._spend(reply, cost, len(job.ids), sum(c.tokens for c in done))
        return done

    async def _choose(self, prompts: Sequence[Prompt], choices: tuple[str, ...], cost: Cost) -> list[int]:
        check_choices(choices)
        if self._vllm:
            return await super()._choose(prompts, choices, cost)
        rows = await self._loglikelihood(prompts, [choices] * len(prompts), cost)
        return [row.index(max(row)) for row in rows]

    async def _next_token(self, ids: Sequence[int], tokens: Sequence[int], cost: Cost) -> list[float] | None:
        if not self._vllm or not self._scores_ids or len(tokens) > _MOST_TOKEN_IDS:
            return None
        body = {
            "prompt": list(ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": 1,
            "logprob_token_ids": list(tokens),
            "return_tokens_as_token_ids": True,
        }
        reply = await self._post("/completions", body)
        (choice,) = self._choices(reply, 1)
        top = _field(choice, "logprobs", "top_logprobs")
        first = top[0] if isinstance(top, list) and top and isinstance(top[0], dict) else {}
        self._spend(reply, cost, len(ids), 1)
        values = [first.get(f"token_id:{token}") for token in tokens]
        if any(value is None for value in values):
            self._scores_ids = False  # an older server, which does not know the field
            return None
        return [_number(value) for value in values]

    async def token_scores(self, span: Span, cost: Cost) -> list[float]:
        """See `TokenLM.token_scores`."""
        body = {"prompt": list(span.ids), "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
        reply = await self._post("/completions", body)
        (choice,) = self._choices(reply, 1)
        values = _field(choice, "logprobs", "token_logprobs")
        if not isinstance(values, list) or len(values) < len(span.ids):
            raise ModelServerError(
                f"{self._http.base_url}/completions echoed no log-probabilities of the prompt's "
                f"{len(span.ids)} tokens."
            )
        self._spend(reply, cost, len(span.ids), 1)
        return [_number(value) for value in values[span.start : len(span.ids)]]

    async def _post(
        self, path: str, body: dict[str, Any], hear: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        reply = await self._http.post(path, {"model": self.model, **body}, hear)
        if not isinstance(reply, dict):
            raise ModelServerError(f"{self._http.base_url}{path} sent no JSON object.")
        return reply

    def _choices(self, reply: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """The reply's choices in order, as many as were asked for."""
        rows = indexed(reply.get("choices"))
        if rows is None or len(rows) != count:
            found = "no" if rows is None else len(rows)
            raise ModelServerError(f"{self._http.base_url} sent {found} choices instead of {count}.")
        return rows

    def _completion(self, choice: dict[str, Any], text: Any, params: SamplingParams) -> Completion:
        text = content_text(text)
        if text is None:
            raise ModelServerError(f"{self._http.base_url} sent a completion that is no text.")
        found = [at for at in (text.find(stop) for stop in params.stop) if at >= 0]
        values = _field(choice, "logprobs", "token_logprobs")
        logprob = None
        if isinstance(values, list):
            logprob = math.fsum(_number(value) for value in values)
        return Completion(
            text[: min(found)] if found else text,
            len(values) if isinstance(values, list) else (len(text) + 3) // 4,
            "length" if is_cut_off(choice.get("finish_reason")) and not found else "stop",
            logprob,
        )

    def _spend(self, reply: dict[str, Any], cost: Cost, asked: int, generated: int) -> None:
        """Adds what was computed, by the server's report or else by what is known here."""
        _, computed, generated = token_usage(reply.get("usage"), asked, generated)
        cost.computed += computed + generated


def _field(choice: dict[str, Any], outer: str, inner: str) -> Any:
    value = choice.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelServerError(f"The server sent {value!r} as a log-probability.")
    return float(value)
