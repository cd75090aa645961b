"""What each page of the documentation takes for given, and what its Python must leave behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from langgraph.graph.message import MessagesState

import agentprm
from agentprm.testing import FakeEmbeddings, FakeReward, LlamaCppServer, OllamaServer, OpenAIServer
from tests.integration.stand_ins import ANSWER, PASSAGE, QUESTION, Here, reply, scripted_agent, scripted_lm


@tool
def search(query: str) -> str:
    """Searches."""
    return "Brunel was born in Portsmouth."


class MyState(MessagesState):
    question: str
    documents: list[Any]
    answer: str
    score: float | None


Names = dict[str, Any]
World = Callable[[Here, Any], Iterator[Names]]
PAGES: dict[str, World] = {}


def page(name: str) -> Callable[[World], World]:
    """Registers what a page takes for given: yields its names, and checks what the blocks made of them."""

    def keep(world: World) -> World:
        PAGES[name] = world
        return world

    return keep


def nothing(here: Here, capsys: Any) -> Iterator[Names]:
    """For pages that are complete in themselves, and say by `assert` or comment what comes out."""
    yield {}


for _name in ("cr_planner.md", "memory.md", "refinement.md", "retrieval_control.md"):
    PAGES[_name] = nothing


@page("README.md")
def readme(here, capsys):
    names = {"MyState": MyState, "my_answering_node": lambda state: {"answer": ANSWER}}
    yield names
    assert capsys.readouterr().out.startswith(f"{ANSWER}\n[1] brunel: ")
    assert {"ollama:llama3.2", "ollama:nomic-embed-text", "openai:gpt-5-mini"} <= set(here.made)
    judged = names["builder"].compile().invoke({"question": "Where was Brunel born?"})
    assert judged["score"] == 1.0
    assert names["agent"].invoke({"messages": "Where was Brunel born?"})["messages"][-1].text


@page("index.md")
def index(here, capsys):
    names = {}
    yield names
    out = capsys.readouterr().out
    assert out.startswith(f"{ANSWER}\n['brunel']")
    assert "agentprm.step_completed" in out
    assert ANSWER in names["page"]


@page("agents.md")
def agents(here, capsys):
    client = pytest.importorskip("langchain_mcp_adapters.client").MultiServerMCPClient

    async def tools(self: Any) -> list[Any]:
        return [search]

    here.monkeypatch.setattr(client, "get_tools", tools)
    yield {"search": search, "store": here.store}
    assert capsys.readouterr().out


@page("trace.md")
def trace(here, capsys):
    pytest.importorskip("opentelemetry")
    builder = agentprm.create_reasoning_graph(scripted_agent(), here.store)
    yield {"builder": builder, "graph": builder.compile()}
    assert capsys.readouterr().out.endswith(f"{ANSWER}\n")
    assert ANSWER in (here.folder / "run.html").read_text(encoding="utf-8")


@page("planning.md")
def planning(here, capsys):
    yield {}
    assert capsys.readouterr().out == (
        "['Who directed Up?', 'Where was #1 born?']\nOslo Bob Ray was born in Oslo.\n"
    )


@page("search.md")
def searching(here, capsys):
    yield {}
    assert capsys.readouterr().out == f"{ANSWER}\n"


@page("evaluation.md")
def evaluation(here, capsys):
    here.question_set("my-data")
    names = {"model": scripted_agent(), "store": here.store}
    yield names
    assert names["found"].setups[1].report.metrics["F1"].mean == 1.0
    assert "<html" in (here.folder / "report.html").read_text(encoding="utf-8")


@page("nodes.md")
def nodes(here, capsys):
    names = {"model": scripted_agent(), "store": here.store, "reward": FakeReward()}
    yield names
    assert capsys.readouterr().out == f"{ANSWER}\n" * 3


@page("retrievers.md")
def retrievers(here, capsys):
    from agentprm import retrievers as module

    here.write("notes/casablanca.txt", "Casablanca was directed by Michael Curtiz, born in 1886.")
    here.monkeypatch.setattr(module, "SentenceTransformerEmbeddings", lambda name: FakeEmbeddings())
    old = SimpleNamespace(
        docstore=SimpleNamespace(search=lambda key: here.documents[key]),
        index_to_docstore_id=[0, 1],
        index=SimpleNamespace(
            ntotal=2,
            reconstruct_n=lambda first, number: FakeEmbeddings().embed_documents(
                [d.page_content for d in here.documents]
            ),
        ),
    )
    community = ModuleType("langchain_community.vectorstores")
    community.FAISS = SimpleNamespace(load_local=lambda *_, **__: old)
    here.monkeypatch.setitem(sys.modules, "langchain_community", ModuleType("langchain_community"))
    here.monkeypatch.setitem(sys.modules, community.__name__, community)
    names = {"lm": scripted_lm(), "chat_model": scripted_agent(), "documents": here.documents}
    yield names
    assert len(names["retrievers"]) == 7
    assert len(names["store"].similarity_search("Brunel", k=5)) == 2


@page("reranking.md")
def reranking(here, capsys):
    import torch

    from tests.unit.rerank.test_cross_encoder import build

    here.checkpoint("path/or/name")
    folder = here.folder / "cross-encoder/ms-marco-MiniLM-L6-v2"
    folder.mkdir(parents=True)
    build(torch, folder, labels=1)
    names = {
        "model": scripted_lm(),
        "chat_model": scripted_agent(),
        "documents": here.documents,
        "store": here.store,
        "builder": StateGraph(MyState),
    }
    yield names
    assert {d.id for d in names["best"]} == {d.id for d in names["documents"]} == {"a", "b"}
    assert "rerank" in names["builder"].nodes
    assert len(names["graphs"]) == 8
    for reranker in names["rerankers"]:
        assert {d.id for d in reranker.compress_documents(here.documents, QUESTION)} == {"a", "b"}
    assert [d.id for d in names["Longest"]().compress_documents(here.documents, QUESTION)] == ["b", "a"]
    assert names["retriever"].invoke(QUESTION)


@page("reward-models.md")
def reward_models(here, capsys):
    from agentprm.rewards import as_trajectory
    from tests.unit.lm.toy_engine import Loopback

    head, _ = here.checkpoint("Qwen/Qwen2.5-Math-PRM-7B", "Qwen2ForTokenClassification", labels=2)
    here.checkpoint("infly/Universal-PRM-7B", "Qwen2ForTokenClassification", labels=1)
    for name in ("me/my-prm-7b", "GenPRM/GenPRM-7B"):
        here.checkpoint(name)
    here.serve_vllm("localhost:8000", "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data")
    here.serve_vllm("trained:8000", "trained")
    here.serve_vllm("reference:8000", "reference")

    def pools(method: str, path: str, body: Any) -> Any:
        import torch

        if path == "/v1/models":
            return 200, {"data": [{"id": "Qwen/Qwen2.5-Math-PRM-7B", "max_model_len": 2048}]}
        if path != "/pooling":
            return 404, {"error": {"message": "not found", "code": 404}}
        with torch.no_grad():
            rows = head(input_ids=torch.tensor([body["input"]]), use_cache=False).logits[0].tolist()
        return 200, {"data": [{"index": 0, "data": rows}], "usage": {"prompt_tokens": len(rows)}}

    def classifies(method: str, path: str, body: Any) -> Any:
        if path == "/predict":
            return 200, [[{"label": "good", "score": 0.9}] for _ in body["inputs"]]
        return 200, {"data": [{"index": i, "probs": [0.1, 0.9]} for i, _ in enumerate(body["input"])]}

    here.serve("localhost:8001", Loopback(pools))
    here.serve("localhost:8080", Loopback(classifies))
    good, bad = as_trajectory(["1 + 1 = 2.", "So 2."]), as_trajectory(["1 + 1 = 3.", "So 3."])
    names = {
        "question": "What is 1 + 1?",
        "solution": ["1 + 1 = 2.", "So the answer is 2."],
        "trajectory": good,
        "my_score": lambda question, finding: 0.5,
        "model": scripted_agent(),
        "chat_model": scripted_agent(),
        "lm": scripted_lm(),
        "store": here.store,
        "trained": "http://trained:8000/v1",
        "reference": "http://reference:8000/v1",
        "scores": [[0.9, 0.2], [0.8, 0.7]],
        "answers": ["3", "2"],
        "raw": FakeReward(lambda question, prefix: 0.8 if "2" in prefix[-1]["thought"] else 0.3),
        "questions": ["What is 1 + 1?"] * 2,
        "trajectories": [good, bad],
        "labels": [[1, 1], [0, 0]],
    }
    yield names
    assert names["best"] == 1
    assert names["voted"] == 1
    assert len(names["graphs"]) == len(names["rewards"]) == 7
    assert "1 + 1 = 2" in capsys.readouterr().out
    classifier = names["HttpClassifier"]("http://localhost:8080/classify", "my-classifier")
    assert classifier.score("?", [good]) == [[0.9, 0.9]]


@page("language-models.md")
def language_models(here, capsys):
    from tests.unit.lm.toy_engine import vllm_module

    engine = here.serve_vllm("localhost:8000", "Qwen/Qwen3-8B")
    here.stack.enter_context(vllm_module(here.monkeypatch, engine))
    ollama = here.serve("localhost:11434", OllamaServer(reply, model="llama3.2"))
    hosted = here.serve("api.openai.com", OpenAIServer(reply, model="gpt-5-mini"))
    here.serve("localhost:8080", LlamaCppServer(reply))
    here.monkeypatch.setenv("OLLAMA_HOST", ollama.root)
    here.monkeypatch.setenv("OPENAI_API_KEY", "none")
    here.monkeypatch.setenv("OPENAI_BASE_URL", hosted.url)
    yield {"store": here.store}
    out = capsys.readouterr().out
    assert out.startswith(f"Ollama {ANSWER}\nllama.cpp {ANSWER}\nvLLM ")  # whose model is a random one
    assert out.endswith(f"\nhosted {ANSWER}\n")


@page("scale.md")
def scale(here, capsys):
    from agentprm import scale as module

    def local(address: str, **options: Any) -> Any:
        assert address == "auto"
        return module.LocalExecutor()

    # Ray itself is tested with a real cluster in test_scale_ray.py.
    here.monkeypatch.setattr(module, "RayExecutor", local)
    here.monkeypatch.setattr(agentprm.FaissStore, "load", lambda path, embeddings: here.store)
    here.serve_vllm("router:8000", "llama")
    names = {"questions": [QUESTION, "Which river?"], "documents": here.documents}
    yield names
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(ANSWER in line for line in lines)
    assert (here.folder / "index" / "CURRENT").is_file()
    assert len(names["roller"]()({"question": QUESTION, "steps": "The"})) == 8


@page("training.md")
def training(here, capsys):
    from agentprm.training import language_model
    from agentprm.training.fitting import TrainSettings
    from tests.unit.training.tiny import write_tiny_model

    base = write_tiny_model(here.folder / "base")
    here.question_set("my-set")
    passages = [{"title": "Brunel", "text": PASSAGE, "gold": True}]
    here.write("data/reading.jsonl", {"question": QUESTION, "answers": [ANSWER], "passages": passages})
    plan = [{"question": "Who designed the bridge?"}, {"question": "Where was #1 born?"}]
    here.write("plans.jsonl", *({"question": f"Question {n}?", "steps": plan} for n in range(20)))
    real = language_model.train_language_model

    def quickly(examples: Any, out: str, **options: Any) -> Any:
        return real(examples, out, base=base, settings=TrainSettings(max_steps=1), **options)

    here.monkeypatch.setattr(language_model, "train_language_model", quickly)

    def make_graph() -> Any:
        return agentprm.create_reasoning_graph(scripted_agent(), here.store)

    run = make_graph().compile().invoke({"question": QUESTION})
    from agentprm.trace import trace_of

    names = {"retriever": here.store.as_retriever(), "trace": trace_of(run), "make_graph": make_graph}
    yield names
    assert names["records"][0].question == QUESTION
    assert names["reading"][0].passages[0].gold
    assert (here.folder / "data/short.jsonl").is_file()
    assert (here.folder / "my-planner/adapter_model.safetensors").is_file()
