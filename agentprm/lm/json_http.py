"""JSON over HTTP to one address: retries, a limit of concurrent requests, and typed errors."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import weakref
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import httpx

from agentprm.errors import (
    ConfigurationError,
    ContextLengthError,
    ModelServerError,
    TransientModelError,
    check_least,
)
from agentprm.lm.reports import REASONING_FIELDS, content_text, error_within, too_long
from agentprm.lm.retries import Retries, transient

__all__ = ["ChatChunks", "JsonHttp", "Refused", "http_address", "served_model"]


class ChatChunks:
    """Puts the events of one streamed completion together.

    Args:
        hear: Is told the text so far, whole each time it grows.
    """

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._rest = b""
        self._texts: list[str] = []
        self._finish: Any = None
        self._usage: Any = None
        self._error: Any = None
        self._reasoned = self._done = False

    def feed(self, content: bytes) -> None:
        """Takes the next bytes of the stream."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in lines:
            kind, _, data = line.decode(errors="replace").strip().partition(":")
            if kind == "data" and data.strip() == "[DONE]":
                self._done = True
            elif kind in ("data", "error"):
                try:
                    event = json.loads(data)
                except (ValueError, RecursionError):
                    event = {"error": {"message": f"an event that is no JSON: {data[:200]!r}", "code": 502}}
                self._take(event if isinstance(event, dict) else {})

    def reply(self) -> dict[str, Any]:
        """The completion as if it had come at once, or the error that ended it."""
        if self._error is None and self._finish is None and not self._done:
            self._error = {"message": "The stream broke off.", "code": 502}
        if self._error is not None:
            return {"error": self._error}
        message = {"role": "assistant", "content": "".join(self._texts), "reasoning": self._reasoned}
        return {"choices": [{"message": message, "finish_reason": self._finish}], "usage": self._usage}

    def _take(self, event: dict[str, Any]) -> None:
        self._error = event.get("error") or self._error
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self._finish = choice.get("finish_reason") or self._finish
        if str(self._finish).lower() == "error":
            self._error = self._error or {"message": "finish_reason is 'error'", "code": 502}
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            return
        self._reasoned = self._reasoned or any(delta.get(key) for key in REASONING_FIELDS)
        if text := content_text(delta.get("content")):
            self._texts.append(text)
            self._hear("".join(self._texts))


_SHOWN = 500  # characters of a reply that an error message quotes
_LONGEST = 64 * 2**20  # bytes of a reply; a completion has thousands, log-probabilities of a prompt millions
_HOST = re.compile(r"(?:localhost|\[[\da-f:]+\]|[\w-]+(?:\.[\w-]+)*)(?::\d{1,5})(?:/.*)?", re.IGNORECASE)
# Headers that hold no secret however they are called; the values of all others are never shown.
_OPEN_HEADERS = {"accept", "content-type", "user-agent", "x-session-id"}


def http_address(text: str) -> str | None:
    """The address of a server: `text` with a scheme if it is `host:port/…`; `None` if it is neither."""
    if text.lower().startswith(("http://", "https://")):
        return text
    return f"http://{text}" if _HOST.fullmatch(text) else None


class Refused(ModelServerError):
    """The server said no to this request.

    Attributes:
        said: What it said.
    """

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class _NotFound(ConfigurationError):
    """The server knows no such path or model."""


class _ErrorReply(Exception):
    """A reply that is an error: by its status, or inside a success."""

    def __init__(self, status: int, said: str, headers: httpx.Headers, within: bool = False) -> None:
        super().__init__(status)
        self.status_code, self.said, self.within = status, said, within
        self.response = headers and SimpleNamespace(headers=headers)  # what `Retries` reads


class JsonHttp:
    """A client of a server that speaks JSON; its coroutines run on the background loop.

    Nothing is opened before the first request. Requests keep their connections, and share one
    limit over all threads and tasks that use the object. A waiting retry holds no place in it.

    Args:
        base_url: Address that the paths of requests are appended to.
        api_key: Sent as a bearer token.
        headers: Further headers, for instance the session key of a router over several replicas.
        timeout_s: Seconds after which a request that has not been answered in full counts as failed.
        max_retries: Repetitions of a request that failed in a way that may pass.
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
        max_retries: int = 4,
        max_concurrency: int = 32,
    ) -> None:
        address = http_address(base_url) if isinstance(base_url, str) else None
        try:
            url = httpx.URL(address or "")
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"That is no address of a server: {error}") from None
        if not url.host:
            shown = re.sub(r"//[^/@]*@", "//***@", str(base_url))
            raise ConfigurationError(
                f"{shown!r} is no address of a server; write it like http://localhost:8000/v1."
            )
        check_least(1, max_concurrency=max_concurrency)
        if not timeout_s > 0:
            raise ConfigurationError(f"timeout_s must be positive, not {timeout_s}.")
        self._auth = (url.username, url.password) if url.userinfo else None
        self.base_url = str(url.copy_with(username=None, password=None)).rstrip("/")
        self._headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})}
        secrets = [value for name, value in self._headers.items() if name.lower() not in _OPEN_HEADERS]
        secrets += [api_key or "", url.password]
        secrets += [value for name, value in url.params.multi_items() if re.search("key|token|secret", name)]
        if self._auth:
            secrets.append(base64.b64encode(":".join(self._auth).encode()).decode())
            secrets.append(url.userinfo.decode().partition(":")[2])  # as it is written in an address
        # The longest first, or a part of one would be all that is left out.
        self._secrets = sorted({s for s in secrets if len(s) > 3}, key=len, reverse=True)
        self._timeout_s = timeout_s
        self._retries = Retries(max_retries)
        self._max_concurrency = max_concurrency
        # Clients and semaphores belong to one loop each; a forked process has another.
        self._places: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[httpx.AsyncClient, asyncio.Semaphore]
        ] = weakref.WeakKeyDictionary()

    async def post(
        self, path: str, body: Mapping[str, Any], hear: Callable[[str], None] | None = None
    ) -> Any:
        """The JSON reply to a POST; `path` starts with a slash.

        A reply that is streamed is put together, and `hear` told its text so far.

        Raises:
            TransientModelError: If all attempts failed in a way that may pass.
            ConfigurationError: If the server knows neither the key nor the path or model.
            ContextLengthError: If it says that the text is too long.
            ModelServerError: If it refuses the request, or its reply is no JSON.
        """
        return await self._request("POST", path, body, hear)

    async def get(self, path: str) -> Any:
        """The JSON reply to a GET; errors as in `post`."""
        return await self._request("GET", path, None)

    async def close(self) -> None:
        """Closes the connections; a later request opens new ones."""
        place = self._places.pop(asyncio.get_running_loop(), None)
        if place is not None:
            await place[0].aclose()

    def redacted(self, text: str) -> str:
        """`text` without the key, the password or any secret header, for errors."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        hear: Callable[[str], None] | None = None,
    ) -> Any:
        url = path if "://" in path else self.base_url + path
        shown = self.redacted(url)
        client, semaphore = self._place()

        async def attempt() -> Any:
            async with semaphore:
                # The limit holds for the whole exchange: a server may send a byte now and then for ever.
                async with asyncio.timeout(self._timeout_s):
                    async with client.stream(method, url, json=body, auth=self._auth) as response:
                        streamed = response.headers.get("content-type", "").startswith("text/event-stream")
                        chunks = ChatChunks(hear) if hear is not None and streamed else None
                        content = await self._content(response, chunks)
            if not response.is_success:
                raise _ErrorReply(response.status_code, _text(content), response.headers)
            try:
                reply = json.loads(content) if chunks is None else chunks.reply()
            except (ValueError, RecursionError):
                raise ModelServerError(
                    f"{shown} answered {self.redacted(_text(content)[:_SHOWN])!r}, which is no JSON. Is the "
                    "address right?"
                ) from None
            if error := error_within(reply):
                raise _ErrorReply(error[1] or 400, error[0], response.headers, within=True)
            return reply

        try:
            return await self._retries.acall(attempt)
        except _ErrorReply as error:
            raise self._refusal(error, shown) from None
        except (httpx.HTTPError, OSError) as error:
            # Not chained: the client's error may hold the address with its password.
            why = self.redacted(f"{type(error).__name__}: {error}")
            if transient(error):
                raise TransientModelError(
                    f"No answer from {shown} ({why}). Is the server up, and is the "
                    f"address right? {self._retries.most + 1} attempts were made."
                ) from None
            raise ModelServerError(f"The exchange with {shown} failed: {why}") from None

    async def _content(self, response: httpx.Response, chunks: ChatChunks | None) -> bytes:
        """The body, if it is not too long to be one of a model; `chunks` get it as it comes."""
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if chunks is not None:
                chunks.feed(chunk)
            if len(content) > _LONGEST:
                raise ModelServerError(
                    f"{self.redacted(str(response.url))} sent more than {_LONGEST >> 20} MiB, longer "
                    "than any model's reply. Is the address right?"
                )
        return bytes(content)

    def _place(self) -> tuple[httpx.AsyncClient, asyncio.Semaphore]:
        loop = asyncio.get_running_loop()
        place = self._places.get(loop)
        if place is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._max_concurrency)
            timeout = httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, 10.0))
            client = httpx.AsyncClient(headers=self._headers, timeout=timeout, limits=limits)
            place = self._places[loop] = (client, asyncio.Semaphore(self._max_concurrency))
        return place

    def _refusal(self, error: _ErrorReply, url: str) -> Exception:
        """The error to raise for a status that is none of success."""
        status, whole = error.status_code, self.redacted(error.said)
        said = whole[:_SHOWN]
        where = f"{status}, within a success" if error.within else str(status)
        if too_long(whole):
            return ContextLengthError(
                f"{url} refuses the text as too long ({where}): {said}. Shorten the prompt, or serve the "
                "model with a longer context."
            )
        if transient(error):
            return TransientModelError(
                f"{url} answered {where} to all {self._retries.most + 1} attempts: {said}. Try again later, "
                "or lower max_concurrency."
            )
        if status in (401, 403):
            return ConfigurationError(f"{url} refuses the key ({where}): {said}. Pass the right api_key.")
        if status == 404:
            return _NotFound(f"{url} does not exist ({said}). Check the address and the model's name.")
        return Refused(f"{url} refuses the request ({where}): {said}", whole)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


async def _listed(http: JsonHttp) -> Any:
    """The reply of `/models`; of `/v1/models` where the address has no path and needs one."""
    given = http.base_url
    try:
        return await http.get("/models")
    except (_NotFound, Refused):
        if httpx.URL(given).path not in ("", "/"):
            raise
        http.base_url = given + "/v1"
        try:
            return await http.get("/models")
        except (_NotFound, Refused):
            http.base_url = given
        raise


async def served_model(http: JsonHttp, name: str | None) -> tuple[str, int | None]:
    """Name and context length of the model that a server lists.

    A name without a tag means the tag `latest`, as Ollama has it, and capitals do not matter. A server
    without a list has whatever model is named. Adapters, which vLLM lists beside their model, have its
    context, and are never meant unless they are named.

    Raises:
        ConfigurationError: If it has several and none is named, or not the named one.
        ModelServerError: If it lists no models and none is named.
    """
    try:
        reply = await _listed(http)
    except _NotFound:
        if name is None:
            raise
        return name, None
    rows = reply.get("data") if isinstance(reply, dict) else None
    if isinstance(reply, dict) and "data" in reply and not rows and rows in (None, []):
        raise ConfigurationError(f"The server at {http.base_url} has no models; load or pull one first.")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
        raise ModelServerError(f"{http.base_url}/models does not list models; is the address right?")
    names = [str(row["id"]) for row in rows]
    models = [str(row["id"]) for row in rows if not row.get("parent")]
    if name is None and len(models) != 1:
        raise ConfigurationError(f"The server has several models; pass one of them: {names[:20]}.")
    wanted = models[0] if name is None else name
    lengths = {str(row["id"]): row.get("max_model_len") for row in rows}
    for same in (str, str.lower):
        for candidate in (wanted, f"{wanted}:latest"):
            for row in rows:
                if same(str(row["id"])) == same(candidate):
                    length = row.get("max_model_len") or lengths.get(str(row.get("parent")))
                    return str(row["id"]), length if isinstance(length, int) else None
    raise ConfigurationError(f"The server does not list {name!r}. It has: {names[:20]}.")
