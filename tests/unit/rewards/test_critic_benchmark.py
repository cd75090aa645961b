"""The critic benchmark's reading of a search agent's trajectories."""

import importlib.util
import sys
from pathlib import Path

import pytest

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
