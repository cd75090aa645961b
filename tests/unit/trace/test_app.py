"""The live page's server: what it sends, when it stops, whom it answers."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("starlette")

import httpx

from agentprm.trace import app as live
from agentprm.trace import save_trace, trace_of
from agentprm.trace.app import app, file_app
from agentprm.trace.html import live_html


def client(application, host="http://127.0.0.1"):
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=host)


async def events(look, count):
    found = []
    async for event in live._changes(look):
        found.append(event)
        if len(found) == count:
            break
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "_PAUSE_S", 0)


async def test_a_trace_is_sent_when_it_has_changed():
    traces = [None, {"question": "Why?"}, {"question": "Why?"}, {"question": "Why?", "answer": "So <b>."}]
    states = iter(traces)

    async def look():
        state = next(states)
        return trace_of(state) if state else None

    nothing, first, same, second = await events(look, 4)
    assert nothing.startswith(":")
    assert same.startswith(":")
    for event, answer in ((first, ""), (second, "So <b>.")):
        kind, data, end = event.split("\n", 2)
        assert kind == "event: trace"
        assert end == "\n"
        (trace,) = json.loads(data.removeprefix("data: "))
        assert trace["answer"] == answer
        assert trace["path"] == []


async def test_a_damaged_file_ends_the_page_with_a_message(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    response = await client(file_app(tmp_path / "run.json")).get("/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.startswith("event: failed\ndata: ")
    assert "run.json" in response.text


async def test_the_page_may_reach_its_own_server_only(tmp_path):
    page = (await client(file_app(tmp_path / "none.json")).get("/")).text
    assert page == live_html("events")
    assert "connect-src 'self'" in page
    assert '<meta name="source" content="events">' in page


async def test_a_page_from_elsewhere_is_refused(tmp_path):
    response = await client(file_app(tmp_path / "run.json"), "http://evil.example").get("/")
    assert response.status_code == 400


class Threads:
    """What the client of a LangGraph server gives."""

    def __init__(self):
        self.values = {"question": "Who <script>?", "answer": "Ann"}

    async def search(self, **options):
        assert options["sort_order"] == "desc"
        return [
            {"thread_id": "6f6d8c1e-0000-4000-8000-000000000000", "status": "busy", "values": self.values},
            {"thread_id": "6f6d8c1e-0000-4000-8000-000000000001", "status": "idle", "values": None},
        ]

    async def get_state(self, thread):
        return {"values": self.values}


async def test_threads_of_a_server_are_listed_and_followed(monkeypatch):
    server = type("Server", (), {"threads": Threads()})()
    monkeypatch.setattr(live, "_server", lambda: server)
    listed = (await client(app).get("/agentprm")).text
    assert 'href="agentprm/6f6d8c1e-0000-4000-8000-000000000000"' in listed
    assert "Who &lt;script&gt;?" in listed
    assert "(no question)" in listed
    page = (await client(app).get("/agentprm/6f6d8c1e-0000-4000-8000-000000000000")).text
    assert 'content="6f6d8c1e-0000-4000-8000-000000000000/events"' in page
    assert (await client(app).get("/agentprm/not-a-thread")).status_code == 404

    async def ended(look):
        yield live._event("trace", json.dumps([live.shown(await look())]))

    monkeypatch.setattr(live, "_changes", ended)
    sent = (await client(app).get("/agentprm/6f6d8c1e-0000-4000-8000-000000000000/events")).text
    assert json.loads(sent.split("data: ")[1])[0]["answer"] == "Ann"


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path):
    file = tmp_path / "run.json"

    async def first():
        async for event in live._changes(look_at(file)):
            if event.startswith("event: trace"):
                return json.loads(event.split("data: ")[1])[0]["question"]

    task = asyncio.create_task(first())
    await asyncio.sleep(0.01)
    assert not task.done()
    save_trace(trace_of({"question": "Why?"}), file)
    assert await asyncio.wait_for(task, 10) == "Why?"


def look_at(file):
    from agentprm.trace import load_trace

    async def look():
        return load_trace(file) if file.exists() else None

    return look
