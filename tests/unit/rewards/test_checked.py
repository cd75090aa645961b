"""Rewards corrected by checkers."""

import math

import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards import Checked, check_weights
from agentprm.rewards.checked import DEFAULT_WEIGHTS
from agentprm.rewards.checkers import ArithmeticChecker, CheckResult
from agentprm.testing import FakeReward


def step(thought):
    return {"query": "", "passages": [], "thought": thought, "final_answer": None}


TRUE, FALSE, SILENT = step("2 + 2 = 4"), step("2 + 2 = 5"), step("Let us see.")


class Words:
    """Supports steps with "yes", refutes those with "no", and counts its calls."""

    def __init__(self, name="words"):
        self.name, self.calls = name, 0

    def check(self, question, prefix):
        self.calls += 1
        text = prefix[-1]["thought"]
        label = "supported" if "yes" in text else "refuted" if "no" in text else "unknown"
        return CheckResult(label, text, self.name)


def log_odds(p):
    return math.log(p / (1 - p))


def test_each_verdict_shifts_the_log_odds():
    reward = Checked(
        FakeReward(lambda q, p: 0.8), [ArithmeticChecker(), Words()], weights={"words": (1.5, -2.5)}
    )
    trajectory = [TRUE, FALSE, SILENT, step("yes"), step("2 + 2 = 5, no")]
    (row,) = reward.score("Q", [trajectory])
    supported, refuted = DEFAULT_WEIGHTS["arithmetic"]
    shifts = [supported, refuted, 0, 1.5, refuted - 2.5]
    assert [log_odds(score) for score in row] == pytest.approx([log_odds(0.8) + shift for shift in shifts])
    labels = [[result.label for result in results] for results in reward.checks("Q", trajectory)]
    assert labels[1] == ["refuted", "unknown"]
    assert labels[3] == ["unknown", "supported"]


def test_silence_keeps_the_score_exactly():
    for score in (0.0, 0.123456789, 1.0):
        assert Checked(FakeReward(lambda q, p, s=score: s), [Words()]).score("Q", [[SILENT]]) == [[score]]
    (row,) = Checked(FakeReward(lambda q, p: math.nan), [Words()]).score("Q", [[step("no")]])
    assert math.isnan(row[0])


def test_a_certain_score_can_be_corrected():
    reward = Checked(FakeReward(lambda q, p: 1.0), [Words()], weights={"words": (0.0, -30.0)})
    assert reward.score("Q", [[step("no")]])[0][0] < 0.01


def test_checkers_alone_start_from_a_half():
    reward = Checked(None, [Words()], weights={"words": (2.0, -2.0)})
    (row,) = reward.score("Q", [[SILENT, step("yes"), step("no")]])
    assert row == pytest.approx([0.5, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))])


def test_logits_are_shifted():
    raw = FakeReward(lambda q, p: 3.0)
    raw.space = "logit"
    reward = Checked(raw, [Words()], weights={"words": (1.0, -2.0)})
    assert reward.space == "logit"
    assert reward.score("Q", [[step("yes"), step("no"), SILENT]]) == [[4.0, 1.0, 3.0]]


async def test_a_prefix_is_checked_once():
    words = Words()
    reward = Checked(FakeReward(), [words])
    assert await reward.ascore("Q", [[SILENT, TRUE]]) == reward.score("Q", [[SILENT, TRUE]])
    reward.score("Q", [[SILENT, TRUE, FALSE], [SILENT]])
    reward.checks("Q", [SILENT, TRUE])
    assert words.calls == 3
    assert await Checked(None, [words]).ascore("Q", [[TRUE]]) == [[0.5]]


def test_unfit_arguments_are_refused():
    for arguments in (
        {"checkers": []},
        {"checkers": [Words(), Words()]},
        {"checkers": [Words()], "weights": {"other": (1, -1)}},
        {"checkers": [Words()], "weights": {"words": (-1, -1)}},
        {"checkers": [Words()], "weights": {"words": (1, 1)}},
        {"checkers": [Words()], "weights": {"words": (1, -math.inf)}},
    ):
        with pytest.raises(ConfigurationError):
            Checked(None, **arguments)


def test_weights_are_learnt_from_labelled_steps():
    rows = [("supported", True)] * 30 + [("supported", False)] * 9 + [("refuted", False)] * 18
    rows += [("refuted", True)] * 1 + [("unknown", True)] * 4 + [("unknown", False)] * 2
    verdicts = [[CheckResult(label, "", "tool")] for label, _ in rows]
    weights = check_weights(verdicts, [right for _, right in rows])
    assert weights["tool"] == pytest.approx((math.log((31 / 38) / (10 / 32)), math.log((2 / 38) / (19 / 32))))
    backwards = check_weights(verdicts, [not right for _, right in rows])
    assert backwards["tool"] == (0.0, 0.0)
    Checked(None, [Words("tool")], weights=weights)
    with pytest.raises(InputError):
        check_weights(verdicts, [True])
    with pytest.raises(InputError):
        check_weights([verdicts[0]], [True])
