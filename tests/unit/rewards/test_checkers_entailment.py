"""Entailment by Z3, against truth tables; the grammar of formulas; reading of steps."""

import itertools
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError
from agentprm.rewards.checkers import Entailment, EntailmentChecker, read_entailment
from agentprm.rewards.checkers._formulas import FormulaError, parse_formula

pytest.importorskip("z3")


@pytest.fixture(scope="module")
def checker():
    return EntailmentChecker(milliseconds=10_000)


def step(thought, *passages):
    return {"query": "", "passages": list(passages), "thought": thought, "final_answer": None}


ATOMS = "PQRS"
NOTATION = {
    "and": ("&", "and", "∧"),
    "or": ("v", "or", "|"),
    "implies": ("->", "→", "implies"),
    "iff": ("<->", "iff"),
}
propositions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(list(NOTATION)), inner, inner)
    ),
    max_leaves=6,
)


def written(formula, style):
    if isinstance(formula, str):
        return f"{{{formula}}}" if style % 2 else formula
    if formula[0] == "not":
        return f"{('¬', 'not ', '~')[style % 3]}({written(formula[1], style)})"
    signs = NOTATION[formula[0]]
    return f"({written(formula[1], style)}) {signs[style % len(signs)]} ({written(formula[2], style)})"


def true(formula, world):
    if isinstance(formula, str):
        return world[formula]
    kind, *parts = formula
    values = [true(part, world) for part in parts]
    return {
        "not": lambda a: not a,
        "and": lambda a, b: a and b,
        "or": lambda a, b: a or b,
        "implies": lambda a, b: not a or b,
        "iff": lambda a, b: a == b,
    }[kind](*values)


@given(st.lists(propositions, min_size=1, max_size=3), propositions, st.integers(0, 5))
@settings(deadline=None, max_examples=80)
def test_propositions_agree_with_truth_tables(premises, conclusion, style):
    worlds = [dict(zip(ATOMS, values, strict=True)) for values in itertools.product([0, 1], repeat=4)]
    follows = all(true(conclusion, w) for w in worlds if all(true(p, w) for p in premises))
    inference = Entailment(tuple(written(p, style) for p in premises), written(conclusion, style))
    label, _ = EntailmentChecker(milliseconds=10_000).entails(inference)
    assert label == ("supported" if follows else "refuted")


@pytest.mark.parametrize(
    ("premises", "conclusion", "label"),
    [
        (("(x): {A}x -> {B}x", "{A}{a}"), "{B}{a}", "supported"),
        (("(x): {A}x -> {B}x", "{B}{a}"), "{A}{a}", "refuted"),
        (("(x): ({A}x v {C}x) -> ¬{B}x", "{B}{a}"), "¬{A}{a}", "supported"),
        (("(Ex): ({A}x & {B}x)",), "(Ex): {A}x", "supported"),
        (("(Ex): {A}x",), "{A}{a}", "refuted"),
        (("{A}{a}",), "(Ex): {A}x", "supported"),
        (("forall x. Man(x) -> Mortal(x)", "Man(socrates)"), "Mortal(socrates)", "supported"),
        (("forall x. exists y. Loves(x, y)",), "exists y. forall x. Loves(x, y)", "refuted"),
        (("exists y. forall x. Loves(x, y)",), "forall x. exists y. Loves(x, y)", "supported"),
        (("P", "not P"), "Q", "supported"),
        (("P -> ⊥",), "not P", "supported"),
        (("2x + 4 = 10",), "x = 3", "supported"),
        (("2x + 4 = 10",), "x = 4", "refuted"),
        (("x^2 = 4", "x > 0"), "x = 2", "supported"),
        (("x^2 = 4",), "x = 2", "refuted"),
        (("1 < x < 3",), "x^2 < 9", "supported"),
        (("a + b = 10 and a - b = 2",), "a = 6 & b = 4", "supported"),
        (("x / 2 = 5 or x = 3",), "x != 4", "supported"),
        (("-(x - 1) = 2*(x + 1)",), "3*x = -1", "supported"),
        (("rain -> wet", "not wet"), "not rain.", "supported"),
    ],
)
def test_known_inferences(checker, premises, conclusion, label):
    assert checker.entails(Entailment(premises, conclusion))[0] == label


@pytest.mark.parametrize(
    "text",
    [
        *("", "P ->", "(P", "P)", "P & & Q", "{A", "x +", "x = ", "x ^ 9 = 1", "x ^ y = 1", "P(", "P(x"),
        *("(x):", "P Q", "1 + 1", "$", "forall", "x/0 = 1"),
        *("(" * 100 + "P" + ")" * 100, "not " * 100 + "P", "P & " * 1000 + "P"),
    ],
)
def test_what_is_no_formula_is_unknown(checker, text):
    result = checker.check("Q", [step(f"{text} |- P")] if text.strip() else [step("|- P")])
    assert result.label == "unknown"
    if text != "x/0 = 1":
        with pytest.raises(FormulaError):
            parse_formula(text)


@given(st.text(alphabet="PQxy{}()&|v~->=<.+*/^: 12E¬∀", max_size=40))
@settings(deadline=None, max_examples=100)
def test_no_text_makes_it_fail(text):
    result = EntailmentChecker(milliseconds=200).check("Q", [step(f"{text} |- P")])
    assert result.label in ("supported", "refuted", "unknown")


def test_precedence():
    assert parse_formula("P & Q v R -> S") == parse_formula("((P & Q) v R) -> S")
    assert parse_formula("P -> Q -> R") == parse_formula("P -> (Q -> R)")
    assert parse_formula("¬P & Q") == parse_formula("(¬P) & Q")
    assert parse_formula("(x): {A}x -> {B}x") == parse_formula("(x): ({A}x -> {B}x)")
    assert parse_formula("(x + 1) * 2 = 4") == parse_formula("((x + 1) * 2) = 4")


FACTS = "Facts:\nfact1: (x): {A}x -> {B}x\nfact2: {A}{a}; fact3: ¬{C}{a}"


def test_steps_of_a_formal_proof(checker):
    first = step("fact1 & fact2 -> int1: {B}{a}")
    assert checker.check(FACTS, [first]).label == "supported"
    assert checker.check(FACTS, [step("fact1 & fact3 -> int1: {B}{a}")]).label == "refuted"
    second = step("int1 & fact3 -> hypothesis: {B}{a} & ¬{C}{a}")
    assert checker.check(FACTS, [first, second]).label == "supported"
    assert checker.check(FACTS, [second]).label == "unknown"  # nobody concluded int1
    assert checker.check("Prove it.", [step("fact2 -> int1: {A}{a}", FACTS)]).label == "supported"
    assert checker.check(FACTS, [step("So we are done.")]).label == "unknown"


def test_steps_with_their_premises_in_them(checker):
    assert read_entailment("Q", [step("P -> Q; P |- Q")]) == Entailment(("P -> Q", "P"), "Q")
    assert checker.check("Q", [step("2x = 6 therefore x = 3")]).label == "supported"
    assert checker.check("Q", [step("2x = 6 ⊢ x = 2")]).label == "refuted"
    assert read_entailment("Q", [step("therefore P")]) is None
    assert read_entailment("Q", [step("P therefore Q therefore R")]) is None


def test_a_translator_may_stand_in():
    checker = EntailmentChecker(lambda question, prefix: Entailment(("A > B", "B > C"), "A > C"))
    assert checker.check("Q", [step("Anna is older than Carl.")]).label == "supported"
    with pytest.raises(ConfigurationError):
        EntailmentChecker(milliseconds=0)


def test_what_cannot_be_decided_in_time_is_unknown():
    hard = Entailment(
        ("x > 2", "y > 2", "z > 2", "x^7 + y^7 + 3*x*y*z = z^7 + x^2*y^3*z^4", "x*y^5 - z^3*x^4 = 17*y*z"),
        "x*y*z < 40 or x^5 > y^4*z",
    )
    label, note = EntailmentChecker(milliseconds=1).entails(hard)
    assert label == "unknown" or "follow" in note


def test_threads_do_not_meet(checker):
    labels = [""] * 8

    def work(i):
        labels[i] = checker.entails(Entailment((f"x > {i}",), f"x > {i % 4}"))[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labels == ["supported"] * 8


def test_the_time_limit_is_kept_whatever_is_asked():
    """Z3 expands nested powers without looking at its clock."""
    checker, power = EntailmentChecker(milliseconds=500), "(x + y + z + 1)"
    for _ in range(6):
        power = f"({power})^8"
    begin = time.monotonic()
    for _ in range(2):  # the second one has a new prover
        label, _ = checker.entails(Entailment((f"{power} = 2", "x > y"), f"{power} > z"))
        assert label == "unknown"
    assert time.monotonic() - begin < 8
    assert checker.entails(Entailment(("x > 1",), "x > 0"))[0] == "supported"


@pytest.mark.parametrize(
    ("premise", "conclusion", "label"),
    [
        (" & ".join(["P"] * 490), "P", "supported"),
        ("&".join(["P"] * 1000), "Q", "refuted"),
        ("|".join(["P"] * 1000), "P", "supported"),
        ("P<->" * 300 + "P", "P", "supported"),
        ("x = " + "+".join(["1"] * 900), "x = 900", "supported"),
        ("x = " + "*".join(["1"] * 900), "x = 1", "supported"),
        ("P->" * 300 + "P", "P", "unknown"),
        ("(" * 900 + "P" + ")" * 900, "P", "unknown"),
        ("x = \u0663", "x = 3", "unknown"),  # an Arabic three
        ("x > \u00bd", "x > 0", "unknown"),  # a half
        ("x > \u4e09", "x > 2", "unknown"),  # a Chinese three
        ("x\u00b2 = 4 & x > 0", "x = 2", "unknown"),
        ("x\u2082 > 1", "x\u2082 > 0", "supported"),
        ("x = 2^\u00b2", "x = 4", "unknown"),
        ("x = 1/0", "x = 1", "unknown"),
        ("x\ud83d = 1", "x = 1", "unknown"),
        ("P(\u0663)", "P(\u0663)", "unknown"),
        ("x = " + "9" * 1900, "x > 1", "supported"),
    ],
)
def test_long_and_odd_formulas_are_decided_or_unknown(premise, conclusion, label):
    checker = EntailmentChecker(lambda question, prefix: Entailment((premise,), conclusion))
    assert checker.check("Q", [step("So it is.")]).label == label


def test_threads_share_provers():
    checker, labels = EntailmentChecker(milliseconds=20_000), []
    work = [
        threading.Thread(
            target=lambda i=i: labels.append(checker.entails(Entailment((f"x > {i}",), f"x > {i - 1}"))[0])
        )
        for i in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert labels == ["supported"] * 4
