"""Reward models on labelled data: the kinds of files, the measures by hand, resuming, the command."""

import json
import math

import pytest

from agentprm.cli import main, models
from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation import evaluate_rewards, read_reward_set, reward_html, reward_markdown
from agentprm.testing import FakeReward

PROCESSBENCH = [
    {"id": "a", "problem": "p", "steps": ["good", "good"], "label": -1},
    {"id": "b", "problem": "p", "steps": ["good", "bad"], "label": 1},
    {"id": "c", "problem": "p", "steps": ["bad", "good"], "label": 0},
    {"id": "d", "problem": "q", "steps": ["good", ""], "label": -1},
]
PRMBENCH = [
    {"idx": "1", "modified_question": "p", "modified_process": ["good", "bad", "bad"], "error_steps": [2],
     "classification": "confidence"},
    {"idx": "2", "question": "p", "modified_process": ["good"], "error_steps": [],
     "classification": "redundancy"},
]  # fmt: skip
CALL = [{"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}]
AGENT = [
    {
        "id": "t",
        "messages": [
            {"role": "system", "content": "You search."},
            {"role": "user", "content": "Where was Brunel born?"},
            {"role": "assistant", "content": "good", "tool_calls": CALL},
            {"role": "tool", "content": "Portsmouth", "tool_call_id": "1"},
            {"role": "assistant", "content": "bad"},
        ],
        "step_labels": {"2": 1, "4": -1},
        "final_label": -1,
    }
]
BEST = [
    {
        "question": "p",
        "candidates": [
            {"solution": "good\n\nbad", "answer": "4", "correct": True},
            {"solution": ["bad", "good"], "answer": "5", "correct": False},
            {"solution": "bad", "answer": "5", "correct": False},
        ],
    }
]
GRADED = [
    {"question": "p", "ground_truth": "A: 4",
     "small": {"is_correct": False, "solution": "2 + 2 = <<2+2=5>>5 bad\nA: 5"},
     "large": {"is_correct": True, "solution": "good\nA: 4.0"}},
]  # fmt: skip


def value(question, steps):
    return 0.2 if "bad" in steps[-1]["thought"] else 0.9


def written(tmp_path, rows):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def measured(tmp_path, rows, **options):
    data = read_reward_set(written(tmp_path, rows))
    return evaluate_rewards(data, {"fake": FakeReward(value)}, **options).rewards[0]


def test_processbench(tmp_path):
    found = measured(tmp_path, PROCESSBENCH)
    assert found.measures == {
        "F1": 1, "errors found": 1, "right accepted": 1, "F1 at its gate": 1, "lowest is last": 0.25,
    }  # fmt: skip
    # steps after the first wrong one are not judged: 2 + 2 + 1 + 2
    assert (found.calibration.items, found.calibration.auc) == (7, 1)
    strict = measured(tmp_path, PROCESSBENCH, threshold=0.95)
    assert strict.measures["right accepted"] == 0
    assert strict.measures["errors found"] == 0.5


@pytest.mark.parametrize(
    ("unscored", "left"), [(("q",), {"F1 at its gate", "lowest is last"}), ((), {"F1", "errors found"})]
)
def test_processbench_of_few_solutions_says_why_there_is_no_f1(tmp_path, unscored, left):
    """A reward that has no score for most of the solutions does not keep the others from their report."""

    def some(question, steps):
        return math.nan if question in unscored else value(question, steps)

    data = read_reward_set(written(tmp_path, PROCESSBENCH))
    found = evaluate_rewards(data, {"whole": FakeReward(value), "some": FakeReward(some)})
    assert found.rewards[0].measures["F1"] == 1
    assert left <= found.rewards[1].measures.keys()
    told = [note for note in found.notes if "some has no F1" in note]
    assert len(told) == (1 if unscored else 0)
    right = [row for row in PROCESSBENCH if row["label"] == -1]
    only = evaluate_rewards(read_reward_set(written(tmp_path, right)), {"r": FakeReward(value)})
    assert "F1" not in only.rewards[0].measures
    assert "r has no F1" in only.notes[1]


def test_prmbench(tmp_path):
    found = measured(tmp_path, PRMBENCH)
    # of three steps one right is held right, one wrong wrong, one right wrong
    assert found.measures == pytest.approx(
        {
            "PRMScore, mean of classes": (2 / 3 + 1) / 2,
            "PRMScore, confidence": 2 / 3,
            "PRMScore, redundancy": 1,
        }
    )
    assert found.calibration.items == 4


def test_agentprocessbench(tmp_path):
    (item,) = read_reward_set(written(tmp_path, AGENT)).items
    assert item.question == "Where was Brunel born?"
    assert item.labels == (1, -1)
    assert [len(path) for path in item.trajectories] == [1, 2]
    assert item.trajectories[1][-1]["passages"] == ["Portsmouth"]
    found = measured(tmp_path, AGENT)
    assert found.measures == {"steps right": 1, "first error right": 1}


@pytest.mark.parametrize(("how", "best"), [("last", 0.0), ("mean", 0.5), ("product", 0.0), ("max", 0.5)])
def test_best_of_n(tmp_path, how, best):
    found = measured(tmp_path, BEST, aggregation=how)
    assert found.measures["best of n"] == best
    assert found.measures["majority"] == 0
    assert (found.measures["oracle"], found.measures["chance"]) == (1, pytest.approx(1 / 3))


def test_graded_solutions(tmp_path):
    (item,) = read_reward_set(written(tmp_path, GRADED)).items
    assert item.answers == ("5", "4")
    assert item.labels == (False, True)
    assert item.trajectories[0][0]["thought"] == "2 + 2 = 5 bad"
    assert measured(tmp_path, GRADED).measures["best of n"] == 1


def test_what_was_scored_is_not_scored_again(tmp_path):
    asked = []

    def counted(question, steps):
        asked.append(steps[-1]["thought"])
        if len(asked) == 4:
            raise OSError("the server is away")
        return value(question, steps)

    data = read_reward_set(written(tmp_path, PROCESSBENCH))
    journal = tmp_path / "scores.sqlite"
    with pytest.raises(Exception, match="the server is away"):
        evaluate_rewards(data, {"r": FakeReward(counted)}, journal=journal)
    seen = len(asked)
    resumed = evaluate_rewards(data, {"r": FakeReward(counted)}, journal=journal)
    assert len(asked) - seen == 2  # the one item that failed
    assert resumed.rewards[0].measures == measured(tmp_path, PROCESSBENCH).measures
    evaluate_rewards(data, {"r": FakeReward(counted)}, journal=journal)
    assert len(asked) - seen == 2


def test_an_item_that_has_changed_is_scored_again(tmp_path):
    journal, rows = tmp_path / "scores.sqlite", [dict(row) for row in PROCESSBENCH]
    measured(tmp_path, rows, journal=journal)
    rows[0] |= {"steps": ["good", "good", "bad"], "label": 2}
    reward = FakeReward(value)
    found = evaluate_rewards(read_reward_set(written(tmp_path, rows)), {"fake": reward}, journal=journal)
    assert reward.calls == 1
    assert found.rewards[0].calibration.auc == 1
    with pytest.raises(InputError, match="'a' occurs twice"):
        measured(tmp_path, [rows[0], rows[0] | {"label": 1}])


def test_items_without_a_score_are_told(tmp_path):
    data = read_reward_set(written(tmp_path, PROCESSBENCH))

    def some(question, steps):
        return math.nan if question == "q" else value(question, steps)

    found = evaluate_rewards(data, {"r": FakeReward(some)}, threshold=0.5).rewards[0]
    assert found.skipped == 1
    assert found.measures["F1"] == 1


def test_the_reports(tmp_path):
    data = read_reward_set(written(tmp_path, PROCESSBENCH))
    found = evaluate_rewards(data, {"<b>": FakeReward(value)})
    assert "<b>" not in reward_html(found).split("<body>")[1]
    assert "<svg" in reward_html(found)
    assert "| &lt;b> | 100.0 |" in reward_markdown(found)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[1]", "not an object"),
        ("{", "not JSON"),
        ('{"x": 1}', "of no known kind"),
        ('{"problem": "p", "steps": ["a"], "label": 1}', "no step of 1"),
        ('{"problem": "p", "steps": ["a"]}', "lacks 'label'"),
        ('{"problem": "p", "steps": []}', "list of texts"),
        ('{"modified_process": ["a"], "question": "p", "error_steps": [2]}', "no steps of 1"),
        ('{"messages": [{"role": "user", "content": "x"}], "step_labels": {"3": 1}}', "message 3"),
        ('{"messages": []}', "step_labels"),
        ('{"question": "p", "candidates": []}', "no candidates"),
    ],
)
def test_damaged_lines_are_named(tmp_path, row, message):
    path = tmp_path / "x.jsonl"
    path.write_text(row)
    with pytest.raises(InputError, match=message) as caught:
        read_reward_set(path)
    assert "line 1" in str(caught.value)


def test_a_reward_that_breaks_its_contract(tmp_path):
    data = read_reward_set(written(tmp_path, PROCESSBENCH))
    with pytest.raises(ConfigurationError, match="probability"):
        evaluate_rewards(data, {"r": FakeReward(lambda question, steps: 7.0)})


def test_the_command(tmp_path, monkeypatch, capsys):
    made = []

    def reward_called(name, model, reader):
        made.append(name)
        return FakeReward(value)

    monkeypatch.setattr(models, "reward_called", reward_called)
    monkeypatch.setattr(models, "model_called", lambda name: None)
    path, out = written(tmp_path, PROCESSBENCH), tmp_path / "out"
    options = ["--reward", "grounding", "--reward", "some/model", "-o", str(out), "-q"]
    assert main(["eval-reward", str(path), *options]) == 0
    shown = capsys.readouterr().out
    assert "| grounding | 100.0" in shown
    assert "| some/model | 100.0" in shown
    assert made == ["grounding", "some/model"]
    assert json.loads((out / "rewards.json").read_text())["kind"] == "processbench"
    assert (out / "rewards.html").read_text().startswith("<!doctype html>")
    assert main(["eval-reward", str(path), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rewards"][1]["measures"]["F1"] == 1
    assert main(["eval-reward", "nowhere", *options]) == 2
    assert main(["eval-reward", str(path), "--reward", "grounding", "--aggregation", "x", "-q"]) == 0
    best = written(tmp_path, BEST)
    assert main(["eval-reward", str(best), "--reward", "grounding", "--aggregation", "x", "-q"]) == 2


@pytest.fixture
def by_name(monkeypatch):
    """Rewards by name are fakes; what was asked for is listed."""
    made = []

    def reward_called(name, model, reader):
        made.append((name, model))
        return FakeReward(value)

    monkeypatch.setattr(models, "reward_called", reward_called)
    monkeypatch.setattr(models, "model_called", lambda name: name)
    return made


def test_rewards_of_a_file_of_eval(tmp_path, by_name, capsys):
    (tmp_path / "in").mkdir()
    for name, rows in (("gsm8k", PROCESSBENCH), ("prm", PRMBENCH), ("agent", AGENT), ("in/gsm8k", BEST)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "rewards.toml"
    config.write_text(
        'out = "results"\n[defaults]\nmodel = "shared/model"\n'
        '[[reward]]\ndata = "gsm8k.jsonl"\nreward = ["some/reward", "self-judgement"]\nthreshold = 0.5\n'
        '[[reward]]\ndata = "prm.jsonl"\nreward = "grounding"\n'
        '[[reward]]\ndata = "agent.jsonl"\nreward = "self-judgement"\nmodel = "other/model"\n'
        '[[reward]]\ndata = "in/gsm8k.jsonl"\nreward = "grounding"\naggregation = "min"\n'
    )
    assert main(["eval", str(config), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)["rewards"]
    assert [one["kind"] for one in found] == ["processbench", "prmbench", "agentprocessbench", "best-of-n"]
    assert found[0]["rewards"][0]["measures"]["F1"] == 1
    names = [one["name"] for one in found[0]["rewards"] + found[2]["rewards"]]
    assert names == ["some/reward", "self-judgement (shared/model)", "self-judgement (other/model)"]
    assert by_name[:2] == [("some/reward", "shared/model"), ("self-judgement", "shared/model")]
    assert by_name[3] == ("self-judgement", "other/model")
    folders = sorted(path.name for path in (tmp_path / "results" / "rewards").iterdir())
    assert folders == ["agent", "gsm8k", "gsm8k-4", "prm"]
    for name in folders:
        kept = tmp_path / "results" / "rewards" / name
        assert {path.name for path in kept.iterdir()} >= {"rewards.html", "rewards.md", "rewards.json"}
    assert main(["eval", str(config), "-q"]) == 0  # the same from what was kept
    assert capsys.readouterr().out.count("Per cent.") == 4
    assert main(["eval", str(config), "--json", "-q", "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["rewards"][0]["items"] == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('data = "nowhere.jsonl"\nreward = "grounding"', "cannot be read"),
        ('reward = "grounding"', "data must name"),
        ('data = "d.jsonl"', "the following arguments are required: --reward"),
        ('data = "d.jsonl"\nreward = "grounding"\nscore = 1', "there is no 'score'; there are aggregation"),
        ('data = "d.jsonl"\nreward = "grounding"\nthreshold = "high"', "invalid float"),
        ('data = "d.jsonl"\nreward = [["grounding"]]', "takes one value"),
    ],
)
def test_mistakes_in_a_reward_of_a_file(tmp_path, by_name, capsys, table, message):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROCESSBENCH))
    (tmp_path / "c.toml").write_text(f"[[reward]]\n{table}\n")
    assert main(["eval", str(tmp_path / "c.toml"), "-q"]) == 2
    assert message in capsys.readouterr().err
    assert by_name == []
    (tmp_path / "c.toml").write_text("reward = 3\n")
    assert main(["eval", str(tmp_path / "c.toml"), "-q"]) == 2
    assert "[[reward]]" in capsys.readouterr().err


def test_rewards_stay_on_this_machine(tmp_path, by_name, capsys):
    (tmp_path / "c.toml").write_text('[[reward]]\ndata = "d.jsonl"\nreward = "grounding"\n')
    assert main(["eval", str(tmp_path / "c.toml"), "--ray", "auto"]) == 2
    assert "not scored on a Ray cluster" in capsys.readouterr().err


def test_a_reward_by_another_reader_is_another_reward(tmp_path, by_name, monkeypatch, capsys):
    monkeypatch.setattr(models, "reader_called", lambda name, packaged_model: name)
    path, out = written(tmp_path, PROCESSBENCH), str(tmp_path / "out")
    names = []
    for reader in ("packaged", "mine"):
        options = ["--reward", "reader", "--reader", reader, "-o", out, "--json", "-q"]
        assert main(["eval-reward", str(path), *options]) == 0
        names += [one["name"] for one in json.loads(capsys.readouterr().out)["rewards"]]
    assert names == ["reader", "reader (mine)"]
