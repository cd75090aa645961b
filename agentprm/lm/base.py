"""The contract of a language model that can sample and score.

Callers send whole prompts. Sharing the work of common prefixes is the backend's business.

A completion may be heard while it is written. Like the meters of `agentprm.budget`, the listener belongs to
the current context, so that `sample` keeps its form. A backend that cannot tell its text in parts says
nothing, and the caller has it at the end.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from agentprm.errors import CapabilityError, ConfigurationError, InputError, check_least
from agentprm.forking import ForkSafeLock
from agentprm.text import clean_text

__all__ = [
    "Adaptable",
    "Capabilities",
    "Completion",
    "LanguageModel",
    "Prompt",
    "Role",
    "SamplingParams",
    "Tally",
    "TokenLogprob",
    "listener",
    "listening",
    "require",
    "wish_for",
]

K = TypeVar("K")

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Prompt:
    """Chat messages plus the beginning of the assistant's turn that the model has to continue.

    Attributes:
        messages: `(role, text)` pairs, roles `system`, `user` and `assistant`. The last one is the
            user's; the model answers it.
        prefix: Text with which the answer begins (prefill); it is not part of the completion.
        thinking: The prefix begins the thought instead, where the model's chat template opens one.
    """

    messages: tuple[tuple[Role, str], ...]
    prefix: str = ""
    thinking: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple((role, text) for role, text in self.messages))
        if not self.messages:
            raise InputError("A prompt needs at least one message.")
        for role, text in self.messages:
            if role not in ("system", "user", "assistant"):
                raise InputError(f"Unknown role {role!r} in a prompt; use system, user or assistant.")
            if not isinstance(text, str):
                raise InputError(f"A message's text must be a string, not {type(text).__name__}.")
        # Tokenizers and requests take valid Unicode only.
        object.__setattr__(self, "messages", tuple((role, clean_text(text)) for role, text in self.messages))
        object.__setattr__(self, "prefix", clean_text(self.prefix))


def wish_for(text: str, schema: Mapping[str, Any]) -> str:
    """A message with the wish for a JSON object at its end, since not every server shows the schema."""
    form = json.dumps(schema.get("properties", schema), ensure_ascii=False)
    return f"{text}\n\nReply with one JSON object that has these fields and nothing else: {form}"


@dataclass(frozen=True)
class SamplingParams:
    """How to sample.

    Attributes:
        max_tokens: Most new tokens of one completion.
        temperature: 0 is greedy.
        top_p: Nucleus sampling mass, in (0, 1].
        stop: Strings that end a completion; they are not part of its text and may span tokens.
        seed: Same seed, same prompts, same machine: same samples. `None` draws a fresh one.
        schema: JSON schema of an object that the reply should be. Backends with the capability
            `structured` hold the model to it where it lets them; others write free text.
        top_logprobs: Likeliest tokens to report at every place, as `Completion.token_logprobs`; 0 for none.
            A wish like the schema: `ChatLM` and the chat API of `ServerLM` pass it on, and what the model
            does not report is not there.
    """

    max_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: Mapping[str, Any] | None = field(default=None, hash=False)
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        check_least(1, max_tokens=self.max_tokens)
        check_least(0, temperature=self.temperature, top_logprobs=self.top_logprobs)
        if not 0 < self.top_p <= 1:
            raise ConfigurationError(f"top_p must lie in (0, 1], not {self.top_p}.")
        if any(not s for s in self.stop):
            raise ConfigurationError("A stop string must not be empty.")


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a completion, and what else might have stood there.

    Attributes:
        at: Where it begins in the completion's text.
        token: The token.
        logprob: Its natural log-probability.
        top: The likeliest tokens there with their log-probabilities, as many as the model reports.
    """

    at: int
    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """One sampled continuation.

    Attributes:
        text: The new text, without the prompt's prefix and without the stop string. It is valid Unicode:
            backends clean what servers and other libraries send (`agentprm.text.clean_text`).
        tokens: Number of generated tokens, the ones of a stop string included.
        finish_reason: `stop` (end of turn or stop string) or `length`.
        logprob: Sum of the natural log-probabilities of the generated tokens, where known.
        token_logprobs: The tokens of `text` in order, where they were asked for and are known; else empty.
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]
    logprob: float | None = None
    token_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do natively.

    Attributes:
        n: Several samples cost one prefill of the prompt.
        prefill: `Prompt.prefix` is continued.
        loglikelihood: `LanguageModel.loglikelihood` works.
        prefix_cache: Prefixes that calls have in common are computed once.
        structured: Completions can be held to `SamplingParams.schema`.
    """

    n: bool = False
    prefill: bool = False
    loglikelihood: bool = False
    prefix_cache: bool = False
    structured: bool = False


class LanguageModel(ABC):
    """A model that samples and, if it can, scores. Implementations are safe to call from threads."""

    capabilities: Capabilities = Capabilities()

    @abstractmethod
    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Samples `n` completions of each prompt.

        Returns:
            One list of `n` completions per prompt, in the order of `prompts`.

        Raises:
            ContextLengthError: If a prompt does not fit the context and the policy is not to cut.
            CapabilityError: If a prompt has a prefix and the backend cannot continue one.
        """

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Natural log-probability of each continuation of each prompt, summed over its tokens.

        Args:
            prompts: The prompts.
            continuations: For each prompt, the texts to score right after `Prompt.prefix`.

        Returns:
            One list of floats per prompt, in the order of its continuations.

        Raises:
            CapabilityError: If the backend does not offer log-probabilities.
        """
        raise CapabilityError(
            f"{type(self).__name__} gives no log-likelihoods. Use a local model, for instance "
            "agentprm.lm.TransformersLM('path or name'), for algorithms that score text."
        )

    async def asample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        """Async twin of `sample`; by default it runs in a thread."""
        return await asyncio.to_thread(self.sample, prompts, n, params)

    async def aloglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Async twin of `loglikelihood`; by default it runs in a thread."""
        return await asyncio.to_thread(self.loglikelihood, prompts, continuations)

    def choose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[int]:
        """Index of the choice that the model would rather write right after each prompt.

        By default the one with the highest log-likelihood, the first of equals. Backends that can
        hold a completion to the choices do so, which costs less.

        Args:
            prompts: The prompts.
            choices: Distinct texts, the same for all prompts.

        Raises:
            CapabilityError: If the backend offers neither.
            ConfigurationError: If there are no choices, an empty one, or equal ones.
        """
        check_choices(choices)
        return [row.index(max(row)) for row in self.loglikelihood(prompts, [choices] * len(prompts))]

    async def achoose(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[int]:
        """Async twin of `choose`."""
        check_choices(choices)
        rows = await self.aloglikelihood(prompts, [choices] * len(prompts))
        return [row.index(max(row)) for row in rows]

    def sample_calls(self, prompts: int, n: int = 1) -> int:
        """Model calls that `sample` records for that many prompts and samples of each."""
        return prompts if self.capabilities.n else prompts * n

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text; backends without a tokenizer estimate 4 characters a token."""
        return [(len(text) + 3) // 4 for text in texts]


def copies_of(keys: Sequence[K], n: int, params: SamplingParams) -> dict[K, int]:
    """How many samples to draw of each distinct prompt, if `n` are wanted of each.

    Greedy ones are all the same. With a seed equal prompts share their samples; without one each has its own.
    """
    once, own = params.temperature == 0, params.seed is None
    return {key: 1 if once else n * (keys.count(key) if own else 1) for key in dict.fromkeys(keys)}


def dealt(
    keys: Sequence[K], drawn: Mapping[K, list[Completion]], n: int, params: SamplingParams
) -> list[list[Completion]]:
    """The samples of each prompt, `n` of those that were drawn as `copies_of` says."""
    if params.temperature == 0:
        return [drawn[key] * n for key in keys]
    left = {key: iter(some) for key, some in drawn.items()}
    own = params.seed is None
    return [list(itertools.islice(left[key] if own else drawn[key], n)) for key in keys]


class Tally:
    """Tokens of one model since it was made, those of all its views together; safe to use from threads.

    Attributes:
        asked: Tokens that callers asked for.
        computed: Tokens that went through the model.
    """

    def __init__(self) -> None:
        self.asked = self.computed = 0
        self._lock = ForkSafeLock()

    def add(self, asked: int, computed: int = 0) -> None:
        """Counts what a call has asked for and computed."""
        with self._lock:
            self.asked += asked
            self.computed += computed


class Adaptable:
    """What a model with adapters has; a mixin.

    Attributes:
        adapter: Name of the adapter that this model uses; `None` for none.
    """

    adapter: str | None = None

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters."""
        raise NotImplementedError

    def with_adapter(self, name: str | None) -> Self:
        """This model with one of its adapters, or with none.

        Both share weights, memory of prefixes, batches and counters; what one adapter has computed is
        never taken for another's.

        Raises:
            ConfigurationError: If there is no adapter of that name.
        """
        names = self.adapters
        if name is not None and name not in names:
            known = "it was made without any: pass adapters={name: folder}"
            known = f"it has {', '.join(names)}" if names else known
            raise ConfigurationError(f"The model has no adapter {name!r}; {known}.")
        view = copy.copy(self)
        view.adapter = name
        return view


def check_continuations(prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]) -> None:
    """Refuses continuations that cannot be scored.

    Raises:
        InputError: If they are not one list a prompt, or one of them is empty.
    """
    if len(prompts) != len(continuations):
        raise InputError(f"{len(prompts)} prompts, but continuations for {len(continuations)}.")
    if any(not text for texts in continuations for text in texts):
        raise InputError("A continuation to score must not be empty.")


def check_choices(choices: Sequence[str]) -> None:
    """Refuses choices that no completion can be told from.

    Raises:
        ConfigurationError: If there are none, an empty one, or two that are equal.
    """
    if not choices or not all(choices) or len(set(choices)) < len(choices):
        raise ConfigurationError(f"Choices must be distinct texts, none empty, not {list(choices)!r}.")


def require(model: LanguageModel, capability: str, needed_by: str) -> None:
    """Checks at construction that `model` has what an algorithm needs.

    Raises:
        CapabilityError: If it lacks the capability; the message says what to use instead.
    """
    if not getattr(model.capabilities, capability):
        raise CapabilityError(
            f"{needed_by} needs a language model with the capability {capability!r}, which "
            f"{type(model).__name__} does not have. Pass one that has it, for instance "
            "agentprm.lm.TransformersLM('path or name')."
        )


Hear = Callable[[str], None]

_hear: ContextVar[Hear | None] = ContextVar("agentprm_listener", default=None)


@contextmanager
def listening(hear: Hear) -> Iterator[None]:
    """Has `hear` told the text of the completion that is sampled inside the block, whole each time it grows.

    It is called from any thread, and only where one prompt is sampled once.

    Example:
        >>> with listening(print):
        ...     hear = listener(prompts=1, n=1)
        >>> hear("Portsmouth")
        Portsmouth
    """
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)


def listener(prompts: int, n: int) -> Hear | None:
    """Whom a backend should tell a text under way, if anybody, for that many prompts and samples."""
    return _hear.get() if prompts == n == 1 else None
