"""Questions about families: what is asked is told once, and only there."""

from __future__ import annotations

import re

from agentprm.training.families import family_questions


def life(name: str, last: str, year: int) -> tuple[str, str]:
    he, his, actor = ("He", "His", "actor") if name in ("Bob", "Dan", "Fred") else ("She", "Her", "actress")
    told = f"was an {actor}. {he} began in films. {his} first one failed. It was long."
    return f"{name} {last}", f"{name} {last} (born 1 May {year}) {told}"


PASSAGES = [
    life(name, last, 1900 + i)
    for i, name in enumerate(("Ada", "Bob", "Cleo", "Dan", "Eva", "Fred"))
    for last in ("Lee", "Fox", "Orr", "Poe")
]


def test_the_answer_is_told_and_only_there() -> None:
    asked = family_questions(PASSAGES, 120, seed=3)
    assert len(asked) == 120
    assert asked == family_questions(PASSAGES, 120, seed=3)
    assert asked != family_questions(PASSAGES, 120, seed=4)
    lives = dict(PASSAGES)
    for kin in asked:
        assert kin.title in kin.question
        assert kin.answer in kin.text
        assert kin.answer not in kin.without
        for sentence in lives[kin.title].split(". "):
            assert sentence.rstrip(".") in kin.text
    assert len({kin.question.replace(kin.title, "") for kin in asked}) > 8


def test_parents_have_the_gender_that_is_asked_for() -> None:
    men = {title for title, text in PASSAGES if "actor" in text}
    women = {title for title, text in PASSAGES if "actress" in text}
    assert len(men) == len(women) == 12
    for kin in family_questions(PASSAGES, 200):
        if re.search("father", kin.question):
            assert kin.answer in men
        if re.search("mother|gave birth", kin.question):
            assert kin.answer in women
        if "husband" in kin.question:
            assert kin.title in women
        if re.search(r"\bHe\b", kin.text):
            assert kin.title in men


def test_lives_that_tell_of_a_family_are_left_as_they_are() -> None:
    told = [(title, text + " Her mother sang.") for title, text in PASSAGES]
    assert family_questions(told, 20) == []
    assert family_questions(PASSAGES[:6], 20) == []
