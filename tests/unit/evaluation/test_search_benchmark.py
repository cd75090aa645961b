"""The search benchmark end to end with stand-ins for the models: every row, equal tokens, resumption."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from agentprm.testing import FakeEmbeddings, ScriptedLanguageModel, ScriptedReader
from tests.unit.world import PASSAGES, QUESTION, likelihood, reply

SCRIPT = {"born": {"Portsmouth": 0.8, "Brunel": 0.1}, "designed": {"Brunel": 0.9}}
FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmarks_search", FOLDER / "search.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = ScriptedLanguageModel(reply, likelihood=likelihood)
    monkeypatch.setattr(module.packaged, "default_language_model", lambda: model)
    monkeypatch.setattr(module.packaged, "default_embeddings", FakeEmbeddings)
    monkeypatch.setattr(module.packaged, "default_reader", lambda: ScriptedReader(SCRIPT))
    return module


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    rows = [{"_id": f"d{n}", "title": f"T{n}", "text": text} for n, text in enumerate(PASSAGES, 1)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    row = {"_id": "q1", "text": QUESTION, "answers": ["Portsmouth"]}
    (folder / "queries.jsonl").write_text(json.dumps(row))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\n")
    return folder


def test_every_system_runs_within_its_tokens_and_is_not_asked_twice(
    search, data, tmp_path, capsys, monkeypatch
):
    log = tmp_path / "log.jsonl"
    options = ["--data", str(data), "--tokens", "900", "--out", str(log)]
    assert search.main(options) == 0
    table = capsys.readouterr().out
    for system in search.SYSTEMS:
        assert f"| {system} |" in table
    assert "| step/beam/plain | step/beam/plain/random | 1 |" in table
    assert "| step/beam/plain | step/majority/plain | 1 |" in table
    assert "| step/beam/plain | plan/greedy/plain | 1 |" in table
    lines = log.read_text().splitlines()
    assert len(lines) == len(search.SYSTEMS)
    assert search.main(options) == 0
    assert log.read_text().splitlines() == lines
    capsys.readouterr()
    # The tables of several logs, without a model.
    halves = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for half, some in zip(halves, (lines[:10], lines[10:]), strict=True):
        half.write_text("\n".join(some) + "\n")
    monkeypatch.delattr(search.packaged, "default_language_model")
    assert search.main([*options[:-2], "--table", "--out", *map(str, halves)]) == 0
    assert capsys.readouterr().out == table


def test_a_deadline_ends_a_search_and_is_part_of_what_the_log_says(search, data, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    options = ["--data", str(data), "--systems", "step/beam/plain", "rag-1", "--out", str(log)]
    for more in ([], ["--seconds", "1e-9"], ["--seconds", "1e-9"], ["--seconds", "600"]):
        assert search.main([*options, *more]) == 0
        table = capsys.readouterr().out
        assert ("step/beam/plain ended: budget: deadline_s" in table) == ("1e-9" in more)
    runs = [json.loads(json.loads(line)["run"]) for line in log.read_text().splitlines()]
    assert [run.get("seconds") for run in runs] == [None, None, 1e-9, 600.0]
    assert [run["system"] for run in runs].count("rag-1") == 1
    with pytest.raises(SystemExit):
        search.parse(["--data", "demo", "--seconds", "0"])


def test_parts_are_all_questions_and_none_twice(search, data, capsys):
    row = json.loads((data / "queries.jsonl").read_text())
    rows = [{**row, "_id": f"q{n}"} for n in range(5)]
    (data / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = []
    for part in ("1/2", "2/2"):
        assert search.main(["--data", str(data), "--systems", "rag-1", "--part", part]) == 0
        counts.append(capsys.readouterr().out.split(" questions")[0])
    assert counts == ["tiny, 3", "tiny, 2"]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b"])
def test_a_part_that_is_none_is_refused(search, part, capsys):
    with pytest.raises(SystemExit):
        search.parse(["--data", "demo", "--part", part])
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    "system",
    [
        "step/bean/plain",
        "step/beam",
        "beam/plain",
        "step/beam/none",
        "rag-2",
        "step/beam/plain/chance",
        "plan/greedy/td",
    ],
)
def test_an_unknown_system_is_refused(search, system, capsys):
    with pytest.raises(SystemExit):
        search.parse(["--data", "demo", "--systems", system])
    assert system in capsys.readouterr().err


def test_the_random_reward_is_chance_but_the_same_each_time(search):
    step = {"query": "q", "passages": [], "thought": "t", "final_answer": None}
    scores = [search.random_reward(seed).score("?", [[step]])[0][0] for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]
