"""Labels of steps, each against a case computed by hand."""

import random

import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards.checkers import CheckResult
from agentprm.training import StepCounts, StepLabelRecord, TrajectoryStep
from agentprm.training import labels as lab


def counts(*correct, rollouts=8):
    return [StepCounts(rollouts=rollouts, correct=c) for c in correct]


def record(labels, **fields):
    steps = [f"step {i}" for i in range(1, len(labels) + 1)]
    return StepLabelRecord(question="Q?", steps=steps, labels=labels, labeller="hand", **fields)


def test_monte_carlo_values_soft_and_hard():
    known = [*counts(8, 5, 1, 0), StepCounts()]
    assert lab.soft_values(known) == [1.0, 0.625, 0.125, 0.0, None]
    assert lab.hard_values(known) == [1.0, 1.0, 1.0, 0.0, None]  # Math-Shepherd, Lessons
    assert lab.hard_values(known, 0.5) == [1.0, 1.0, 0.0, 0.0, None]  # ReARTeR
    assert lab.hard_values(counts(4), 0.5) == [0.0]  # more than half
    with pytest.raises(ConfigurationError):
        lab.hard_values(known, 1.0)


def test_what_follows_the_first_error_has_no_label():
    assert lab.first_wrong([1, None, 0.4, 1]) == 2
    assert lab.first_wrong([1, None, 0.5]) is None
    assert lab.until_first_error([1, None, 0.4, 1, 0]) == [1, None, 0.4, None, None]
    assert lab.until_first_error([1, 1]) == [1, 1]


def test_neutral_ratings_are_a_choice():
    ratings = [1, 0, -1, None]
    assert lab.rating_labels(ratings) == [1, 1, 0, None]
    assert lab.rating_labels(ratings, "wrong") == [1, 0, 0, None]
    assert lab.rating_labels(ratings, "ignore") == [1, None, 0, None]
    with pytest.raises(InputError):
        lab.rating_labels([2])


def test_consensus_keeps_what_agrees_on_the_place_of_the_error():
    assert lab.consensus([1, 0, 1], [1, 0, 0]) == [1, 0, None]
    assert lab.consensus([1, 1], [1, 1]) == [1, 1]
    assert lab.consensus([1, 0, 1], [1, 1, 0]) is None
    assert lab.consensus([1, 1], [1, 0]) is None
    with pytest.raises(InputError):
        lab.consensus([1], [1, 1])


def test_self_denoised_labels():
    # the predicted error is step 5 (index 4); two steps around it are soft, MC over the completer's own .5
    known = counts(1, 8, 2, 5, 0, 1, 0, 3)
    expected = [1.0, 1.0, 0.25 / 0.5, 1.0, 0.0, 0.125 / 0.5, 0.0, 1.0]
    assert lab.self_denoised(known, 0.5, right=False) == pytest.approx(expected)
    hard = lab.self_denoised(known, 0.5, right=False, tolerance=0)
    assert hard == [1, 1, 1, 1, 0, 1, 0, 1]
    assert lab.self_denoised(known, 0.0, right=False) is None
    assert lab.self_denoised(known, 0.2, right=False, least_confidence=0.25) is None
    assert lab.self_denoised(counts(0, 0), 0.5, right=True) == [1, 1]
    assert lab.self_denoised(counts(1, 4), 0.5, right=False) == [0.25, 1.0]  # no error predicted


def test_relative_progress():
    # P = .75/.5, .75/.75, .5/.75 = .67, .5/.5, 0, and nothing counts behind a 0
    assert lab.relative_progress(counts(6, 6, 4, 4, 0, 8), 0.5) == [1, 1, 0, 1, 0, 0]
    assert lab.relative_progress(counts(4, 4), 0.5, least=1.0) == [1, 1]
    assert lab.relative_progress(counts(4), 0.0) == [0]
    with pytest.raises(InputError, match="Step 2"):
        lab.relative_progress([*counts(1), StepCounts()], 0.5)


def test_grounded_values_of_a_path():
    # N = 3: 1/3 (1 * 3/3 + 1 * 2/3 - 1 * 1/3) + 1/3 = 4/9 + 1/3
    v = 7 / 9
    assert lab.grounded_values([1, 1, -1], 1, ancestors=2) == pytest.approx([0.81 * v, 0.9 * v, v])
    assert lab.grounded_values([-1], -1) == [-2.0]
    assert lab.sign_labels([0.3, -0.1, 0.0]) == [1, 0, None]
    with pytest.raises(InputError):
        lab.grounded_values([], 1)


def test_checkers_and_ensembles():
    results = [CheckResult(label, "", "toy") for label in ("supported", "refuted", "unknown")]
    assert lab.checker_labels(results) == [1, 0, None]
    votes = [[1, 0, None, None], [1, 1, 0, None], [0, 1, None, None]]
    assert lab.ensemble(votes) == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0, None]
    assert lab.ensemble(votes, hard=True) == [1, 1, 0, None]
    assert lab.ensemble([[1], [0]], hard=True) == [None]
    with pytest.raises(InputError):
        lab.ensemble([[1], [1, 0]])


def test_reverse_verification_shows_the_reference():
    assert lab.with_reference("1 {x}?", "2").endswith("The reference answer is: 2")
    assert lab.with_reference("1 {x}?", "2").startswith("1 {x}?\n")
    assert "no reference answer" in lab.with_reference("1?", None)


FACTS = [("Dawn", "director", "Ann Lee"), ("Ann Lee", "place of birth", "Lyon")]


@pytest.mark.parametrize(
    ("step", "label"),
    [
        ({"query": "Who directed Dawn?", "thought": "Dawn was directed by Ann Lee."}, 1),
        ({"query": "Who directed Dawn?", "thought": "Dawn was directed by Bob."}, 0),
        # right, but not what was asked for
        ({"query": "Who directed Dawn?", "thought": "Lyon"}, 0),
        ({"query": "What did Ann Lee direct?", "thought": "Dawn"}, 1),
        ({"query": "Where was Ann Lee born?", "thought": "In Lyon, France."}, 1),
        # repeating the question finds nothing
        ({"query": "Who directed Dawn?", "thought": "I do not know who directed Dawn."}, 0),
        # names nothing that a fact is about: any fact will do
        ({"query": "Where was she born?", "thought": "Lyon"}, 1),
        ({"query": "Where was she born?", "thought": "Lyonesse"}, 0),
        ({"thought": "No sub-question."}, None),
        ({"thought": "So:", "final_answer": "the Lyon"}, 1),
        ({"thought": "Lyon?", "final_answer": "Paris"}, 0),
    ],
)
def test_labels_from_gold_facts(step, label):
    assert lab.evidence_labels([TrajectoryStep(**step)], FACTS, ["Lyon"]) == [label]


def test_without_facts_or_answers_there_is_no_evidence():
    steps = [TrajectoryStep(query="Who?", thought="Ann"), TrajectoryStep(thought="x", final_answer="y")]
    assert lab.evidence_labels(steps, []) == [None, None]
    assert lab.evidence_labels(steps, [("?", "r", "!")]) == [None, None]


def test_labels_from_gold_passages_count_each_passage_once():
    gold = ["Dawn is a film by Ann Lee.", "Ann Lee was born in Lyon."]
    steps = [
        TrajectoryStep(query="a", passages=["Dusk is a river.", "Dawn: Dawn is a film by Ann Lee."]),
        TrajectoryStep(query="b", passages=["Dawn is a film by Ann Lee."]),
        TrajectoryStep(query="c", passages=["Ann Lee was born in Lyon. She sang."]),
        TrajectoryStep(thought="So it is Lyon."),
    ]
    assert lab.retrieval_labels(steps, gold) == [1, 0, 1, None]


def test_merged_steps():
    whole = record([1.0, 0.25, 0.5], counts=[StepCounts()] * 3, answers=["x"])
    last = lab.join_steps(whole, 0)
    assert [step.thought for step in last.steps] == ["step 1\nstep 2", "step 3"]
    assert last.labels == [0.25, 0.5]
    assert last.counts == []
    assert last.answers == ["x"]
    assert lab.join_steps(record([0.0, 1.0]), 0, "last").labels == [1.0]
    assert lab.join_steps(record([0.0, 1.0]), 0, "all").labels == [0.0]
    assert lab.join_steps(record([None, 1.0]), 0, "all").labels == [None]
    with pytest.raises(InputError):
        lab.join_steps(whole, 2)


def test_last_steps_are_balanced_and_the_only_labelled_ones():
    draw = random.Random(5)
    rows = [
        record([float(draw.random() < 0.7) for _ in range(6)], counts=counts(*[1] * 6)) for _ in range(200)
    ]
    cut = lab.last_step_balanced(rows, seed=1)
    last = [row.labels[-1] for row in cut]
    assert abs(last.count(1.0) - last.count(0.0)) <= 1
    assert len(cut) > 150
    assert all(set(row.labels[:-1]) <= {None} for row in cut)
    assert all(len(row.steps) == len(row.labels) == len(row.counts) for row in cut)
    assert cut == lab.last_step_balanced(rows, seed=1)
    assert lab.last_step_balanced([record([None])]) == []


def test_new_labels_are_checked():
    assert lab.relabelled(record([1.0]), [0.5], "judge").labeller == "judge"
    with pytest.raises(InputError):
        lab.relabelled(record([1.0]), [0.5, 1], "judge")
    with pytest.raises(InputError):
        lab.relabelled(record([1.0]), [1.5], "judge")
