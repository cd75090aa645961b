"""Value functions against tables worked by hand."""

import math

import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.search import PAV, TD, Plain, Snell, check_space
from agentprm.search.named import VALUES, value_called


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.4], 0.4),
        ([0.2, 0.6], 0.4),  # .2 + .5 * (.6 - .2)
        ([0.2, 0.6, 1.0], 0.5),  # .6 → .8, .2 → .5
        ([0.8, 0.4], 0.6),  # a fall pulls down too
        ([0.5, 0.5, 0.9, 0.1], 0.5),  # .9 → .5, .5 → .5, .5 → .5
    ],
)
def test_td_sweeps_backwards_with_updated_successors(scores, expected):
    assert TD(alpha=0.5, horizon=3).value(scores) == pytest.approx(expected)


def test_td_of_three_scores_weighs_them_a_half_a_quarter_and_a_quarter():
    assert TD(alpha=0.5).value([0.1, 0.5, 0.9]) == pytest.approx(0.5 * 0.1 + 0.25 * 0.5 + 0.25 * 0.9)


@pytest.mark.parametrize(
    ("scores", "stops"),
    [([0.5], False), ([0.5, 0.54], True), ([0.5, 0.56], False), ([0.5, 0.3], True), ([0.1, 0.3, 0.5], False)],
)
def test_the_paper_stops_where_the_score_rises_by_less_than_beta(scores, stops):
    assert TD.paper().stop(scores) is stops


def test_the_paper_looks_three_steps_ahead_and_the_code_two():
    rising = [0.1, 0.3, 0.6, 0.9]
    assert TD.paper().stop(rising)
    assert not TD.paper().stop(rising[:3])
    assert TD.code().stop(rising[:3])
    assert not TD.code().stop(rising[:2])


def logistic(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("logits", "updated"),
    [
        ([1.0, 3.0, -1.0], 0.5 * 1.0 + 0.25 * 3.0 + 0.25 * -1.0),
        ([2.0, 1.0], 1.5),
        ([0.0, 0.02], 0.01),
    ],
)
def test_the_code_sweeps_over_logits_whatever_the_space(logits, updated):
    assert TD.code("logit").value(logits) == pytest.approx(updated)
    assert TD.code("probability").value([logistic(x) for x in logits]) == pytest.approx(logistic(updated))


def test_the_codes_beta_is_one_of_logits():
    # .5 → .52 is a rise of .08 in logits, but of less than .05 in probability
    assert not TD.code("probability").stop([0.5, 0.52])
    assert TD.paper("probability").stop([0.5, 0.52])
    assert TD.code("probability").stop([0.5, 0.51])


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_code_takes_certain_scores(score):
    assert TD.code().value([score, score]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    ("q", "parent", "expected"),
    [
        (0.2, None, 0.2),
        # Q of the best of four: .2 → 1 - .8**4 = .5904, .05 → .18549375
        (0.2, 0.05, 0.2 + 0.5 * (0.5904 - 0.18549375)),
        (0.5, 0.5, 0.5),
        (0.05, 0.2, 0.05 - 0.5 * (0.5904 - 0.18549375)),
        (1.0, 0.0, 1.5),
    ],
)
def test_pav_adds_the_progress_of_the_best_of_four(q, parent, expected):
    assert PAV(alpha=0.5, k=4).value([q], parent) == pytest.approx(expected)


def test_snell_takes_the_end_of_a_rollout_and_plain_its_beginning():
    assert Snell().value([0.1, 0.9, 0.3, 0.6]) == 0.6
    assert Plain().value([0.1, 0.9]) == 0.1
    assert Snell(horizon=2).stop([1, 2, 3])
    assert not Snell(horizon=2).stop([1, 2])
    assert Plain().stop([1])


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("space", ["probability", "logit"])
def test_names_give_what_fits_the_space(name, space):
    if (name, space) == ("pav", "logit"):
        with pytest.raises(ConfigurationError, match="Calibrate"):
            value_called(name, space)
        return
    value = value_called(name, space)
    check_space(value, space)
    assert 0 <= value.value([0.5, 0.6]) <= 1
    if name == "td":
        assert value.beta == (0.05 if space == "probability" else 0.2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigurationError, match="logit space already"):
        value_called(TD.code(), "logit")
    with pytest.raises(InputError, match="probabilities"):
        PAV().value([1.5])
    for value in (Plain(), TD(), Snell(), PAV()):
        with pytest.raises(InputError):
            value.value([])
