from __future__ import annotations

import time
from itertools import pairwise

import pytest

from agentprm.text import clean_text, cut, cut_words, fold, is_unspaced, sentence_ends, terms, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't stop_it 3rd", ["don", "t", "stop_it", "3rd"]),
        ("Cafe\u0301 Café", ["Cafe", "Cafe"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("السَّلام عليكم", ["السلام", "عليكم"]),
        ("東京は", ["東", "京", "は"]),
        ("กำแพง", ["กํา", "แ", "พ", "ง"]),
        ("ﾃﾞｰﾀ", ["デ", "ー", "タ"]),
        ("서울 타워", ["서울", "타워"]),
        ("GPU를 iPhone手机", ["GPU를", "iPhone", "手", "机"]),
        ("ｆｕｌｌ ①", ["full"]),
        ("", []),
    ],
)
def test_words(text, expected):
    assert [word.text for word in words(text)] == expected


def test_words_say_where_they_stand():
    text = "Die Cafe\u0301s von 東京."
    assert [text[word.start : word.end] for word in words(text)] == [
        "Die",
        "Cafe\u0301s",
        "von",
        "東",
        "京",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Dog's 2nd", ["the", "dog", "s", "2nd"]),
        ("Straße CAFÉ", ["strasse", "cafe"]),
        ("東京都。3月", ["東京", "京都", "3", "月"]),
        ("猫", ["猫"]),
        ("서울타워에서", ["서울", "울타", "타워", "워에", "에서"]),
        ("٢٠٢٤ २०२४", ["2024", "2024"]),
        ("می\u200cخواهم in\u00adter", ["میخواهم", "inter"]),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


def test_terms_of_a_text_hold_single_characters():
    assert terms("黑猫", single=True) == ["黑猫", "黑", "猫"]
    assert terms("cat", single=True) == ["cat"]


def test_folding_keeps_what_makes_another_letter():
    assert fold("Ångström Ἀθῆναι Ёлка أحمد") == "Angstrom Αθηναι Елка احمد"
    for text in ("수영 탑", "서울 타워", "हिन्दी", "が", "ไทย"):
        assert fold(text) == text
    assert fold("ﬁ Ａ ２ H₂O") == "fi A 2 H2O"


def test_scripts_without_blanks():
    assert [is_unspaced(text) for text in ("東", "ไทย", "か", "서울", "हिन्दी", "a東", "")] == [
        *[True] * 3,
        *[False] * 4,
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Pi is 3.14. So what?! Yes", ["Pi is 3.14.", " So what?!"]),
        ('He said "Yes." Then', ['He said "Yes."']),
        ("今天很好。「好！」他说。没", ["今天很好。", "「好！」", "他说。"]),
        ("यह सच है। और", ["यह सच है।"]),
        ("هل هذا صحيح؟ نعم", ["هل هذا صحيح؟"]),
        ("版本３．５です。", ["版本３．５です。"]),
        ("เขาไปตลาด เธออยู่บ้าน แล้ว", ["เขาไปตลาด", " เธออยู่บ้าน"]),
        ("no end", []),
    ],
)
def test_sentence_ends(text, sentences):
    assert [text[left:right] for left, right in pairwise([0, *sentence_ends(text)])] == sentences


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two"),
        ("one two three", 8, "one two"),
        ("https://example.org/a", 10, "https://ex"),
        ("东京是日本的首都", 5, "东京是日本"),
        ("यह हिन्दी", 8, "यह"),
        ("हिन्दी", 3, "हि"),
        ("👨‍👩‍👧👨‍👩‍👧", 7, "👨‍👩‍👧"),
        ("a\u0301" * 3, 1, "a"),
        ("short " + "x" * 500, 300, "short " + "x" * 294),
    ],
)
def test_cut(text, limit, expected):
    assert cut(text, limit) == expected


def test_cut_words():
    assert cut_words("one, two three", 3) == "one, two three"
    assert cut_words("one, two three", 2) == "one, two"
    assert cut_words("东京是日本的首都", 3) == "东京是"
    assert cut_words("ยินดีต้อนรับ", 2) == "ยิน"
    assert cut_words("", 1) == ""


def test_clean_text():
    assert clean_text("ok 👍") == "ok 👍"
    assert clean_text("a\ud83db") == "a\ufffdb"
    assert clean_text("\ud83d\ude00") == "😀"


@pytest.mark.parametrize(
    "unit",
    [
        *(".", ". ", "?!", '."', "。」", "．", " ", "\u0315\u0300", "a\u0315\u0300", "a", "a漢", "漢", "กำ"),
        *("한", "\u1112\u1161", "\ufdfa", "👩\u200d", "🇩", "\r\n", "\ud83d", "\u0640"),
    ],
)
def test_time_is_linear(unit):
    for function in (words, terms, fold, sentence_ends, clean_text, lambda text: cut(text, len(text) - 1)):
        seconds = []
        for size in (20_000, 80_000):
            text = unit * (size // len(unit)) + "x"
            start = time.process_time()
            function(text)
            seconds.append(time.process_time() - start)
        # quadratic time multiplies it by 16
        assert seconds[1] < max(2.0, 8 * seconds[0])
