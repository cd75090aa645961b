"""What the context of a run may set, and which values each setting takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError

__all__ = ["SETTINGS", "Accept", "checked_setting"]

Accept = Literal["if_better", "always"]
"""Whether a refined step must be better, or is taken always."""

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
    "max_documents": _integer(1),
    "max_failures": _integer(1),
    "max_rounds": _integer(1),
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


def checked_setting(name: str, value: Any, called: str = "") -> Any:
    """`value` as the setting `name` takes it.

    Args:
        name: Of `SETTINGS`.
        value: What somebody gave.
        called: What they call it, if that is another name.

    Raises:
        ConfigurationError: If it does not take it.
    """
    return SETTINGS[name](called or name, value)
