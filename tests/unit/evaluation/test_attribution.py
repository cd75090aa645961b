"""Every cause of a failure, by hand-made trees."""

import pytest

from agentprm.budget import empty_usage
from agentprm.evaluation import failure_cause, scored_answers
from agentprm.trace import trace_of

QUESTION = "Where was the engineer of the Clifton bridge born?"
TITLES = {"bridge": "Clifton bridge", "brunel": "Isambard Brunel (engineer)", "eiffel": "Gustave Eiffel"}
GOLD = {"bridge", "brunel"}


def step(key, docs=(), query="", thought="", answer=None, score=0.5, status="committed", parent=None):
    return {
        "id": key, "parent_id": parent, "depth": key.count(".") + 1, "query": query, "retrieve": bool(query),
        "doc_ids": list(docs), "thought": thought, "final_answer": answer, "score": score, "value": score,
        "status": status, "usage": empty_usage(),
    }  # fmt: skip


def run(answer, *steps, documents=(), question=QUESTION):
    found = [{"id": key, "page_content": text} for key, text in dict(documents).items()]
    return trace_of({"question": question, "answer": answer, "prm_steps": list(steps), "documents": found})


FIRST = step("1", ["bridge"], "Who built the Clifton bridge?", "Isambard Brunel")


def cause(trace, answers=("Portsmouth",), gold=GOLD):
    return failure_cause(trace, list(answers), gold, TITLES)


def test_a_right_answer_has_no_cause():
    assert cause(run("In Portsmouth.", FIRST)) is None


@pytest.mark.parametrize(("score", "expected"), [(0.2, "reward"), (0.5, "choice"), (None, "choice")])
def test_a_right_candidate_lost(score, expected):
    right = step("1.2", ["brunel"], answer="Portsmouth", score=score, status="rejected", parent="1")
    wrong = step("1.1", ["brunel"], answer="Paris", parent="1")
    assert cause(run("Paris", FIRST, wrong, right)) == expected


def test_the_answer_was_found_and_not_given():
    last = step("1.1", ["brunel"], "Where was Brunel born?", "He was born in Portsmouth.", parent="1")
    assert cause(run("England", FIRST, last)) == "choice"


def test_a_finding_that_repeats_the_question_is_no_answer_found():
    question = "Which is older, the Clifton bridge or the Eiffel tower?"
    last = step("1", ["bridge", "brunel"], "How old?", "The Clifton bridge is old.")
    trace = run("the Eiffel tower", last, question=question)
    assert cause(trace, ["Clifton bridge"]) == "reading"


def test_all_was_read_and_the_finding_is_wrong():
    last = step("1.1", ["brunel"], "Where was Brunel born?", "in London", parent="1")
    assert cause(run("London", FIRST, last)) == "reading"


@pytest.mark.parametrize(("score", "expected"), [(0.4, "reward"), (0.6, "choice")])
def test_what_was_missing_was_found_by_a_step_that_lost(score, expected):
    taken = step("1.1", ["eiffel"], "Where was Eiffel born?", "in Dijon", parent="1")
    lost = step("1.2", ["brunel"], "Where was Brunel born?", "?", score=score, status="rejected", parent="1")
    assert cause(run("Dijon", FIRST, taken, lost)) == expected


def test_a_query_that_names_what_is_missing_leaves_retrieval():
    last = step("1.1", ["eiffel"], "Where was Isambard Brunel born?", "in Dijon", parent="1")
    assert cause(run("Dijon", FIRST, last)) == "retrieval"


def test_a_query_that_does_not_name_it_is_the_wrong_one():
    last = step("1.1", ["eiffel"], "Where was Gustave Eiffel born?", "in Dijon", parent="1")
    assert cause(run("Dijon", FIRST, last)) == "query"


def test_look_aheads_and_unreadable_output_are_no_candidates():
    for status in ("simulated", "unparsed"):
        other = step("1~1", ["brunel"], "Isambard Brunel", answer="Portsmouth", status=status, parent="1")
        last = step("1.1", ["eiffel"], "Where was Gustave Eiffel born?", "in Dijon", parent="1")
        assert cause(run("Dijon", FIRST, last, other)) == "query"


def test_plain_retrieval():
    assert cause(run("Dijon", documents={"bridge": "x", "brunel": "y"})) == "reading"
    assert cause(run("Dijon", documents={"brunel": "y"})) == "retrieval"  # the question names the bridge
    assert cause(run("Dijon", documents={"bridge": "x"})) == "query"


def test_without_gold_passages_the_answer_itself_is_looked_for():
    assert cause(run("Dijon", documents={"a": "Brunel, born in Portsmouth"}), gold=()) == "reading"
    assert cause(run("Dijon", documents={"a": "nothing"}), gold=()) == "retrieval"
    assert cause(run("yes", documents={"a": "no"}), ["no"], gold=()) == "unknown"
    lost = step("2", ["b"], "x", status="rejected", score=0.1)
    trace = run("Dijon", FIRST, lost, documents={"b": "born in Portsmouth"})
    assert cause(trace, gold=()) == "reward"


def test_a_search_that_ended_without_an_answer():
    assert cause(run("")) == "retrieval"
    lost = step("1", ["bridge", "brunel"], "x", answer="Portsmouth", status="scored")
    assert cause(run("", lost)) == "choice"


def test_scores_and_rightness_of_conclusions():
    steps = [
        step("1", answer="Portsmouth", score=0.9),
        step("2", answer="Paris", score=0.3, status="rejected"),
        step("3", answer="Paris", score=None, status="rejected"),
        step("1~1", answer="Paris", score=0.1, status="simulated"),
        step("4", query="?", score=0.7),
    ]
    assert scored_answers(run("Portsmouth", *steps), ["Portsmouth"]) == [(0.9, True), (0.3, False)]
