"""The table of the confidence benchmark, by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from agentprm.trace import save_trace, trace_of

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "confidence.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("benchmarks_confidence", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def evaluated(folder, rows):
    """What `agentprm eval` writes of answers with a confidence."""
    traces = folder / "traces" / "search-1"
    traces.mkdir(parents=True)
    questions, records = [], []
    for number, (said, gold, sure) in enumerate(rows):
        step = {"id": "1", "parent_id": None, "query": "q", "thought": said, "final_answer": said}
        step |= {"depth": 1, "retrieve": True, "doc_ids": [], "score": sure, "value": sure}
        step |= {"status": "committed", "usage": {}, "cited_ids": [], "confidence": sure}
        name = f"{number}.json"
        save_trace(trace_of({"question": "q", "answer": said, "prm_steps": [step]}), traces / name)
        questions.append({"id": str(number), "question": "q", "answers": [gold]})
        record = {"run": json.dumps({"setup": "search"}), "question_id": str(number), "question": "q"}
        record |= {
            "prediction": said,
            "retrieved": [],
            "stop_reason": "answered",
            "usage": {},
            "seconds": 1.0,
        }
        records.append({**record, "error": "", "trace": name})
    for name, lines in (("questions", questions), ("records", records)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_answers_by_confidence(bench, tmp_path, capsys):
    known = evaluated(
        tmp_path / "known",
        [("Rome", "Rome", 0.95), ("Oslo", "Rome", 0.05), ("Rome", "Rome", 0.04), ("Ulm", "Bonn", 0.1)],
    )
    unknown = evaluated(tmp_path / "unknown", [("Rome", "Bonn", 0.02), ("Rome", "Bonn", 1.0)])
    assert bench.main(["--known", str(known), "--unknown", str(unknown)]) == 0
    printed = capsys.readouterr().out
    assert "| 0 to 0.1 | 2 | 50 | 50 | 1 |" in printed
    assert "| 0.1 to 0.2 | 1 | 0 | 0 | 0 |" in printed
    assert "| 0.2 to 0.4 | 0 |  |  | 0 |" in printed
    assert "| 0.9 to 1 | 1 | 100 | 100 | 1 |" in printed
    assert (
        "50 % of the answers to questions that no passage answers, 50 % of the wrong ones, 50 % of the right"
        in printed
    )


def test_a_set_up_without_a_reader_is_refused(bench, tmp_path, capsys):
    known = evaluated(tmp_path / "known", [("Rome", "Rome", 0.95)])
    assert bench.main(["--known", str(known), "--setup", "rag"]) == 2
    assert "name another by --setup" in capsys.readouterr().err
