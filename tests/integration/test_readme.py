"""The Python of README.md and docs/agents.md runs as it stands, with scripted models behind the names."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")

import langchain.chat_models
import langchain.embeddings
from langchain_core.tools import tool
from langgraph.graph.message import MessagesState

import agentprm
from agentprm.testing import FakeEmbeddings, ScriptedAgentModel, ScriptedLanguageModel

ROOT = Path(__file__).parents[2]
ANSWER = "Portsmouth"


def reply(messages: list[Any]) -> str:
    text = "\n".join(message.text for message in messages)
    if "Step to judge" in text:
        return "Verdict: Yes"
    if "Known: " in text or "Text:" in text:
        return ANSWER if "Text:" in text else f"Final answer: {ANSWER}"
    return "Search: Where was Brunel born?"


class MyState(MessagesState):
    question: str
    documents: list[Any]
    answer: str
    score: float | None


@tool
def search(query: str) -> str:
    """Searches."""
    return "Brunel was born in Portsmouth."


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the pages assume."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my_documents"
    folder.mkdir()
    (folder / "brunel.txt").write_text(
        "Isambard Kingdom Brunel, who designed the bridge, was born in Portsmouth."
    )
    made: list[str] = []

    def model(name: str) -> ScriptedAgentModel:
        made.append(name)
        return ScriptedAgentModel(replies=reply)

    def embeddings(name: str) -> FakeEmbeddings:
        made.append(name)
        return FakeEmbeddings()

    monkeypatch.setattr(langchain.chat_models, "init_chat_model", model)
    monkeypatch.setattr(langchain.embeddings, "init_embeddings", embeddings)
    monkeypatch.setattr(agentprm, "default_embeddings", FakeEmbeddings)
    monkeypatch.setattr(agentprm, "default_language_model", lambda: ScriptedLanguageModel({}))
    store = agentprm.FaissStore.from_documents(agentprm.load_folder(folder).documents, FakeEmbeddings())
    return {
        "made": made,
        "MyState": MyState,
        "my_answering_node": lambda state: {"answer": ANSWER},
        "search": search,
        "store": store,
    }


async def run(page: Path, names: dict[str, Any]) -> int:
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for number, block in enumerate(blocks, 1):
        code = compile(block, f"{page.name}, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waiting = eval(code, names)
        if inspect.isawaitable(waiting):
            await waiting
    return len(blocks)


async def test_readme(names, capsys):
    assert await run(ROOT / "README.md", names) >= 5
    out = capsys.readouterr().out
    assert out.startswith(f"{ANSWER}\n[1] brunel: ")
    assert {"ollama:llama3.2", "ollama:nomic-embed-text", "openai:gpt-5-mini"} <= set(names["made"])
    judged = names["builder"].compile().invoke({"question": "Where was Brunel born?"})
    assert judged["score"] == 1.0
    result = names["agent"].invoke({"messages": "Where was Brunel born?"})
    assert result["messages"][-1].text


async def test_quick_start(names, capsys):
    assert await run(ROOT / "docs" / "index.md", names) >= 4
    out = capsys.readouterr().out
    assert out.startswith(f"{ANSWER}\n['brunel']")
    assert "agentprm.step_completed" in out
    assert ANSWER in names["page"]


async def test_agents_page(names, monkeypatch, capsys):
    from langchain_mcp_adapters.client import MultiServerMCPClient

    async def tools(self: Any) -> list[Any]:
        return [search]

    monkeypatch.setattr(MultiServerMCPClient, "get_tools", tools)
    assert await run(ROOT / "docs" / "agents.md", names) >= 4
    assert capsys.readouterr().out


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"`'\.\[([a-z]+)\]'`", README)) == set(project["optional-dependencies"]) - {"dev"}


def test_readme_says_which_extra_reads_which_file(tmp_path, monkeypatch):
    for module in ("lxml", "lxml.html", "lxml.etree", "markdown_it", "pypdf", "docx"):
        monkeypatch.setitem(sys.modules, module, None)
    for ending in ("txt", "csv", "md", "html", "pdf", "docx"):
        (tmp_path / f"a.{ending}").write_text("text\nBrunel")
    (tmp_path / "a.json").write_text('{"text": "Brunel"}')
    (tmp_path / "a.jsonl").write_text('{"text": "Brunel"}')
    found = agentprm.load_folder(tmp_path)
    needs = {"." + skipped.source.split(".")[1]: skipped.reason for skipped in found.skipped}
    rows = {extra: line for line in README.splitlines() for extra in re.findall(r"^\| `(.*?)` \|", line)}
    for ending in (".txt", ".csv", ".json", ".jsonl"):
        assert f"`{ending}`" in rows["pip install ."]
        assert ending not in needs
    for extra, endings in (("text", (".md", ".html")), ("documents", (".pdf", ".docx"))):
        for ending in endings:
            assert f"`{ending}`" in rows[f"'.[{extra}]'"]
            assert f"agentprm[{extra}]" in needs[ending]
