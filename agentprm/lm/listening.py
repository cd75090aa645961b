"""How a caller hears a completion while it is written, whichever backend writes it.

Like the meters of `agentprm.budget`, the listener belongs to the current context, so that `sample` keeps
its form. A backend that cannot tell its text in parts says nothing, and the caller has it at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["listener", "listening"]

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
