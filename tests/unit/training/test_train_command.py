"""`agentprm train critic` and `explainer`: from files of records to what load_reward and adapters read."""

import json

import pytest

from agentprm.cli import main
from agentprm.rewards import load_reward

LABELS = [
    {
        "question": f"{i}: who?",
        "steps": ["red step yes", "blue no"],
        "labels": [1, 0.2],
        "labeller": "toy",
        "correct": bool(i % 2),
    }
    for i in range(12)
]
PREFERENCES = [
    {
        "question": f"{i}: who?",
        "rejected": {"query": "blue no?", "thought": "no"},
        "critique": "It asks too much.",
        "chosen": {"query": "red yes?", "thought": "yes"},
        "rejected_score": 0.2,
        "chosen_score": 0.9 if i % 2 else 0.1,
    }
    for i in range(12)
]


def command(tmp_path, base, what, rows, *more):
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    argv = ["train", what, str(data), "-o", str(tmp_path / "out"), "--base", str(base), "-q"]
    return main([*argv, "--max-steps", "2", *more])


@pytest.mark.parametrize(
    ("rows", "more", "family"),
    [
        (LABELS, [], "trl"),
        (LABELS, ["--family", "rlhflow"], "rlhflow"),
        (PREFERENCES, ["--kind", "pairs"], "skywork"),
        (LABELS, ["--kind", "outcomes"], "implicit"),
    ],
)
def test_critics(base, tmp_path, capsys, rows, more, family):
    assert command(tmp_path, base, "critic", rows, *more) == 0
    assert "Trained a critic" in capsys.readouterr().out
    assert load_reward(tmp_path / "out").family.name == family


def test_an_explainer(base, tmp_path):
    assert command(tmp_path, base, "explainer", PREFERENCES) == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["run"]["kind"], card["run"]["loss"]) == ("explanation model", "kto")


@pytest.mark.parametrize(
    ("what", "more", "words"),
    [
        ("critic", ["--kind", "lm"], "kinds labels, encoder, pairs, outcomes"),
        ("planner", ["--kind", "span"], "one kind"),
        ("critic", ["--from", "packaged"], "--from is for span readers"),
        ("explainer", ["--family", "trl"], "--family is for critics"),
    ],
)
def test_options_of_others_are_refused(base, tmp_path, capsys, what, more, words):
    assert command(tmp_path, base, what, LABELS, *more) == 2
    assert words in capsys.readouterr().err
