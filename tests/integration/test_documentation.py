"""The Python of README.md and of every page of docs/ runs as it stands, and its commands parse.

What a page takes for given, `PAGES` puts behind its names: scripted models, tiny random checkpoints under
the names of published ones, servers on loopback behind the addresses that the pages give. Whether blocks
did what the page says is checked by what they leave behind, where the page's function yields.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")
pytest.importorskip("langchain_ollama")
pytest.importorskip("torch")

import langchain.chat_models
import langchain.embeddings
import pytest_socket
from langchain_core.documents import Document
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from langgraph.graph.message import MessagesState

import agentprm
from agentprm import packaged
from agentprm.cli import _parser
from agentprm.cli.experiments import read_experiment
from agentprm.cli.options import with_config
from agentprm.errors import MissingDependencyError
from agentprm.lm.json_http import JsonHttp
from agentprm.testing import (
    FakeEmbeddings,
    FakeReward,
    LlamaCppServer,
    OllamaServer,
    OpenAIServer,
    ScriptedAgentModel,
    ScriptedLanguageModel,
)

pytestmark = pytest.mark.enable_socket  # for loopback; the fixture `here` refuses everything else

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUESTION = "Where was the engineer of the bridge born?"
ANSWER = "Portsmouth"
PASSAGE = "Isambard Kingdom Brunel, who designed the bridge, was born in Portsmouth."

# Blocks that are compiled, and whose imports are looked up, but that are not run: (page, number): why.
NOT_RUN = {
    ("evaluation.md", 2): "Inspect AI runs a loop of its own; unit/integrations/test_inspect.py runs a task",
}


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def compiled(page: Path, number: int, block: str) -> Any:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(block, f"{page.name}, block {number}", "exec", flags, dont_inherit=True)


# ------------------------------------------------------------------- what the pages take for given


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

    def serve_vllm(self, address: str, name: str) -> None:
        """The checkpoint `name` behind a server that answers as vLLM does."""
        from tests.unit.lm.toy_engine import Loopback, ToyEngine, vllm_answers

        model, tokenizer = self.checkpoint(name)
        answers = vllm_answers(ToyEngine(model, tokenizer, max_len=2048))

        def answer(method: str, path: str, body: Any) -> Any:
            if path == "/v1/models":
                return 200, {"data": [{"id": name, "max_model_len": 2048}]}
            return answers(method, path, body)

        self.serve(address, Loopback(answer))


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
        from agentprm.rewards import registry

        monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
        yield world


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
    from tests.unit.lm.toy_engine import Loopback, ToyEngine, vllm_answers, vllm_module

    model, tokenizer = here.checkpoint("Qwen/Qwen3-8B")
    engine = ToyEngine(model, tokenizer, max_len=2048)
    here.stack.enter_context(vllm_module(here.monkeypatch, engine))
    ollama = here.serve("localhost:11434", OllamaServer(reply, model="llama3.2"))
    hosted = here.serve("api.openai.com", OpenAIServer(reply, model="gpt-5-mini"))
    here.serve("localhost:8080", LlamaCppServer(reply))
    here.monkeypatch.setenv("OLLAMA_HOST", ollama.root)
    here.monkeypatch.setenv("OPENAI_API_KEY", "none")
    here.monkeypatch.setenv("OPENAI_BASE_URL", hosted.url)
    here.serve("localhost:8000", Loopback(vllm_answers(engine)))
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
    from tests.unit.training.tiny import write_tiny_model

    base = write_tiny_model(here.folder / "base")
    here.question_set("my-set")
    passages = [{"title": "Brunel", "text": PASSAGE, "gold": True}]
    here.write("data/reading.jsonl", {"question": QUESTION, "answers": [ANSWER], "passages": passages})
    plan = [{"question": "Who designed the bridge?"}, {"question": "Where was #1 born?"}]
    here.write("plans.jsonl", *({"question": f"Question {n}?", "steps": plan} for n in range(20)))
    real = language_model.train_language_model

    def quickly(examples: Any, out: str, **options: Any) -> Any:
        return real(examples, out, base=base, settings=language_model.TrainSettings(max_steps=1), **options)

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


# ------------------------------------------------------------------------------------ the tests

WITH_PYTHON = [source for source in SOURCES if blocks(source)]


def test_every_page_with_python_is_here():
    assert {source.name for source in WITH_PYTHON} == set(PAGES)
    numbers = {(source.name, n) for source in WITH_PYTHON for n, _ in enumerate(blocks(source), 1)}
    assert set(NOT_RUN) <= numbers


def test_every_page_stands_in_the_navigation_once():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    listed = [name for name in re.findall(r": (\S+\.md)$", navigation, re.MULTILINE) if "/" not in name]
    assert len(listed) == len(set(listed))
    made = {"examples.md", "results.md", "changes.md"}
    assert set(listed) == {path.name for path in (ROOT / "docs").glob("*.md")} | made


@pytest.mark.parametrize("source", WITH_PYTHON, ids=lambda source: source.name)
async def test_python_of(source, here, capsys):
    if source.name not in PAGES:
        pytest.fail(f"Say in PAGES what the Python of {source.name} takes for given.")
    world = PAGES[source.name](here, capsys)
    names = next(world)
    for number, block in enumerate(blocks(source), 1):
        code = compiled(source, number, block)
        if (source.name, number) in NOT_RUN:
            continue
        waiting = eval(code, names)
        if inspect.isawaitable(waiting):
            await waiting
    with pytest.raises(StopIteration):
        next(world)


@pytest.mark.parametrize("source", WITH_PYTHON, ids=lambda source: source.name)
def test_names_of_agentprm_that_are_imported_exist_in(source):
    for number, block in enumerate(blocks(source), 1):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentprm"):
                try:
                    known = dir(module := importlib.import_module(node.module))
                    known += [alias.name for alias in node.names if hasattr(module, alias.name)]
                except MissingDependencyError:  # an extra that is not here: what the source binds
                    text = Path(importlib.util.find_spec(node.module).origin).read_text("utf-8")
                    known = [item.name for item in ast.parse(text).body if hasattr(item, "name")]
                missing = {alias.name for alias in node.names} - set(known)
                assert not missing, f"{source.name}, block {number}"


def commands(source: Path) -> list[str]:
    """The commands of agentprm in the page's blocks; what is set off by blanks behind one is a remark."""
    found = []
    for block in re.findall(
        r"^```(?:console)?\n(.*?)^```", source.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        lines = (line.removeprefix("$ ") for line in block.splitlines())
        found += [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("agentprm ")]
    return found


WITH_COMMANDS = [source for source in SOURCES if commands(source)]


@pytest.mark.parametrize("source", WITH_COMMANDS, ids=lambda source: source.name)
def test_commands_parse_of(source):
    parser, _ = _parser()
    refused = []
    for command in commands(source):
        try:
            parser.parse_args(shlex.split(command, comments=True)[1:])
        except SystemExit:
            refused.append(command)
    assert not refused


def toml(page: str) -> str:
    (found,) = re.findall(
        r"^```toml\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return found


def test_the_configuration_of_the_page_of_the_command_line(tmp_path):
    parser, parsers = _parser()
    (tmp_path / "options.toml").write_text(toml("cli.md"), encoding="utf-8")
    given = ["ask", "Why?", "--config", str(tmp_path / "options.toml"), "--max-steps", "4"]
    args = parser.parse_args(with_config(given, parsers))
    assert (args.index, args.model, args.max_steps, args.trace) == (
        "my-index",
        "ollama:llama3.2",
        4,
        "last-run.json",
    )


def test_the_set_ups_of_the_page_of_evaluation(tmp_path):
    (tmp_path / "compare.toml").write_text(toml("evaluation.md"), encoding="utf-8")
    args = _parser()[0].parse_args(["eval", "compare.toml"])
    found = read_experiment(tmp_path / "compare.toml", args)
    assert found.judge == "ollama:llama3.2"
    assert len(found.rows) == 4  # one, and one for each of three seeds


def test_options_that_the_page_of_the_command_line_names_exist():
    _, parsers = _parser()
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    seen = {name: body for name, body in zip(sections[::2], sections[1::2], strict=True) if name in parsers}
    assert set(seen) == set(parsers)
    for name, body in seen.items():
        known = _options(parsers[name])
        wanted = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", body))
        assert wanted <= known | {"--help"}, name


def _options(parser: Any) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= set().union(*map(_options, action.choices.values()))
    return found
