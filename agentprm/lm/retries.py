"""Which failures of a model call may pass, and how long to wait before it is tried again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from agentprm.errors import TransientModelError, check_least
from agentprm.lm.reports import error_within, said_with, too_long

__all__ = ["Retries", "transient"]

T = TypeVar("T")

_STATUSES = {408, 409, 425, 429}
# Clients wrap the errors of the transport (httpx, aiohttp, openai) in their own; the names tell.
_TRANSPORT_ERRORS = {
    "APIConnectionError",
    "APITimeoutError",
    "ClientConnectorError",
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "WriteError",
    "WriteTimeout",
}


def transient(error: BaseException) -> bool:
    """Whether the call may succeed when it is repeated: limits, time-outs, broken connections, 5xx."""
    cause: BaseException | None = error
    while cause is not None:
        status: Any = getattr(cause, "status_code", None)
        if status is None:
            status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is None and isinstance(cause, ValueError) and cause.args:
            # Some clients raise what came inside a success as it is.
            within = error_within({"error": cause.args[0]}) if isinstance(cause.args[0], dict) else None
            status = within[1] if within else None
        if isinstance(status, int):
            if status >= 500 and too_long(getattr(cause, "said", None) or said_with(cause)):
                return False  # some servers call a prompt that does not fit an error of their own
            return status in _STATUSES or status >= 500
        if isinstance(cause, TransientModelError | TimeoutError | ConnectionError):
            return True
        if type(cause).__name__ in _TRANSPORT_ERRORS:
            return True
        cause = cause.__cause__
    return False


@dataclass(frozen=True)
class Retries:
    """Repeats calls that failed transiently, later each time, or when the server asks for it.

    The waits are random between zero and a bound that starts at `backoff_s` and doubles up to
    `longest_s`, so that callers that failed together do not come back together. A `Retry-After`
    of the server is kept to, up to `longest_s`.

    Args:
        most: Repetitions after the first attempt.
        backoff_s: Bound of the first wait, in seconds.
        longest_s: Bound of every wait, in seconds.
    """

    most: int = 4
    backoff_s: float = 0.5
    longest_s: float = 30.0

    def __post_init__(self) -> None:
        check_least(0, max_retries=self.most, backoff_s=self.backoff_s)

    def call(self, work: Callable[[], T]) -> T:
        """Calls until it succeeds, fails for good, or has failed too often."""
        number = 0
        while True:
            try:
                return work()
            except Exception as error:
                time.sleep(self._wait(error, number))
            number += 1

    async def acall(self, work: Callable[[], Awaitable[T]]) -> T:
        """Async twin of `call`."""
        number = 0
        while True:
            try:
                return await work()
            except Exception as error:
                await asyncio.sleep(self._wait(error, number))
            number += 1

    def _wait(self, error: Exception, number: int) -> float:
        """Seconds to wait after so many repetitions; raises the error if there is to be no other."""
        if number >= self.most or not transient(error):
            raise error
        asked = _retry_after(error)
        if asked is None:
            asked = random.uniform(0, min(self.backoff_s * 2 ** min(number, 50), self.longest_s))
        return min(asked, self.longest_s)


def _retry_after(error: BaseException | None) -> float | None:
    """Seconds that the server asks to wait, or `None`."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    value = headers.get("retry-after") if headers is not None else None
    if not isinstance(value, str):
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
