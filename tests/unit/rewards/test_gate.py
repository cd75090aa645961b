"""The gate benchmark: precision, recall and what is lost, by hand; and the default gate."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from agentprm.rewards import default_reward
from agentprm.rewards.loading import GATE
from agentprm.testing import ScriptedLanguageModel

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gate.py"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("benchmarks_gate", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_measures_of_a_gate_by_hand(bench):
    # (fired, wrong): two questions, five choices, three of them wrong
    fired = [[(True, True), (False, True), (True, False)], [(False, False), (True, True)]]
    assert bench.precision(fired) == pytest.approx(2 / 3)
    assert bench.recall(fired) == pytest.approx(2 / 3)
    assert bench.share(fired) == pytest.approx(3 / 5)
    assert bench.lost(fired) == pytest.approx(1 / 2)
    assert math.isnan(bench.precision([[(False, True)]]))


def test_a_gate_that_can_be_fitted_stands_between_wrong_and_right(bench):
    rows = [[{"score": 0.6, "right": False}, {"score": 0.9, "right": True}], [{"score": 0.7, "right": False}]]
    assert 0.7 < bench.fit(rows) <= 0.9
    assert math.isnan(bench.fit([[{"score": 0.6, "right": False}]]))


def test_it_runs_on_the_built_in_items(bench, capsys):
    assert bench.main(["--tiny", "--rewards", "grounding x query likelihood"]) == 0
    out = capsys.readouterr().out
    assert "| middle of the space | 0.500 |" in out
    assert f"| default | {GATE:.3f} |" in out


def test_the_default_gate_belongs_to_the_likelihoods_of_a_local_model():
    assert default_reward(ScriptedLanguageModel({})).gate == GATE
