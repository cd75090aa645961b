"""Facts in sentences: what the patterns read, and what they leave alone."""

import pytest

from agentprm.training.patterns import opens_with, statements_of, subject_of


def read(title, text):
    return {(fact.relation.name, fact.text) for fact in statements_of(text, [title])}


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        (
            "Dawn",
            "Dawn is a 1960 French drama film written and directed by Swedish filmmaker Ann O. Lee.",
            {("publication date", "1960"), ("director", "Ann O. Lee"), ("author", "Ann O. Lee")},
        ),
        (
            "Dawn",
            "Dawn is a film. It was directed by Ann Lee and Bob von Fox, starring Cy Dee. "
            "The film has music by Al Kay.",
            {("director", "Ann Lee and Bob von Fox"), ("cast member", "Cy Dee"), ("composer", "Al Kay")},
        ),
        (
            "Ann Lee",
            "Ann Mary Lee (born 3 May 1950 in Lyon, France – died June 2, 2001) was a French painter. "
            "She was educated at Lyon College and married the poet Bob Fox. She died in Nice.",
            {
                ("date of birth", "3 May 1950"),
                ("date of death", "June 2, 2001"),
                ("place of birth", "Lyon, France"),
                ("place of death", "Nice"),
                ("nationality", "French"),
                ("educated at", "Lyon College"),
                ("spouse", "Bob Fox"),
            },
        ),
        (
            "Otto II",
            "Otto II( 1201 – 1250) was a duke. "
            "He was the eldest son of Otto I, Count of Ham and Ida of Bonn.",
            {
                ("date of birth", "1201"),
                ("date of death", "1250"),
                ("parent", "Otto I, Count of Ham and Ida of Bonn"),
                ("father", "Otto I, Count of Ham"),
                ("mother", "Ida of Bonn"),
            },
        ),
        (
            "Acme",
            "Acme is a software company headquartered in Ulm, Germany. It was founded in 1990 by Ann Lee.",
            {("headquarters", "Ulm, Germany"), ("inception", "1990"), ("founder", "Ann Lee")},
        ),
        (
            "Weiler",
            "Weiler is a village in Ulm District, Bavaria. It has a population of 1,200.",
            {("location", "Ulm District, Bavaria"), ("population", "1,200")},
        ),
        ("Song", '"Song" is a song by American singer Ann Lee, released on Blue Records.',
         {("performer", "Ann Lee"), ("record label", "Blue Records")}),
    ],
)  # fmt: skip
def test_facts_are_read(title, text, expected):
    assert read(title, text) == expected


@pytest.mark.parametrize(
    ("title", "text"),
    [
        # of something else than the subject
        ("Dawn", "Dawn is a film. It is based on the novel by Ann Lee."),
        ("Dawn", "Dawn is a film. The film's sets were designed by Ann Lee."),
        ("Dawn", "Dawn is a film about a house built by Ann Lee. Dusk was directed by Bob Fox."),
        # nobody knows whom "he" means
        ("Dawn", "He was born in Lyon."),
        ("Dawn", "In 1960 he was born in Lyon."),
        # two directors in two places
        ("Dawn", "Dawn is a film directed by Ann Lee. It was directed by Bob Fox."),
        # the name is only part of what is meant
        ("Acme", "Acme is a school. It was founded by Protestant missionaries."),
        ("Acme", "Acme is a school. It was founded by Ann Lee's grandfather."),
        ("Acme", "Acme is a band. It was founded by Ann and the Lees."),
        ("Ann Lee", "Ann Lee is a Catholic priest."),
        ("Ann Lee", "Ann Lee (reigned 1200 – 1210) was a queen. Her first married name was Fox."),
    ],
)
def test_what_is_not_said_of_the_subject_is_left_out(title, text):
    assert read(title, text) <= {("publication date", "1960")}


def test_places_of_objects_are_exact():
    text = "Dawn is a film.  It was  directed by Ann\nLee, and so on."
    (fact,) = statements_of(text, ["Dawn"])
    assert text[fact.start : fact.end] == "Ann\nLee"
    assert fact.objects == ("Ann Lee",)
    assert fact.sentence == "It was directed by Ann Lee, and so on."


def test_a_list_has_its_parts():
    (fact,) = statements_of("Dawn is a film starring Ann Lee, Bob Fox and Cy Dee.", ["Dawn"])
    assert fact.objects == ("Ann Lee", "Bob Fox", "Cy Dee")


def test_subjects():
    assert subject_of("Dawn is a 1960 film by Ann Lee.") == ("work", "film")
    assert subject_of("Ann Lee (born 1950) is a film director.") == ("person", "")
    assert subject_of("Ann Lee is a French film director.") == ("person", "")
    assert subject_of("Ulm is a city on the Danube.") == ("place", "city")
    assert subject_of("The Foxes are a rock band.") == ("group", "band")
    assert subject_of("Gold is a metal.") == ("thing", "")
    assert subject_of("") == ("thing", "")


def test_a_passage_opens_with_its_subject():
    assert opens_with('" Dawn" is', ["Dawn"])
    assert opens_with("The Dawn is", ["Dawn"])
    assert opens_with("Ann Mary Lee is", ["Ann Lee"])
    assert not opens_with("Dusk is", ["Dawn"])
    assert not opens_with("", ["Dawn"])
    assert not opens_with("Dawn", [])


@pytest.mark.parametrize(
    "text", ["Dawn is a " + "very " * 20_000, "Dawn (" * 5_000, "Dawn, " * 20_000, "A. " * 20_000]
)
def test_long_texts_are_no_trap(text):
    assert statements_of(text, ["Dawn", "A"]) == []
