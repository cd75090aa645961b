"""Comparisons, and what they rest on: dates, amounts and countries."""

import pytest

from agentprm.questions.comparing import alternatives, decide, is_comparison, likelier, one_of, shared
from agentprm.questions.countries import countries
from agentprm.questions.quantities import Amount, Period, amount, dates


def day(year: int, month: int, day_of_month: int) -> int:
    return (year * 12 + month - 1) * 31 + day_of_month - 1


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("6 October 1988", (1988, 10, 6), (1988, 10, 6)),
        ("born on October 6th, 1988 in Rome", (1988, 10, 6), (1988, 10, 6)),
        ("the 3rd of March 1960", (1960, 3, 3), (1960, 3, 3)),
        ("1988-10-06", (1988, 10, 6), (1988, 10, 6)),
        ("Oct. 1988", (1988, 10, 1), (1988, 10, 31)),
        ("1988", (1988, 1, 1), (1988, 12, 31)),
        ("in 1988.", (1988, 1, 1), (1988, 12, 31)),
        ("the 1980s", (1980, 1, 1), (1989, 12, 31)),
        ("19th century", (1801, 1, 1), (1900, 12, 31)),
        ("44 BC", (-44, 1, 1), (-44, 12, 31)),
        ("15 March 44 BC", (-44, 3, 15), (-44, 3, 15)),
        ("5th century BCE", (-500, 1, 1), (-401, 12, 31)),
        ("AD 1066", (1066, 1, 1), (1066, 12, 31)),
    ],
)
def test_a_date_is_the_time_of_which_it_speaks(text, first, last):
    assert dates(text) == [Period(day(*first), day(*last))]


@pytest.mark.parametrize(
    "text", ["", "no date", "12,500", "1.950", "346 km", "$1988.50", "2019-13-40", "route 66"]
)
def test_other_numbers_are_no_dates(text):
    assert dates(text) == []


def test_dates_stand_in_the_order_of_the_text():
    assert [period.year for period in dates("(5 July 1890 – 3 March 1960)")] == [1890, 1960]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("346 km", Amount(346_000, "length")),
        ("about 215 miles", Amount(215 * 1609.344, "length")),
        ("12,500", Amount(12_500, "")),
        ("1.5 million people", Amount(1_500_000, "")),
        ("three members", Amount(3, "")),
        ("90 minutes", Amount(5400, "time")),
        ("none", None),
    ],
)
def test_an_amount_has_its_unit(text, expected):
    found = amount(text)
    assert found == (expected and Amount(pytest.approx(expected.value), expected.dimension))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("American", {"United States"}),
        ("the U.S.", {"United States"}),
        ("US", {"United States"}),
        ("Bridgeport, Connecticut", {"United States"}),
        ("a Danish-American film director", {"Denmark", "United States"}),
        ("South Korean", {"South Korea"}),
        ("Northern Irish", {"United Kingdom"}),
        ("Papua New Guinea", {"Papua New Guinea"}),
        ("let us polish it", set()),
    ],
)
def test_a_country_is_known_by_its_adjective(text, expected):
    assert countries(text) == expected


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which film came out first, Up or Down?", ("Up", "Down")),
        ("Which film was released earlier, 205 – Room Of Fear or Believe Me, Xantippe?",
         ("205 – Room Of Fear", "Believe Me, Xantippe")),
        ("Which film has the director died later, Duty or Death or Frontier Woman?",
         ("Duty or Death", "Frontier Woman")),
        ("Was Diego Lugano or John R. Gunn born first?", ("Diego Lugano", "John R. Gunn")),
        ("Who was born first out of Ann Lee and Bob Ray?", ("Ann Lee", "Bob Ray")),
        ("Between Brian Kidd and Mikel Arteta, who is older?", ("Brian Kidd", "Mikel Arteta")),
        ("Which dog breed, Tosa or Boxer, is heavier?", ("Tosa", "Boxer")),
        ("Which movie came out first Go Further or Pumping Iron ?", ("Go Further", "Pumping Iron")),
        ("Compare #1 and #2: Who is older, Ann Lee or Bob Ray?", ("Ann Lee", "Bob Ray")),
        ("Who is older, the Aga Khan or #3?", ("the Aga Khan", "#3")),
        ("Which is the tallest, Everest, Elbrus or Denali?", ("Everest", "Elbrus", "Denali")),
    ],
)  # fmt: skip
def test_what_a_question_asks_to_choose_from(question, options):
    given = alternatives(question)
    assert given is not None
    assert given.options == options


@pytest.mark.parametrize(
    "question",
    [
        "Who directed the film Now or Never?",
        "Where did the hat Lowly Worm wear originally come from?",
        "Are director of film Ode To My Father and director of film Kill Or Be Killed from the same country?",
        "The Old Man and the Sea, which won the award, is directed by who?",
        "Which player was around 20 or younger in the 2015 season?",
        "Which retailer of Spring Park have more than 370 stores and 6,000 employees?",
        "",
    ],
)
def test_other_questions_leave_no_choice(question):
    assert alternatives(question) is None


@pytest.mark.parametrize(
    "question",
    [
        "Are both Up and Down from the same country?",
        "Is the Thames longer than the Severn?",
        "Do Ann Lee and Bob Ray share the same nationality?",
        "Compare #1 and #2",
        "Compare #1, #2 and #3: Who is the oldest?",
    ],
)
def test_a_comparison_is_known(question):
    assert is_comparison(question)


@pytest.mark.parametrize("question", ["Is Paris a city?", "Who directed Up?", "When was #1 born?", ""])
def test_other_questions_are_no_comparisons(question):
    assert not is_comparison(question)


BORN = ["When was Ann Lee born?", "When was Bob Ray born?"]


@pytest.mark.parametrize(
    ("question", "first", "second", "expected"),
    [
        ("Who is older, Ann Lee or Bob Ray?", "February 27, 1975", "6 October 1988", "Ann Lee"),
        ("Who is younger, Ann Lee or Bob Ray?", "1975", "6 October 1988", "Bob Ray"),
        ("Who is older, Ann Lee or Bob Ray?", "44 BC", "AD 1066", "Ann Lee"),
        ("Who was born first, Ann Lee or Bob Ray?", "1990s", "19th century", "Bob Ray"),
        ("Who was born later, Ann Lee or Bob Ray?", "3 May 1990", "4 May 1990", "Bob Ray"),
        ("Who is older, Ann Lee or Bob Ray?", "1988", "6 October 1988", None),
        ("Who is older, Ann Lee or Bob Ray?", "1988", "in Rome", None),
        ("Who is older, Ann Lee or Bob Ray?", "51", "48 years", None),
        ("Who is older, Ann Lee or Bob Ray?", "51 years", "48 years", "Ann Lee"),
        ("Who has more children, Ann Lee or Bob Ray?", "three", "12", "Bob Ray"),
        ("Who has fewer children, Ann Lee or Bob Ray?", "three", "12", "Ann Lee"),
        ("Which river is longer, the Ann Lee or the Bob Ray?", "346 km", "220 miles", "the Bob Ray"),
        ("Which is longer, Ann Lee or Bob Ray?", "346 km", "20 minutes", None),
        ("Which is a river, Ann Lee or Bob Ray?", "No", "Yes, it is", "Bob Ray"),
        ("Which is a river, Ann Lee or Bob Ray?", "yes", "yes", None),
        ("Did Ann Lee die before Bob Ray?", "1975", "1988", "yes"),
        ("Is Ann Lee older than Bob Ray?", "1988", "1975", "no"),
        ("Are Ann Lee and Bob Ray from the same country?", "American", "US", "yes"),
        ("Are Ann Lee and Bob Ray from the same country?", "Danish-American", "Texas", "yes"),
        ("Do Ann Lee and Bob Ray have the same nationality?", "Cape Verde", "U.S.", "no"),
        ("Were both Ann Lee and Bob Ray born in the same place?", "Paris, France", "Paris", "yes"),
        ("Were both Ann Lee and Bob Ray born in the same place?", "Paris", "Lyon", "no"),
        ("Were Ann Lee and Bob Ray born in the same year?", "3 May 1990", "1990", "yes"),
        ("Were Ann Lee and Bob Ray born in the same year?", "3 May 1990", "1991", "no"),
        ("Are both Ann Lee and Bob Ray judges?", "yes", "Yes, a judge", "yes"),
        ("Are both Ann Lee and Bob Ray judges?", "yes", "no", "no"),
        ("Are both Ann Lee and Bob Ray judges?", "a judge", "no", None),
        ("Are Ann Lee and Bob Ray from the same country?", "American", "", None),
        ("What did Ann Lee write?", "1975", "1988", None),
    ],
)
def test_two_findings_decide(question, first, second, expected):
    assert decide(question, BORN, [first, second]) == expected
    assert decide(f"Compare #1 and #2: {question}", BORN, [first, second]) == expected
    # In whichever order they were asked for.
    if "than" not in question and "before" not in question:
        assert decide(question, BORN[::-1], [second, first]) == expected


@pytest.mark.parametrize("heading", ["", "Compare #3 and #4: ", "Compare #2 and #4: "])
def test_findings_belong_to_what_their_chain_began_with(heading):
    plan = ["Who directed Down?", "Who directed Up?", "When did #2 die?", "When did #1 die?"]
    findings = ["Ann Lee", "Bob Ray", "1990", "2001"]
    question = f"{heading}Which film has the director who died first, Up or Down?"
    assert decide(question, plan, findings) == "Up"
    # The same with the references filled in.
    assert decide(question, [*plan[:2], "When did Bob Ray die?", "When did Ann Lee die?"], findings) == "Up"


def test_an_option_under_another_title_is_the_one_that_remains():
    plan = ["When was Despertar released?", "When was Up released?"]
    assert decide("Which film came out first, Wake Up Call or Up?", plan, ["1950", "2009"]) == "Wake Up Call"


def test_lives_are_compared_by_their_length():
    plan = [
        "When was Ann Lee born?",
        "When did Ann Lee die?",
        "When was Bob Ray born?",
        "When did Bob Ray die?",
    ]
    findings = ["1900", "1950", "1940", "2001"]
    assert decide("Who lived longer, Ann Lee or Bob Ray?", plan, findings) == "Bob Ray"
    assert (
        decide("Who lived longer, Ann Lee or Bob Ray?", BORN, ["(1900 – 1950)", "(1940 – 2001)"]) == "Bob Ray"
    )


def test_references_are_compared_as_they_stand():
    plan = ["How many people live in A?", "How many people live in B?"]
    assert decide("Is #2 greater than #1?", plan, ["12,500", "1.5 million"]) == "yes"
    assert decide("Is #1 greater than #2?", plan, ["12,500", "1.5 million"]) == "no"
    assert decide("Is #1 greater than #7?", plan, ["12,500", "1.5 million"]) is None


def test_what_was_not_found_is_not_decided():
    assert decide("Who is older, Ann Lee or Bob Ray?", BORN, ["1975"]) is None
    assert decide("Who is older, Ann Lee or Bob Ray?", [], []) is None


def test_names_are_the_same_in_any_spelling():
    assert shared("Did they go to the same school?", ["The Café de Paris", "cafe de paris"])
    assert shared("Did they go to the same school?", ["Eton", "Harrow"]) is False


@pytest.mark.parametrize(("found", "answer"), [("yes yes", "yes"), ("no no", "no"), ("yes no", "no")])
@pytest.mark.parametrize("question", ["Are A1 and B2 both from Rome?", "Were the bands A1 and B2 from Rome?"])
def test_what_was_asked_of_each_decides_for_both(question, found, answer):
    plan = ["Is A1 from Rome?", "Is B2 from Rome?"]
    assert decide(f"Compare #1 and #2: {question}", plan, found.split()) == answer


@pytest.mark.parametrize(
    ("findings", "option"),
    [
        ([("yes", 0.9), ("yes", 0.6)], "Ann Lee"),
        ([("yes", 0.6), ("yes", 0.9)], "Bob Ray"),
        ([("no", 0.9), ("no", 0.6)], "Bob Ray"),
        ([("no", 0.9), ("yes", 0.6)], "Bob Ray"),
        ([("Rome", 0.9), ("yes", 0.6)], None),
    ],
)
def test_the_option_with_the_likelier_yes(findings, option):
    plan = ["Was Ann Lee from England?", "Was Bob Ray from England?"]
    assert likelier("Which writer was from England, Ann Lee or Bob Ray?", plan, findings) == option
    assert likelier("Where was Ann Lee born?", plan, findings) is None


@pytest.mark.parametrize(
    ("said", "answer"),
    [("Robert Bob Ray", "Bob Ray"), ("lee", "Ann Lee"), ("Paris", "Paris"), ("", ""), ("Ann", "Ann Lee")],
)
def test_an_answer_is_one_of_the_options(said, answer):
    assert one_of("Who was more popular, Ann Lee or Bob Ray?", said) == answer
    assert one_of("Who was popular?", said) == said


@pytest.mark.parametrize(
    ("title", "answer"),
    [("Bob Ray (band)", "Bob Ray"), ("Paris", "four members"), ("", "four members")],
)
def test_what_is_like_no_option_is_said_of_the_one_that_its_passage_is_about(title, answer):
    assert one_of("Who was more popular, Ann Lee or Bob Ray?", "four members", title) == answer
    assert one_of("Who was more popular, Ann Lee or Bob Ray?", "Ann", title) == "Ann Lee"


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (["Trastevere, Rome", "Rome"], True),
        (["Rome", "Rome, Italy"], True),
        (["Rome", "Romeo"], False),
    ],
)
def test_a_place_in_another_is_the_same_place(found, same):
    assert shared("Were both born in the same place?", found) is same
