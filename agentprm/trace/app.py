"""Pages that follow running searches: in a file that is being written, and in a LangGraph server's threads.

`app` is served under `langgraph dev` (`"http": {"app": "agentprm.trace.app:app"}` in `langgraph.json`):
`/agentprm` lists the server's threads, and the page of one follows its search. `agentprm view` serves a file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any
from uuid import UUID

from agentprm.errors import AgentPRMError, MissingDependencyError
from agentprm.trace.html import live_html, shown
from agentprm.trace.schema import Trace, load_trace, trace_of
from agentprm.trace.text import shown_line

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as missing:
    raise MissingDependencyError.for_extra("starlette", "view") from missing

__all__ = ["app", "file_app"]

# Between two looks: after a change, and at most while nothing changes.
_PAUSE_S, _LONGEST_PAUSE_S = 0.4, 3.0
_LISTED = 50

Look = Callable[[], Awaitable[Trace | None]]


def file_app(path: str | Path, hosts: tuple[str, ...] = ("127.0.0.1", "localhost")) -> Starlette:
    """A server of one page that shows a trace file, and again whenever the file changes.

    Args:
        path: The file; it need not be there yet.
        hosts: Names that a browser may call the server by. Others are refused, so that no page from
            elsewhere reads the trace through a name that it has made to point here.
    """
    file = Path(path)

    async def look() -> Trace | None:
        return await asyncio.to_thread(load_trace, file) if file.exists() else None

    async def page(request: Request) -> Response:
        return HTMLResponse(live_html("events"))

    async def events(request: Request) -> Response:
        return _stream(_changes(look))

    return Starlette(
        routes=[Route("/", page), Route("/events", events)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


def _stream(parts: AsyncIterator[str]) -> Response:
    return StreamingResponse(parts, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _changes(look: Look) -> AsyncIterator[str]:
    """Server-sent events: the trace whenever it has become another."""
    last, pause = None, _PAUSE_S
    while True:
        try:
            trace = await look()
        except AgentPRMError as error:
            yield _event("failed", str(error).replace("\n", " "))
            return
        data = None if trace is None else json.dumps([shown(trace)], ensure_ascii=True, allow_nan=False)
        if data is not None and data != last:
            last, pause = data, _PAUSE_S
            yield _event("trace", data)
        else:
            yield ": nothing new\n\n"  # a browser that has gone is noticed by this
            pause = min(_LONGEST_PAUSE_S, 1.2 * pause)
        await asyncio.sleep(pause)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _server() -> Any:
    """The client of the server that this application is a part of."""
    from langgraph_sdk import get_client

    return get_client()


async def _threads(request: Request) -> Response:
    """The latest threads, each with its question."""
    found = await _server().threads.search(limit=_LISTED, sort_by="updated_at", sort_order="desc")
    rows = []
    for thread in found:
        values = thread.get("values")
        asked = (values if isinstance(values, Mapping) else {}).get("question")
        name = escape(shown_line(str(asked or "(no question)"), 300))
        key = escape(str(thread["thread_id"]))
        rows.append(f'<li><a href="agentprm/{key}">{name}</a> {escape(str(thread["status"]))}</li>')
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    body = f"<h1>Searches</h1><ul>{''.join(rows)}</ul>" if rows else "<p>No thread has run yet.</p>"
    head = f"<!doctype html><meta charset=utf-8>{policy}<title>agentprm</title>"
    return HTMLResponse(head + body)


async def _thread(request: Request) -> Response:
    return HTMLResponse(live_html(f"{request.path_params['thread']}/events"))


async def _thread_events(request: Request) -> Response:
    thread: UUID = request.path_params["thread"]

    async def look() -> Trace | None:
        state = await _server().threads.get_state(str(thread))
        values = state.get("values")
        return trace_of(values) if isinstance(values, Mapping) and values.get("question") else None

    return _stream(_changes(look))


app = Starlette(
    routes=[
        Route("/agentprm", _threads),
        Route("/agentprm/{thread:uuid}", _thread),
        Route("/agentprm/{thread:uuid}/events", _thread_events),
    ]
)
