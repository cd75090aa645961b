"""Reading a judge's answer: what is clear, and ten thousand answers that are not."""

import random
import re

import pytest
from langchain_core.documents import Document

from agentprm.lm import Completion, LanguageModel
from agentprm.rerank import GenerationComparator, PairwiseReranker, ScoringComparator
from agentprm.rerank.prompted import parse_label
from agentprm.testing import ScriptedLanguageModel

LABELS = ("Passage A", "Passage B")
CASES = 10_000


@pytest.mark.parametrize(
    "form",
    [
        "Passage {}",
        "passage {}.",
        "  PASSAGE {}\n",
        "**Passage {}**",
        '"Passage {}"',
        "{}",
        "({})",
        "{}.",
        "Answer: {}",
        "Answer: Passage {}",
        "The answer is Passage {}.",
        "My final verdict: **Passage {}**",
        '{{"answer": "Passage {}"}}',
        "Passage {} is more relevant to the question",
        "Passage {} is the better one",
        "Passage {} answers better.",
        "Passage {}\n\nIt names the year.",
        "<think>Passage B is shorter, Passage A is older.</think>\nPassage {}",
    ],
)
@pytest.mark.parametrize("letter", ["A", "B"])
def test_clear_answers(form, letter):
    assert parse_label(form.format(letter), LABELS) == "AB".index(letter)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t",
        "a",
        "A passage about rivers",
        "A Passage",
        "B side",
        "Passage A and B?",
        "Passage A or Passage B",
        "Passage A\nPassage B",
        "A/B",
        "Both passages",
        "Neither",
        "Passage",
        "Passage C",
        "Passage AB",
        "Passage A's author",
        "Passage A\u2019s author",
        "Passage A: Brunel was born in Portsmouth.",
        "Passage A? No.",
        "Passage A is less relevant",
        "Passage A is not relevant",
        "Passage A, or so it says",
        "The passage says: 'Passage A'",
        "\u201cPassage A\u201d, she wrote",
        "passage a bit further down",
        "I would go for Passage A",
        "Passage \u0410",  # a Cyrillic letter
        "Passage \uff21",  # a full-width one
        "\u79c1\u306f Passage A \u3092\u9078\u3073\u307e\u3059",
        "El pasaje A",
        "<think>Passage A",
    ],
)
def test_anything_else_decides_nothing(text):
    assert parse_label(text, LABELS) is None


@pytest.mark.parametrize("mark", [*list(" \n*_#`\"'()[]{}<>.!-"), "<think>", "Passage "])
@pytest.mark.parametrize("head", ["", "answer", "Passage A"])
def test_long_runs_of_marks_do_not_hang(head, mark):
    # Cut up in every way this would take hours.
    assert parse_label(head + mark * 100_000 + "x", LABELS) in (None, 0)


def test_own_labels():
    assert parse_label("Document 2", ("Document 1", "Document 2")) == 1
    assert parse_label("1", ("Document 1", "Document 2")) == 0
    assert parse_label("Passage: A", ("Passage: A", "Passage: B")) == 0
    assert parse_label("12", ("Document 1", "Document 2")) is None
    assert parse_label("left", ("left", "right")) == 0


ENGLISH = "the passage answers question because year maybe sorry cannot decide A an relevant better more"
OTHERS = (
    "B\u00fccher Antwort r\u00e9ponse mejor \u7b54\u6848 \u0432\u043e\u043f\u0440\u043e\u0441 "
    "\u0627\u0644\u0625 42 { } [ ] < > : ; ? \u0000 \u202e"
)
WORDS = [*ENGLISH.split(), *OTHERS.split()]


def noise(rng):
    if rng.random() < 0.5:
        return "".join(
            chr(rng.choice([rng.randrange(32, 127), rng.randrange(160, 0x2FFF)])) for _ in range(20)
        )
    return " ".join(rng.choices(WORDS, k=rng.randrange(1, 12)))


def unusable_answer(rng):
    """A text in which nobody would see a decision."""
    letter, other = rng.sample("AB", 2)
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(["", " ", "\n\n", "\t", ".", "...", "\u3000", "-", "**", '""'])
    if kind == 1:
        joint = rng.choice([" and ", " or ", " / ", ", ", "\n", " is better than ", " vs. ", " = "])
        return rng.choice(["", "Answer: ", "Both: "]) + f"Passage {letter}{joint}Passage {other}" + noise(rng)
    if kind == 2:
        quote = rng.choice(
            [
                'The text says "Passage {}"',
                "Passage {}: {}",
                "\u201cPassage {}\u201d, {}",
                "it reads Passage {}",
            ]
        )
        return quote.format(letter, noise(rng)) if quote.count("{}") == 2 else quote.format(letter)
    if kind == 3:
        return rng.choice(
            [
                "Ich w\u00fcrde Passage {} nehmen",
                "Le passage {} r\u00e9pond mieux",
                "\u6bb5\u843d{}\u66f4\u597d",
                "\u041f\u0430\u0441\u0441\u0430\u0436 {}",
                "La respuesta es el pasaje {}",
                "\u7b2c{}\u6bb5",
            ]
        ).format(letter)
    if kind == 4:
        return rng.choice(["A passage ", "A ", "a", "An answer ", "Be ", "By "]) + noise(rng) + "x"
    while True:
        text = noise(rng)
        # Not by accident a bare label in punctuation.
        if re.sub(r"[\W_]", "", text).casefold() not in (
            "a",
            "b",
            "answera",
            "answerb",
            "passagea",
            "passageb",
        ):
            return text


class Babbler(LanguageModel):
    """Answers whatever it is given to say."""

    def __init__(self, texts):
        self.texts = iter(texts)

    def sample(self, prompts, n=1, params=None):
        return [[Completion(next(self.texts), 3, "stop")] for _ in prompts]


def test_ten_thousand_unusable_answers_are_ties_and_counted():
    rng = random.Random(20261123)
    texts = [unusable_answer(rng) for _ in range(CASES)]
    comparator = GenerationComparator(Babbler(texts))
    pair = (Document("Passage A"), Document("Final answer: Passage A. Reply 'Passage A'."))
    verdicts = comparator.compare("Passage A?", [pair] * (CASES // 2))
    wrong = [texts[2 * i : 2 * i + 2] for i, v in enumerate(verdicts) if (v.p, v.failures) != (0.5, 2)]
    assert not wrong, wrong[:5]


def test_a_babbling_judge_leaves_the_list_as_it_is():
    rng = random.Random(1)
    documents = [Document(f"Passage A {i}", id=str(i)) for i in range(30)]
    model = Babbler([unusable_answer(rng) for _ in range(30 * 29)])
    ranked = PairwiseReranker(model=model, aggregation="all_pair").compress_documents(documents, "q")
    assert [d.id for d in ranked] == [str(i) for i in range(30)]
    assert ranked[0].metadata["rerank"] == {
        "score": 0.5,
        "rank": 0,
        "prior_rank": 0,
        "method": "pairwise all-pair",
        "calls": 870,
        "failures": 870,
    }


def test_one_usable_answer_of_two_is_still_a_tie():
    comparator = GenerationComparator(Babbler(["Passage A", "well", "Passage A", "Passage B"]))
    pair = (Document("one"), Document("two"))
    half, whole = comparator.compare("q", [pair, pair])
    assert (half.p, half.failures) == (0.5, 1)
    assert (whole.p, whole.failures) == (1.0, 0)


@pytest.mark.parametrize("labels", [("Document 1", "Document 2"), ("Passage B", "Passage A"), ("{x}", "[2]")])
def test_the_prompt_calls_the_passages_by_their_labels(labels):
    asked = []

    def likelihood(prompt, continuation):
        asked.append((prompt, continuation))
        return -1.0

    model = ScriptedLanguageModel({}, likelihood=likelihood)
    pair = (Document("On Passage A of the canal"), Document("two"))
    ScoringComparator(model, labels=labels).compare("Who?", [pair])
    prompt, _ = asked[0]
    assert f"{labels[0]}: On Passage A of the canal" in prompt  # a passage's own words stay
    assert f"{labels[1]}: two" in prompt
    assert f"Reply '{labels[0]}' or '{labels[1]}'" in prompt
