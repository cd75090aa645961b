"""Settings that a run's `context` may put in the place of those of the constructors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

from langgraph.config import get_config
from langgraph.runtime import get_runtime

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, unknown_name
from agentprm.search.selection import Accept

__all__ = ["SETTINGS", "check_context", "checked_setting", "overridden"]

Check = Callable[[str, Any], Any]


def _integer(least: int | None) -> Check:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            bound = "" if least is None else f" of at least {least}"
            raise ConfigurationError(f"{name} must be an integer{bound}, not {value!r}.")
        return value

    return check


def _number(least: float) -> Check:
    def check(name: str, value: Any) -> float:
        wrong = isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)
        if wrong or value < least:
            bound = f" of at least {least:g}" if math.isfinite(least) else ""
            raise ConfigurationError(f"{name} must be a number{bound}, not {value!r}.")
        return float(value)

    return check


def _accept(name: str, value: Any) -> Any:
    if value not in get_args(Accept):
        raise ConfigurationError(f"{name} must be 'if_better' or 'always', not {value!r}.")
    return value


#: Every setting that some node lets the context override, and its check.
SETTINGS: dict[str, Check] = {
    "accept": _accept,
    "budget": lambda name, value: SearchBudget.of(value),
    "k": _integer(1),
    "max_steps": _integer(1),
    "max_tokens": _integer(1),
    "min_steps": _integer(0),
    "n": _integer(1),
    "passages": _integer(1),
    "seed": _integer(None),
    "shallow": _integer(0),
    "temperature": _number(0),
    "threshold": _number(-math.inf),
    "top_k": _integer(1),
}


def checked_setting(name: str, value: Any) -> Any:
    """`value` as the setting `name` takes it.

    Raises:
        ConfigurationError: If it does not take it.
    """
    return SETTINGS[name](name, value)


def overridden(name: str) -> Any:
    """What the context of the run in progress says of a setting; `None` if nothing.

    Raises:
        ConfigurationError: If it says something that the setting does not take.
    """
    context = _run_context()
    value = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
    return None if value is None else SETTINGS[name](f"context[{name!r}]", value)


def check_context(also: tuple[str, ...] = ()) -> None:
    """Refuses a context of the run in progress with a name or value that no setting takes.

    A graph inside another one gets the other's context, where further names are none of its business.

    Args:
        also: Names that the graph takes besides `SETTINGS`.

    Raises:
        ConfigurationError: If there is one.
    """
    context = _run_context()
    if not isinstance(context, Mapping):
        return
    namespace = str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    for name in context:
        if name in SETTINGS:
            overridden(name)
        elif name not in also and "|" not in namespace:
            raise ConfigurationError(unknown_name("The context of this graph", "setting", name, SETTINGS))


def _run_context() -> Any:
    try:
        runtime: Any = get_runtime()
    except (RuntimeError, KeyError):
        return None
    return getattr(runtime, "context", None)  # outside a graph there is a config, but no runtime
