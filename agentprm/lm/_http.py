"""JSON over HTTP to one address: retries, a limit of concurrent requests, and typed errors."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Mapping
from typing import Any

import httpx

from agentprm.errors import ConfigurationError, ContextLengthError, ModelServerError, TransientModelError
from agentprm.lm._retry import Retries, transient

__all__ = ["JsonHttp", "Refused", "served_model"]

_SHOWN = 500  # characters of a reply that an error message quotes


class Refused(ModelServerError):
    """The server said no to this request."""


class JsonHttp:
    """A client of a server that speaks JSON; its coroutines run on the background loop.

    Nothing is opened before the first request. Requests keep their connections, and share one
    limit over all threads and tasks that use the object. A waiting retry holds no place in it.

    Args:
        base_url: Address that the paths of requests are appended to.
        api_key: Sent as a bearer token.
        headers: Further headers, for instance the session key of a router over several replicas.
        timeout_s: Seconds without an answer after which a request counts as failed.
        retries: When to try again.
        max_concurrency: Most requests at a time.

    Raises:
        ConfigurationError: If the address is not one of HTTP, or a limit is out of range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
        retries: Retries | None = None,
        max_concurrency: int = 32,
    ) -> None:
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigurationError(f"{base_url!r} is no address: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigurationError(
                f"{base_url!r} is no address of a server; write it like http://localhost:8000/v1."
            )
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency must be at least 1, not {max_concurrency}.")
        if not timeout_s > 0:
            raise ConfigurationError(f"timeout_s must be positive, not {timeout_s}.")
        self.base_url = str(url).rstrip("/")
        self._headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})}
        self._timeout_s = timeout_s
        self._retries = retries or Retries()
        self._max_concurrency = max_concurrency
        # Clients and semaphores belong to one loop each; a forked process has another.
        self._places: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, asyncio.Semaphore]
        ] = weakref.WeakKeyDictionary()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON reply to a POST; `path` starts with a slash.

        Raises:
            TransientModelError: If all attempts failed in a way that may pass.
            ConfigurationError: If the server knows neither the key nor the path or model.
            ContextLengthError: If it says that the text is too long.
            ModelServerError: If it refuses the request, or its reply is no JSON.
        """
        return await self._request("POST", path, body)

    async def get(self, path: str) -> Any:
        """The JSON reply to a GET; errors as in `post`."""
        return await self._request("GET", path, None)

    async def close(self) -> None:
        """Closes the connections; a later request opens new ones."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None:
            await place[0].aclose()

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        url = path if "://" in path else self.base_url + path
        client, semaphore = self._place()

        async def attempt() -> httpx.Response:
            async with semaphore:
                response = await client.request(method, url, json=body)
            response.raise_for_status()
            return response

        try:
            response = await self._retries.acall(attempt)
        except httpx.HTTPStatusError as error:
            raise self._refusal(error) from error
        except (httpx.HTTPError, OSError) as error:
            if transient(error):
                raise TransientModelError(
                    f"No answer from {url} ({type(error).__name__}: {error}). Is the server up, and is the "
                    f"address right? {self._retries.most + 1} attempts were made."
                ) from error
            raise ModelServerError(f"The exchange with {url} failed: {error}") from error
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise ModelServerError(
                f"{url} answered {response.text[:_SHOWN]!r}, which is no JSON. Is the address right?"
            ) from error

    def _place(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        place = self._places.get(loop)
        if place is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._max_concurrency)
            timeout = httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, 10.0))
            client = httpx.AsyncClient(headers=self._headers, timeout=timeout, limits=limits)
            place = self._places[loop] = (client, asyncio.Semaphore(self._max_concurrency))
        return place

    def _refusal(self, error: httpx.HTTPStatusError) -> Exception:
        """The error to raise for a status that is none of success."""
        status, url = error.response.status_code, error.request.url
        said = error.response.text[:_SHOWN]
        if transient(error):
            return TransientModelError(
                f"{url} answered {status} to all {self._retries.most + 1} attempts: {said}. Try again later, "
                "or lower max_concurrency."
            )
        if status in (401, 403):
            return ConfigurationError(f"{url} refuses the key ({status}): {said}. Pass the right api_key.")
        if status == 404:
            return ConfigurationError(
                f"{url} does not exist ({said}). Check the address and the model's name."
            )
        lowered = said.lower()
        if status in (400, 413, 422) and ("context length" in lowered or "maximum model length" in lowered):
            return ContextLengthError(f"{url} refuses the text as too long: {said}. Shorten the prompt.")
        return Refused(f"{url} refuses the request ({status}): {said}")


async def served_model(http: JsonHttp, name: str | None) -> tuple[str, int | None]:
    """Name and context length of the model that a server lists.

    Raises:
        ConfigurationError: If it has several and none is named, or not the named one.
        ModelServerError: If it lists no models.
    """
    reply = await http.get("/models")
    rows = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise ModelServerError(f"{http.base_url}/models does not list models; is the address right?")
    names = [str(row["id"]) for row in rows]
    if name is None and len(names) != 1:
        raise ConfigurationError(f"The server has several models; pass one of them: {names[:20]}.")
    if name is not None and name not in names:
        raise ConfigurationError(f"The server does not list {name!r}. It has: {names[:20]}.")
    row = rows[0 if name is None else names.index(name)]
    length = row.get("max_model_len")
    return str(row["id"]), length if isinstance(length, int) else None
