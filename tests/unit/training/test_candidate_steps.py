"""Candidate steps with labels: what is right follows from gold facts."""

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from agentprm.readers import Reader, ReaderAnswer
from agentprm.training import PlanRecord, ReadingRecord
from agentprm.training.candidate_steps import (
    fact_questions,
    label_of,
    label_record,
    made_steps,
    outcome_record,
    sampled_steps,
)

QUESTION = "When was the director of Dawn born?"
PASSAGES = [
    {"title": "Dawn (film)", "text": "Dawn is a film by Ann Lee.", "gold": True},
    {"title": "Ann Lee", "text": "Ann Lee (born 1 May 1901) was a director.", "gold": True},
    {"title": "Dusk", "text": "Dusk is a film by Bo Ray.", "gold": False},
]
READING = ReadingRecord(
    id="1", set="toy", question=QUESTION, answers=["1 May 1901"], passages=PASSAGES,
    evidence=[["Dawn", "director", "Ann Lee"], ["Ann Lee", "date of birth", "1 May 1901"]],
)  # fmt: skip
PLAN = PlanRecord(
    id="1", set="toy", question=QUESTION,
    steps=[
        {"question": "Who directed Dawn?", "answer": "Ann Lee"},
        {"question": "When was #1 born?", "answer": "1 May 1901"},
    ],
)  # fmt: skip


def test_a_step_is_right_if_it_states_what_a_fact_says_of_something_named():
    facts = [["Bridge", "designer", "Brunel"]]
    step = {"query": "Who designed the Bridge?", "passages": [], "thought": "It was Brunel"}
    assert label_of(step, facts) == 1
    assert label_of({**step, "thought": "Telford"}, facts) == 0
    assert label_of({**step, "thought": "the Brunelleschi"}, facts) == 0  # a part of a word is no name
    assert label_of({**step, "query": "Was it Brunel who built the Bridge?"}, facts) == 0
    assert label_of({**step, "query": "Who?"}, facts) == 0
    assert label_of({**step, "query": "Who?", "passages": ["The Bridge: by Brunel"]}, facts) == 1
    assert label_of({**step, "query": "Who?"}, [["", "", "Brunel"]]) == 1


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({}, (("Dawn", "director", "Ann Lee"), ("Ann Lee", "date of birth", "1 May 1901"))),
        ({"evidence": None}, (("", "", "Ann Lee"), ("Ann Lee", "", "1 May 1901"))),
        ({"evidence": None, "id": "2"}, (("Dawn (film)", "", "Ann Lee"), ("Ann Lee", "", "1 May 1901"))),
    ],
)
def test_facts_of_triples_of_a_plan_and_of_gold_passages(change, facts):
    (found,) = fact_questions([READING.model_copy(update=change)], [PLAN])
    assert found.facts == facts
    steps = (("Who directed Dawn?", "Ann Lee"), ("When was Ann Lee born?", "1 May 1901"))
    assert found.steps == (() if "id" in change else steps)


def test_questions_without_facts_are_left_out():
    plain = READING.model_copy(update={"evidence": None, "id": "2", "answers": ["yes"]})
    assert fact_questions([plain], [PLAN]) == []


class Quoting(Reader):
    """Finds two names whatever is asked."""

    def candidates(self, questions, passages, *, n):
        answers = [ReaderAnswer("Ann Lee", 0.9, 0.05, 0), ReaderAnswer("Bo Ray", 0.05, 0.05, 0)]
        return [answers[:n] for _ in questions]


def test_made_steps_ask_and_find_right_and_wrong():
    documents = [Document(p["text"], metadata={"title": p["title"]}) for p in PASSAGES]
    asked = []

    def search(query):
        asked.append(query)
        return documents

    def made():
        return list(made_steps(fact_questions([READING], [PLAN]), RunnableLambda(search), Quoting(), seed=3))

    steps = made()
    assert {"Who directed Dawn?", "Who directed Dawn, Ann Lee?", "When was Ann Lee born?"} <= set(asked)
    records = [label_record(one, path) for one, path in steps]
    right = [r.steps[-1] for r in records if r.labels[-1]]
    wrong = [r.steps[-1] for r in records if not r.labels[-1]]
    assert all("Ann Lee" in s.thought or "1901" in s.thought for s in right)
    assert right
    assert wrong
    # The second sub-question comes after the first one was answered from its passage.
    second = next(r for r in records if r.steps[-1].query == "When was Ann Lee born?")
    assert (second.steps[0].thought, second.steps[0].passages) == (
        "Ann Lee",
        ["Dawn (film): Dawn is a film by Ann Lee."],
    )
    assert second.labels[0] is None
    assert made() == steps
    # The outcome's label knows nothing of the way.
    outcomes = [outcome_record(one, path) for one, path in steps]
    assert any(r.labels[-1] and not o.labels[-1] for r, o in zip(records, outcomes, strict=True))
    assert all(("1 May 1901" in o.steps[-1].thought) >= bool(o.labels[-1]) for o in outcomes)


def test_sampled_steps_go_on_from_a_right_one():
    class Node:
        def invoke(self, state):
            parent = (state.get("prm_frontier") or [None])[0]
            blank = {"retrieve": True, "doc_ids": [], "final_answer": None, "score": None, "value": None}
            steps = [
                {**blank, "id": f"{parent or ''}/{i}", "parent_id": parent, "query": f"q{i}", "thought": "t"}
                for i in (1, 2)
            ]
            return {"prm_steps": [{**s, "depth": 1, "status": "completed"} for s in steps]}

    first, second = sampled_steps("?", [Node()], lambda step: step["query"] == "q2")
    assert (first.right, [len(path) for path in first.paths]) == ([False, True], [1, 1])
    assert [[step["query"] for step in path] for path in second.paths] == [["q2", "q1"], ["q2", "q2"]]
