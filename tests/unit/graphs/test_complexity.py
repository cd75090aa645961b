"""Prompts and depth that adapt to the question: hierarchical prompts, and plans as deep as it is complex."""

import asyncio

import pytest

from agentprm.documents import plain_document
from agentprm.errors import ConfigurationError
from agentprm.graphs import create_hpt_graph, create_prs_graph, hierarchical_prompts
from agentprm.nodes import PlanQuestion, Reason, RecursivePlanner
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel, ScriptedReader
from tests.unit.world import QUESTION, store

LEVELS = ["role", "chain-of-thought", "few-shot", "least-to-most", "generated-knowledge"]


def level(text):
    """Which level a prompt is of; what it says is wrong but at the third."""
    if "You are an expert" in text:
        return "Bath"
    if "Let us think" in text:
        return " It is said so.\nFinal answer: " + ("Portsmouth" if "Severn" in text else "Bath")
    if "Sub-questions:" in text:
        return "1. Who designed the Clifton Bridge?\n2. Where was #1 born?"
    return "Bath"


def right(question, steps):
    return float(steps[-1]["thought"] == "Portsmouth")


def test_the_levels_are_climbed_until_an_answer_is_good():
    graph = create_hpt_graph(ScriptedLanguageModel(level), store(), right).compile()
    result = graph.invoke({"question": QUESTION})
    assert (result["rung"], result["answer"]) == ("few-shot", "Portsmouth")
    assert [one["rung"] for one in result["prm_rungs"]] == LEVELS[:3]
    assert result["citations"]
    same = asyncio.run(graph.ainvoke({"question": QUESTION}))
    assert (same["rung"], same["answer"]) == ("few-shot", "Portsmouth")


def test_where_none_is_good_all_are_tried_and_a_start_leaves_some_out():
    model = ScriptedLanguageModel(level)
    result = create_hpt_graph(model, store(), lambda q, s: 0.1).compile().invoke({"question": QUESTION})
    assert [one["rung"] for one in result["prm_rungs"]] == LEVELS
    begun = create_hpt_graph(model, store(), lambda q, s: 0.1, start=lambda question: "few-shot")
    assert [one["rung"] for one in begun.compile().invoke({"question": QUESTION})["prm_rungs"]] == LEVELS[2:]
    judged = create_hpt_graph(model, store()).compile().invoke({"question": QUESTION})  # by its own reward
    assert judged["answer"]


@pytest.mark.parametrize("name", LEVELS)
def test_each_level_is_a_graph_of_its_own(name):
    model = ScriptedLanguageModel(level)
    result = hierarchical_prompts(model, store())[name].invoke({"question": QUESTION})
    assert result["answer"] == ("Portsmouth" if name == "few-shot" else "Bath")
    shown = "\n".join(model.prompts)
    assert ("You are an expert" in shown) == (name == "role")
    assert ("Let us think" in shown) == (name in LEVELS[1:3])
    assert ("346 km" in shown) == (name == "few-shot")


def test_thinking_reads_passages_and_examples_where_it_is_given_some():
    model = ScriptedLanguageModel({"": " Final answer: Portsmouth"})
    passage = plain_document("Brunel was born in Portsmouth.")
    state = {"question": "Where was Brunel born?", "documents": [passage], "examples": "Example: one."}
    update = Reason(model, passages=1, examples="mine").invoke(state)
    assert update["answer"] == "Portsmouth"
    assert [citation["doc_id"] for citation in update["citations"]] == [passage.id]
    assert "Brunel was born in Portsmouth." in model.prompts[-1]
    assert "Example: one." in model.prompts[-1]
    assert "mine" not in model.prompts[-1]
    Reason(model).invoke({"question": "Where was Brunel born?", "documents": [passage]})
    assert passage.page_content not in model.prompts[-1]
    with pytest.raises(ConfigurationError, match="passages"):
        Reason(model, passages=-1)


PLANS = {
    "director of the film": (
        7,
        [
            "Which film about the river came first?",
            "Who directed #1?",
            "Which town is on the Seine?",
            "Compare #2 and #3: who?",
        ],
    ),
    "Which film about the river": (6, ["Which river is it?", "Which film is about #1?"]),
    "Which town": (2, []),
    "Which river": (9, ["Which rivers are there?", "Which of #1 is it?"]),
    "Which rivers are there": (1, []),
}


def planning(text):
    question = text.rpartition("Question:")[2].split("\n")[0].strip()
    found = next((plan for mark, plan in PLANS.items() if question.startswith(mark)), (1, []))
    if "how complex" in text:
        return f" {found[0]}"
    asked.append((question, text.partition("Use about ")[2].split()[0]))
    return "\n".join(f"{n}. {step}" for n, step in enumerate(found[1], 1))


asked = []


def test_the_plan_is_as_deep_as_the_question_is_complex():
    asked.clear()
    model = ScriptedChatModel(script=planning)
    plan = RecursivePlanner(model, depth=2)("director of the film, and the town?")
    assert plan == [
        "Which river is it?",
        "Which film is about #1?",
        "Who directed #2?",
        "Which town is on the Seine?",
        "Compare #3 and #4: who?",
    ]
    assert [about for _, about in asked] == ["4", "3"]  # half of the complexity, rounded up
    deeper = RecursivePlanner(model, depth=3)("director of the film, and the town?")
    assert deeper[:4] == [
        "Which rivers are there?",
        "Which of #1 is it?",
        "Which film is about #2?",
        "Who directed #3?",
    ]
    assert deeper[-1] == "Compare #4 and #5: who?"
    assert RecursivePlanner(model, depth=1)("director of the film?") == PLANS["director of the film"][1]
    assert RecursivePlanner(model, threshold=8)("director of the film?") == ["director of the film?"]


@pytest.mark.parametrize(
    ("said", "number"), [("7", 7), ("10/10", 10), ("It is 3.", 3), ("7.5", None), ("much", None)]
)
def test_the_number_is_read_off_what_the_model_says(said, number):
    planner = RecursivePlanner(ScriptedChatModel(script={"": said}))
    assert planner.complexity("Who?") == number


def test_without_a_number_or_a_plan_syntax_splits():
    question = "Where was the director of film Up born?"
    for script in ({"": "no idea"}, {"how complex": "9", "": "no plan"}):
        planner = RecursivePlanner(ScriptedChatModel(script=script))
        assert planner(question) == ["Who directed Up?", "Where was #1 born?"]


def test_a_recursive_plan_is_followed_and_its_calls_are_counted():
    plan = "1. Who designed the Clifton Bridge?\n2. Where was #1 born?"

    def script(text):
        if "how complex" in text:
            return "5" if QUESTION in text else "1"
        return plan

    reader = ScriptedReader({"designed": {"Brunel": 0.9}, "born": {"Portsmouth": 0.8}})
    graph = create_prs_graph(ScriptedChatModel(script=script), store(), FakeReward(), reader=reader)
    result = graph.compile().invoke({"question": QUESTION})
    assert result["answer"] == "Portsmouth"
    assert result["prm_plan"] == ["Who designed the Clifton Bridge?", "Where was #1 born?"]
    assert result["prm_usage"]["model_calls"] == 3  # the question, its plan, the first sub-question
    update = PlanQuestion(RecursivePlanner(ScriptedChatModel(script=script))).invoke({"question": QUESTION})
    assert update["prm_plan"] == result["prm_plan"]


def test_wrong_settings_are_refused():
    model = ScriptedChatModel(script={})
    for settings in ({"threshold": 0}, {"threshold": 11}, {"threshold": True}, {"depth": 0}):
        with pytest.raises(ConfigurationError):
            RecursivePlanner(model, **settings)
