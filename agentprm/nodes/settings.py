"""What the context of a run may set, and which values each setting takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, check_choice, check_count

__all__ = ["SETTINGS", "Accept", "checked_setting"]

Accept = Literal["if_better", "always"]
"""Whether a refined step must be better, or is taken always."""

Check = Callable[[str, Any], Any]


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{name} must be an integer, not {value!r}.")
    return value


def _number(least: float) -> Check:
    def check(name: str, value: Any) -> float:
        wrong = isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)
        if wrong or value < least:
            bound = f" of at least {least:g}" if math.isfinite(least) else ""
            raise ConfigurationError(f"{name} must be a number{bound}, not {value!r}.")
        return float(value)

    return check


def _accept(name: str, value: Any) -> Any:
    check_choice(name, value, *get_args(Accept))
    return value


#: Every setting that some node lets the context override, and its check.
SETTINGS: dict[str, Check] = {
    "accept": _accept,
    "budget": lambda name, value: SearchBudget.of(value),
    "k": check_count,
    "max_documents": check_count,
    "max_failures": check_count,
    "max_rounds": check_count,
    "max_steps": check_count,
    "max_tokens": check_count,
    "min_steps": partial(check_count, least=0),
    "n": check_count,
    "passages": check_count,
    "seed": _integer,
    "shallow": partial(check_count, least=0),
    "temperature": _number(0),
    "threshold": _number(-math.inf),
    "top_k": check_count,
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
