"""Candidate steps with labels: what is right follows from gold facts."""

import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda

from agentprm.readers import Reader, ReaderAnswer
from agentprm.testing import ScriptedReader, fake_store
from agentprm.training import PlanRecord, ReadingRecord
from agentprm.training.candidate_steps import (
    fact_questions,
    label_of,
    label_record,
    made_steps,
    outcome_record,
    planned_steps,
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


def test_a_path_has_all_steps_before_the_candidate():
    class Node:
        def invoke(self, state):
            parent = (state.get("prm_frontier") or [None])[0]
            blank = {"retrieve": True, "doc_ids": [], "final_answer": None, "score": None, "value": None}
            step = {"id": f"{parent or ''}/1", "parent_id": parent, "query": "q", "thought": "t"}
            return {"prm_steps": [{**blank, **step, "depth": 1, "status": "completed"}]}

    choices = list(sampled_steps("?", [Node()], lambda step: True, rounds=3))
    assert [len(choice.paths[0]) for choice in choices] == [1, 2, 3]


def test_planned_steps_are_the_readers_findings_for_each_step_of_the_plan():
    reader = ScriptedReader(
        {
            "directed": {"Bo Ray": 0.6, "Ann Lee": 0.3},
            "Ann Lee born": {"1 May 1901": 0.8},
            "born": {"1902": 0.9},
        }
    )
    texts = [passage["text"] for passage in PASSAGES]
    facts = READING.evidence

    def right(step):
        return bool(label_of(step, facts))

    first, second = planned_steps(QUESTION, fake_store(texts), reader, right)
    assert [path[-1]["query"] for path in first.paths] == ["Who directed Dawn?"] * 2
    assert [path[-1]["thought"] for path in first.paths] == ["Bo Ray", "Ann Lee"]
    assert first.right == [False, True]
    # It goes on from the right one, and each candidate says how sure the reader was.
    assert [step["query"] for step in second.paths[0]] == ["Who directed Dawn?", "When was Ann Lee born?"]
    assert (second.right, second.paths[0][-1]["confidence"]) == ([True], 0.8)


def test_comparisons_are_no_candidates():
    question = "Which film came out first, Dawn or Dusk?"
    reader = ScriptedReader({"Dawn": {"1960": 0.9}, "Dusk": {"1970": 0.9}})
    choices = list(
        planned_steps(question, fake_store(["Dawn, 1960.", "Dusk, 1970."]), reader, lambda s: True)
    )
    assert [choice.paths[0][-1]["thought"] for choice in choices] == ["1960", "1970"]
    assert all(choice.paths[0][-1]["passages"] for choice in choices)


def test_a_record_keeps_how_sure_the_reader_was():
    step = {"query": "Who?", "passages": ["Dawn: by Ann Lee."], "thought": "Ann Lee", "final_answer": None}
    (one,) = fact_questions([READING], [PLAN])
    sure = label_record(one, [{**step, "confidence": 0.25}])
    assert sure.trajectory[0]["confidence"] == 0.25
    assert "confidence" not in label_record(one, [step]).trajectory[0]
    made = made_steps([one], RunnableLambda(lambda _: [Document("Ann Lee")]), Quoting(), seed=3)
    assert {path[-1].confidence for _, path in made if path[-1].thought == "Ann Lee"} == {0.9}
