"""The examples run, and do what they say."""

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path

import pytest

if importlib.util.find_spec("mcp"):
    # It keeps the stderr of the moment in which it is imported, which must not be what a test captures.
    import mcp.client.stdio  # noqa: F401

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = set(re.findall(r'load\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_node_in_your_graph(capsys):
    assert load("node_in_your_graph").main() == "Brunel"
    assert "after 2 attempts" in capsys.readouterr().out


def test_chat_with_memory(capsys):
    assert load("chat_with_memory").main() == [
        "Isambard Kingdom Brunel",
        "Portsmouth",
        "on the south coast of England",
    ]
    assert "understood as: Where is Portsmouth?" in capsys.readouterr().out


def test_corrective_loop():
    judged = load("corrective_loop").main()
    assert judged == [("George Stephenson", 0.0), ("Isambard Kingdom Brunel", 1.0)]


def test_best_of_n():
    result = load("best_of_n").main()
    assert [judgement["score"] for judgement in result["judgements"]] == [0.25, 0.5, 0.25]
    assert result["answer"] == "in Portsmouth"


def test_supervisor(capsys):
    assert load("supervisor").main() == ["human", "ai", "tool", "ai", "ai"]
    assert "The researcher says: Portsmouth" in capsys.readouterr().out


def test_reasoning_scripted():
    result = load("reasoning_scripted").main()
    assert result["answer"] == "Portsmouth"
    assert [citation["doc_id"] for citation in result["citations"]] == ["d1", "d2"]


def test_agent_with_middleware(capsys):
    pytest.importorskip("langchain")
    trace = load("agent_with_middleware").main()
    assert trace["answer"] == "He was born in Portsmouth."
    chosen = [step for step in trace["steps"] if step["status"] == "committed"]
    assert [step["query"] for step in chosen] == ['look_up(topic="bridge")', 'look_up(topic="Brunel")', ""]
    assert {step["thought"] for step in trace["steps"]} - {step["thought"] for step in chosen}
    assert "● 2 look_up" in capsys.readouterr().out


def test_agent_with_tool(capsys):
    pytest.importorskip("langchain")
    assert load("agent_with_tool").main() == ["Portsmouth, see the sources."] * 2
    out = capsys.readouterr().out
    assert "Sources:\n[1] d1: The Clifton" in out
    assert "3 steps are in the trace" in out


@pytest.mark.models
@pytest.mark.slow
def test_mcp_client(tmp_path):
    pytest.importorskip("mcp")
    from agentprm.cli import main

    (tmp_path / "brunel.txt").write_text("Isambard Kingdom Brunel was born in Portsmouth.")
    assert main(["index", str(tmp_path), "-o", str(tmp_path / "index")]) == 0
    answer = load("mcp_client").main(
        str(tmp_path / "index"), "Where was Brunel born?", "--graph", "rag", "-q"
    )
    assert "[1] brunel (" in answer


@pytest.mark.models
def test_rag_pipeline():
    assert "Brunel" in load("rag_pipeline").main()


@pytest.mark.models
@pytest.mark.slow
def test_reasoning_packaged(tmp_path, monkeypatch):
    module = load("reasoning_packaged")
    small = partial(module.create_reasoning_graph, candidates=2, max_steps=2)  # the same search, in less time
    monkeypatch.setattr(module, "create_reasoning_graph", small)
    result = module.main(database=tmp_path / "state.sqlite")
    # Which answer it samples depends on the processor's rounding; that it is grounded does not.
    committed = [step for step in result["prm_steps"] if step["status"] == "committed"]
    assert result["prm_stop_reason"] == "answered"
    assert result["answer"] == committed[-1]["final_answer"]
    read = {i for step in committed for i in step["doc_ids"]}
    assert {citation["doc_id"] for citation in result["citations"]} <= read
    assert result["prm_usage"]["computed_tokens"] < result["prm_usage"]["prompt_tokens"]
    # Asked again on the same thread it searches afresh and comes to the same end.
    assert module.main(database=tmp_path / "state.sqlite")["answer"] == result["answer"]


@pytest.mark.models
@pytest.mark.slow
def test_train_reader(tmp_path, capsys):
    pytest.importorskip("peft")
    from agentprm.demo import corpus_path

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join((corpus_path() / "corpus.jsonl").open(encoding="utf-8").readlines()[:40]))
    run = partial(load("train_reader").main, corpus, question="Who wrote Moby-Dick?", steps=2)
    learned = run(tmp_path / "learned")
    said = capsys.readouterr().out
    fresh = run(tmp_path / "fresh", from_scratch=True)
    # Two small steps leave what the packaged reader knows; a plain encoder knows nothing after them.
    assert learned["trained"]["gold_em"] > 0.5 > fresh["trained"]["gold_em"]
    assert learned["packaged"] == fresh["packaged"]
    better = learned["trained"]["among_em"] > learned["packaged"]["among_em"]
    assert ("It reads better now." in said) == better
    assert said.splitlines()[-1].startswith("Who wrote Moby-Dick?")
    # What was made and trained is not made again.
    assert run(tmp_path / "learned") == learned
