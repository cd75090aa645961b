"""Calibration, against scikit-learn and a numeric optimiser, and its file."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation.rewards import brier_score, expected_calibration_error
from agentprm.graphs import create_ladder_graph, create_rearter_graph, create_reasoning_graph
from agentprm.nodes import Answer
from agentprm.rewards import Calibrated, Calibration
from agentprm.search import TD
from agentprm.testing import FakeReward, ScriptedLanguageModel, fake_store

STEP = {"query": "q", "passages": [], "thought": "t", "final_answer": None}


def overconfident(count=2000, seed=0, shift=0.0):
    """Logits three times too large, so that T = 3 mends them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.3, 1.2, count)
    labels = rng.random(count) < 1 / (1 + np.exp(-logits))
    return 3 * logits + shift, labels


def log_loss(scale, shift, logits, labels):
    good, bad = labels.sum(), (~labels).sum()
    target = np.where(labels, (good + 1) / (good + 2), 1 / (bad + 2))
    z = scale * logits + shift
    return np.sum(np.logaddexp(0, z) - target * z)


def test_temperature_is_the_optimum_and_mends_overconfidence():
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels = overconfident()
    fitted = Calibration.fit(logits, labels, space="logit")
    best = optimize.minimize_scalar(
        lambda s: log_loss(s, 0, logits, labels), bounds=(0.01, 5), method="bounded"
    )
    assert fitted.scale == pytest.approx(best.x, rel=1e-3)
    assert fitted.scale == pytest.approx(1 / 3, rel=0.15)
    assert fitted.shift == 0
    test_logits, test_labels = overconfident(seed=1)
    before = [1 / (1 + math.exp(-x)) for x in test_logits]
    after = [fitted(x) for x in test_logits]
    assert (
        expected_calibration_error(after, test_labels)
        < 0.05
        < expected_calibration_error(before, test_labels)
    )
    assert brier_score(after, test_labels) < brier_score(before, test_labels)


def test_platt_is_the_optimum():
    optimize = pytest.importorskip("scipy.optimize")
    logits, labels = overconfident(shift=4.0)
    fitted = Calibration.fit(logits, labels, space="logit", method="platt")
    best = optimize.minimize(lambda x: log_loss(*x, logits, labels), [0.5, 0.0], method="Nelder-Mead")
    assert (fitted.scale, fitted.shift) == pytest.approx(tuple(best.x), rel=1e-2)
    assert fitted.shift == pytest.approx(-4 / 3, rel=0.15)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_steps_that_can_be_told_apart_give_a_finite_answer(method):
    fitted = Calibration.fit([-1.0, -2.0, 1.0, 2.0], [False, False, True, True], space="logit", method=method)
    assert 0 < fitted(-1.0) < 0.5 < fitted(1.0) < 1
    flat = Calibration.fit([0.7] * 4, [True, False, False, False], method=method)
    assert 0 < flat(0.7) < 1
    if method == "platt":
        assert flat(0.7) == pytest.approx(1 / 3, abs=0.05)  # Platt's targets shrink 1/4 towards 1/2
    backwards = Calibration.fit([0.9, 0.8, 0.2, 0.1], [False, False, True, True], method=method)
    assert backwards(0.9) >= backwards(0.1)  # never turned round


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None, max_examples=60)
def test_isotonic_is_that_of_scikit_learn(steps):
    isotonic = pytest.importorskip("sklearn.isotonic")
    scores, labels = [s / 12 for s, _ in steps], [y for _, y in steps]
    if len(set(labels)) < 2:
        with pytest.raises(InputError):
            Calibration.fit(scores, labels, method="isotonic")
        return
    fitted = Calibration.fit(scores, labels, method="isotonic")
    other = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, np.array(labels, float))
    points = np.linspace(-0.1, 1.1, 61)
    assert [fitted(float(x)) for x in points] == pytest.approx(list(other.predict(points)), abs=1e-9)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_order_is_kept_and_the_file_reads_back_exactly(method, tmp_path):
    logits, labels = overconfident(300)
    fitted = Calibration.fit(logits, labels, space="logit", method=method, reward="FakeReward")
    values = [fitted(float(x)) for x in sorted(logits)]
    assert values == sorted(values)
    assert all(0 <= v <= 1 for v in values)
    path = tmp_path / "calibration.json"
    fitted.save(path)
    fitted.save(path)
    assert Calibration.load(path) == fitted
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]
    json.loads(path.read_text())


def test_the_threshold_balances_both_kinds_of_steps():
    scores = [0.1, 0.2, 0.3, 0.35, 0.6, 0.62, 0.7, 0.9]
    labels = [False, False, False, True, True, True, False, True]
    fitted = Calibration.fit(scores, labels, method="platt")

    def balance(threshold):
        right = [fitted(s) >= threshold for s, y in zip(scores, labels, strict=True) if y]
        wrong = [fitted(s) < threshold for s, y in zip(scores, labels, strict=True) if not y]
        a, b = sum(right) / len(right), sum(wrong) / len(wrong)
        return 2 * a * b / (a + b) if a + b else 0

    assert balance(fitted.threshold) == max(balance(t / 200) for t in range(201))
    assert Calibration.fit(scores, labels, threshold=0.25).threshold == 0.25


def test_a_calibrated_reward_scores_probabilities():
    raw = FakeReward(lambda question, prefix: 2.0 * len(prefix) - 3)
    raw.space = "logit"
    trajectories = [[STEP] * 3, [STEP, STEP]]
    reward = Calibrated.fit(
        raw, ["a", "b"], trajectories, [[False, None, True], [False, True]], method="platt"
    )
    assert reward.calibrated
    assert reward.space == "probability"
    assert reward.calibration.steps == 4
    assert reward.threshold == reward.calibration.threshold
    (row,) = reward.score("Q", [[STEP] * 3])
    assert row == [reward.calibration(x) for x in (-1.0, 1.0, 3.0)]
    with pytest.raises(InputError):
        Calibrated.fit(raw, ["a"], trajectories, [[False, None, True], [False, True]])
    with pytest.raises(InputError):
        Calibrated.fit(raw, ["a", "b"], trajectories, [[False], [True]])


async def test_a_saved_calibration_fits_its_reward_only(tmp_path):
    raw = FakeReward(lambda question, prefix: 0.8)
    Calibration.fit([0.1, 0.9], [False, True], reward="FakeReward").save(tmp_path / "c.json")
    reward = Calibrated(raw, tmp_path / "c.json")
    assert await reward.ascore("Q", [[STEP]]) == reward.score("Q", [[STEP]])
    with pytest.raises(ConfigurationError, match="Calibrated"):
        Calibrated(reward, tmp_path / "c.json")
    raw.space = "logit"
    with pytest.raises(ConfigurationError, match="logit"):
        Calibrated(raw, tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        Calibrated(raw, tmp_path / "none.json")


GOOD = json.loads(Calibration.fit([0.1, 0.4, 0.9], [False, True, True], method="isotonic").to_json())


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"method": "magic"},
        {"method": ["temperature"]},
        {"method": "temperature"},
        {"scale": -1},
        {"scale": "1"},
        {"shift": True},
        {"threshold": 2},
        {"threshold": None},
        {"steps": True},
        {"rise": 2},
        {"rise": "0"},
        {"space": "log"},
        {"knots": []},
        {"knots": [[0, 1], [1, 0]]},
        {"knots": [[0, 0, 0]]},
        {"knots": [[0, "1"]]},
        {"knots": [[0, -1]]},
        {"extra": 1},
    ],
)
def test_a_damaged_file_is_an_error_with_a_reason(change, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(ConfigurationError):
        Calibration.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "[" * 100_000, '{"scale": NaN}'])
def test_what_is_no_calibration_is_an_error(text):
    with pytest.raises(ConfigurationError):
        Calibration.from_json(text)


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.1], [True]),
        ([], []),
        ([0.1, 0.2], [True]),
        ([math.nan, 0.1], [True, False]),
        ([2, 0], [True, False]),
    ],
)
def test_unfit_labels_are_refused(scores, labels):
    with pytest.raises(InputError):
        Calibration.fit(scores, labels)


def by_thought():
    """Scores a step by the number that is its thought."""
    return FakeReward(lambda question, prefix: float(prefix[-1]["thought"]))


def path_of(*scores):
    return [{**STEP, "thought": str(score)} for score in scores]


def test_the_rise_tells_right_next_steps_from_wrong_ones():
    trajectories = [path_of(0.5, 0.9), path_of(0.4, 0.7, 0.72), path_of(0.8, 0.81), path_of(0.6, 0.3)]
    labels = [[True, True], [True, True, False], [True, False], [True, None]]
    reward = Calibrated.fit(by_thought(), "abcd", trajectories, labels, method="platt")
    apply = reward.calibration
    rises = [(apply(0.9) - apply(0.5), True), (apply(0.7) - apply(0.4), True)]
    rises += [(apply(0.72) - apply(0.7), False), (apply(0.81) - apply(0.8), False)]  # None is left out
    assert all((rise >= reward.rise) == right for rise, right in rises)
    assert reward.rise == reward.calibration.rise


def test_without_both_kinds_of_next_steps_there_is_no_rise(tmp_path):
    for trajectories, labels in (
        ([path_of(0.2), path_of(0.9)], [[False], [True]]),
        ([path_of(0.2, 0.9), path_of(0.1)], [[True, True], [False]]),
    ):
        reward = Calibrated.fit(by_thought(), "ab", trajectories, labels)
        assert reward.rise is None
        reward.calibration.save(tmp_path / "c.json")
        assert Calibration.load(tmp_path / "c.json") == reward.calibration
    assert by_thought().rise is None


def test_the_rise_reaches_the_look_ahead():
    trajectories, labels = [path_of(0.1, 0.9), path_of(0.5, 0.6)], [[False, True], [True, False]]
    reward = Calibrated.fit(by_thought(), "ab", trajectories, labels, method="platt")
    assert reward.rise is not None
    for make, options, wanted in (
        (create_reasoning_graph, {"value": "td"}, TD(beta=reward.rise, horizon=3)),
        (create_reasoning_graph, {"value": "td-code"}, TD.code()),
        (create_reasoning_graph, {"value": TD(beta=0.3)}, TD(beta=0.3)),
        (create_rearter_graph, {}, TD(beta=reward.rise)),
        (create_rearter_graph, {"value": "td-code"}, TD.code()),
    ):
        builder = make(ScriptedLanguageModel({}), fake_store(["text"]), reward, **options)
        assert builder.nodes["look_ahead"].runnable.value == wanted
    builder = create_rearter_graph(ScriptedLanguageModel({}), fake_store(["text"]), by_thought())
    assert builder.nodes["look_ahead"].runnable.value == TD()


def test_progress_by_scores_that_are_no_chances_is_warned_of(caplog):
    raw = by_thought()
    trusted = Calibrated.fit(raw, "ab", [path_of(0.1), path_of(0.9)], [[False], [True]])
    create_reasoning_graph(ScriptedLanguageModel({}), fake_store(["text"]), trusted, value="pav")
    assert caplog.text == ""
    create_reasoning_graph(ScriptedLanguageModel({}), fake_store(["text"]), raw, value="pav")
    assert "is not calibrated" in caplog.text


@pytest.mark.parametrize(("space", "gate"), [("probability", 0.5), ("logit", 0.0)])
def test_a_ladder_is_content_by_the_judges_own_gate(space, gate):
    for score, rung in ((gate + 0.1, "cheap"), (gate - 0.1, "dear")):
        judge = FakeReward(lambda question, prefix, score=score: score)
        judge.space = space
        model = ScriptedLanguageModel({"": "Bath"})
        ladder = create_ladder_graph({"cheap": Answer(model), "dear": Answer(model)}, judge)
        assert ladder.compile().invoke({"question": "Where?"})["rung"] == rung
    judge = Calibrated(FakeReward(lambda q, p: 0.7), Calibration("temperature", "probability", threshold=0.8))
    ladder = create_ladder_graph({"cheap": Answer(model), "dear": Answer(model)}, judge)
    assert ladder.compile().invoke({"question": "Where?"})["rung"] == "dear"
