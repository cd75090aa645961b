"""Plans read off the syntax of a question."""

import time

import pytest

from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import parse_plan, plan_references, render_plan

CASES = {
    "In which town was the architect of the museum that displays The Night Watch born?": [
        "Which museum displays The Night Watch?",
        "Who is the architect of #1?",
        "In which town was #2 born?",
    ],
    "At which university did the author of Up study?": [
        "Who is the author of Up?",
        "At which university did #1 study?",
    ],
    "Which composer was born earlier, Ann Lee or Bob Ray?": [
        "When was Ann Lee born?",
        "When was Bob Ray born?",
        "Compare #1 and #2: Which composer was born earlier, Ann Lee or Bob Ray?",
    ],
    "Which film whose director is younger, Up or Down?": [
        "Who directed Up?",
        "Who directed Down?",
        "When was #1 born?",
        "When was #2 born?",
        "Compare #3 and #4: Which film whose director is younger, Up or Down?",
    ],
    "Where was the director of film Up born?": ["Who directed Up?", "Where was #1 born?"],
    "What is the date of death of the composer of film Down?": ["Who composed Down?", "When did #1 die?"],
    "When is the director of film Up 's birthday?": ["Who directed Up?", "When was #1 born?"],
    "Which country the performer of song Hey (Ann Song) is from?": [
        "Who is the performer of Hey (Ann Song)?",
        "What is the country of citizenship of #1?",
    ],
    "When did Ann Of Lee's father die?": ["Who is the father of Ann Of Lee?", "When did #1 die?"],
    "Who is the paternal grandfather of Ann Lee?": [
        "Who is the father of Ann Lee?",
        "Who is the father of #1?",
    ],
    "Who is Ann Lee's mother-in-law?": ["Who is the spouse of Ann Lee?", "Who is the mother of #1?"],
    "Who is the mother of the director of film Up?": ["Who directed Up?", "Who is the mother of #1?"],
    "What is the capital of the country of origin of Up?": [
        "What is the country of origin of Up?",
        "What is the capital of #1?",
    ],
    "When was the company that published Vogue founded?": [
        "Which company published Vogue?",
        "When was #1 founded?",
    ],
    "On which continent is the territory in which New Delhi is located?": [
        "In which territory is New Delhi located?",
        "On which continent is #1?",
    ],
    "Where is the headquarters of the owner of Celtic Park?": [
        "Who owns Celtic Park?",
        "Where is the headquarters of #1?",
    ],
    "Which writer was African-American, Ann White or Ernest Gaines?": [
        "Was Ann White African-American?",
        "Was Ernest Gaines African-American?",
        "Compare #1 and #2: Which writer was African-American, Ann White or Ernest Gaines?",
    ],
    "Which band wrote a musical, Up or The Downs?": [
        "Was it Up that wrote a musical?",
        "Was it The Downs that wrote a musical?",
        "Compare #1 and #2: Which band wrote a musical, Up or The Downs?",
    ],
    "Which band, Letters to Cleo or Screaming Trees, had more members?": [
        "How many members did Letters to Cleo have?",
        "How many members did Screaming Trees have?",
        "Compare #1 and #2: Which band, Letters to Cleo or Screaming Trees, had more members?",
    ],
    "Are both Shiba Inu and Leonberger large dog breeds?": [
        "Is Shiba Inu a large dog breed?",
        "Is Leonberger a large dog breed?",
        "Compare #1 and #2: Are both Shiba Inu and Leonberger large dog breeds?",
    ],
    "Are Up and In the Realm of Hackers both American documentaries?": [
        "Is Up an American documentary?",
        "Is In the Realm of Hackers an American documentary?",
        "Compare #1 and #2: Are Up and In the Realm of Hackers both American documentaries?",
    ],
    "Were the bands Skin Yard and Ostava from the U.S.?": [
        "Was Skin Yard from the U.S.?",
        "Was Ostava from the U.S.?",
        "Compare #1 and #2: Were the bands Skin Yard and Ostava from the U.S.?",
    ],
    "Do the drinks Gibson and Zurra both contain gin?": [
        "Does Gibson contain gin?",
        "Does Zurra contain gin?",
        "Compare #1 and #2: Do the drinks Gibson and Zurra both contain gin?",
    ],
    "Are Nantong and Fuding situated in the same province ?": [
        "In which province is Nantong located?",
        "In which province is Fuding located?",
        "Compare #1 and #2: Are Nantong and Fuding situated in the same province ?",
    ],
    "Are Watertown Airport and Alexandria Airport both airports in the same state?": [
        "In which state is Watertown Airport located?",
        "In which state is Alexandria Airport located?",
        "Compare #1 and #2: Are Watertown Airport and Alexandria Airport both airports in the same state?",
    ],
    "Are Ann Gold and Jung Lee members of the same band?": [
        "What is the band of Ann Gold?",
        "What is the band of Jung Lee?",
        "Compare #1 and #2: Are Ann Gold and Jung Lee members of the same band?",
    ],
    "Who is older, Ann Lee or Bob Ray?": [
        "When was Ann Lee born?",
        "When was Bob Ray born?",
        "Compare #1 and #2: Who is older, Ann Lee or Bob Ray?",
    ],
    "Who lived longer, Ann Lee or Bob Ray?": [
        "When was Ann Lee born?",
        "When did Ann Lee die?",
        "When was Bob Ray born?",
        "When did Bob Ray die?",
        "Compare #1 and #2 and #3 and #4: Who lived longer, Ann Lee or Bob Ray?",
    ],
    "Which film has the director who died first, Up or Down?": [
        "Who directed Up?",
        "Who directed Down?",
        "When did #1 die?",
        "When did #2 die?",
        "Compare #3 and #4: Which film has the director who died first, Up or Down?",
    ],
    "Are the directors of both films Up and Down from the same country?": [
        "Who directed Up?",
        "Who directed Down?",
        "What is the country of citizenship of #1?",
        "What is the country of citizenship of #2?",
        "Compare #3 and #4: Are the directors of both films Up and Down from the same country?",
    ],
    "Do director of film Up and director of film Down share the same nationality?": [
        "Who directed Up?",
        "Who directed Down?",
        "What is the country of citizenship of #1?",
        "What is the country of citizenship of #2?",
        "Compare #3 and #4: Do director of film Up and director of film Down share the same nationality?",
    ],
    "Are Ann Lee and Bob Ray both from the same country?": [
        "What is the country of citizenship of Ann Lee?",
        "What is the country of citizenship of Bob Ray?",
        "Compare #1 and #2: Are Ann Lee and Bob Ray both from the same country?",
    ],
    "Did the movies A Lot of One and The Two, originate from the same country?": [
        "What is the country of origin of A Lot of One?",
        "What is the country of origin of The Two?",
        "Compare #1 and #2: Did the movies A Lot of One and The Two, originate from the same country?",
    ],
    "While both were Danish, which composer was born first: Ann Lee or Bob Ray?": [
        "When was Ann Lee born?",
        "When was Bob Ray born?",
        "Compare #1 and #2: While both were Danish, which composer was born first: Ann Lee or Bob Ray?",
    ],
    "Which player won more Grand Slam titles, Ann Lee or Bob Ray?": [
        "How many Grand Slam titles did Ann Lee win?",
        "How many Grand Slam titles did Bob Ray win?",
        "Compare #1 and #2: Which player won more Grand Slam titles, Ann Lee or Bob Ray?",
    ],
    "Is the Lee Canal the same length as the Ray Canal?": [
        "What is the length of the Lee Canal?",
        "What is the length of the Ray Canal?",
        "Compare #1 and #2: Is the Lee Canal the same length as the Ray Canal?",
    ],
    "Were karaoke and the power tiller patented in the same country?": [
        "In which country was karaoke patented?",
        "In which country was the power tiller patented?",
        "Compare #1 and #2: Were karaoke and the power tiller patented in the same country?",
    ],
    "Which film was released in 1990, Up or Down?": [
        "Was Up released in 1990?",
        "Was Down released in 1990?",
        "Compare #1 and #2: Which film was released in 1990, Up or Down?",
    ],
    "Which school is located in Elko, Nevada, Lee College or Ray College?": [
        "Is Lee College located in Elko, Nevada?",
        "Is Ray College located in Elko, Nevada?",
        "Compare #1 and #2: Which school is located in Elko, Nevada, Lee College or Ray College?",
    ],
}


@pytest.mark.parametrize("question", CASES)
def test_a_question_is_split_by_its_syntax(question):
    assert decompose(question) == CASES[question]


@pytest.mark.parametrize("question", CASES)
def test_a_plan_is_one_that_can_be_read_back(question):
    plan = decompose(question)
    assert parse_plan(render_plan(plan)) == plan
    for place, step in enumerate(plan):
        assert all(1 <= reference <= place for reference in plan_references(step))


@pytest.mark.parametrize(
    "question",
    [
        "Who directed Up?",
        "What is the capital of France?",
        "Who is the author of The Wolf of Wall Street?",
        "Who wrote the novel that the film Up is based on?",
        "Who had the best ranking, Ann Lee or Bob Ray?",
        "Are Ann Lee and Bob Ray related to each other?",
        "Which is best known for defending the right to die, Ann Lee or Bob Ray?",
        "When did Ann Lees' hunger strike end?",
        "Were Up and Down about the same country's wars?",
        "Do Up and Down have the same number of members?",
        "Which faith has the University of Providence, a university accredited by an association of Schools "
        "and Colleges and located in a large city in Montana after being passed by Missoula?",
        "Wo wurde der Regisseur von Up geboren?",
        "谁导演了这部电影？",
        "#1 of the #2 of #3?",
        "of of of",
        "",
    ],
)
def test_what_it_does_not_know_is_left_as_it_is(question):
    assert decompose(question) == [question]


def test_long_questions_take_no_time():
    # The time of a regular expression that backtracks would grow beyond all bounds.
    for text in (
        "the father of ",
        "Who is a's b's ",
        "Are A and B and ",
        "who, or ",
        "a's ",
        "A, B or ",
        "#1 ",
    ):
        for length in (500, 100_000):
            start = time.perf_counter()
            decompose(f"Who is {text * (length // len(text))}Ann Lee?")
            assert time.perf_counter() - start < 20
