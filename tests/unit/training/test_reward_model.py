"""Reward models are trained where they are read, on soft labels too, and load_reward reads them."""

import json
import math

import numpy as np
import pytest
import torch

from agentprm.errors import ConfigurationError
from agentprm.rewards import families, load_reward
from agentprm.rewards.base import RewardStep
from agentprm.training.bases import open_base
from agentprm.training.data import PreferenceRecord, StepLabelRecord
from agentprm.training.fitting import TrainSettings
from agentprm.training.lora import LoraSettings
from agentprm.training.reward_model import (
    StepScorer,
    label_objective,
    label_rows,
    pair_objective,
    pair_rows,
    train_critic,
    train_reward_model,
)

QUICK = TrainSettings(epochs=25, learning_rate=0.005, batch_tokens=512, evaluate_every=50)
COLOURS = ("red", "blue", "green")


def labelled(steps, labels, question="Who wrote the play?"):
    return StepLabelRecord(question=question, steps=list(steps), labels=list(labels), labeller="toy")


def toy(count, seed):
    """A step with the word yes is right, one with no is wrong, whatever else it says."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        labels = rng.integers(0, 2, size=2).tolist()
        steps = [f"{COLOURS[rng.integers(3)]} step {('no', 'yes')[label]}" for label in labels]
        rows.append(labelled(steps, labels))
    return rows


def auc(reward, records):
    """By its definition: the share of pairs of a right and a wrong step that are in order."""
    scores = reward.score(records[0].question, [record.trajectory for record in records])
    labels = [label for record in records for label in record.labels]
    pairs = list(zip([score for row in scores for score in row], labels, strict=True))
    good, bad = ([s for s, y in pairs if y == label] for label in (1, 0))
    return np.mean([(g > b) + 0.5 * (g == b) for g in good for b in bad])


def scorer_of(base, family):
    trainee = open_base(base, LoraSettings(rank=4, alpha=8), TrainSettings(precision="fp32"), max_length=256)
    torch.manual_seed(0)
    return StepScorer(trainee, families()[family]), trainee


RECORDS = [labelled(["red step", "blue step", "no"], [1, 0.25, None]), labelled(["green one yes"], [0.5])]


@pytest.mark.parametrize("family", ["trl", "skywork", "rlhflow", "universal-prm"])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_the_loss_is_that_of_the_scores_that_the_checkpoint_gives(base, family, loss):
    scorer, trainee = scorer_of(base, family)
    rows = label_rows(RECORDS, scorer.template, trainee.text.tokenizer)
    objective = label_objective(scorer, trainee.pad, loss)
    with torch.no_grad():
        total, weight = objective.loss(None, objective.collate(rows))
        expected = 0.0
        for record in RECORDS:
            for k, label in enumerate(record.labels):
                if label is None:
                    continue
                texts = [step.thought for step in record.steps[: k + 1]]
                ids = scorer.template.ids(trainee.text.tokenizer, record.question, texts)
                alone = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
                out = scorer.read({**alone, "read": torch.tensor([len(ids) - 1])})[0]
                p = float(out.softmax(-1)[1] if len(out) == 2 else out[0].sigmoid())
                if loss == "squared":
                    expected += (p - label) ** 2
                else:
                    expected -= label * math.log(p) + (1 - label) * math.log(1 - p)
    assert weight == 3
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_pairs_are_ranked_by_the_difference_of_their_scores(base):
    scorer, trainee = scorer_of(base, "skywork")
    record = PreferenceRecord.model_validate(
        {"question": "Who?", "steps": ["red"], "rejected": "no", "chosen": {"query": "blue step?"}}
    )
    rows = pair_rows([record], scorer.template, trainee.text.tokenizer)
    objective = pair_objective(scorer, trainee.pad)
    with torch.no_grad():
        total, weight = objective.loss(None, objective.collate(rows))
        scores = []
        for last in ("blue step?", "no"):
            ids = scorer.template.ids(trainee.text.tokenizer, "Who?", ["red", last])
            alone = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids))}
            scores.append(float(scorer.logits({**alone, "read": torch.tensor([len(ids) - 1])})))
    assert weight == 1
    assert float(total) == pytest.approx(math.log1p(math.exp(scores[1] - scores[0])), rel=1e-4)


@pytest.mark.parametrize("family", ["trl", "skywork", "rlhflow"])
def test_a_separable_task_is_learned_and_read_back(base, tmp_path, family):
    train, test = toy(60, 0), toy(30, 1)
    nothing = TrainSettings(max_steps=1, learning_rate=1e-9)
    before = train_reward_model(train, tmp_path / "before", family=family, base=base, settings=nothing)
    assert before.steps == 1
    untrained = auc(load_reward(tmp_path / "before"), test)
    report = train_reward_model(train, tmp_path / "after", family=family, base=base, settings=QUICK, dev=test)
    reward = load_reward(tmp_path / "after")
    assert reward.family.name == family
    assert untrained < 0.9

    assert auc(reward, test) > 0.98
    # the scores are those that the last evaluation saw
    scores = reward.score(test[0].question, [record.trajectory for record in test])
    losses = [
        -math.log(p if label else 1 - p)
        for row, record in zip(scores, test, strict=True)
        for p, label in zip(row, record.labels, strict=True)
    ]
    best = dict(report.dev_losses)[report.best_step]
    assert np.mean(losses) == pytest.approx(best, abs=0.05)


def test_soft_labels_stay_soft(base, tmp_path):
    rows = [labelled(["red step yes"], [0.7])] * 8
    settings = TrainSettings(epochs=60, learning_rate=0.02, batch_tokens=512)
    train_reward_model(rows, tmp_path / "r", base=base, settings=settings)
    [[score]] = load_reward(tmp_path / "r").score(rows[0].question, [rows[0].trajectory])
    assert score == pytest.approx(0.7, abs=0.03)


def test_a_critic_of_queries_learns_to_order_them(base, tmp_path):
    rng = np.random.default_rng(0)
    records = [
        PreferenceRecord.model_validate(
            {
                "question": "Who wrote the play?",
                "steps": ["red step"],
                "chosen": {"query": f"{COLOURS[rng.integers(3)]} yes?"},
                "rejected": {"query": f"{COLOURS[rng.integers(3)]} no?"},
            }
        )
        for _ in range(40)
    ]
    train_critic(records, tmp_path / "c", base=base, settings=QUICK)
    critic = load_reward(tmp_path / "c")

    def score(text):
        steps = [RewardStep(query="", passages=[], thought=t, final_answer=None) for t in ("red step", text)]
        return critic.score("Who wrote the play?", [steps])[0][-1]

    assert min(score(f"{c} yes?") for c in COLOURS) > max(score(f"{c} no?") for c in COLOURS)


def test_same_seed_same_files_also_after_a_kill(base, tmp_path):
    settings = TrainSettings(epochs=4, learning_rate=0.01, batch_tokens=512, evaluate_every=5)

    def kill(state):
        if state.step == 8:
            raise KeyboardInterrupt

    rows = toy(30, 2)
    train_reward_model(rows, tmp_path / "a", base=base, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train_reward_model(rows, tmp_path / "b", base=base, settings=settings, progress=kill)
    report = train_reward_model(rows, tmp_path / "b", base=base, settings=settings)
    assert report.resumed_at > 0
    files = [json.loads((tmp_path / name / "card.json").read_text())["files"] for name in "ab"]
    assert files[0] == files[1]


def test_families_without_a_head_are_refused(base, tmp_path):
    for family, words in (("implicit", "log-ratio"), ("judge", "verdict")):
        with pytest.raises(ConfigurationError, match=words):
            train_reward_model(RECORDS, tmp_path / family, family=family, base=base)
    with pytest.raises(ConfigurationError, match="no family"):
        train_reward_model(RECORDS, tmp_path / "x", family="none", base=base)
