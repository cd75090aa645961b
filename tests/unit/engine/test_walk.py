"""One request's way through the engine is what the docs say, is short, and goes one way."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import agentprm.engine  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402
from tests.unit.lm.conftest import build_model, build_tokenizer  # noqa: E402
from tests.walks import check, walk  # noqa: E402

ENGINE = Path(agentprm.engine.__file__).parent
ASK = Prompt((("system", "Be brief."), ("user", "Who wrote the play?")))


@pytest.fixture
def lm():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    yield TransformersLM(build_model("llama", len(tokenizer)), tokenizer)
    torch.set_num_threads(before)


def test_the_way_of_a_sample(lm):
    found = walk(lambda: lm.sample([ASK], 3, SamplingParams(max_tokens=4, seed=1)))
    check("`lm.sample`", found)
    inner = {file for file in found.files if file.startswith("engine/")}
    assert len(inner - {"engine/tokenizing.py"}) == 5


def test_the_way_of_a_score(lm):
    found = walk(lambda: lm.loglikelihood([ASK, ASK], [[" a poet", " the river"], [" x"]]))
    assert found.depth <= 8


def imports(path):
    """Modules of agentprm that a file imports when it runs."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentprm"):
            yield node.module


def test_no_module_of_the_engine_imports_itself_in_a_circle():
    files = {f"agentprm.engine.{path.stem}": path for path in ENGINE.glob("*.py")}
    graph = {name: [m for m in imports(path) if m in files] for name, path in files.items()}
    assert sum(map(len, graph.values())) > 10
    list(TopologicalSorter(graph).static_order())  # raises where there is a circle


def test_the_engine_knows_no_chat_and_no_reward_and_no_driver():
    known = (
        "agentprm.engine.",
        "agentprm.errors",
        "agentprm.forking",
        "agentprm.model_names",
        "agentprm.packaged",
    )
    for path in ENGINE.glob("*.py"):
        for module in imports(path):
            assert module.startswith(known), (path.name, module)
