"""`langgraph dev` serves the graphs of langgraph.json and answers a question on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 400
RUN_SECONDS = 600  # seconds on a free machine, minutes on a busy one

pytestmark = [pytest.mark.models, pytest.mark.slow, pytest.mark.enable_socket]


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the server answers; fails with its log if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/ok", timeout=2, trust_env=False).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"langgraph dev did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the server and whatever it started."""
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address and log of a server that runs in a folder of its own (it leaves its state there)."""
    folder = tmp_path_factory.mktemp("langgraph_dev")
    shutil.copy(ROOT / "langgraph.json", folder)
    log = folder / "server.log"
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "langgraph_cli", "dev"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process, log)
        yield url, log
    finally:
        stop(process)


def ask(server: tuple[str, Path], graph: str) -> dict[str, Any]:
    """Final state of one run of `graph` over the first question of the demo corpus."""
    url, log = server
    queries = ROOT / "agentprm" / "demo" / "queries.jsonl"
    question = json.loads(queries.read_text(encoding="utf-8").splitlines()[0])["text"]
    client = get_sync_client(url=url, timeout=RUN_SECONDS)
    thread = client.threads.create()
    result = client.runs.wait(
        thread["thread_id"],
        graph,
        input={"question": question},
        context={"n": 2, "max_steps": 2},  # a small search will do
    )
    assert isinstance(result, dict)
    assert "__error__" not in result, f"{result['__error__']}\n{log.read_text(encoding='utf-8')[-4000:]}"
    assert client.threads.get_state(thread["thread_id"])["next"] == []
    return result


def test_every_graph_of_langgraph_json_is_served(server: tuple[str, Path]) -> None:
    client = get_sync_client(url=server[0])
    served = {assistant["graph_id"] for assistant in client.assistants.search()}
    assert served == set(json.loads((ROOT / "langgraph.json").read_text(encoding="utf-8"))["graphs"])
    for assistant in client.assistants.search():
        schemas = client.assistants.get_schemas(assistant["assistant_id"])
        assert "question" in (schemas["input_schema"] or {})["properties"]


@pytest.mark.parametrize("graph", ["rag", "reasoning"])
def test_a_served_graph_answers_with_citations(server: tuple[str, Path], graph: str) -> None:
    result = ask(server, graph)
    assert result["answer"].strip()
    assert result["citations"]
    assert {"doc_id", "title", "text"} <= set(result["citations"][0])
    if graph == "reasoning":
        assert result["prm_steps"]


def test_the_page_lists_threads_and_follows_one(server: tuple[str, Path]) -> None:
    """`/agentprm` reaches the server that it is a part of; a question is text there, whatever it holds."""
    url = server[0]
    client = get_sync_client(url=url, timeout=RUN_SECONDS)
    thread = client.threads.create()["thread_id"]
    question = "Who? <script>alert(1)</script>"
    client.runs.wait(thread, "rag", input={"question": question})
    listed = httpx.get(f"{url}/agentprm", timeout=60, trust_env=False).text
    assert f'<a href="agentprm/{thread}">Who? &lt;script&gt;' in listed
    page = httpx.get(f"{url}/agentprm/{thread}", timeout=60, trust_env=False).text
    assert f'<meta name="source" content="{thread}/events">' in page
    with httpx.stream("GET", f"{url}/agentprm/{thread}/events", timeout=60, trust_env=False) as events:
        lines = events.iter_lines()
        assert next(lines) == "event: trace"
        (trace,) = json.loads(next(lines).removeprefix("data: "))
    assert trace["question"] == question
    assert trace["documents"]
