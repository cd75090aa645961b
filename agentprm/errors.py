"""Every error that agentprm raises on purpose, rooted in `AgentPRMError`.

Each message says what is wrong and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "AgentPRMError",
    "CapabilityError",
    "ConfigurationError",
    "ContextLengthError",
    "IndexCorruptError",
    "IndexMismatchError",
    "InputError",
    "MissingDependencyError",
    "ModelServerError",
    "ParseError",
    "StorageError",
    "TransientModelError",
    "check_choice",
    "check_count",
    "check_least",
    "unknown_name",
]


class AgentPRMError(Exception):
    """Base of all errors of agentprm."""


class ConfigurationError(AgentPRMError, ValueError):
    """A setting or an argument is wrong; raised at construction where possible."""


class CapabilityError(ConfigurationError):
    """A language model or an index lacks something that an algorithm needs."""


class MissingDependencyError(AgentPRMError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    @classmethod
    def for_extra(cls, package: str, extra: str) -> MissingDependencyError:
        """Builds the error for `package`, which comes with `agentprm[extra]`."""
        return cls(f"{package} is not installed. Install it with: pip install 'agentprm[{extra}]'")


class InputError(AgentPRMError, ValueError):
    """The data of a call is unusable: an empty question, an unreadable file, a missing folder."""


class ContextLengthError(InputError):
    """A prompt is longer than the model's context and the policy is not to cut it."""


class IndexCorruptError(AgentPRMError):
    """An index folder is incomplete, damaged or of an unknown format version."""


class StorageError(AgentPRMError, OSError):
    """The disk refused: it is full, fails, or may not be written; the message says what is kept."""


class IndexMismatchError(ConfigurationError):
    """An index was built with other embeddings, or another dimension or metric, than it is opened with."""


class TransientModelError(AgentPRMError):
    """A model call failed in a way that may succeed when it is repeated (rate limit, time-out, 5xx)."""


class ModelServerError(AgentPRMError):
    """A model server refused a request for good, or sent a reply that its interface does not promise."""


class ParseError(AgentPRMError):
    """Text could not be parsed where the caller asked for an exception instead of a status."""


def check_count(name: str, value: Any, least: int = 1) -> int:
    """The setting `value`, if it is a whole number of at least `least`.

    Raises:
        ConfigurationError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be an integer of at least {least}, not {value!r}.")
    return value


def check_least(least: int, **settings: float | None) -> None:
    """Refuses settings below `least`; one that is `None` is not set.

    Raises:
        ConfigurationError: For the first of them.
    """
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise ConfigurationError(f"{name} must be at least {least}, not {value}.")


def check_choice(name: str, value: object, *choices: str) -> None:
    """Refuses a setting that is none of the choices.

    Raises:
        ConfigurationError: If it is not.
    """
    if value not in choices:
        *others, last = map(repr, choices)
        raise ConfigurationError(f"{name} must be {', '.join(others)} or {last}, not {value!r}.")


def unknown_name(owner: str, kind: str, name: object, known: Iterable[str]) -> str:
    """The sentence that says that `owner` has no `kind` of that name, and which ones it has."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{owner} has no {kind} {name!r}.{hint} It has {', '.join(names)}."
