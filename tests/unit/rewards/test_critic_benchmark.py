"""The critic benchmark: what it trains, and how it reads a search agent's trajectories."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from agentprm.packaged import packaged_reader_folder
from agentprm.rewards import load_reward

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))  # it imports the benchmark beside it
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_critic", FOLDER / "critic.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


def row(text):
    return {"question": "When was the director born?", "pred_ans": " 1901 ", "gen_text_store": text}


def test_a_trajectory_without_a_search_is_its_answer_alone(bench):
    (answer,) = bench.path_of(row("I think it was 1901."))
    assert (answer["query"], answer["passages"], answer["final_answer"]) == (
        "When was the director born?",
        [],
        "1901",
    )


def test_searches_become_steps_with_what_was_shown_and_said(bench):
    one, two, answer = bench.path_of(
        row(
            "First. <|begin_of_query|> director of Dawn<|end_of_query|>\n"
            "<|begin_of_documents|>\n(1)Dawn by Ann Lee.\n(2)Dusk by Bo Ray.<|end_of_documents|>\n\n"
            "It was Ann Lee. <|begin_of_query|>Ann Lee<|end_of_query|> So 1901.</think>"
        )
    )
    assert (one["query"], one["passages"]) == ("director of Dawn", ["Dawn by Ann Lee.", "Dusk by Bo Ray."])
    assert (one["thought"], two["query"]) == ("It was Ann Lee.", "Ann Lee")
    assert (two["passages"], two["thought"]) == ([], "So 1901.")
    assert answer["passages"] == one["passages"]


@pytest.mark.skipif(not packaged_reader_folder().is_dir(), reason="needs the packaged reader")
def test_critics_are_trained_of_steps_and_of_outcomes(bench, tmp_path, capsys):
    pytest.importorskip("peft")
    rows = [
        {
            "question": f"Who wrote book {i}?",
            "steps": [{"query": "Who?", "passages": [f"Book {i}: by Ann Lee."], "thought": found}],
            "labels": [label],
            "labeller": "toy",
        }
        for i in range(12)
        for found, label in (("Ann Lee", 1), ("nobody", 0))
    ]
    for name in ("labels.jsonl", "outcomes.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    argv = ["train", "--out", str(tmp_path), "--max-steps", "1", "--encoder-steps", "4"]
    assert bench.main(argv) == 0
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines()] == ["numbers", "outcome", "encoder"]
    assert "encoder: 4 steps" in said
    ranks = {name: load_reward(tmp_path / name).settings.rank for name in ("numbers", "outcome", "encoder")}
    assert ranks == {"numbers": 0, "outcome": 0, "encoder": 16}
    assert bench.main(argv) == 0
    assert capsys.readouterr().out.count("trained already") == 3
