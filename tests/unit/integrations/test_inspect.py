"""Graphs as tasks of Inspect AI, run with its mock model and no network."""

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.evaluation import QaDataset, QaQuestion

pytest.importorskip("inspect_ai")

from langchain_core.runnables import RunnableLambda

from agentprm.integrations.inspect import qa_samples, qa_task

DATA = QaDataset(
    "demo",
    (
        QaQuestion("q1", "capital of France", ("Paris",), frozenset({"d1"}), {"type": "easy"}),
        QaQuestion("q2", "capital of Italy", ("Rome", "Roma"), frozenset({"d1", "d2"})),
        QaQuestion("q3", "no answer known"),
    ),
)


def answer(state):
    said = {"capital of France": "Paris", "capital of Italy": "It is Rome."}[state["question"]]
    return {"answer": said, "documents": [Document(id="d1", page_content="x")]}


def test_samples():
    first, second = qa_samples(DATA)
    assert (first.id, first.input, first.target) == ("q1", "capital of France", ["Paris"])
    assert first.metadata == {"type": "easy", "gold": ["d1"]}
    assert second.target == ["Rome", "Roma"]


def test_a_task_runs(tmp_path, monkeypatch):
    from inspect_ai import eval as run

    monkeypatch.chdir(tmp_path)
    (log,) = run(
        qa_task(DATA, RunnableLambda(answer)), model="mockllm/model", log_dir=str(tmp_path), display="none"
    )
    assert log.status == "success", log.error
    means = {score.name: score.metrics["mean"].value for score in log.results.scores}
    assert means == pytest.approx({"EM": 0.5, "F1": 0.75, "ACC_R": 1.0, "R@5": 0.75})
    sample = log.samples[0]
    assert sample.output.completion == "Paris"
    assert sample.metadata["agentprm"]["trace"]["question"] == "capital of France"


def test_what_cannot_be_run_is_refused():
    with pytest.raises(ConfigurationError, match="compile the graph"):
        qa_task(DATA, object())
