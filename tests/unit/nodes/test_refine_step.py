"""Explanation and refinement: the three faults, the three actions, and what does not parse."""

import json

import pytest

from agentprm.budget import SearchBudget
from agentprm.graphs import create_reasoning_graph
from agentprm.lm import Capabilities
from agentprm.nodes import CompleteSteps, LookAhead, ProposeSteps, RefineStep, ScoreSteps, apply_update
from agentprm.search import TD, Snell
from agentprm.state import new_step
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel
from tests.unit.world import QUESTION, good_reward, language_model, likelihood, reply, store

BRIDGE, RIVER = "Who designed the Clifton Bridge?", "Which river flows through Paris?"
CHAT = Capabilities(n=True, structured=True)


def weak_step(query=RIVER, **more):
    step = new_step("2", None, query)
    return {**step, "thought": "the Seine", "score": 0.2, "value": 0.2, "status": "scored", **more}


def refined(action, *, explanation="Fault: retrieval. Ask about the bridge.", weak=None, **kwargs):
    """What `RefineStep` makes of a weak step with a chat model that acts so."""

    def script(text):
        return explanation if "You review one step" in text else action

    model = kwargs.pop("model", None) or ScriptedLanguageModel(script, capabilities=CHAT)
    weak = weak or weak_step()
    update = RefineStep(model, **kwargs).invoke(
        {"question": QUESTION, "prm_steps": [weak], "prm_weak": [weak["id"]], "prm_frontier": []}
    )
    assert update["prm_weak"] == []
    return update["prm_steps"]


@pytest.mark.parametrize(
    ("said", "fault", "advice"),
    [
        ("Fault: decomposition. Ask for one thing.", "decomposition", "Ask for one thing."),
        ("**Retrieval** - another Paris was found", "retrieval", "another Paris was found"),
        ("finding: not in the passages", "finding", "not in the passages"),
        ('{"fault": "finding", "advice": "Read\\nagain."}', "finding", "Read again."),
        ('```json\n{"fault": "style", "advice": "Read again."}\n```', None, "Read again."),
        ('{"fault": ["finding"], "advice": 3}', None, ""),
        ("Ask about the bridge; the finding is right.", None, "Ask about the bridge; the finding is right."),
        ("<think>Fault: finding. No", None, ""),
        ("<think>hm</think>Fault: retrieval. Other words.", "retrieval", "Other words."),
        ("???", None, ""),
        ("", None, ""),
    ],
)
def test_an_explanation_names_one_of_three_faults_or_none(said, fault, advice):
    (step,) = refined(f"Search: {BRIDGE}", explanation=said)
    assert (step.get("fault"), step["critique"]) == (fault, advice)


@pytest.mark.parametrize(
    "said", [f"Search: {BRIDGE}", json.dumps({"search": BRIDGE, "recall": None, "final_answer": None})]
)
def test_a_new_query_is_searched_for(said):
    for recall in (False, True):
        (step,) = refined(said, recall=recall)
        assert (step["query"], step["retrieve"], step["status"]) == (BRIDGE, True, "proposed")
        assert (step["id"], step["refines"], step["parent_id"]) == ("2r", "2", None)


@pytest.mark.parametrize("said", [f"Recall: {BRIDGE}", json.dumps({"search": None, "recall": BRIDGE})])
def test_a_new_query_without_a_search_is_an_action_where_it_is_offered(said):
    (step,) = refined(said, recall=True)
    assert (step["query"], step["retrieve"], step["status"]) == (BRIDGE, False, "proposed")
    (step,) = refined(said)
    assert step["status"] == "unparsed"


@pytest.mark.parametrize("said", ["Flip", "flip the search flag.", '{"flip": true}', f"Recall: {RIVER}"])
def test_a_flip_keeps_the_query_and_turns_the_flag(said):
    (step,) = refined(said, recall=True)
    assert (step["query"], step["retrieve"], step["status"]) == (RIVER, False, "proposed")
    if RIVER not in said:
        (back,) = refined(said, recall=True, weak=weak_step(retrieve=False))
        assert (back["query"], back["retrieve"]) == (RIVER, True)
    (step,) = refined(said)
    assert (step["status"], step["query"] in ("", RIVER)) == ("unparsed", True)


def test_an_answer_finishes_the_step():
    (step,) = refined("Final answer: Portsmouth", recall=True)
    assert (step["final_answer"], step["status"]) == ("Portsmouth", "completed")


@pytest.mark.parametrize(
    "said",
    ["", "{", '{"action": 3}', "[]", "Flipping burgers is fun?", f"Search: {RIVER}", "Final answer:", "{}",
     '{"search": null, "recall": null, "flip": false, "final_answer": null}'],
)  # fmt: skip
def test_what_does_not_parse_or_asks_nothing_new_is_a_state_of_its_own_and_never_the_end(said):
    (step,) = refined(said, recall=True)
    assert (step["status"], step["final_answer"], step["output"]) == ("unparsed", None, said)


def test_a_conclusion_without_a_question_cannot_be_flipped():
    (step,) = refined("Flip", recall=True, weak=weak_step("", final_answer="42"))
    assert step["status"] == "unparsed"


def test_a_led_model_proposes_its_query_and_the_flipped_step():
    model = ScriptedLanguageModel(lambda text: " finding. Hm." if text.endswith("Fault:") else f" {BRIDGE}")
    steps = refined("", model=model, recall=True)
    assert [(s["id"], s["query"], s["retrieve"]) for s in steps] == [
        ("2r", BRIDGE, True),
        ("2f", RIVER, False),
    ]
    assert [s["id"] for s in refined("", model=model)] == ["2r"]


def test_another_model_explains():
    explainer = ScriptedChatModel(script=lambda text: "Fault: decomposition. Ask less.")
    model = ScriptedChatModel(script=lambda text: f"Search: {BRIDGE}")
    (step,) = refined("", model=model, explainer=explainer)
    assert (step["fault"], step["critique"]) == ("decomposition", "Ask less.")
    assert len(explainer.prompts) == len(model.prompts) == 1
    assert "Fault: decomposition\nCritique: Ask less." in model.prompts[0]


def test_the_explanation_is_an_event():
    def script(text):
        if text.endswith("Fault:"):
            return " decomposition. Ask less."
        return " ???" if "Critique:" in text else reply(text)

    model = ScriptedLanguageModel(script, likelihood=likelihood)
    graph = create_reasoning_graph(model, store(), FakeReward(lambda q, p: 0.3), max_steps=1).compile()
    events = list(graph.stream({"question": QUESTION}, stream_mode="custom"))
    told = [event for event in events if event["type"] == "agentprm.step_criticised"]
    assert told == [
        {
            "type": "agentprm.step_criticised",
            "step_id": "1",
            "fault": "decomposition",
            "critique": "Ask less.",
        }
    ]


# --- steps without a search


def test_a_chat_model_may_answer_from_what_is_known():
    def script(text):
        if "Search:" in text:
            return f"Recall: {BRIDGE}" if "Find out one thing" in text else "Final answer: Portsmouth"
        assert "Text:" not in text
        return "Brunel"

    graph = create_reasoning_graph(
        ScriptedChatModel(script=script), store(), good_reward(), recall=True, threshold=None
    ).compile()
    result = graph.invoke({"question": QUESTION})
    first = result["prm_steps"][0]
    assert (first["query"], first["retrieve"], first["doc_ids"]) == (BRIDGE, False, [])
    assert (first["thought"], first["cited_ids"], first["status"]) == ("Brunel", [], "committed")
    assert result["prm_usage"]["retrievals"] == 0
    assert result["answer"] == "Portsmouth"


def test_without_the_flag_a_label_of_recall_is_no_action():
    model = ScriptedLanguageModel(lambda text: f"Recall: {BRIDGE}", capabilities=CHAT)
    steps = ProposeSteps(model).invoke({"question": QUESTION})["prm_steps"]
    assert {s["status"] for s in steps if s["query"] != QUESTION} == {"unparsed"}


def test_a_led_model_gets_its_first_search_without_a_search_as_well():
    steps = ProposeSteps(language_model(), recall=True).invoke({"question": QUESTION})["prm_steps"]
    asked = [(s["query"], s["retrieve"]) for s in steps if s["status"] == "proposed"]
    assert asked == [(BRIDGE, True), (RIVER, True), (BRIDGE, False)]
    plain = ProposeSteps(language_model()).invoke({"question": QUESTION})["prm_steps"]
    assert all(s["retrieve"] for s in plain if s["status"] == "proposed")
    ahead = ProposeSteps(language_model(), recall=True, n=1, look_ahead=True).invoke({"question": QUESTION})
    assert len(ahead["prm_steps"]) == 1


def test_a_step_without_a_search_is_read_from_the_findings_before_it():
    model = ScriptedLanguageModel(lambda text: "Portsmouth")
    first = {**new_step("1", None, BRIDGE), "thought": "Brunel", "status": "committed"}
    second = {**new_step("1.1", first, "Where was Brunel born?"), "retrieve": False}
    (done,) = CompleteSteps(model).invoke({"question": QUESTION, "prm_steps": [first, second]})["prm_steps"]
    assert (done["thought"], done["status"]) == ("Portsmouth", "completed")
    assert f"{BRIDGE} Brunel" in model.prompts[0]
    assert "Text:" not in model.prompts[0]


# --- accepted only if better under the same value function


@pytest.mark.parametrize("value", [TD(beta=0.0), Snell(horizon=2)])
@pytest.mark.parametrize("calls", range(4, 40, 3))
def test_a_refinement_is_never_compared_by_another_value_function(value, calls):
    """Where the budget ends before a refinement was looked ahead from, its siblings stand by their scores."""

    def script(text):
        if text.endswith("Fault:"):
            return " retrieval. Hm."
        return " Who planned the bridge?" if "Critique:" in text else reply(text)

    graph = create_reasoning_graph(
        ScriptedLanguageModel(script, likelihood=likelihood),
        store(),
        # later steps look better, so that a look-ahead lifts a value above its score
        FakeReward(lambda q, p: min(1.0, 0.2 * len(p))),
        value=value,
        threshold=1.0,
        budget=SearchBudget(model_calls=calls),
    ).compile()
    steps = graph.invoke({"question": QUESTION})["prm_steps"]
    for refinement in (s for s in steps if "refines" in s and s["status"] in ("committed", "rejected")):
        siblings = [
            s
            for s in steps
            if s["parent_id"] == refinement["parent_id"]
            and s["status"] in ("committed", "rejected")
            and s["final_answer"] is None
        ]
        if refinement["final_answer"] is None and refinement["depth"] < 4:
            lifted = {s["value"] > s["score"] for s in siblings}
            assert len(lifted) == 1, [(s["id"], s["score"], s["value"]) for s in siblings]


def test_look_ahead_that_is_cut_short_values_all_by_their_scores():
    model = language_model()
    first = {
        **new_step("1", None, BRIDGE),
        "thought": "Brunel",
        "score": 0.4,
        "value": 0.8,
        "status": "scored",
    }
    simulated = {**new_step("1~1", first, "x"), "thought": "y", "score": 0.9, "status": "simulated"}
    second = {
        **new_step("1r", None, RIVER),
        "thought": "the Seine",
        "score": 0.5,
        "value": 0.5,
        "status": "scored",
    }
    second["refines"] = "1"
    rollout = [ProposeSteps(model, n=1, look_ahead=True), CompleteSteps(model), ScoreSteps(FakeReward())]
    state = {
        "question": QUESTION,
        "prm_steps": [first, simulated, second],
        "prm_stop_reason": "budget: tokens",
    }
    state = apply_update(state, LookAhead(rollout, value=TD()).invoke(state))
    values = {s["id"]: s["value"] for s in state["prm_steps"] if s["status"] == "scored"}
    assert values == {"1": 0.4, "1r": 0.5}
