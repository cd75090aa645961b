"""What a run may cost (`SearchBudget`) and what it did cost (`Usage`).

Language models, retrievers and reward models report to the meters that are active in the current
context (`metered`), so that callers need not thread counters through every call. Context variables
follow `asyncio` tasks and LangChain's executor threads, so concurrent runs do not mix.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

from agentprm.errors import ConfigurationError, unknown_name
from agentprm.forking import ForkSafeLock

__all__ = [
    "READING",
    "WRITING",
    "SearchBudget",
    "Usage",
    "add_usage",
    "empty_usage",
    "metered",
    "record",
    "share_usage",
]


class Usage(TypedDict):
    """Cost of a call, a node or a run. All counts are plain numbers and add up.

    Attributes:
        model_calls: Prompts sent to a language model, for sampling or for scoring.
        prompt_tokens: Prompt tokens asked for, shared prefixes counted each time.
        computed_tokens: Tokens that the model really computed (prompt and completion).
        completion_tokens: Tokens generated.
        retrievals: Searches in an index.
        reward_calls: Steps scored by a reward model; a step found in its cache is free.
        seconds: Wall-clock time.
        read_tokens: Tokens that readers (`agentprm.readers`) read, each passage with its question; missing
            for none, as most steps of a search keep a usage.
    """

    model_calls: int
    prompt_tokens: int
    computed_tokens: int
    completion_tokens: int
    retrievals: int
    reward_calls: int
    seconds: float
    read_tokens: NotRequired[int]


def empty_usage() -> Usage:
    """A usage of nothing."""
    return Usage(
        model_calls=0,
        prompt_tokens=0,
        computed_tokens=0,
        completion_tokens=0,
        retrievals=0,
        reward_calls=0,
        seconds=0.0,
    )


_NOTHING = cast(dict[str, float], empty_usage())


def add_usage(left: Usage | None, right: Usage | None) -> Usage:
    """Sum of two usages; the reducer of `prm_usage`. A missing side or field counts as zero."""
    one, two = cast(dict[str, float], left or _NOTHING), cast(dict[str, float], right or _NOTHING)
    try:
        total = {key: one[key] + two[key] for key in _NOTHING}
    except KeyError:
        total = {key: nothing + one.get(key, 0) + two.get(key, 0) for key, nothing in _NOTHING.items()}
    if read := one.get("read_tokens", 0) + two.get("read_tokens", 0):
        total["read_tokens"] = read
    return cast(Usage, total)


def share_usage(usage: Usage, parts: int) -> list[Usage]:
    """Splits `usage` into `parts` nearly equal shares that add up to it exactly."""
    if not parts:
        return []
    whole = cast(dict[str, float], add_usage(usage, None))
    least = {key: amount / parts if key == "seconds" else amount // parts for key, amount in whole.items()}
    shares = [dict(least) for _ in range(parts)]
    for key, amount in whole.items():
        for share in shares[: int(amount % parts) if key != "seconds" else 0]:
            share[key] += 1
    if not least.get("read_tokens", 1):  # none is missing rather than 0
        shares = [{k: v for k, v in share.items() if v or k != "read_tokens"} for share in shares]
    return cast(list[Usage], shares)


class _Meter:
    """A `Usage` that several threads may add to; `untold` is what of it callbacks do not know yet."""

    def __init__(self) -> None:
        self.usage, self.untold = empty_usage(), empty_usage()
        self._lock = ForkSafeLock()

    def add(self, amount: Usage, *, told: bool) -> None:
        with self._lock:
            self.usage = add_usage(self.usage, amount)
            if not told:
                self.untold = add_usage(self.untold, amount)


_meters: ContextVar[tuple[_Meter, ...]] = ContextVar("agentprm_meters", default=())


@contextmanager
def metered() -> Iterator[_Meter]:
    """Collects everything that is recorded inside the block, its wall-clock time included.

    Example:
        >>> with metered() as meter:
        ...     record(model_calls=2, prompt_tokens=100)
        >>> meter.usage["model_calls"]
        2
    """
    meter = _Meter()
    token = _meters.set((*_meters.get(), meter))
    start = time.perf_counter()
    try:
        yield meter
    finally:
        meter.usage["seconds"] = time.perf_counter() - start
        _meters.reset(token)


def record(
    *,
    model_calls: int = 0,
    prompt_tokens: int = 0,
    computed_tokens: int = 0,
    completion_tokens: int = 0,
    read_tokens: int = 0,
    retrievals: int = 0,
    reward_calls: int = 0,
    told: bool = False,
) -> None:
    """Adds a cost to every meter of the current context; without a meter it does nothing.

    `told` says that LangChain's callbacks know of it already, as of the requests of a chat model.
    """
    amount = Usage(
        model_calls=int(model_calls),
        prompt_tokens=int(prompt_tokens),
        computed_tokens=int(computed_tokens),
        completion_tokens=int(completion_tokens),
        retrievals=int(retrievals),
        reward_calls=int(reward_calls),
        seconds=0.0,
    )
    if read_tokens:
        amount["read_tokens"] = int(read_tokens)
    for meter in _meters.get():
        meter.add(amount, told=told)


#: Bounds that do not matter to a model that only writes: an answer needs no further search.
WRITING = ("retrievals", "reward_calls")
#: The bound that does not matter to what is done with passages that were found.
READING = ("retrievals",)


@dataclass(frozen=True, repr=False)
class SearchBudget:
    """Upper bounds of one run. `None` means no bound; zero means nothing may be spent.

    In the ready-made graphs, and wherever `prm_usage` is handed to a node, a run is all that was spent
    since its question was asked. A single node in another graph is held to the bounds in each call, since
    it does not see what the calls before it cost.

    A search that reaches a bound stops with the best answer so far and names the bound in
    `prm_stop_reason`; it never raises. The calls of the nodes themselves are never exceeded. Tokens,
    seconds and what a reward model sends to its own language model are known only afterwards: they are
    checked before each piece of work, so the piece under way may overshoot them.

    Attributes:
        model_calls: Prompts sent to the language model.
        tokens: Prompt and completion tokens of language models, as asked (not as computed), and what readers
            read.
        retrievals: Index searches.
        reward_calls: Scored steps.
        deadline_s: Seconds of work, added up over a resumed run.
    """

    model_calls: int | None = None
    tokens: int | None = None
    retrievals: int | None = None
    reward_calls: int | None = None
    deadline_s: float | None = None

    def __repr__(self) -> str:
        bounds = {field.name: getattr(self, field.name) for field in fields(self)}
        return f"SearchBudget({', '.join(f'{k}={v}' for k, v in bounds.items() if v is not None)})"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ConfigurationError(
                    f"SearchBudget.{field.name} must be a number of at least 0 or None, not {value!r}."
                )

    @classmethod
    def of(cls, value: SearchBudget | Mapping[str, Any] | None) -> SearchBudget:
        """The budget that a user wrote: as such, or as a mapping of its bounds; `None` has no bounds.

        Raises:
            ConfigurationError: If a name or a value is none of a budget.
        """
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        names = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping):
            raise ConfigurationError(
                f"A budget is a SearchBudget or a mapping of its bounds ({', '.join(names)}), not {value!r}."
            )
        for name in value:
            if name not in names:
                raise ConfigurationError(unknown_name("A SearchBudget", "bound", name, names))
        return cls(**value)

    def exhausted(self, usage: Usage | None, *, but: Collection[str] = ()) -> str | None:
        """Name of the first bound that leaves nothing to spend, or `None`.

        Args:
            usage: What the run has spent so far.
            but: Bounds that the work at hand has no use for: `WRITING` where a model only writes, `READING`
                where what was found is read and scored.
        """
        spent = add_usage(usage, None)
        for name, used in (
            ("model_calls", spent["model_calls"]),
            ("tokens", spent["prompt_tokens"] + spent["completion_tokens"] + spent.get("read_tokens", 0)),
            ("retrievals", spent["retrievals"]),
            ("reward_calls", spent["reward_calls"]),
            ("deadline_s", spent["seconds"]),
        ):
            bound = getattr(self, name)
            if bound is not None and used >= bound and name not in but:
                return name
        return None

    def affordable(self, name: str, wanted: int, usage: Usage | None, reserve: int = 0) -> int:
        """How many of `wanted` units of `name` (a call count) may still be spent.

        Args:
            name: `model_calls`, `retrievals` or `reward_calls`.
            wanted: Units asked for.
            usage: What the run has spent so far.
            reserve: Units to keep for later, for instance the call that writes the answer.
        """
        bound: int | None = getattr(self, name)
        if bound is None:
            return wanted
        spent: int = add_usage(usage, None)[name]  # type: ignore[literal-required]
        return max(0, min(wanted, int(bound) - reserve - spent))
