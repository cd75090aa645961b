"""Probing a model: what is measured, and which comparator follows from it."""

import math
import re

import pytest

from agentprm.errors import ConfigurationError
from agentprm.rerank import (
    GenerationComparator,
    PairwiseReranker,
    Probe,
    QueryLikelihoodComparator,
    ScoringComparator,
    asuggest_comparator,
    suggest_comparator,
)
from agentprm.rerank.suggest import PROBES
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel

ANSWERS = {(probe.query, probe.better): probe for probe in PROBES}


def parts(prompt):
    found = re.search(r"Question: (.*)\n\nPassage A: (.*)\n\nPassage B: (.*)\n\n", prompt)
    return found.groups() if found else None


def model(p_first_when_better, p_first_when_worse, *, reads=True):
    """Compares with the given probabilities; by query likelihood right if `reads`, else wrong."""

    def likelihood(prompt, text):
        shown = parts(prompt)
        if shown is None:
            passage = prompt.split("Text:\n")[1].split("\n\n")[0]
            return -5.0 if ((text.strip(), passage) in ANSWERS) == reads else -9.0
        better = (shown[0], shown[1]) in ANSWERS
        p = p_first_when_better if better else p_first_when_worse
        return math.log(p if text.endswith("A") else 1 - p)

    return ScriptedLanguageModel({}, likelihood=likelihood)


def test_a_model_that_compares_well_is_asked_to():
    suggestion = suggest_comparator(model(0.9, 0.2))
    assert isinstance(suggestion.comparator, ScoringComparator)
    (report,) = suggestion.reports
    assert (report.name, report.accuracy, report.first_chosen, report.bias) == ("scoring", 1.0, 0.5, 0.0)
    assert report.calls == 2 * len(PROBES)
    assert "100%" in suggestion.explanation


def test_a_model_that_always_says_a_reads_instead():
    suggestion = suggest_comparator(model(0.9, 0.8))
    assert isinstance(suggestion.comparator, QueryLikelihoodComparator)
    asked, read = suggestion.reports
    assert (asked.accuracy, asked.first_chosen, asked.bias) == (1.0, 1.0, 1.0)
    assert (read.name, read.accuracy, read.first_chosen) == ("query likelihood", 1.0, None)
    assert read.calls == 2 * len(PROBES)
    assert "query likelihood" in suggestion.explanation


def test_the_rule_of_both_orders_counts_a_biased_answer_as_a_tie():
    assert suggest_comparator(model(0.9, 0.8), policy="strict").reports[0].accuracy == 0.5


def test_a_model_that_can_do_neither_is_called_weak():
    suggestion = suggest_comparator(model(0.9, 0.8, reads=False))
    assert isinstance(suggestion.comparator, ScoringComparator)
    assert suggestion.reports[1].accuracy == 0.0
    assert "larger model" in suggestion.explanation


def chat(reply):
    return ScriptedChatModel(script=lambda text: reply(*parts(text)))


def test_a_chat_model_that_compares_well():
    suggestion = suggest_comparator(
        chat(lambda q, first, second: "Passage A" if (q, first) in ANSWERS else "Passage B")
    )
    assert isinstance(suggestion.comparator, GenerationComparator)
    assert suggestion.reports[0].accuracy == 1.0


async def test_a_chat_model_that_babbles_gets_a_warning():
    suggestion = await asuggest_comparator(chat(lambda q, first, second: "It depends."))
    (report,) = suggestion.reports
    assert (report.accuracy, report.unusable, report.first_chosen) == (0.5, 1.0, 0.5)
    assert isinstance(suggestion.comparator, GenerationComparator)
    assert "larger model" in suggestion.explanation


async def test_sync_and_async_say_the_same():
    one, other = model(0.9, 0.8), model(0.9, 0.8)
    assert suggest_comparator(one).reports == (await asuggest_comparator(other)).reports


def test_own_probes_and_settings():
    probes = [Probe("q?", "It answers.", "It does not.")]
    suggestion = suggest_comparator(
        ScriptedLanguageModel({}, likelihood=lambda prompt, text: -1.0), probes=probes, definition="Anything."
    )
    assert [report.accuracy for report in suggestion.reports] == [0.5, 0.5]
    assert suggestion.reports[0].calls == 2
    with pytest.raises(ConfigurationError, match="at least one"):
        suggest_comparator(model(0.9, 0.1), probes=[])


def test_the_probes_are_a_fair_set():
    assert len({probe.query for probe in PROBES}) == len(PROBES) >= 12
    for probe in PROBES:
        assert probe.better != probe.worse
        assert probe.query.endswith("?")
        assert 0.5 < len(probe.better) / len(probe.worse) < 2  # length does not give it away


@pytest.mark.models
@pytest.mark.slow
def test_the_packaged_model_is_told_to_read():
    from agentprm.packaged import default_language_model

    lm = default_language_model()
    suggestion = suggest_comparator(lm)
    assert isinstance(suggestion.comparator, QueryLikelihoodComparator)
    asked, read = suggestion.reports
    assert asked.bias > 0.5
    assert read.accuracy >= 0.8
    assert PairwiseReranker(model=suggestion.comparator).calls_per_judgement == 2
