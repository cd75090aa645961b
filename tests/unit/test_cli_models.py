"""The command line's models by name, its configuration files, and its JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from agentprm.cli import main, opening
from agentprm.cli.models import Models, model_called, reranker_called, reward_called
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.lm import ChatLM
from agentprm.rerank import PairwiseReranker
from agentprm.rewards import Grounding, VerdictReward
from agentprm.testing import (
    FakeEmbeddings,
    OllamaServer,
    OpenAIReasoningServer,
    ScriptedChatModel,
    ScriptedLanguageModel,
)

QUESTION = "Where was Brunel born?"
SCRIPT = {
    "Step to judge": "Verdict: Yes",
    "Known: Where": "Final answer: Portsmouth",
    "Text:": "Portsmouth",
    "": "Search: Where was Brunel born?",
}


@pytest.fixture
def providers(monkeypatch):
    """Chat models that LangChain would make of names."""
    langchain = pytest.importorskip("langchain.chat_models")
    made: dict[str, Any] = {}

    def init(name: str) -> Any:
        if name == "wrong:name":
            raise ValueError("Unsupported provider\nand much more")
        if name == "absent:model":
            raise ImportError("It requires the langchain-absent package.")
        return made[name]

    monkeypatch.setattr(langchain, "init_chat_model", init)
    return made


@pytest.fixture
def index(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "embeddings_called", lambda name: FakeEmbeddings())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "brunel.txt").write_text("Brunel was born in Portsmouth.")
    assert main(["index", "notes", "-o", "my-index"]) == 0
    capsys.readouterr()
    return "my-index"


def test_a_chat_model_by_name(providers):
    providers["ollama:llama3.2:1b"] = chat = ScriptedChatModel(script={"": "OK"})
    model = model_called("ollama:llama3.2:1b")
    assert isinstance(model, ChatLM)
    assert len(chat.prompts) == 1  # it was greeted


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "wrong:name",
            ConfigurationError,
            "'wrong:name' is no chat model that can be used: Unsupported provider",
        ),
        ("absent:model", MissingDependencyError, "langchain-absent"),
        ("dumb:model", ConfigurationError, "does not answer: Wrong key. Check its name, its key"),
    ],
)
def test_chat_models_that_are_none(providers, name, kind, message):
    def refuse(text: str) -> str:
        raise PermissionError("Wrong key")

    providers["dumb:model"] = ScriptedChatModel(script=refuse)
    with pytest.raises(kind) as caught:
        model_called(name)
    assert message in str(caught.value)


def test_a_bad_model_fails_before_the_index_is_opened(providers, index, monkeypatch, capsys):
    monkeypatch.setattr(opening, "open_store", lambda *_: pytest.fail("opened"))
    monkeypatch.setattr(opening, "build_store", lambda *_: pytest.fail("embedded"))
    for option in ("--model", "--reward", "--reranker"):
        monkeypatch.setattr("agentprm.packaged.default_language_model", lambda: ScriptedLanguageModel({}))
        assert main(["ask", QUESTION, "--index", index, option, "wrong:name"]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("agentprm: 'wrong:name' is no chat model")


def test_rewards_and_rerankers_by_name(providers):
    providers["openai:judge"] = ScriptedChatModel(script={"": "OK"})
    model = ScriptedLanguageModel({})
    assert reward_called(None, model) is None
    assert isinstance(reward_called("grounding", model), Grounding)
    judge = reward_called("judge", model)
    assert isinstance(judge, VerdictReward)
    assert judge.model is model
    other = reward_called("openai:judge", model)
    assert isinstance(other, VerdictReward)
    assert isinstance(other.model, ChatLM)
    assert reranker_called(None, model) is None
    for name in ("pairwise", "openai:judge"):
        assert isinstance(reranker_called(name, model), PairwiseReranker)


def test_a_folder_wins_over_a_provider(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("my:model")
    monkeypatch.setattr("agentprm.cli.models.as_language_model", lambda name: name)
    assert model_called("my:model") == "my:model"


@pytest.mark.parametrize("graph", ["rag", "reasoning"])
def test_a_chat_model_answers_with_json(graph, providers, index, capsys):
    script = {
        "Step to judge": "Verdict: Yes",
        "Known: Where": "Final answer: Portsmouth",
        "Text:": "Portsmouth",
        "": "Search: Where was he born?",
    }
    providers["openai:gpt"] = ScriptedChatModel(script=script)
    options = ["--index", index, "--graph", graph, "--model", "openai:gpt", "--json", "-q"]
    reward = ["--reward", "judge"] if graph == "reasoning" else []
    assert main(["ask", QUESTION, *options, *reward]) == 0
    captured = capsys.readouterr()
    trace = json.loads(captured.out)
    assert trace["answer"] == "Portsmouth"
    assert trace["settings"]["model"] == "openai:gpt"
    assert trace["settings"].get("reward") == (reward[1] if reward else None)
    assert trace["citations"][0]["source"] == "brunel.txt"
    assert captured.err == ""


@pytest.mark.parametrize("graph", ["rag", "reasoning"])
def test_a_reranker_orders_what_is_read(graph, providers, index, capsys):
    providers["openai:gpt"] = ScriptedChatModel(script=SCRIPT)
    asked = []

    def compare(text: str) -> str:
        asked.append(text)
        return "Passage A"

    providers["openai:ranker"] = ScriptedChatModel(script=compare)
    (Path("notes") / "paris.txt").write_text("Paris, where nobody of that name was born.")
    assert main(["index", "notes", "-o", index]) == 0
    options = ["--model", "openai:gpt", "--reranker", "openai:ranker", "--graph", graph, "-q", "--json"]
    capsys.readouterr()
    assert main(["ask", QUESTION, "--index", index, *options]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["reranker"] == "openai:ranker"
    assert any("Passage B: " in text for text in asked)


def test_rag_takes_no_reward(providers, index, capsys):
    providers["openai:gpt"] = ScriptedChatModel(script={"": "OK"})
    options = ["--index", index, "--graph", "rag", "--model", "openai:gpt", "--reward", "judge"]
    assert main(["ask", QUESTION, *options]) == 2
    assert "The graph rag takes no --reward; leave it out" in capsys.readouterr().err


def test_eval_prints_json(providers, index, tmp_path, capsys):
    providers["openai:gpt"] = ScriptedChatModel(script={"": "Portsmouth"})
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": "Brunel was born in Portsmouth."}))
    row = {"_id": "q", "text": QUESTION, "answers": ["Portsmouth"]}
    (tmp_path / "queries.jsonl").write_text(json.dumps(row))
    assert main(["eval", ".", "--graph", "rag", "--model", "openai:gpt", "--json", "-q"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["setups"]
    assert (report["questions"], report["system"]) == (1, "rag")
    assert report["metrics"]["EM"]


class TestConfig:
    def test_options_from_a_file(self, providers, index, tmp_path, capsys):
        providers["openai:gpt"] = ScriptedChatModel(script={"": "Portsmouth"})
        (tmp_path / "a.toml").write_text(
            f'index = "{index}"\nmodel = "openai:gpt"\nmax_steps = 2\nseed = 3\nlimit = 1\n'
            "[ask]\njson = true\nquiet = true\ncandidates = 2\n[eval]\njobs = 4\n"
        )
        assert main(["ask", QUESTION, "--config", "a.toml", "--seed", "5"]) == 0
        settings = json.loads(capsys.readouterr().out)["settings"]
        expected = {"model": "openai:gpt", "max_steps": 2, "seed": 5, "candidates": 2}
        assert settings.items() >= expected.items()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("modle = 'x'", "no option 'modle'; there are "),
            ("[aks]\nseed = 1", "no command 'aks'"),
            ("[ask]\nlimit = 1", "no option 'limit'"),
            ("json = 1", "json is true or false"),
            ("model = true", "takes one value"),
            ("seed = 'soon'", "invalid int"),
            ("candidates = 0", "at least 1"),
            ("seed =", "no TOML file"),
        ],
    )
    def test_mistakes_in_it(self, text, message, tmp_path, capsys):
        path = tmp_path / "a.toml"
        path.write_text(text)
        assert main(["ask", QUESTION, "--index", "x", "--config", str(path)]) == 2
        assert message in capsys.readouterr().err

    def test_a_file_that_is_not_there(self, capsys):
        assert main(["ask", QUESTION, "--config=no.toml"]) == 2
        assert "no.toml cannot be read" in capsys.readouterr().err
        assert main(["ask", QUESTION, "--config"]) == 2
        assert "expected one argument" in capsys.readouterr().err


def test_embeddings_by_name(tmp_path, monkeypatch, capsys):
    langchain = pytest.importorskip("langchain.embeddings")

    def init(name: str) -> Any:
        if name == "ollama:nomic":
            return FakeEmbeddings()
        if name == "absent:model":
            raise ImportError("It requires langchain-absent.")
        raise ValueError("Provider is not supported")

    monkeypatch.setattr(langchain, "init_embeddings", init)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "brunel.txt").write_text("Brunel was born in Portsmouth.")
    assert main(["index", "notes", "-o", "i", "--embeddings", "ollama:nomic"]) == 0
    assert json.loads((tmp_path / "i" / "agentprm.json").read_text())["embeddings"] == "ollama:nomic"
    model = Models(ScriptedLanguageModel({"": "Portsmouth"}))
    monkeypatch.setattr(opening, "open_models", lambda args, progress: model)
    assert main(["ask", QUESTION, "--index", "i", "--graph", "rag"]) == 0  # the index knows its embeddings
    for name, message in (
        ("opnai:x", "no embeddings that can be used"),
        ("absent:model", "langchain-absent"),
    ):
        capsys.readouterr()
        assert main(["index", "notes", "-o", "j", "--embeddings", name]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.enable_socket
class TestRealProviders:
    """The names that users type, the packages of the providers, and servers that behave like theirs."""

    def ask(self, index, *options):
        return main(["ask", QUESTION, "--index", index, "--json", "-q", "--candidates", "1", *options])

    def test_ollama(self, index, monkeypatch, capsys):
        pytest.importorskip("langchain_ollama")
        with OllamaServer(SCRIPT) as server:
            monkeypatch.setenv("OLLAMA_HOST", server.root)
            assert self.ask(index, "--model", "ollama:llama3.2") == 0
            assert json.loads(capsys.readouterr().out)["answer"] == "Portsmouth"
            assert self.ask(index, "--model", "ollama:lama3.2") == 2
            line = capsys.readouterr().err.strip()
            assert line.startswith("agentprm: The model 'ollama:lama3.2' does not answer: ")
            assert "not found" in line

    def test_openai(self, index, monkeypatch, capsys):
        pytest.importorskip("langchain_openai")
        with OpenAIReasoningServer(SCRIPT) as server:
            monkeypatch.setenv("OPENAI_API_KEY", "test")
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            assert self.ask(index, "--model", "openai:gpt-5-mini") == 0
            assert json.loads(capsys.readouterr().out)["answer"] == "Portsmouth"
            assert self.ask(index, "--model", server.url) == 0
