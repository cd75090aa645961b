"""Splits by question, and near-duplicates."""

import random

import pytest

from agentprm.errors import ConfigurationError
from agentprm.training import PlanRecord, PlanStep, ReadingRecord
from agentprm.training.splits import drop_near_duplicates, split_by_question


def reading(question, name=""):
    return ReadingRecord(id=name, question=question, answers=[], passages=[])


def test_a_question_falls_on_one_side_whatever_the_record():
    rows = [reading(f"Who directed film {i}?") for i in range(500)]
    plans = [
        PlanRecord(question=f"Who directed  Film {i}", steps=[PlanStep(question="Who?")]) for i in range(500)
    ]
    train, test = split_by_question(rows, 0.2)
    assert 60 < len(test) < 140
    plan_train, plan_test = split_by_question(plans, 0.2)
    assert [r.question.split()[-1].strip("?") for r in test] == [p.question.split()[-1] for p in plan_test]
    # more data does not move what was there
    assert split_by_question(rows[:300], 0.2)[0] == [r for r in train if r in rows[:300]]
    assert len(plan_train) == len(train)
    assert split_by_question(rows, 0.2, seed=1)[1] != test
    assert split_by_question(rows, 0.0) == (rows, [])
    assert split_by_question(rows, 1.0) == ([], rows)
    with pytest.raises(ConfigurationError):
        split_by_question(rows, 1.1)


def test_near_duplicates_go_and_questions_of_one_pattern_stay():
    rows = [
        reading("When was the director of the film Dawn born?", "a"),
        reading("When was the director of film Dawn born", "again"),
        reading("When was the director of the film Dusk born?", "b"),
        reading("Who wrote the Book of Kells?", "c"),
        reading("What is in the evaluation set about Mars?", "d"),
    ]
    kept = drop_near_duplicates(rows, ["what is in the evaluation set, about mars?!"])
    assert [record.id for record in kept] == ["a", "b", "c"]
    assert [r.id for r in drop_near_duplicates(rows, threshold=1.0)] == ["a", "b", "c", "d"]
    assert drop_near_duplicates([]) == []
    with pytest.raises(ConfigurationError):
        drop_near_duplicates(rows, threshold=0)


def test_none_is_missed_that_comparing_all_pairs_finds():
    from agentprm.training.splits import _Seen

    draw = random.Random(2)
    words = [f"w{i}" for i in range(12)]
    weight = {word: draw.random() + 0.1 for word in words}
    for threshold in (0.3, 0.6, 0.9):
        sets = [frozenset(draw.sample(words, draw.randint(1, 8))) for _ in range(150)]
        seen = _Seen(weight, threshold)
        found = []
        for place, one in enumerate(sets):
            alike = any(
                sum(weight[w] for w in one & other) >= threshold * sum(weight[w] for w in one | other) - 1e-9
                for other in sets[:place]
            )
            found.append(seen.has_like(one) == alike)
            seen.add(one)
        assert all(found)
