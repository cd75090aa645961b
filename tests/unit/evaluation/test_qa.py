"""Metrics against hand-computed examples, independently written formulas and ir_measures."""

import re

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentprm.errors import InputError
from agentprm.evaluation import (
    contains_answer,
    exact_match,
    normalize_answer,
    normalize_unicode,
    recall_at_k,
    token_f1,
)

WORDS = st.lists(
    st.sampled_from(["a", "the", "The", "paris", "Paris.", "rome", "of", "1912", "yes", "no", "U.S."]),
    max_size=8,
).map(" ".join)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Quick, brown FOX!", "quick brown fox"),
        ("an  apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
        ("rock 'n' roll", "rock n roll"),
        ("A", ""),
        ("20 March 851", "20 march 851"),
        ("Aldri annet enn bråk", "aldri annet enn bråk"),
        ("a-the", "athe"),  # punctuation goes before articles do, as in the official script
    ],
)
def test_normalisation(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1", "contained"),
    [
        ("The Eiffel Tower", ["Eiffel tower"], 1, 1, 1),
        ("It is the Eiffel Tower.", ["Eiffel tower"], 0, 2 * (2 / 4) * 1 / (2 / 4 + 1), 1),
        ("Paris", ["Rome", "Paris, France"], 0, 2 * 1 * 0.5 / 1.5, 0),
        ("Paris Paris", ["Paris"], 0, 2 * 0.5 * 1 / 1.5, 1),
        ("", ["Paris"], 0, 0, 0),
        ("not known", ["no"], 0, 0, 0),
        ("No, it is not", ["no"], 0, 2 * (1 / 4) * 1 / (1 / 4 + 1), 1),
        ("anything", ["The"], 0, 0, 0),
        ("", ["The"], 0, 0, 0),
    ],
)
def test_hand_computed(prediction, answers, em, f1, contained):
    assert exact_match(prediction, answers) == em
    assert token_f1(prediction, answers) == pytest.approx(f1)
    assert contains_answer(prediction, answers) == contained


def test_substring_containment_is_there_for_comparison():
    assert contains_answer("not known", ["no"], whole_words=False) == 1


def test_hotpot_rule():
    assert token_f1("no it is not", ["no"], hotpot=True) == 0
    assert token_f1("no.", ["No"], hotpot=True) == 1
    assert token_f1("yes", ["no way, yes"], hotpot=True) == 0
    assert token_f1("Paris France", ["Paris"], hotpot=True) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("It was “O’Brien’s” bar.", "O'Brien's bar"),
        ("He lived 1890\u20131963 there", "1890-1963"),
        ("答案是东京都。", "東京都".replace("東", "东")),
        ("首都は東京です。", "東京"),
        ("กรุงเทพมหานครครับ", "กรุงเทพมหานคร"),
        ("यह आगरा में है।", "आगरा"),
        ("في عام ١٩٩٠، هنا", "عام 1990"),
        ("서울, 한국", "서울"),
        ("im Cafe\u0301 Noir", "Café Noir"),
        ("the ＧＤＰ grew", "GDP"),
    ],
)
def test_answers_of_any_language_are_contained(prediction, answer):
    assert contains_answer(prediction, [answer]) == 1
    assert token_f1(prediction, [answer], normalize=normalize_unicode) > 0
    assert exact_match(f"«{answer}»", [answer], normalize=normalize_unicode) == 1
    assert contains_answer(prediction, ["猫"]) == contains_answer(prediction, ["बिल्ली"]) == 0


@given(st.text(st.characters(max_codepoint=127)))
def test_unicode_changes_nothing_in_ascii(text):
    assert normalize_unicode(text) == normalize_answer(text)


def test_nothing_said_matches_nothing():
    for normalize in (normalize_answer, normalize_unicode):
        assert exact_match("?!", ["A"], normalize=normalize) == 0
        assert exact_match("？！", ["A"], normalize=normalize) == 0  # full-width
        assert exact_match("a", ["A"], normalize=normalize) == 1


def naive_normal(text):
    kept = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [word for word in re.split(r"\s+", kept) if word not in ("", "a", "an", "the")]


def naive_f1(prediction, gold):
    left, right, hits = naive_normal(prediction), naive_normal(gold), 0
    rest = list(right)
    for word in left:
        if word in rest:
            rest.remove(word)
            hits += 1
    if not hits:
        return 0.0
    precision, recall = hits / len(left), hits / len(right)
    return 2 * precision * recall / (precision + recall)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_against_naive_formulas(prediction, answers):
    assert token_f1(prediction, answers) == pytest.approx(max(naive_f1(prediction, a) for a in answers))
    same = any(naive_normal(prediction) == naive_normal(a) for a in answers)
    assert exact_match(prediction, answers) == float(same and prediction != "")
    words = naive_normal(prediction)
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    assert contains_answer(prediction, answers) == float(any(naive_normal(a) in runs for a in answers))


@given(
    st.lists(st.integers(0, 20).map(str), unique=True, min_size=1),
    st.sets(st.integers(0, 20).map(str), min_size=1),
    st.integers(1, 10),
)
def test_recall_equals_ir_measures(retrieved, gold, k):
    qrels = {"q": dict.fromkeys(gold, 1)}
    run = {"q": {doc: float(-rank) for rank, doc in enumerate(retrieved)}}
    expected = ir_measures.calc_aggregate([ir_measures.R @ k], qrels, run)[ir_measures.R @ k]
    assert recall_at_k(retrieved, gold, k) == pytest.approx(expected)


def test_recall_counts_a_repeated_passage_once():
    assert recall_at_k(["x", "x", "g"], {"g", "h"}, 2) == 0.5


def test_unusable_input_is_refused():
    for call in (
        lambda: exact_match("x", []),
        lambda: token_f1("x", []),
        lambda: contains_answer("x", []),
        lambda: recall_at_k(["x"], [], 2),
        lambda: recall_at_k(["x"], ["x"], 0),
    ):
        with pytest.raises(InputError):
            call()
