"""Losses of preferences and outcomes against numbers computed by hand."""

import math

import pytest
import torch

from agentprm.errors import InputError
from agentprm.training.losses import (
    dpo_loss,
    implicit_cross_entropy,
    kto_loss,
    pairwise_loss,
    soft_cross_entropy,
)
from agentprm.training.online import leave_one_out, prime_advantages


def sig(x):
    return 1 / (1 + math.exp(-x))


def test_soft_cross_entropy():
    logits = torch.tensor([[0.5, 1.5], [2.0, 0.0]])
    p, q = sig(1.0), sig(-2.0)
    expected = -(0.7 * math.log(p) + 0.3 * math.log(1 - p)) - (0.0 * math.log(q) + math.log(1 - q))
    assert float(soft_cross_entropy(logits, torch.tensor([0.7, 0.0]))) == pytest.approx(expected)


def test_pairs_and_dpo():
    better, worse = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    assert float(pairwise_loss(better, worse)) == pytest.approx(-math.log(sig(0.5)) - math.log(sig(-3)))
    assert float(dpo_loss(better, worse, 0.1)) == pytest.approx(-math.log(sig(0.05)) - math.log(sig(-0.3)))


def test_implicit_cross_entropy():
    ratios, labels = torch.tensor([4.0, -2.0]), torch.tensor([1.0, 0.25])
    p, q = sig(0.2), sig(-0.1)
    expected = -math.log(p) - 0.25 * math.log(q) - 0.75 * math.log(1 - q)
    assert float(implicit_cross_entropy(ratios, labels, 0.05)) == pytest.approx(expected)


@pytest.mark.parametrize(("drift", "centre"), [(0.5, 0.5), (-3.0, 0.0)])
def test_kto(drift, centre):
    ratios = torch.tensor([2.0, 1.0])
    drift = torch.tensor(drift, requires_grad=True)
    loss = kto_loss(ratios, torch.tensor([True, False]), torch.tensor([1.0, 0.6]), drift, 0.1)
    expected = (1 - sig(0.1 * (2 - centre))) + 0.6 * (1 - sig(0.1 * (centre - 1)))
    assert float(loss.detach()) == pytest.approx(expected)
    assert not loss.requires_grad  # the drift carries no gradient


def test_advantages():
    assert leave_one_out([1, 0, 0.5]) == pytest.approx([0.75, -0.75, 0.0])
    with pytest.raises(InputError):
        leave_one_out([1])
    # two samples: each one's baseline is the other's mean reward
    found = prime_advantages([[0.2, 0.4], [1.0]], [True, False], discount=0.5)
    assert found[0] == pytest.approx([(0.2 - 1.0) + 0.5 * (0.4 - 1.0) + 1.0, (0.4 - 1.0) + 1.0])
    assert found[1] == pytest.approx([(1.0 - 0.3) - 1.0])
    with pytest.raises(InputError):
        prime_advantages([[0.1], []], [1, 0])
