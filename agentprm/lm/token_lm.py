"""What language models on engines of others have in common: ids in, samples and log-probabilities out.

Prompts become token ids here, by a tokenizer or by the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agentprm.budget import record
from agentprm.engine.tokenizing import (
    Context,
    PromptText,
    Span,
    as_data,
    continued,
    neutral_messages,
    plain_turns,
    span_of,
)
from agentprm.errors import CapabilityError, ModelServerError, check_least
from agentprm.lm.base import (
    Completion,
    LanguageModel,
    Prompt,
    SamplingParams,
    Tally,
    check_choices,
    check_continuations,
    copies_of,
    dealt,
)
from agentprm.lm.json_http import JsonHttp, Refused
from agentprm.routines import Routine, adrive, all_of, drive, wait_on_loop

__all__ = ["Cost", "Job", "LocalText", "ServerText", "TokenLM", "TokenText"]


T = TypeVar("T")

_HEADS = 1024  # rendered conversations that are remembered


class TokenText(Protocol):
    """Turns prompts into token ids."""

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """Ids of the prompt, then of the prompt with each continuation, tokenized together."""


class LocalText:
    """Tokenizes here, with a Hugging Face tokenizer and its chat template."""

    def __init__(self, text: PromptText) -> None:
        self._text = text

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """See `TokenText.tokens`."""
        rendered = self._text.render(prompt, answering=bool(continuations))
        return self._text.encode([rendered, *(rendered + c for c in continuations)])


class ServerText:
    """Has the server tokenize, through the `/tokenize` and `/detokenize` of vLLM.

    Args:
        http: The server.
        root: Address of the two paths.
        model: The model's name.
        template_kwargs: Variables for the chat template.
    """

    def __init__(self, http: JsonHttp, root: str, model: str, template_kwargs: dict[str, object]) -> None:
        self._http, self._root, self._model, self._kwargs = http, root, model, template_kwargs
        self._heads: dict[object, tuple[list[int], str | None]] = {}  # those used last at the end

    async def tokens(self, prompt: Prompt, continuations: Sequence[str] = ()) -> list[list[int]]:
        """See `TokenText.tokens`."""
        ids, text = await self._head(prompt)
        prefix = as_data(prompt.prefix, own_turn=True)
        tails = [prefix, *(prefix + c for c in continuations)]

        async def joint(tail: str) -> list[int]:
            if text is None:
                return ids + await self._encode(tail, False) if tail else ids
            whole = continued(text, tail, thinking=prompt.thinking, answering=bool(continuations))
            return ids if whole == text else await self._encode(whole, False)

        return list(await asyncio.gather(*map(joint, tails)))

    async def _head(self, prompt: Prompt) -> tuple[list[int], str | None]:
        """Ids and text of the rendered conversation; no text if it does not tokenize to the ids."""
        known = self._heads.pop(prompt.messages, None)
        if known is not None:
            self._heads[prompt.messages] = known
            return known
        messages = neutral_messages(prompt)
        body = {"model": self._model, "add_generation_prompt": True, "chat_template_kwargs": self._kwargs}
        try:
            ids = await self._ids({**body, "messages": messages})
        except Refused:
            ids = await self._without_template(messages, body)
        text = await self._post("/detokenize", {"model": self._model, "tokens": ids}, "prompt", str)
        known = (ids, text if await self._encode(text, False) == ids else None)
        self._heads[prompt.messages] = known
        if len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]
        return known

    async def _without_template(self, messages: list[dict[str, str]], body: dict[str, object]) -> list[int]:
        """As `PromptText.render` does it: no system role in the template, or no template at all."""
        try:
            await self._ids({**body, "messages": [{"role": "user", "content": "a"}]})
        except Refused:
            return await self._encode(plain_turns(messages), True)
        if messages[0]["role"] != "system" or len(messages) < 2:
            return await self._ids({**body, "messages": messages})
        merged = f"{messages[0]['content']}\n\n{messages[1]['content']}"
        return await self._ids({**body, "messages": [{**messages[1], "content": merged}, *messages[2:]]})

    async def _encode(self, text: str, special: bool) -> list[int]:
        return await self._ids({"model": self._model, "prompt": text, "add_special_tokens": special})

    async def _ids(self, body: dict[str, object]) -> list[int]:
        ids = await self._post("/tokenize", body, "tokens", list)
        if not all(isinstance(i, int) for i in ids):
            raise ModelServerError(f"{self._root}/tokenize sent tokens that are no numbers.")
        return ids

    async def _post(self, path: str, body: dict[str, object], key: str, kind: type[T]) -> T:
        reply = await self._http.post(self._root + path, body)
        value = reply.get(key) if isinstance(reply, dict) else None
        if not isinstance(value, kind):
            raise ModelServerError(f"The reply of {self._root}{path} has no {key!r}.")
        return value


@dataclass(frozen=True)
class Job:
    """Samples to draw from one prompt.

    Attributes:
        ids: The prompt.
        count: Samples.
        seed: Seed of the call, or `None`.
        params: How to sample.
        choices: Texts of which the completion must be one; empty for free text.
    """

    ids: tuple[int, ...]
    count: int
    seed: int | None
    params: SamplingParams
    choices: tuple[str, ...] = ()

    def seed_of(self, number: int, bits: int) -> int | None:
        """Seed of a sample, by call, prompt and number; none if the call has none."""
        if self.seed is None:
            return None
        digest = hashlib.sha256(f"{self.seed}/{number}/{','.join(map(str, self.ids))}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> (64 - bits)


@dataclass
class Cost:
    """What the requests of one call have cost so far.

    Attributes:
        calls: Prompts that were answered.
        asked: Prompt and scored tokens.
        computed: Tokens that the engine computed, as far as it says.
        generated: Tokens that were generated.
    """

    calls: int = 0
    asked: int = 0
    computed: int = 0
    generated: int = 0


class TokenLM(LanguageModel):
    """Base of backends that send token ids to an engine and get completions and log-probabilities.

    Subclasses set `_text` and `_context`, and implement the four requests. All of them run on the
    background loop, so that sync and async calls share every line.
    """

    _text: TokenText
    _context: Context

    def __init__(self) -> None:
        self._tally = Tally()

    @property
    def max_context(self) -> int | None:
        """Tokens of the model's context, or `None` where it is not known."""
        return self._context.length

    @property
    def tokens_asked(self) -> int:
        """Tokens that callers asked for so far: every prompt in full, generated and scored tokens."""
        return self._tally.asked

    @property
    def tokens_computed(self) -> int:
        """Tokens that the engine says it computed so far; where it says nothing, all that were asked."""
        return self._tally.computed

    @abstractmethod
    async def _complete(self, job: Job, cost: Cost) -> list[Completion]:
        """The samples of a job."""

    @abstractmethod
    async def _next_token(self, ids: Sequence[int], tokens: Sequence[int], cost: Cost) -> list[float] | None:
        """Log-probabilities of single tokens after `ids`, or `None` if the engine does not offer them."""

    @abstractmethod
    async def token_scores(self, span: Span, cost: Cost) -> list[float]:
        """Log-probabilities of a span's scored tokens."""

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Samples `n` completions of each prompt.

        With a seed, equal prompts of one call get equal samples; without one they get samples of
        their own.

        Raises:
            ContextLengthError: If a prompt and `max_tokens` exceed the context and the policy is
                `"error"`.
            TransientModelError: If the engine cannot be reached for now.
            ModelServerError: If it fails for good.
        """
        return drive(self._charged(lambda cost: self._sample(prompts, n, params or SamplingParams(), cost)))

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`; cancelling it ends its requests."""
        return await adrive(
            self._charged(lambda cost: self._sample(prompts, n, params or SamplingParams(), cost))
        )

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probability of each continuation of each prompt, in nats, summed over its tokens.

        Prompt and continuation are tokenized together, as in `TransformersLM.loglikelihood`.

        Raises:
            CapabilityError: If the engine offers no log-probabilities of prompts.
            InputError: If a continuation is empty or the lists do not match.
            ContextLengthError: As in `sample`, for the longest continuation.
        """
        return drive(self._charged(lambda cost: self._loglikelihood(prompts, continuations, cost)))

    async def aloglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Async twin of `loglikelihood`; cancelling it ends its requests."""
        return await adrive(self._charged(lambda cost: self._loglikelihood(prompts, continuations, cost)))

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[int]:
        """The choice that greedy decoding ends in when it may only write one of the choices.

        A guided completion reads the prompt from the engine's cache and computes a few tokens, where
        log-likelihoods would compute every choice. Where two choices begin alike, the beginning is
        decided before the rest; `loglikelihood` compares whole texts.
        """
        return drive(self._charged(lambda cost: self._choose(prompts, tuple(choices), cost)))

    async def achoose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[int]:
        """Async twin of `choose`; cancelling it ends its requests."""
        return await adrive(self._charged(lambda cost: self._choose(prompts, tuple(choices), cost)))

    def _charged(self, work: Callable[[Cost], Coroutine[Any, Any, T]]) -> Routine[T]:
        """Waits for requests, and counts what they have cost, also if they fail or are cancelled."""
        cost = Cost()
        try:
            return (yield from wait_on_loop(work(cost)))
        finally:
            self._tally.add(cost.asked + cost.generated, cost.computed)
            record(
                model_calls=cost.calls,
                prompt_tokens=cost.asked,
                computed_tokens=cost.computed,
                completion_tokens=cost.generated,
            )

    async def _ids(self, prompts: Sequence[Prompt], new: int) -> list[tuple[int, ...]]:
        """The prompts' tokens within the context, `new` more left free."""
        if not self.capabilities.prefill and any(prompt.prefix for prompt in prompts):
            raise CapabilityError(self._no_prefill())
        rows = await all_of(self._text.tokens, prompts)
        return [tuple(self._context.cut(ids, self._context.lost(ids, new))) for (ids,) in rows]

    def _no_prefill(self) -> str:
        return f"{type(self).__name__} cannot continue a prompt's prefix here; leave the prefix out."

    async def _sample(
        self, prompts: Sequence[Prompt], n: int, params: SamplingParams, cost: Cost
    ) -> list[list[Completion]]:
        check_least(1, n=n)
        rows = await self._ids(prompts, params.max_tokens)
        jobs = [Job(ids, count, params.seed, params) for ids, count in copies_of(rows, n, params).items()]
        done = await self._jobs(jobs, cost)
        drawn = {job.ids: some for job, some in zip(jobs, done, strict=True)}
        cost.calls = len(prompts)
        # Asked, not computed: as for every backend, equal prompts count each.
        cost.asked = sum(map(len, rows))
        return dealt(rows, drawn, n, params)

    async def _jobs(self, jobs: Sequence[Job], cost: Cost) -> list[list[Completion]]:
        async def finish(job: Job) -> list[Completion]:
            done = await self._complete(job, cost)
            cost.calls += 1
            cost.asked += len(job.ids)
            cost.generated += sum(completion.tokens for completion in done)
            return done

        return await all_of(finish, jobs)

    async def _choose(self, prompts: Sequence[Prompt], choices: tuple[str, ...], cost: Cost) -> list[int]:
        check_choices(choices)
        longest = max(map(len, choices))  # characters; no tokenizer needs more tokens
        params = SamplingParams(max_tokens=longest + 1, temperature=0)
        rows = await self._ids(prompts, 1)
        unique = list(dict.fromkeys(rows))
        jobs = [Job(ids, 1, None, params, choices) for ids in unique]
        done = dict(zip(unique, await self._jobs(jobs, cost), strict=True))
        cost.calls, cost.asked = len(prompts), sum(map(len, rows))
        for some in done.values():
            if some[0].text not in choices:
                raise ModelServerError(f"A guided completion is {some[0].text!r}, none of {list(choices)}.")
        return [choices.index(done[ids][0].text) for ids in rows]

    async def _loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], cost: Cost
    ) -> list[list[float]]:
        if not self.capabilities.loglikelihood:
            raise CapabilityError(self.no_loglikelihood())
        check_continuations(prompts, continuations)

        async def row(prompt: Prompt, texts: Sequence[str]) -> tuple[list[float], int]:
            if not texts:
                return [], 0
            unique = list(dict.fromkeys(texts))
            trunk, *joint = await self._text.tokens(prompt, unique)
            spans = [span_of(trunk, ids, text) for ids, text in zip(joint, unique, strict=True)]
            # Engines that score a text generate a token after it.
            _, spans = self._context.fit(trunk, spans, new=1)
            values = dict(zip(unique, await self._spans(spans, cost), strict=True))
            asked = len(trunk) + sum(len(spans[unique.index(text)].scored) for text in texts)
            cost.calls += 1
            cost.asked += asked
            return [values[text] for text in texts], asked

        rows = list(zip(prompts, continuations, strict=True))
        keys = [(prompt, tuple(texts)) for prompt, texts in rows]
        unique = list(dict.fromkeys(keys))
        done = dict(zip(unique, await all_of(row, *zip(*unique, strict=True)) if unique else [], strict=True))
        cost.calls, cost.asked = len(prompts), sum(done[key][1] for key in keys)
        return [list(done[key][0]) for key in keys]

    def no_loglikelihood(self) -> str:
        """Why there are no log-likelihoods here, with the remedy."""
        return f"{type(self).__name__} gives no log-likelihoods here."

    async def words_after(self, ids: Sequence[int], words: Sequence[int], cost: Cost) -> list[float]:
        """Log-probabilities of single tokens after `ids`, whatever the engine offers."""
        values = await self._next_token(ids, words, cost)
        if values is not None:
            return values
        spans = [Span((*ids, word), len(ids)) for word in words]
        return [row[0] for row in await all_of(self.token_scores, spans, [cost] * len(spans))]

    async def _spans(self, spans: Sequence[Span], cost: Cost) -> list[float]:
        """Scores of the spans of one prompt; verdicts of one token each cost one request together."""
        first = spans[0]
        if all(len(s.scored) == 1 and s.ids[: s.start] == first.ids[: first.start] for s in spans):
            return await self.words_after(first.ids[: first.start], [s.scored[0] for s in spans], cost)
        rows = await all_of(self.token_scores, spans, [cost] * len(spans))
        return [math.fsum(row) for row in rows]
