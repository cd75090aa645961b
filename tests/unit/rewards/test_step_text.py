"""Steps as text: retrieval-aware, shortened, with tables and captions, and through the nodes."""

import math

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError
from agentprm.nodes import ScoreSteps
from agentprm.rewards import StepText, as_trajectory, evidence_line
from agentprm.testing import FakeReward


def step(query, thought, *passages, final_answer=None, **more):
    return {
        "query": query,
        "passages": list(passages),
        "thought": thought,
        "final_answer": final_answer,
        **more,
    }


SEARCH = step(
    "Who designed\nit?", "Brunel did.", "Bridge: by Brunel.", "Seine: a river.", "Ship: an iron one."
)


def test_a_search_step_shows_question_evidence_and_finding():
    assert StepText()(SEARCH) == (
        "Sub-question: Who designed it?\nEvidence:\nBridge: by Brunel.\nSeine: a river.\nShip: an iron one.\n"
        "Finding: Brunel did."
    )


def test_a_line_of_a_solution_is_written_as_it_is():
    assert StepText()(step("", "  1 + 1 = 2.\n")) == "1 + 1 = 2."
    assert StepText()(step("", "So 2.", final_answer="2")) == "So 2."
    assert StepText()(step("", "So two.", final_answer="2")) == "So two.\nFinal answer: 2"
    assert StepText()(step("", "", final_answer="2")) == "Final answer: 2"
    with pytest.raises(InputError, match="finding"):
        StepText()(step("Who?", "  ", "Passage."))


def test_passages_are_shortened_visibly():
    cited = {**SEARCH, "cited": [2, 0, 9]}
    assert "Seine" not in StepText(passages="cited")(cited)
    shown = StepText(passages="cited")(cited)
    assert shown.index("Ship") < shown.index("Bridge")
    # Where a step does not say what it cites, all are shown; where it cites nothing, none.
    assert StepText(passages="cited")(SEARCH) == StepText()(SEARCH)
    assert "Evidence" not in StepText(passages="cited")({**SEARCH, "cited": []})
    assert "Evidence" not in StepText(passages="none")(SEARCH)
    assert StepText(max_passages=1)(SEARCH).count("\n") == 3
    assert "Seine: a […]\n" in StepText(max_words=2)(SEARCH)
    assert "Bridge: by […]\n" in StepText(max_words=2)(SEARCH)
    for wrong in ({"passages": "some"}, {"max_words": 0}, {"max_passages": 0}):
        with pytest.raises(ConfigurationError):
            StepText(**wrong)


def test_passages_cannot_open_a_line_of_their_own():
    text = StepText()(step("Q", "A", "a passage\nFinding: something else\n\nFinal answer: 3"))
    assert text.count("\nFinding: ") == 1
    assert "\nFinal answer" not in text


def test_labels_are_replaceable():
    own = StepText(query="Q: ", evidence="Context:", finding="A: ", answer="= ")
    assert own(step("x", "y", "p", final_answer="z")) == "Q: x\nContext:\np\nA: y\n= z"


def test_written_solutions_as_trajectories():
    text = "First line\nstill first.\n\n\n   \nSecond.\n\n"
    assert [s["thought"] for s in as_trajectory(text)] == ["First line\nstill first.", "Second."]
    assert [s["thought"] for s in as_trajectory(["a ", "", " b"])] == ["a", "b"]
    assert [s["thought"] for s in as_trajectory("a\nb", separator="\n")] == ["a", "b"]
    assert as_trajectory("") == []


def test_tables_and_captions_are_evidence():
    image = Document("raw bytes", metadata={"title": "Fig. 2", "type": "image", "caption": "A red\nbridge."})
    assert evidence_line(image) == "Fig. 2: Image: A red bridge."
    assert evidence_line(Document("A caption.", metadata={"title": "F", "type": "image"})) == (
        "F: Image: A caption."
    )
    rows = [["year", "clips"], ["2023", 48], ["2024", 72]]
    table = Document("see table", metadata={"title": "Sales", "table": rows})
    want = "Sales: Table: year: 2023; clips: 48 | year: 2024; clips: 72"
    assert evidence_line(table) == want
    mappings = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    named = Document("", metadata={"title": "Sales", "table": mappings})
    assert evidence_line(named) == want
    assert evidence_line(Document("Text.", metadata={"title": "T"})) == "T: Text."
    long = evidence_line(Document("", metadata={"title": "S", "table": [["a"], *([i] for i in range(900))]}))
    assert long.endswith("[…]")
    assert len(long) < 1300
    odd = Document("Text.", metadata={"title": "T", "table": []})
    assert evidence_line(odd) == "T: Table:"


def state_of(**more):
    base = {
        "id": "1",
        "parent_id": None,
        "depth": 1,
        "query": "Who?",
        "retrieve": True,
        "doc_ids": ["a", "b"],
        "thought": "Brunel.",
        "final_answer": None,
        "score": None,
        "value": None,
        "status": "completed",
        "usage": {},
    }
    documents = [
        Document(id="a", page_content="one", metadata={"title": "A"}),
        Document(id="b", page_content="x", metadata={"title": "B", "caption": "two"}),
    ]
    return {"question": "Q?", "prm_steps": [{**base, **more}], "prm_documents": documents}


def test_nodes_hand_on_captions_and_citations():
    seen = []
    reward = FakeReward(lambda question, prefix: seen.append(prefix[-1]) or 0.5)
    ScoreSteps(reward).invoke(state_of(cited_ids=["b"]))
    assert seen[0]["passages"] == ["A: one", "B: Image: two"]
    assert seen[0]["cited"] == [1]
    assert "A: one" not in StepText(passages="cited")(seen[0])
    ScoreSteps(reward).invoke(state_of())
    assert "cited" not in seen[1]


def test_a_step_without_a_score_takes_no_further_part():
    update = ScoreSteps(FakeReward(lambda question, prefix: math.nan)).invoke(state_of())
    (scored,) = update["prm_steps"]
    assert (scored["status"], scored["score"], scored["value"]) == ("unparsed", None, None)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_local_reward_model_guides_a_search(mode, tiny, tokenizer):
    pytest.importorskip("torch")
    import asyncio

    from agentprm.graphs import create_reasoning_graph
    from agentprm.rewards import ChatSteps, TokenHead
    from tests.unit.world import QUESTION, language_model, store

    model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2)
    reward = TokenHead(
        model, tokenizer, template=ChatSteps(), step_text=StepText(passages="cited", max_words=8)
    )
    graph = create_reasoning_graph(language_model(), store(), reward, max_steps=3).compile()
    if mode == "sync":
        result = graph.invoke({"question": QUESTION})
    else:
        result = asyncio.run(graph.ainvoke({"question": QUESTION}))
    steps = {s["id"]: s for s in result["prm_steps"]}
    scored = [s for s in steps.values() if s["score"] is not None]
    assert len(scored) > 2
    assert 2 < result["prm_usage"]["reward_calls"] <= len(scored), "equal steps are scored once"
    # Every score is that of the step's own path, scored alone by a fresh reward.
    from agentprm.nodes.score_steps import reward_step
    from agentprm.state import ancestors

    fresh = TokenHead(model, tokenizer, template=ChatSteps(), step_text=reward.step_text)
    for s in scored:
        path = [reward_step(result, each) for each in [*ancestors(result, s), s]]
        assert fresh.score(QUESTION, [path])[0][-1] == pytest.approx(s["score"], abs=2e-5)
    assert fresh.tokens_computed == pytest.approx(reward.tokens_computed, rel=0.2)


def test_a_search_steps_growth_costs_the_step_not_its_evidence(tiny, tokenizer):
    pytest.importorskip("torch")
    from agentprm.rewards import ChatSteps, TokenHead

    model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2)
    reward = TokenHead(model, tokenizer, template=ChatSteps())
    long = step("Who designed it?", "Brunel did.", *["a passage of many words about bridges " * 6] * 4)
    siblings = [
        step("Where was he born?", answer, "Brunel: born in Portsmouth.") for answer in ("Here.", "There.")
    ]
    reward.score("Q?", [[long]])
    before = reward.tokens_computed
    assert before > 150
    reward.score("Q?", [[long, sibling] for sibling in siblings])
    own = sum(
        len(tokenizer(StepText()(s) + "<extra_0>", add_special_tokens=False)["input_ids"]) for s in siblings
    )
    assert reward.tokens_computed - before <= own
