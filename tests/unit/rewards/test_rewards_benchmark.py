"""The rewards benchmark end to end on its built-in items: rows, resumption, labels."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "rewards.py"


def loaded(script):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    module = loaded(SCRIPT)
    module.ROUNDS = 40
    return module


def table(text):
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_processbench(bench, capsys, tmp_path):
    log = tmp_path / "log.jsonl"
    assert bench.main(["processbench", "--tiny", "--out", str(log)]) == 0
    rows = table(capsys.readouterr().out)
    # Four of six solutions have an error, and every error but that of a last step is arithmetic.
    assert rows["arithmetic checker"][0].startswith("0.667")
    assert rows["always right"][:3] == ["0.000 [0.00, 0.00]", "0.00", "1.00"]
    assert rows["self-judgement + arithmetic"][-3] == rows["self-judgement"][-3]
    written = log.read_text().splitlines()
    assert bench.main(["processbench", "--tiny", "--out", str(log)]) == 0
    assert table(capsys.readouterr().out) == rows
    assert log.read_text().splitlines() == written
    # A line that was cut short is scored again.
    log.write_text("\n".join(written[:-1]) + "\n" + written[-1][:30])
    assert bench.main(["processbench", "--tiny", "--out", str(log)]) == 0
    again = table(capsys.readouterr().out)
    assert {name: cells[:-1] for name, cells in again.items()} == {k: v[:-1] for k, v in rows.items()}


def test_verdicts_of_the_checker(monkeypatch, capsys, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    counts = loaded(SCRIPT.with_name("checker_verdicts.py"))
    solutions = [
        {"problem": "q", "steps": ["2 + 2 = 4.", "So 3 * 4 = 13.", "1 + 1 = 3."], "label": 1},
        {"problem": "q", "steps": ["2 + 2 = 5.", "Fine."], "label": -1},
    ]
    graded = {
        "question": "q",
        "one": {"solution": "1 + 1 = 3\nA: 3", "is_correct": False},
        "two": {"solution": "1 + 1 = 2\nA: 2", "is_correct": True},
    }
    files = [tmp_path / "steps.jsonl", tmp_path / "graded.jsonl"]
    files[0].write_text("\n".join(map(json.dumps, solutions)))
    files[1].write_text(json.dumps(graded))
    monkeypatch.setattr("sys.argv", ["x", str(files[0]), "--graded", str(files[1])])
    counts.main()
    rows = table(capsys.readouterr().out)
    assert rows["first wrong"] == ["1", "1", "0%", "0%"]
    assert rows["right"] == ["3", "1", "33%", "33%"]
    assert (rows["a wrong answer"], rows["a right answer"]) == (["1", "1"], ["1", "0"])


def test_best_of_n(bench, capsys):
    assert bench.main(["best-of-n", "--tiny", "--rewards", "arithmetic checker", "grounding"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["oracle"][0].startswith("1.000")
    assert rows["always system 1"][0].startswith("0.000")
    # Of three candidates it refutes the second; chance decides between the others.
    assert rows["arithmetic checker"][0].startswith("0.500")
    assert "self-judgement" not in rows


def test_steps(bench, capsys):
    assert bench.main(["steps", "--tiny"]) == 0
    rows = table(capsys.readouterr().out)
    assert rows["always right"][:2] == ["0.500 [0.50, 0.50]"] * 2
    assert {"grounding", "query likelihood", "grounding x query likelihood"} <= set(rows)


def test_a_reader_is_not_asked_the_same_twice(bench):
    from langchain_core.documents import Document

    from agentprm.testing import ScriptedReader

    reader = ScriptedReader({"born": {"Rome": 0.9}, "died": {"Oslo": 0.8}})
    rome, oslo = Document("Ann was born in Rome."), Document("Ann died in Oslo.")
    remembering = bench.Remembering(reader)
    first = remembering.candidates(["born?", "died?", "born?"], [[rome], [oslo], [rome]], n=2)
    assert [row[0].text for row in first] == ["Rome", "Oslo", "Rome"]
    assert remembering.candidates(["died?", "born?"], [[oslo], [rome]], n=2) == [first[1], first[0]]
    assert len(reader.asked) == 2
    remembering.candidates(["born?", "born?"], [[oslo], [rome]], n=1)  # other passages, or fewer answers
    assert len(reader.asked) == 4


def test_thresholds_come_from_the_other_half(bench):
    scores = [[0.1, 0.9], [0.5, 0.9], [0.9, 0.9], [0.9, 0.95]]
    labels = [0, 0, -1, -1]
    # The best cut is .7 on the second and fourth, and .5 on the first and third, which misses the second.
    assert bench.crossed(scores, labels) == [0, -1, -1, -1]


def test_solutions_in_the_form_of_gsm8k(bench):
    steps, answer = bench.solution("She has 16 - 3 = <<16-3=13>>13 eggs\nSo 13 * 2 = $26\nA: 1,026.0")
    assert steps == ["She has 16 - 3 = 13 eggs", "So 13 * 2 = $26"]
    assert answer == "1026"
    assert bench.solution("No answer.") == (["No answer."], None)


def test_data_is_asked_for(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["processbench"])
    assert "--data" in capsys.readouterr().err
    assert json.loads(json.dumps(bench.TINY)) == bench.TINY
