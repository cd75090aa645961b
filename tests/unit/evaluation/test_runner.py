"""Runs over many questions: what is collected, and that a killed run resumes without asking twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from langchain_core.documents import Document

from agentprm.budget import record
from agentprm.errors import ConfigurationError, InputError, TransientModelError
from agentprm.evaluation import (
    QaQuestion,
    evidence_order,
    markdown_table,
    qa_report,
    read_log,
    run_questions,
)

QUESTIONS = [
    QaQuestion("q1", "capital of France", ("Paris",), frozenset({"d1"})),
    QaQuestion("q2", "capital of Italy", ("Rome",), frozenset({"d2", "d9"})),
    QaQuestion("q3", "capital of Peru", ("Lima",)),
]
ANSWERS = {"capital of France": "Paris", "capital of Italy": "It is Rome.", "capital of Peru": "Quito"}


class Graph:
    """Answers from a dictionary, counts its calls and fails where told to."""

    def __init__(self, failures=None):
        self.asked = []
        self.failures = failures or {}

    def invoke(self, input):
        question = input["question"]
        self.asked.append(question)
        if question in self.failures:
            raise self.failures[question]
        record(model_calls=2, prompt_tokens=100, completion_tokens=10, computed_tokens=60)
        return {"answer": ANSWERS[question], "documents": [Document(id="d1", page_content="x")]}


def test_collects_what_a_run_said_and_cost():
    records = run_questions(Graph(), QUESTIONS, run="r")
    assert [r["prediction"] for r in records] == ["Paris", "It is Rome.", "Quito"]
    assert records[0]["usage"]["model_calls"] == 2
    assert records[0]["retrieved"] == ["d1"]
    assert records[0]["seconds"] > 0


def test_numbers_and_table():
    result = qa_report("rag", run_questions(Graph(), QUESTIONS, run="r"), QUESTIONS, ks=(1,))
    means = {name: interval.mean for name, interval in result.metrics.items()}
    assert means == pytest.approx(
        {"EM": 1 / 3, "F1": (1 + 0.5) / 3, "ACC_R": 2 / 3, "R@1": 0.5, "ALL@1": 0.5}
    )
    assert (result.tokens_asked, result.tokens_computed, result.model_calls) == (110, 60, 2)
    head, rule, row = markdown_table([result]).splitlines()
    assert head.startswith("| system | n | EM | F1 | ACC_R | R@1 | ALL@1 | tokens asked |")
    assert rule.count("|") == head.count("|") == row.count("|")
    assert row.startswith("| rag | 3 | 33.3 [")


def step(key, parent, status, doc_ids, **rest):
    return {
        "id": key, "parent_id": parent, "status": status, "doc_ids": doc_ids, "final_answer": None,
        "score": None, "value": None, **rest,
    }  # fmt: skip


def test_evidence_of_a_search_is_the_path_to_the_answer():
    steps = [
        step("1", None, "committed", ["b", "a"]),
        step("2", None, "rejected", ["z"]),
        step("1.1", "1", "rejected", ["y"]),
        step("1.2", "1", "committed", ["a", "c"]),
        step("1.2~1", "1.2", "simulated", ["x"]),
    ]
    assert evidence_order({"prm_steps": steps, "documents": []}) == ["b", "a", "c"]
    # What the findings stand in comes first, then every step's best passage before any step's second one.
    cited = [
        {**steps[0], "doc_ids": ["a", "b", "c"]},
        {**steps[3], "doc_ids": ["d", "e"], "cited_ids": ["e"]},
    ]
    assert evidence_order({"prm_steps": cited}) == ["e", "a", "d", "b", "c"]
    assert evidence_order({"prm_steps": steps[1:2]}) == []
    assert evidence_order({}) == []


def test_a_finished_question_is_not_asked_again(tmp_path):
    log = tmp_path / "log.jsonl"
    stopped = Graph({"capital of Italy": TransientModelError("slow down")})
    with pytest.raises(TransientModelError):
        run_questions(stopped, QUESTIONS, run="r", log=log)
    again = Graph()
    seen = []
    records = run_questions(again, QUESTIONS, run="r", log=log, on_record=lambda r, old: seen.append(old))
    assert again.asked == ["capital of Italy", "capital of Peru"]
    assert seen == [True, False, False]
    assert records == read_log(log, "r")
    run_questions(again, QUESTIONS, run="other settings", log=log)
    assert len(again.asked) == 5
    assert len(read_log(log)) == 6


def test_a_graph_is_made_once_when_first_asked_and_its_making_is_nobodys_time(tmp_path, monkeypatch):
    now, made = [0.0], []
    monkeypatch.setattr("agentprm.evaluation.runner.time.perf_counter", lambda: now[0])

    def make():
        made.append(Graph())
        now[0] += 100
        return made[-1]

    log = tmp_path / "log.jsonl"
    records = run_questions(make, QUESTIONS, run="r", log=log)
    assert [record["seconds"] for record in records] == [0, 0, 0]
    assert len(made) == 1
    assert run_questions(make, QUESTIONS, run="r", log=log) == records
    assert len(made) == 1
    with pytest.raises(ConfigurationError, match="no invoke method"):
        run_questions({}, QUESTIONS, run="r")


def test_a_refused_question_is_recorded_and_counts_as_wrong(tmp_path):
    graph = Graph({"capital of France": InputError("too long")})
    records = run_questions(graph, QUESTIONS, run="r", log=tmp_path / "log.jsonl")
    assert records[0]["error"] == "too long"
    result = qa_report("rag", records, QUESTIONS)
    assert (result.failed, result.metrics["EM"].mean) == (1, 0)
    assert "rag (1 refused)" in markdown_table([result])


@pytest.mark.parametrize("cut", [1, 5, 9, 40])
def test_a_line_cut_off_by_a_kill_is_asked_again(tmp_path, cut):
    log = tmp_path / "log.jsonl"
    run_questions(Graph(), QUESTIONS[:2], run="r", log=log)
    whole = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(whole[0] + whole[1][:cut])
    graph = Graph()
    run_questions(graph, QUESTIONS, run="r", log=log)
    assert graph.asked == ["capital of Italy", "capital of Peru"]
    assert [r["question_id"] for r in read_log(log)] == ["q1", "q2", "q3"]


def test_other_files_are_not_taken_for_a_log(tmp_path):
    log = tmp_path / "notes.txt"
    for text in ("hello\n", '{"_id": "x"}\n', "[]\n"):
        log.write_text(text)
        with pytest.raises(InputError, match="Choose another file"):
            run_questions(Graph(), QUESTIONS, run="r", log=log)
        assert log.read_text() == text
    with pytest.raises(InputError, match="cannot be written"):
        run_questions(Graph(), QUESTIONS, run="r", log=tmp_path / "no" / "log.jsonl")


def test_records_of_other_questions_are_refused():
    records = run_questions(Graph(), QUESTIONS, run="r")
    with pytest.raises(InputError, match="does not belong"):
        qa_report("rag", records, QUESTIONS[:1])
    with pytest.raises(InputError, match="no records"):
        qa_report("rag", [], QUESTIONS)


SLOW = """
import sys, time
from agentprm.evaluation import QaQuestion, run_questions
class Graph:
    def invoke(self, input):
        with open(sys.argv[2], "a") as f:
            f.write(input["question"] + "\\n")
        time.sleep(float(sys.argv[3]))
        return {"answer": input["question"]}
run_questions(Graph(), [QaQuestion(str(i), f"question {i}") for i in range(8)], run="r", log=sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_sigkill_loses_at_most_the_question_under_way(tmp_path):
    log, asked = tmp_path / "log.jsonl", tmp_path / "asked"
    command = [sys.executable, "-c", SLOW, str(log), str(asked)]
    process = subprocess.Popen([*command, "0.1"])
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = log.read_text().count("\n")
    assert 3 <= kept < 8
    subprocess.run([*command, "0"], check=True)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["prediction"] for row in rows] == [f"question {i}" for i in range(8)]
    assert len(asked.read_text().splitlines()) in (8, 9)
