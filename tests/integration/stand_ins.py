"""Stand-ins for what the pages of the documentation use: models, hubs, servers, documents."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import langchain.chat_models
import langchain.embeddings
import pytest
import pytest_socket
from langchain_core.documents import Document

import agentprm
from agentprm import packaged
from agentprm.lm.json_http import JsonHttp
from agentprm.testing import FakeEmbeddings, ScriptedAgentModel, ScriptedLanguageModel

QUESTION = "Where was the engineer of the bridge born?"
ANSWER = "Portsmouth"
PASSAGE = "Isambard Kingdom Brunel, who designed the bridge, was born in Portsmouth."


def reply(text: str) -> str:
    if "Step to judge" in text:
        return "Verdict: Yes"
    if "Known: " in text or "Text:" in text:
        return ANSWER if "Text:" in text else f"Final answer: {ANSWER}"
    return "Search: Where was Brunel born?"


def scripted_agent(name: str = "") -> ScriptedAgentModel:
    return ScriptedAgentModel(replies=lambda messages: reply("\n".join(m.text for m in messages)))


def scripted_lm() -> ScriptedLanguageModel:
    return ScriptedLanguageModel(lambda text: ANSWER)


class Here:
    """A working folder with documents, and stand-ins for models, hubs and servers."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.folder, self.monkeypatch, self.stack = folder, monkeypatch, stack
        self.addresses: dict[str, str] = {}
        self.made: list[str] = []
        self.documents = [
            Document(id="b", page_content=PASSAGE, metadata={"title": "Brunel"}),
            Document(
                id="a", page_content="The river Avon runs below the bridge.", metadata={"title": "Avon"}
            ),
        ]
        self.store = agentprm.FaissStore.from_documents(self.documents, FakeEmbeddings())

    def write(self, path: str, *rows: Any) -> Path:
        """A file of one text, or of JSON Lines."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return file

    def question_set(self, name: str) -> None:
        """A folder in the BEIR layout."""
        self.write(f"{name}/queries.jsonl", {"_id": "q", "text": QUESTION, "answers": [ANSWER]})
        rows = [{"_id": d.id, "title": d.metadata["title"], "text": d.page_content} for d in self.documents]
        self.write(f"{name}/corpus.jsonl", *rows)
        self.write(f"{name}/qrels.tsv", "query-id\tcorpus-id\tscore\nq\tb\t1\n")

    def checkpoint(self, name: str, kind: str = "LlamaForCausalLM", **options: Any) -> tuple[Any, Any]:
        """A tiny random model with its tokenizer, where the hub's name is the path of a folder."""
        from tests.unit.rewards.conftest import build, build_tokenizer

        tokenizer = build_tokenizer()
        model = build(kind, len(tokenizer), **options)
        model.save_pretrained(self.folder / name)
        tokenizer.save_pretrained(self.folder / name)
        return model, tokenizer

    def serve(self, address: str, server: Any) -> Any:
        """Has the server answer requests to `address` of a page."""
        self.stack.enter_context(server)
        self.addresses[address] = server.root
        return server

    def serve_vllm(self, address: str, name: str) -> Any:
        """A tiny checkpoint `name` behind a server that answers as vLLM does, in few words; its engine."""
        from tests.unit.lm.toy_engine import Loopback, ToyEngine, vllm_answers

        model, tokenizer = self.checkpoint(name)
        engine = ToyEngine(model, tokenizer, max_len=2048)
        complete = engine.complete
        engine.complete = lambda ids, new, *options, **more: complete(ids, min(new, 8), *options, **more)
        answers = vllm_answers(engine)

        def answer(method: str, path: str, body: Any) -> Any:
            if path == "/v1/models":
                return 200, {"data": [{"id": name, "max_model_len": 2048}]}
            return answers(method, path, body)

        self.serve(address, Loopback(answer))
        return engine


@pytest.fixture
def here(tmp_path, monkeypatch):
    with ExitStack() as stack:
        pytest_socket.socket_allow_hosts(["127.0.0.1", "localhost"], allow_unix_socket=True)
        stack.callback(pytest_socket._remove_restrictions)
        monkeypatch.chdir(tmp_path)
        world = Here(tmp_path, monkeypatch, stack)
        world.write("my_documents/brunel.txt", PASSAGE)

        def chat_model(name: str) -> ScriptedAgentModel:
            world.made.append(name)
            return scripted_agent()

        def embeddings(name: str) -> FakeEmbeddings:
            world.made.append(name)
            return FakeEmbeddings()

        def connect(self: JsonHttp, url: str, *args: Any, **options: Any) -> None:
            for address, root in world.addresses.items():
                url = url.removeprefix("http://").replace(address, root)
            real(self, url, *args, **options)

        real = JsonHttp.__init__
        monkeypatch.setattr(JsonHttp, "__init__", connect)
        monkeypatch.setattr(langchain.chat_models, "init_chat_model", chat_model)
        monkeypatch.setattr(langchain.embeddings, "init_embeddings", embeddings)
        for module in (agentprm, packaged):
            monkeypatch.setattr(module, "default_embeddings", FakeEmbeddings)
            monkeypatch.setattr(module, "default_language_model", scripted_lm)
        from agentprm.rewards import loading

        monkeypatch.setattr(loading, "_FAMILIES", dict(loading._FAMILIES))
        yield world
