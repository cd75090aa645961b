"""`agentprm serve`, asked by a real client over standard input and output and over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import pytest

pytest.importorskip("mcp")

from langchain_core.documents import Document
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from agentprm.cli import main
from agentprm.integrations import RewardGuidedActions
from agentprm.retrievers import FaissStore
from agentprm.testing import FakeEmbeddings, ScriptedAgentModel, calls

# The command line with scripted models: everything else is real.
SERVER = """
import sys
from agentprm.cli import main, opening
from agentprm.cli.models import Models
from agentprm.testing import FakeEmbeddings, ScriptedChatModel
from agentprm.lm import as_language_model

model = as_language_model(ScriptedChatModel(script={"Brunel": "Portsmouth"}))
opening.embeddings_called = lambda name: FakeEmbeddings()
opening.open_models = lambda args, progress: Models(model)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    documents = [
        Document("Brunel was born in Portsmouth.", id="d1", metadata={"title": "Brunel", "page": 3}),
        Document("Paris lies on the Seine.", id="d2", metadata={"url": "https://example.org/paris"}),
    ]
    folder = tmp_path_factory.mktemp("index") / "index"
    FaissStore.from_documents(documents, FakeEmbeddings()).save(folder)
    return str(folder)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", SERVER, "serve", *arguments, "--graph", "rag", "-q"]


@asynccontextmanager
async def over_stdio(index):
    program, *arguments = command(index)
    server = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def over_http(index):
    async with (
        serving(index) as address,
        streamable_http_client(address) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


@asynccontextmanager
async def serving(index):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(command(index, "--http", "--port", str(port)), stderr=subprocess.PIPE)
    try:
        async with httpx.AsyncClient() as client:
            for _ in range(600):
                assert process.poll() is None, process.stderr.read().decode()
                try:
                    await client.get(f"http://127.0.0.1:{port}/")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.enable_socket
@pytest.mark.parametrize("connect", [over_stdio, over_http])
async def test_a_client_searches_and_asks(connect, index):
    async with connect(index) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {"search", "ask"}
        assert list(tools["ask"].inputSchema["properties"]) == ["question"]
        assert tools["search"].annotations.readOnlyHint

        found = await session.call_tool("search", {"query": "Where was Brunel born?", "k": 1})
        assert found.content[0].text == "[1] Brunel (page: 3): Brunel was born in Portsmouth."
        (passage,) = found.structuredContent["passages"]
        assert (passage["id"], passage["metadata"]["page"]) == ("d1", 3)

        answer = await session.call_tool("ask", {"question": "Where was Brunel born?"})
        assert answer.content[0].text.startswith("Portsmouth\n\nSources:\n[1] Brunel (page: 3)")
        assert answer.structuredContent["answer"] == "Portsmouth"
        assert answer.structuredContent["citations"][0]["id"] == "d1"
        assert answer.structuredContent["usage"]["model_calls"] == 1

        for tool, arguments in (("ask", {"question": " "}), ("search", {"query": ""})):
            wrong = await session.call_tool(tool, arguments)
            assert wrong.isError
            assert "is empty" in wrong.content[0].text
        assert (await session.call_tool("search", {"query": "x", "k": 0})).isError


@pytest.mark.enable_socket
async def test_http_is_for_this_machine_only(index):
    async with serving(index) as address, httpx.AsyncClient() as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            reply = await client.post(address, json={}, headers=headers)
            assert reply.status_code in (403, 421)
        port = int(address.split(":")[2].split("/")[0])
        with socket.socket() as probe:
            outside = socket.gethostbyname(socket.gethostname())
            if not outside.startswith("127."):
                assert probe.connect_ex((outside, port)) != 0


@pytest.mark.enable_socket
def test_a_port_that_is_taken(index, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", index, "--http", "--port", str(taken.getsockname()[1])]) == 2
    assert "give another one with --port" in capsys.readouterr().err


def test_without_an_index(capsys):
    assert main(["serve", "nowhere"]) == 2
    assert "agentprm index FOLDER" in capsys.readouterr().err


def test_without_mcp(monkeypatch, index, capsys):
    monkeypatch.setitem(sys.modules, "agentprm.integrations.mcp_server", None)
    monkeypatch.delitem(sys.modules, "agentprm.integrations.mcp_server")
    monkeypatch.setitem(sys.modules, "mcp.server.fastmcp", None)
    assert main(["serve", index]) == 2
    assert "pip install 'agentprm[mcp]'" in capsys.readouterr().err


async def test_in_a_langchain_agent(index):
    adapters = pytest.importorskip("langchain_mcp_adapters.client")
    agents = pytest.importorskip("langchain.agents")
    program, *arguments = command(index)
    server = {"transport": "stdio", "command": program, "args": arguments, "env": dict(os.environ)}
    tools = await adapters.MultiServerMCPClient({"notes": server}).get_tools()
    question = {"question": "Where was Brunel born?"}
    model = ScriptedAgentModel(replies=[calls(("ask", question)), "In Portsmouth."])
    guide = RewardGuidedActions(lambda question, steps: 0.9)
    agent = agents.create_agent(model, tools, middleware=[guide])
    result = await agent.ainvoke({"messages": "Where was Brunel born?"})
    assert "Sources:\n[1] Brunel (page: 3)" in result["messages"][2].text
    assert result["messages"][-1].text == "In Portsmouth."


async def test_how_many_passages_are_found():
    from mcp.shared.memory import create_connected_server_and_client_session as connected

    from agentprm.integrations.mcp_server import create_mcp_server
    from agentprm.testing import fake_store

    store = fake_store([f"Bridge number {i}." for i in range(20)])
    for retriever in (store, store.as_retriever(search_kwargs={"k": 20})):
        server = create_mcp_server(None, retriever, about="bridges")
        async with connected(server._mcp_server) as session:
            for k in (1, 12):
                found = await session.call_tool("search", {"query": "Which bridge?", "k": k})
                assert len(found.structuredContent["passages"]) == k
            assert "bridges" in (await session.list_tools()).tools[0].description
