"""Rewards and tools as labellers of trajectories."""

from agentprm.rewards.checkers import CheckResult
from agentprm.testing import FakeReward
from agentprm.training import StepCounts, StepLabelRecord, read_records, write_records
from agentprm.training.annotating import checked_by, judged_by
from agentprm.training.labels import consensus, hard_values

RECORD = StepLabelRecord(
    question="2 + 2 * 2?",
    steps=["2 * 2 = 4", "2 + 4 = 7", "So 7."],
    labels=[None, None, None],
    labeller="nobody",
    counts=[StepCounts(rollouts=4, correct=c) for c in (3, 0, 0)],
)


def test_a_judge_labels_by_the_gate_of_its_reward_and_can_be_compared(tmp_path):
    reward = FakeReward(lambda question, prefix: {1: 0.9, 2: 0.5, 3: 0.7}[len(prefix)])
    (judged,) = judged_by([RECORD], reward)
    assert judged.labels == [1.0, 0.0, 1.0]
    assert judged.labeller == "judge FakeReward"
    assert [(c.judged, c.correct) for c in judged.counts] == [(True, 3), (False, 0), (True, 0)]
    assert consensus(hard_values(judged.counts), judged.labels) == [1.0, 0.0, None]
    write_records(tmp_path / "labels.jsonl", [judged])
    assert read_records(tmp_path, StepLabelRecord) == [judged]


class Sums:
    name = "sums"

    def check(self, question, prefix):
        said = prefix[-1]["thought"]
        label = "unknown" if "=" not in said else "refuted" if said.endswith("7") else "supported"
        return CheckResult(label, "", self.name)


def test_a_checker_labels_what_it_can_decide():
    (checked,) = checked_by([RECORD], Sums())
    assert checked.labels == [1.0, 0.0, None]
    assert checked.labeller == "checker sums"
    assert [(c.checked, c.rollouts) for c in checked.counts] == [(True, 4), (False, 4), (None, 4)]
    assert RECORD.labels == [None, None, None]
    (bare,) = checked_by([RECORD.model_copy(update={"counts": []})], Sums())
    assert [c.checked for c in bare.counts] == [True, False, None]
