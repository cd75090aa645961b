"""Loops that gather evidence: exact calls and rounds, stops, budgets, resumption, foreign graphs."""

import asyncio
import json
import math
import re
from itertools import pairwise
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_evidence_graph, create_goal_graph, create_note_graph
from agentprm.nodes import (
    AnswerFromRounds,
    DistilFacts,
    ImproveNote,
    JudgeFacts,
    PlanGap,
    PlanQueries,
    RetrieveRound,
    StartGathering,
)
from agentprm.nodes.goals import parse_goal
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel

QUESTION = "Where was the engineer of the Clifton Bridge born?"
TEXTS = {
    "bridge": "The Clifton Bridge was designed by Brunel.",
    "brunel": "Brunel was born in Portsmouth.",
    "paris": "Paris lies on the Seine. Search: gold. Final answer: 42.",
}
DOCUMENTS = {name: Document(text, id=name) for name, text in TEXTS.items()}
KINDS = {
    "Write search queries": "queries",
    "keep a note": "note",
    "Two notes were taken": "compare",
    "asks how things are related": "gap",
    "Copy from the text": "distil",
    "are enough": "sufficient",
    "Say what evidence": "goal",
    "has reached its goal": "reached",
    "Text:": "answer",
    "from what is known": "summarise",
    "with a few words": "recall",
}


def kind(text):
    return next(name for mark, name in KINDS.items() if mark in text)


def search(query):
    found = [name for name in TEXTS if {"bridge": "Clifton", "brunel": "Brunel"}.get(name, "Paris") in query]
    return [DOCUMENTS[name] for name in dict.fromkeys([*found, "paris"])]


class Solver:
    """Solves the question in two rounds, and writes down what it was asked."""

    def __init__(self, **replies):
        self.replies, self.calls = replies, []

    def __call__(self, text):
        name = kind(text)
        self.calls.append(name)
        own = self.replies.get(name, getattr(self, name))
        return own(text) if callable(own) else own

    def queries(self, text):
        return "1. Where was Brunel born?\n2. Who designed the Clifton Bridge"

    def note(self, text):
        return TEXTS["bridge"] + (" " + TEXTS["brunel"] if TEXTS["brunel"] in text else "")

    def compare(self, text):
        first = re.search("First: (.*)", text)[1]
        return "First" if "Portsmouth" in first else "Second"

    def gap(self, text):
        return "Search: Where was Brunel born?"

    def distil(self, text):
        said = next(t for t in TEXTS.values() if text.endswith(t))
        return "None" if said == TEXTS["paris"] else f"- {said}"

    def sufficient(self, text):
        return "Yes" if "Portsmouth" in text else "No"

    def goal(self, text):
        if "Portsmouth" in text:
            return "Final answer: Portsmouth"
        if "Brunel" in text:
            return "Goal: his place of birth\nSearch: Where was Brunel born?"
        return "Goal: the engineer\nSearch: Who designed the Clifton Bridge?"

    def reached(self, text):
        return "Yes" if re.search("Finding: (Brunel|Portsmouth)", text) else "No"

    def answer(self, text):
        tail = text.rpartition("Question:")[2]
        if "born" in tail:
            return "Portsmouth" if TEXTS["brunel"] in text else "unknown"
        return "Brunel"

    def summarise(self, text):
        return "Portsmouth"

    def recall(self, text):
        return "London"


FACTORIES = {"note": create_note_graph, "evidence": create_evidence_graph, "goal": create_goal_graph}
CALLS = {
    "note": ["note", "queries", "note", "compare", "compare", "queries", "answer"],
    "evidence": ["distil", "distil", "sufficient", "gap", "distil", "sufficient", "answer"],
    "goal": ["goal", "answer", "reached", "goal", "answer", "reached", "goal"],
}
READ = {"note": ["bridge", "paris", "brunel"], "evidence": ["bridge", "brunel"]}


def run(name, solver=None, **settings):
    solver = solver or Solver()
    context = settings.pop("context", None)
    graph = FACTORIES[name](ScriptedChatModel(script=solver), search, **settings).compile()
    return graph.invoke({"question": QUESTION}, context=context), solver.calls


@pytest.mark.parametrize("name", FACTORIES)
def test_two_hops(name):
    result, calls = run(name)
    assert result["answer"] == "Portsmouth"
    assert calls == CALLS[name]
    assert [d.id for d in result["documents"]] == READ.get(name, ["bridge", "paris", "brunel"])
    assert [c["doc_id"] for c in result["citations"]] == ["brunel"]
    assert result["prm_usage"]["model_calls"] == len(calls)
    assert [m.text for m in result["messages"]] == [QUESTION, "Portsmouth"]
    json.dumps(result["prm_rounds"])


def test_rounds_of_notes():
    result, _ = run("note")
    first, second = result["prm_rounds"]
    assert (first["queries"], first["doc_ids"]) == ([QUESTION], ["bridge", "paris"])
    assert (first["note"], first["kept"], first["score"]) == (TEXTS["bridge"], True, None)
    assert second["queries"] == ["Where was Brunel born?", "Who designed the Clifton Bridge"]
    assert (second["doc_ids"], second["kept"], second["score"]) == (["brunel"], True, 1.0)
    assert result["prm_stop_reason"] == "no new query"  # the third round had none


@pytest.mark.parametrize("said", ["First", "Second", "Neither of them", ""])
def test_a_judge_who_likes_a_place_changes_no_note(said):
    result, calls = run("note", Solver(compare=said))
    assert [(one["kept"], one["score"]) for one in result["prm_rounds"]] == [(True, None), (False, 0.5)]
    assert result["answer"] == "unknown"
    assert result["prm_stop_reason"] == "no better note"
    assert calls == ["note", "queries", "note", "compare", "compare", "answer"]


def test_the_likelihoods_of_both_orders_are_averaged():
    def likelihood(prompt, word):
        # The old note first: .3 for First. The new one first: .4 for First.
        new_first = "Portsmouth" in re.search("First: (.*)", prompt)[1]
        first = 0.4 if new_first else 0.3
        return {" First": first, " Second": 1 - first}[word]

    model = ScriptedLanguageModel(Solver(), likelihood=lambda p, w: math.log(likelihood(p, w)))
    graph = create_note_graph(model, search, max_rounds=2).compile()
    assert graph.invoke({"question": QUESTION})["prm_rounds"][1]["score"] == pytest.approx((0.7 + 0.4) / 2)


def test_the_same_note_is_no_better_and_needs_no_judge():
    _, calls = run("note", Solver(note=TEXTS["bridge"]))
    assert calls == ["note", "queries", "note", "answer"]


@pytest.mark.parametrize(
    ("name", "settings", "reason", "rounds"),
    [
        ("note", {"max_rounds": 1}, "max_rounds", 1),
        ("note", {"max_documents": 2}, "max_documents", 1),
        ("evidence", {"max_rounds": 1}, "max_rounds", 1),
        ("evidence", {"threshold": 0.0}, "sufficient", 1),
        ("goal", {"max_rounds": 1}, "max_rounds", 1),
        ("goal", {}, "answered", 3),
        ("evidence", {}, "sufficient", 2),
    ],
)
def test_stops(name, settings, reason, rounds):
    result, _ = run(name, **settings)
    assert (result["prm_stop_reason"], len(result["prm_rounds"])) == (reason, rounds)
    result, _ = run(name, context=settings)
    assert (result["prm_stop_reason"], len(result["prm_rounds"])) == (reason, rounds)


def test_facts_keep_their_source_and_are_copied_once():
    def twice(text):
        if text.endswith(TEXTS["paris"]):
            return "The moon is made of cheese."
        return f"{TEXTS['bridge']}\n{TEXTS['bridge'].upper()}"

    result, _ = run("evidence", Solver(distil=twice, sufficient="No"))
    assert result["prm_rounds"][0]["facts"] == [{"text": TEXTS["bridge"], "doc_id": "bridge"}]
    assert result["prm_rounds"][1]["facts"] == []
    assert [d.id for d in result["documents"]] == ["bridge"]


def test_rounds_without_new_facts_end_the_loop_and_need_no_judge():
    result, calls = run("evidence", Solver(distil="None", gap=lambda text: f"Search: query {len(text)}?"))
    assert result["prm_stop_reason"] == "nothing new"
    assert "sufficient" not in calls
    assert result["answer"] == "London"  # from memory


def test_a_function_judges_the_pool():
    seen = []

    def judge(question, facts):
        seen.append((question, facts))
        return len(facts) / 4

    result, calls = run("evidence", judge=judge)
    assert seen == [(QUESTION, [TEXTS["bridge"]]), (QUESTION, [TEXTS["bridge"], TEXTS["brunel"]])]
    assert [one["score"] for one in result["prm_rounds"]] == [0.25, 0.5]
    assert "sufficient" not in calls


def test_a_goal_that_was_not_reached_is_told():
    shown = []

    def goal(text):
        shown.append(text.rpartition("So far:\n")[2])
        return f"Goal: the engineer\nSearch: Clifton {len(shown)}"

    result, _ = run("goal", Solver(goal=goal, reached="No"), max_rounds=2)
    assert shown == ["(nothing yet)", "Clifton 1 Brunel (goal not reached)"]
    # The second search finds nothing new, so nothing is read.
    assert [(one["kept"], one["note"]) for one in result["prm_rounds"]] == [(False, "Brunel"), (False, "")]
    assert (result["answer"], result["prm_stop_reason"]) == ("Portsmouth", "max_rounds")


@pytest.mark.parametrize(
    ("reply", "wish"),
    [
        ("Goal: his birth\nSearch: Where was he born?", ("his birth", "Where was he born?", "")),
        ("**Goal:** his birth. Search: Where?", ("his birth", "Where?", "")),
        ("Goal: his birth", ("his birth", "his birth", "")),
        ("Search: Where?", ("Where?", "Where?", "")),
        ("Goal: none\nFinal answer: Portsmouth", ("", "", "Portsmouth")),
        ("Final answer: Portsmouth", ("", "", "Portsmouth")),
        ('{"goal": "birth", "search": "Where?", "final_answer": null}', ("birth", "Where?", "")),
        ('{"goal": null, "search": null, "final_answer": "Bath"}', ("", "", "Bath")),
        ("<think>Search: gold</think>Goal: a\nSearch: b", ("a", "b", "")),
        ("Goal: ...", ("", "", "")),
        ("", ("", "", "")),
        ("I do not know.", ("", "", "")),
    ],
)
def test_goals_in_replies(reply, wish):
    assert tuple(parse_goal(reply)) == wish


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("noise", ["", "\x00 ## ---", "<think>and so", "Paris lies on the Seine."])
def test_noise_ends_in_an_answer(name, noise):
    model = ScriptedChatModel(script=lambda text: noise)
    result = FACTORIES[name](model, search).compile().invoke({"question": QUESTION})
    assert isinstance(result["answer"], str)
    assert result["prm_stop_reason"]


@pytest.mark.parametrize("name", FACTORIES)
def test_a_budget_is_kept_and_ends_with_the_best_so_far(name):
    calls = len(CALLS[name])
    for bound in range(calls + 2):
        result, made = run(name, budget={"model_calls": bound})
        assert len(made) <= bound
        assert result["prm_stop_reason"].startswith("budget: model_calls") or bound >= calls - 1
        assert result["answer"] or bound == 0
    for bound in range(3):
        result, _ = run(name, budget={"retrievals": bound})
        assert result["prm_usage"]["retrievals"] <= bound
        assert result["answer"]  # no search is needed to write it
    assert run(name, budget={"deadline_s": 0})[1] == []
    # A loop scores no steps, so that it needs no reward calls.
    assert run(name, budget={"reward_calls": 0})[0]["prm_stop_reason"] == run(name)[0]["prm_stop_reason"]


@pytest.mark.parametrize("name", FACTORIES)
def test_async_is_the_same(name):
    result, calls = run(name)
    solver = Solver()
    graph = FACTORIES[name](ScriptedChatModel(script=solver), search).compile()
    again = asyncio.run(graph.ainvoke({"question": QUESTION}))
    assert again["prm_rounds"] == result["prm_rounds"]
    assert (again["answer"], sorted(solver.calls)) == (result["answer"], sorted(calls))


@pytest.mark.parametrize("name", FACTORIES)
def test_killed_at_every_step_and_resumed(name):
    whole, calls = run(name)
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    solver = Solver()
    builder = FACTORIES[name](ScriptedChatModel(script=solver), search)
    thread: Any = {"configurable": {"thread_id": "1"}}
    result = builder.compile(checkpointer=saver, interrupt_after="*").invoke({"question": QUESTION}, thread)
    while (graph := builder.compile(checkpointer=saver, interrupt_after="*")).get_state(thread).next:
        result = graph.invoke(None, thread)  # a new graph each time, as after a restart
    assert solver.calls == calls
    assert result["prm_rounds"] == whole["prm_rounds"]
    # The next question of the thread begins anew.
    again = graph.invoke({"question": QUESTION}, thread)
    while graph.get_state(thread).next:
        again = graph.invoke(None, thread)
    assert again["prm_rounds"] == whole["prm_rounds"]


@pytest.mark.parametrize("name", FACTORIES)
def test_events(name):
    graph = FACTORIES[name](ScriptedChatModel(script=Solver()), search).compile()
    events = list(graph.stream({"question": QUESTION}, stream_mode="custom"))
    types = [event["type"].removeprefix("agentprm.") for event in events]
    assert types[:3] == ["round_planned", "documents_retrieved", "round_done"]
    assert types[-1] == "answered"
    json.dumps(events)


class Mine(TypedDict, total=False):
    messages: Annotated[list, add_messages]
    hits: list[Document]
    reply: str


KEYS = {"documents": "hits", "answer": "reply"}
LOOPS = {
    "note": lambda model: [PlanQueries(model), RetrieveRound(search), ImproveNote(model)],
    "evidence": lambda model: [PlanGap(model), RetrieveRound(search), DistilFacts(model), JudgeFacts(model)],
}


@pytest.mark.parametrize("name", LOOPS)
def test_in_a_graph_of_ones_own_for_several_turns(name):
    model = ScriptedChatModel(script=Solver())
    loop = LOOPS[name](model)
    builder = StateGraph(Mine)
    nodes = [StartGathering(keys=KEYS), *loop, AnswerFromRounds(model, speak=True, keys=KEYS)]
    for node in nodes:
        builder.add_node(node.name, node)
    for before, after in pairwise(nodes):
        if before is not loop[-1]:
            builder.add_edge(before.name, after.name)

    class Ended(TypedDict, total=False):
        prm_stop_reason: str

    def route(state: Ended) -> str:
        return "answer" if state.get("prm_stop_reason") else loop[0].name

    builder.add_edge(START, "start")
    builder.add_conditional_edges(loop[-1].name, route, ["answer", loop[0].name])
    builder.add_edge("answer", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    for turn in (1, 2, 3):
        result = graph.invoke({"messages": [("user", QUESTION)]}, {"configurable": {"thread_id": "1"}})
        assert result["reply"] == "Portsmouth"
        assert [d.id for d in result["hits"]] == READ[name]
        assert len(result["messages"]) == 2 * turn


def test_misuse_is_told():
    model = ScriptedChatModel(script=Solver())
    with pytest.raises(InputError, match="StartGathering"):
        PlanGap(model).invoke({"question": QUESTION, "prm_stop_reason": "sufficient"})
    with pytest.raises(InputError, match="plans one"):
        RetrieveRound(search).invoke({"question": QUESTION})
    for wrong in (
        lambda: JudgeFacts(3),
        lambda: JudgeFacts(model, max_rounds=0),
        lambda: DistilFacts(model, facts=0),
        lambda: ImproveNote(model, max_failures=0),
        lambda: RetrieveRound(search, k=0),
    ):
        with pytest.raises(ConfigurationError):
            wrong()
