"""A small critic of steps: trained, saved and read back; what it counts; what it says without passages."""

import json

import pytest

pytest.importorskip("peft")

from agentprm.cli import main
from agentprm.errors import ConfigurationError, InputError
from agentprm.packaged import packaged_reader_folder
from agentprm.readers import Reader, ReaderAnswer
from agentprm.rewards import as_trajectory, load_reward
from agentprm.rewards.step_critic import FEATURES, CriticSettings, StepCritic, features_of
from agentprm.training import StepLabelRecord
from agentprm.training.fitting import TrainSettings
from agentprm.training.step_critic import train_step_critic

pytestmark = pytest.mark.skipif(not packaged_reader_folder().is_dir(), reason="needs the packaged reader")

ROWS = [
    {
        "question": f"Who wrote book {i}?",
        "steps": [
            {"query": f"Who wrote book {i}?", "passages": [f"Book {i}: by Ann Lee."], "thought": found}
        ],
        "labels": [label],
        "labeller": "toy",
        "set": "toy",
    }
    for i in range(8)
    for found, label in (("Ann Lee", 1), ("nobody", 0))
]
RECORDS = [StepLabelRecord(**row) for row in ROWS]


class Sure(Reader):
    """Always quotes Ann Lee; counts how often it is asked."""

    asked = 0

    def candidates(self, questions, passages, *, n):
        type(self).asked += len(questions)
        return [[ReaderAnswer("Ann Lee", 0.8, 0.1, 0)] for _ in questions]


def step(thought="Ann Lee", query="Who wrote book 1?", passages=("Book 1: by Ann Lee.",), **more):
    return {"query": query, "passages": list(passages), "thought": thought, "final_answer": None, **more}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("critic") / "out"
    how = TrainSettings(max_steps=6, epochs=20, learning_rate=5e-3, batch_tokens=512, precision="fp32")
    report = train_step_critic(RECORDS, out, critic=CriticSettings(rank=2), settings=how, reader=Sure())
    assert report.steps == 6
    assert report.losses[-1][1] < report.losses[0][1]
    return out


def test_what_is_trained_is_read_back(trained):
    critic = load_reward(trained, reader=Sure())
    right, wrong = critic.score("Who wrote book 1?", [[step()], [step("nobody")]])
    assert right[0] > wrong[0]
    assert isinstance(critic, StepCritic)
    # The rest of a batch changes nothing.
    alone = StepCritic(trained, reader=Sure(), batch_tokens=1).score("Who wrote book 1?", [[step()]])
    assert alone[0][0] == pytest.approx(right[0], abs=1e-4)


def test_the_best_passage_decides(trained):
    critic = load_reward(trained, reader=Sure())
    titles = ("Fern: a plant without flowers.", "Book 1: by Ann Lee.")
    one, both, turned = (
        critic.score("Who wrote book 1?", [[step(passages=shown)]])[0][0]
        for shown in (titles[1:], titles, titles[::-1])
    )
    assert both == pytest.approx(turned, abs=1e-4)
    assert both >= one - 1e-4


def test_a_step_without_passages_is_as_good_as_the_worst_before_it(trained):
    critic = load_reward(trained, reader=Sure())
    path = [step(), step("nobody"), step("Ann Lee", "", ())]
    first, second, last = critic.score("Who wrote book 1?", [path])[0]
    assert last == min(first, second)
    # It knows nothing of solutions that rest on no passage.
    assert critic.score("2 + 2?", [as_trajectory(["2 + 2 = 4", "4"])]) == [[0.5, 0.5]]


def test_a_reader_is_not_asked_about_its_own_findings(trained):
    critic = load_reward(trained, reader=Sure())
    before = Sure.asked
    critic.score("Who wrote book 1?", [[step(confidence=0.7)]])
    assert Sure.asked == before
    critic.score("Who wrote book 1?", [[step()]])
    assert Sure.asked == before + 1


def test_what_is_counted():
    question = "Who wrote the sequel of Dawn?"
    path = [step("Dusk", "What is the sequel of Dawn?", ["Dawn (novel): Dusk is its sequel."])]
    first = dict(zip(FEATURES, features_of(question, path, 0.5), strict=True))
    assert first["logit of the reader's probability"] == 0
    assert (first["finding in a passage"], first["finding in the sub-question"]) == (1, 0)
    assert (first["a passage's title named"], first["asks the whole question"]) == (1, 0)
    path.append(step("Ann Lee", "Who wrote Dusk, Ann Lee?", ["Fern: a plant."]))
    second = dict(zip(FEATURES, features_of(question, path, 1.0), strict=True))
    assert second["logit of the reader's probability"] == 1
    assert (second["finding in a passage"], second["finding in the sub-question"]) == (0, 1)
    assert second["words of the sub-question that question or findings hold"] == pytest.approx(3 / 5)
    assert second["a passage's title named"] == 0


def test_same_seed_same_weights(trained, tmp_path):
    how = TrainSettings(max_steps=6, epochs=20, learning_rate=5e-3, batch_tokens=512, precision="fp32")
    train_step_critic(RECORDS, tmp_path / "b", critic=CriticSettings(rank=2), settings=how, reader=Sure())
    one, other = (json.loads((f / "step_critic.json").read_text()) for f in (trained, tmp_path / "b"))
    assert one == other
    # Done is done.
    again = train_step_critic(
        RECORDS, tmp_path / "b", critic=CriticSettings(rank=2), settings=how, reader=Sure()
    )
    assert again is None


def test_the_features_alone(tmp_path):
    out = tmp_path / "out"
    how = TrainSettings(max_steps=200, epochs=400, learning_rate=0.1, batch_tokens=64)
    train_step_critic(RECORDS, out, critic=CriticSettings(rank=0), settings=how, reader=Sure())
    right, wrong = load_reward(out, reader=Sure()).score("Who wrote book 9?", [[step()], [step("nobody")]])
    assert right[0] > 0.9 > 0.1 > wrong[0]


def test_the_command(tmp_path, capsys):
    data = tmp_path / "labels.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    argv = ["train", "critic", str(data), "--kind", "encoder", "-o", str(tmp_path / "out"), "-q"]
    assert main([*argv, "--max-steps", "1", "--rank", "2"]) == 0
    assert "Trained a critic" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (card["run"]["kind"], card["run"]["critic"]["rank"]) == ("step critic", 2)
    assert isinstance(load_reward(str(tmp_path / "out"), reader=Sure()), StepCritic)
    numbers = [*argv[:-2], str(tmp_path / "numbers"), "-q", "--max-steps", "1", "--rank", "0"]
    assert main(numbers) == 0
    assert load_reward(str(tmp_path / "numbers"), reader=Sure()).settings.rank == 0
    assert main([*argv[:-3], "-o", str(tmp_path / "b"), "--plans", str(data)]) == 2
    assert "span readers" in capsys.readouterr().err


def test_damage_is_told(trained, tmp_path):
    with pytest.raises(ConfigurationError, match="agentprm train critic"):
        StepCritic(tmp_path)
    for name in ("step_critic.json", "step_critic.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "step_critic.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match="has changed"):
        load_reward(tmp_path)
    config = json.loads((trained / "step_critic.json").read_text())
    (tmp_path / "step_critic.json").write_text(json.dumps({**config, "rank": "much"}))
    with pytest.raises(ConfigurationError, match="must hold"):
        load_reward(tmp_path)
    # An adapter fits the weights that it was trained on, and no others.
    (tmp_path / "step_critic.safetensors").write_bytes((trained / "step_critic.safetensors").read_bytes())
    (tmp_path / "step_critic.json").write_text(json.dumps({**config, "base_sha256": "0" * 64}))
    with pytest.raises(ConfigurationError, match="another reader"):
        load_reward(tmp_path)


def test_steps_without_passages_teach_nothing(tmp_path):
    record = StepLabelRecord(question="2 + 2?", steps=["4"], labels=[1], labeller="toy")
    with pytest.raises(InputError, match="nothing to learn"):
        train_step_critic([record], tmp_path / "out", critic=CriticSettings(rank=0), reader=Sure())
