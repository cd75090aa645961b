"""The training loop: what it computes, that it resumes exactly, stops early and is seeded."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError, InputError
from agentprm.training.fitting import Objective, TrainSettings, fit, plan_batches


class Line(torch.nn.Module):
    """y = a x + b, with dropout, so that random numbers matter."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.weight[0] * x + self.weight[1])


def loss(model, batch):
    return ((model(batch["x"]) - batch["y"]) ** 2).sum(), len(batch["x"])


def collate(rows):
    return {"x": torch.tensor([x for x, _ in rows]), "y": torch.tensor([y for _, y in rows])}


LINE = Objective(lambda row: 1, collate, loss)
ROWS = [(x / 10, 3 * x / 10 - 1) for x in range(-20, 20)]
QUICK = TrainSettings(epochs=8, learning_rate=0.2, batch_tokens=8, evaluate_every=5, weight_decay=0.01)


class Killed(Exception):
    pass


def killer(step):
    def progress(state):
        if state.step == step:
            raise Killed

    return progress


def test_it_learns_and_reports(tmp_path):
    model = Line()
    seen = []
    report = fit(model, ROWS, LINE, tmp_path / "c", QUICK, dev=ROWS[::5], progress=seen.append)
    assert report.dev_losses[-1][1] < 0.1 < report.losses[0][1]
    assert [state.step for state in seen] == list(range(41))
    assert report.steps == report.planned == seen[-1].steps == 40
    assert torch.equal(model.frozen, torch.ones(1))
    assert not model.training


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_steps_are_those_of_adamw_with_clipped_gradients(tmp_path, schedule):
    settings = TrainSettings(
        epochs=1,
        learning_rate=0.1,
        schedule=schedule,
        warmup=0.4,
        weight_decay=0.1,
        clip=0.5,
        batch_tokens=8,
        precision="fp32",
    )
    model = Line()
    fit(model, ROWS, LINE, tmp_path / "c", settings)
    # by hand: AdamW on the planned batches
    w, m, v = torch.zeros(2, dtype=torch.double), torch.zeros(2), torch.zeros(2)
    batches = plan_batches([1] * len(ROWS), 8, 1, 0)
    for step, batch in enumerate(batches):
        x, y = (torch.tensor([ROWS[i][k] for i in batch], dtype=torch.double) for k in (0, 1))
        off = w[0] * x + w[1] - y
        g = torch.stack([(2 * off * x).mean(), (2 * off).mean()])
        g = g * min(1.0, 0.5 / float(g.norm()))
        warm, total = 2, len(batches)
        part = (step - warm) / (total - warm)
        fall = {"cosine": (1 + math.cos(math.pi * part)) / 2, "linear": 1 - part, "constant": 1.0}[schedule]
        rate = 0.1 * (step / warm if step < warm else fall)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - rate * 0.1 * w
        w = w - rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    torch.testing.assert_close(model.weight.double(), w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("killed_at", [3, 5, 12, 40])
def test_a_killed_training_ends_as_if_it_had_not_been(tmp_path, killed_at):
    whole, halves = Line(0.2), Line(0.2)
    torch.manual_seed(1)
    expected = fit(whole, ROWS, LINE, tmp_path / "a", QUICK, dev=ROWS[::5])
    torch.manual_seed(2)
    with pytest.raises(Killed):
        fit(halves, ROWS, LINE, tmp_path / "b", QUICK, dev=ROWS[::5], progress=killer(killed_at))
    again = Line(0.2)
    report = fit(again, ROWS, LINE, tmp_path / "b", QUICK, dev=ROWS[::5])
    assert torch.equal(again.weight, whole.weight)
    assert report.dev_losses == expected.dev_losses
    assert report.best_step == expected.best_step
    assert report.resumed_at == (killed_at - 1) // 5 * 5


def test_a_checkpoint_that_was_being_written_is_passed_over(tmp_path):
    whole = Line()
    fit(whole, ROWS, LINE, tmp_path / "a", QUICK)
    with pytest.raises(Killed):
        fit(Line(), ROWS, LINE, tmp_path / "b", QUICK, progress=killer(12))
    newest = tmp_path / "b" / "checkpoint-10"
    state = newest / "trainer_state.json"
    state.write_text(state.read_text()[:40])
    (newest / "optimizer.pt").unlink()
    again = Line()
    report = fit(again, ROWS, LINE, tmp_path / "b", QUICK)
    assert report.resumed_at == 5
    assert torch.equal(again.weight, whole.weight)


def test_seeds(tmp_path):
    def trained(seed, name):
        model = Line(0.2)
        fit(model, ROWS, LINE, tmp_path / name, TrainSettings(seed=seed, learning_rate=0.1, batch_tokens=4))
        return model.weight.tolist()

    assert trained(3, "a") == trained(3, "b") != trained(4, "c")


def test_it_stops_early_and_keeps_the_best_weights(tmp_path):
    # The two halves want opposite lines: learning one makes the other worse.
    against = [(x, -y) for x, y in ROWS]
    settings = TrainSettings(epochs=50, learning_rate=0.05, batch_tokens=8, evaluate_every=5, patience=2)
    model = Line()
    report = fit(model, ROWS, LINE, tmp_path / "c", settings, dev=against)
    assert report.steps < report.planned
    losses = dict(report.dev_losses)
    best = min(losses, key=losses.get)
    assert report.best_step == best
    assert len([step for step in losses if step > best]) == 2
    total, weight = loss(model, collate(against))
    assert float(total / weight) == pytest.approx(losses[best])


def test_bounds_of_steps(tmp_path):
    report = fit(Line(), ROWS, LINE, tmp_path / "c", TrainSettings(epochs=9, max_steps=3, batch_tokens=8))
    assert report.steps == report.planned == 3


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    settings = TrainSettings(learning_rate=1e30, epochs=20, batch_tokens=8, schedule="constant", warmup=0)
    with pytest.raises(ConfigurationError, match="lower learning rate"):
        fit(Line(), ROWS, LINE, tmp_path / "c", settings)


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(InputError, match="no example"):
        fit(Line(), [], LINE, tmp_path / "c")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": -1},
        {"warmup": 1},
        {"patience": 0},
        {"schedule": "steep"},
        {"precision": "fp8"},
        {"max_steps": 0},
        {"weight_decay": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        TrainSettings(**wrong)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(20, 100), st.integers(0, 3))
def test_batches_hold_every_example_once_within_the_budget(lengths, budget, seed):
    batches = plan_batches(lengths, budget, 2, seed)
    assert sorted(i for batch in batches for i in batch) == sorted([*range(len(lengths))] * 2)
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_hardly_anything_is_padding_and_epochs_differ():
    lengths = [20 + (i * 7919) % 180 for i in range(2000)]
    batches = plan_batches(lengths, 2048, 1, 0)
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert sum(lengths) / padded > 0.95
    assert len(batches) < 1.1 * sum(lengths) / 2048
    two = plan_batches(lengths, 2048, 2, 0)
    assert two[: len(batches)] == batches
    assert two[len(batches) :] != batches
    assert len(plan_batches(lengths, 2048, 0.5, 0)) == round(len(batches) / 2)


def test_checkpoints_hold_only_what_is_trained(tmp_path):
    fit(Line(), ROWS, LINE, tmp_path / "c", TrainSettings(batch_tokens=8))
    from safetensors.torch import load_file

    newest = max(tmp_path.glob("c/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert set(load_file(newest / "trainable.safetensors")) == {"weight"}
    assert json.loads((newest / "trainer_state.json").read_text())["global_step"] == 5
