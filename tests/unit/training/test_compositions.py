"""Composed plans: descriptions in a passage's words, and questions whose plans lead to the single ones."""

import json
import re

import pytest

from agentprm.cli import main
from agentprm.questions.plan_text import parse_plan, render_plan
from agentprm.training import Passage, ReadingRecord
from agentprm.training.compositions import composed_plans, descriptions

KRULL = "Krull is a 1983 fantasy film directed by Peter Yates. It stars Ken Marshall. It was a failure."
YATES = "Peter Yates (24 July 1929 - 2011) was an English film director who won an award in Cannes."


def record(question, answer, title, text, group="toy"):
    passages = [Passage(title=title, text=text, gold=True)]
    return ReadingRecord(set=group, question=question, answers=[answer], passages=passages)


@pytest.mark.parametrize(
    ("text", "names", "phrases"),
    [
        (KRULL, ["Krull"], ["the 1983 fantasy film directed by Peter Yates",
                            "the 1983 fantasy film that stars Ken Marshall"]),
        (YATES, ["Peter Yates"], ["the English film director who won an award in Cannes"]),
        ("Lone Pine is a town in Inyo County, California.", ["Lone Pine"],
         ["the town in Inyo County, California"]),
        # it would name what it stands for
        ("Krull is a film directed by Ann Krull of Paris.", ["Krull"], []),
        ("Krull is an Australian and occasional film directed by Peter Yates.", ["Krull"],
         ["the Australian and occasional film directed by Peter Yates"]),
        ("Krull is a dummy and celebrated director of films in Paris.", ["Krull"],
         ["the dummy and celebrated director of films in Paris"]),
        # nothing in it tells one film from another
        ("Krull is a film that was not seen by many people.", ["Krull"], []),
        ("They met Krull, which is a film directed by Peter Yates.", ["Krull"], []),
        ("", ["Krull"], []),
    ],
)  # fmt: skip
def test_descriptions(text, names, phrases):
    assert [found.phrase for found in descriptions(text, names)] == phrases


def test_a_description_answers_its_question():
    asked = {found.phrase: found.asked for found in descriptions(KRULL, ["Krull"])}
    assert asked["the 1983 fantasy film directed by Peter Yates"] == (
        "Which 1983 fantasy film is directed by Peter Yates?"
    )
    assert asked["the 1983 fantasy film that stars Ken Marshall"] == (
        "Which 1983 fantasy film stars Ken Marshall?"
    )


RECORDS = [
    record("Who produced Krull?", "Ron Silverman", "Krull", KRULL),
    record("Where was Peter Yates born?", "Aldershot", "Peter Yates", YATES),
]


def test_what_is_described_is_asked_for_first():
    plans = composed_plans(RECORDS, 100)
    plan = next(p for p in plans if "produced" in p.question and "that stars Ken" in p.question)
    assert [step.question for step in plan.steps] == [
        "Which 1983 fantasy film stars Ken Marshall?",
        "Who produced #1?",
    ]
    assert [step.answer for step in plan.steps] == ["Krull", "Ron Silverman"]
    assert plan.answer == "Ron Silverman"


def test_no_question_names_what_it_describes_or_tells_its_answer():
    plans = [plan for plan in composed_plans(RECORDS, 100) if len(plan.steps) > 1]
    assert plans
    for plan in plans:
        assert not any(step.answer in plan.question for step in plan.steps)
        steps = [step.question for step in plan.steps]
        assert parse_plan(render_plan(steps)) == steps
        # a step names each finding that it needs, and the plan needs every step
        named = {int(n) for step in steps for n in re.findall(r"#(\d)", step)}
        assert named == set(range(1, len(steps)))


def test_some_questions_stay_whole():
    plain = [record(f"When did Ann{i} die?", "1900", f"Ann{i}", f"Ann{i} lived long.") for i in range(40)]
    whole = [plan for plan in composed_plans([*RECORDS, *plain], 100) if len(plan.steps) == 1]
    composed = [plan for plan in composed_plans([*RECORDS, *plain], 100) if len(plan.steps) > 1]
    assert all(plan.steps[0].question == plan.question for plan in whole)
    assert 0 <= len(whole) < len(composed)


def test_the_seed_decides_and_most_bounds():
    first, second = (composed_plans(RECORDS, 100, seed=1) for _ in range(2))
    assert first == second
    assert len([p for p in composed_plans(RECORDS, 2) if len(p.steps) > 1]) == 2
    assert composed_plans([], 10) == []


def test_a_planner_learns_them(base, tmp_path, capsys):
    plans, readings = tmp_path / "plans.jsonl", tmp_path / "reading.jsonl"
    plans.write_text(json.dumps({"question": "Who?", "steps": [{"question": "Who?"}], "set": "own"}) + "\n")
    readings.write_text("\n".join(one.model_dump_json() for one in RECORDS))
    out = str(tmp_path / "out")
    argv = ["train", "planner", str(plans), "-o", out, "--base", str(base), "-q", "--max-steps", "1"]
    assert main([*argv, "--readings", str(readings), "--dev", "0"]) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert set(card["sets"]) >= {"own", "toy composed"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["train", "critic", "x.jsonl", "--readings", "y.jsonl"], "are for planners"),
        (["train", "planner", "x.jsonl", "--composed", "5"], "--readings"),
    ],
)
def test_its_options_are_refused_elsewhere(tmp_path, capsys, argv, words):
    assert main([*argv, "-o", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
