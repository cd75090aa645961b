"""CR-Planner: the action mask, what each critic is shown, and whole runs against a brute-force oracle."""

import asyncio
import itertools

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_cr_planner_graph
from agentprm.nodes import ChooseExecution, ExpandSubgoal
from agentprm.search import SENTENCES, SUBGOALS, allowed_subgoals, critic_context, pending_query
from agentprm.state import new_step
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel
from agentprm.trace import trace_of
from tests.unit.world import PASSAGES, QUESTION, store

BRIDGE, BORN = "Who designed the Clifton Bridge?", "Where was Brunel born?"
COST = ("seconds", "computed_tokens")


def made(*subgoals):
    """A path of such steps, numbered."""
    path = []
    for number, subgoal in enumerate(subgoals, 1):
        step = new_step(str(number), path[-1] if path else None)
        path.append({**step, "subgoal": subgoal, "thought": f"t{number}", "status": "committed"})
    return path


# --- the mask, against its three rules on every path of up to four steps


@pytest.mark.parametrize("length", range(5))
def test_the_mask_lets_each_query_be_looked_up_once_before_the_next(length):
    for names in itertools.product(SUBGOALS, repeat=length):
        path = made(*names)
        queries = [i for i, name in enumerate(names) if name == "query"]
        waiting = bool(queries) and "retrieve" not in names[queries[-1] :]
        wanted = ["reason", "retrieve"] if waiting else ["reason", "query"]
        assert allowed_subgoals(path) == wanted
        assert (pending_query(path) is not None) == waiting
        assert allowed_subgoals(path, retrievals=False) == ["reason"]
        for failed in SUBGOALS:
            assert allowed_subgoals(path, [failed]) == [name for name in wanted if name != failed]


def test_each_critic_has_its_own_context():
    path = made("reason", "query", "retrieve", "reason", "query")
    ids = {name: [s["id"] for s in critic_context(path, name)] for name in SUBGOALS}
    assert ids == {"reason": ["1", "4"], "query": ["4"], "retrieve": ["4"]}
    assert all(critic_context([], name) == [] for name in SUBGOALS)


# --- whole runs


def policy(text):
    """Good and bad candidates for every sub-goal."""
    text = text.rstrip()
    if text.endswith("Next step:"):
        if "Portsmouth" in text:
            return ["Portsmouth is a town.", "Final answer: Portsmouth", "Final answer: Paris"]
        if "designed by Brunel" in text:
            return ["The engineer is Brunel.", "The engineer is unknown.", "The engineer is Brunel."]
        return ["The engineer must be found.", "Bridges are long.", "???"]
    if text.endswith("Search:"):
        return [" Who is it?", f" {BORN if 'is Brunel' in text else BRIDGE}", " ???"]
    return "concluded"


WANTED = ["query", "retrieve", "reason", "query", "retrieve", "reason"]
GOOD = {BRIDGE, BORN, *PASSAGES[:2], "The engineer is Brunel.", "Portsmouth"}


def subgoal_critic(question, path):
    """Wants the sub-goals of `WANTED` in turn; scores sentences, never names."""
    sentence = path[-1]["thought"]
    assert sentence not in SUBGOALS
    return float(sentence == SENTENCES[WANTED[len(path) - 1]])


def execution_critic(question, path):
    step = path[-1]
    return float(step["thought"].rpartition(": ")[2] in GOOD or step["final_answer"] in GOOD)


def planner(model=None, **kwargs):
    kwargs.setdefault("subgoal_reward", FakeReward(subgoal_critic))
    kwargs.setdefault("rewards", FakeReward(execution_critic))
    return create_cr_planner_graph(model or ScriptedLanguageModel(policy), store(), **kwargs)


def tree(result):
    return [{k: v for k, v in s.items() if k != "usage"} for s in result["prm_steps"]]


def committed(result):
    return [s for s in result["prm_steps"] if s["status"] == "committed"]


def test_the_critics_lead_to_the_answer():
    result = planner().compile().invoke({"question": QUESTION})
    assert result["answer"] == "Portsmouth"
    assert result["prm_stop_reason"] == "answered"
    path = committed(result)
    assert [s["subgoal"] for s in path] == WANTED
    assert [s["query"] for s in path if s["subgoal"] == "query"] == [BRIDGE, BORN]
    assert [s["doc_ids"] for s in path if s["subgoal"] == "retrieve"] == [["d1"], ["d2"]]
    assert [c["doc_id"] for c in result["citations"]][-1] == "d2"
    assert {d.id for d in result["documents"]} == {"d1", "d2"}
    assert trace_of(result)["steps"]


def test_every_choice_is_the_best_of_its_candidates():
    result = planner().compile().invoke({"question": QUESTION})
    by_parent = {}
    for step in result["prm_steps"]:
        if step["status"] != "unparsed":
            by_parent.setdefault(step["parent_id"], []).append(step)
    for siblings in by_parent.values():
        best = max(siblings, key=lambda s: -1 if s["score"] is None else s["score"])
        assert best["status"] == "committed"
        assert len({s["subgoal"] for s in siblings}) == 1


def test_critics_that_dislike_everything_still_come_to_an_end():
    for steps in (1, 2, 5):
        result = planner(
            subgoal_reward=FakeReward(lambda q, p: 0.0), rewards=FakeReward(lambda q, p: 0.0), max_steps=steps
        ).compile().invoke({"question": QUESTION})  # fmt: skip
        assert len(committed(result)) <= steps
        assert result["answer"] == "concluded"
        assert result["prm_stop_reason"] == "answered"


def test_a_sub_goal_that_gives_no_candidate_is_not_chosen_again_at_that_place():
    def noise(text):
        return "???" if text.rstrip().endswith(("Next step:", "Search:")) else "concluded"

    graph = planner(ScriptedLanguageModel(noise), subgoal_reward=FakeReward(lambda q, p: 0.5)).compile()
    result = graph.invoke({"question": QUESTION})
    tried = [s["subgoal"] for s in result["prm_steps"] if s["status"] == "unparsed"]
    assert set(tried) == {"reason", "query"}
    assert (result["answer"], result["prm_stop_reason"]) == ("concluded", "answered")


def test_a_look_up_that_finds_nothing_new_is_over():
    model = ScriptedLanguageModel(policy)
    query = {**made("query")[0], "query": BRIDGE}
    state = {"question": QUESTION, "prm_steps": [query], "prm_frontier": ["1"], "prm_subgoal": "retrieve"}
    (step,) = ExpandSubgoal(model, lambda text: []).invoke(state)["prm_steps"]
    assert (step["doc_ids"], step["status"], step["query"]) == ([], "completed", BRIDGE)
    assert allowed_subgoals([query, step]) == ["reason", "query"]


def test_passages_that_were_chosen_are_no_candidates_again():
    path = made("query", "retrieve", "query")
    path[1]["doc_ids"], path[2]["query"] = ["d1"], BRIDGE
    state = {"question": QUESTION, "prm_steps": path, "prm_frontier": ["3"], "prm_subgoal": "retrieve"}
    steps = ExpandSubgoal(ScriptedLanguageModel(policy), store(), k=2).invoke(state)["prm_steps"]
    assert [s["doc_ids"] for s in steps] in ([["d2"], ["d3"]], [["d3"], ["d2"]])


def test_queries_are_asked_once():
    path = made("query", "retrieve")
    path[0]["query"] = BRIDGE
    state = {"question": QUESTION, "prm_steps": path, "prm_frontier": ["2"], "prm_subgoal": "query"}
    steps = ExpandSubgoal(ScriptedLanguageModel(policy), store()).invoke(state)["prm_steps"]
    assert [s["query"] for s in steps if s["status"] == "completed"] == ["Who is it?"]


def test_a_critic_for_each_sub_goal_is_needed():
    with pytest.raises(ConfigurationError, match="reward for each"):
        ChooseExecution({"reason": FakeReward()})


def test_each_sub_goal_is_judged_by_its_own_critic():
    rewards = {subgoal: FakeReward(execution_critic) for subgoal in SUBGOALS}
    result = planner(rewards=rewards).compile().invoke({"question": QUESTION})
    assert result["answer"] == "Portsmouth"
    assert all(reward.calls for reward in rewards.values())


@pytest.mark.parametrize("calls", range(12))
def test_budgets_are_kept_and_leave_an_answer_or_a_reason(calls):
    for name in ("model_calls", "reward_calls", "retrievals"):
        result = planner(budget={name: calls}).compile().invoke({"question": QUESTION})
        assert result["prm_usage"][name] <= calls
        assert isinstance(result["answer"], str)
        stopped = result["prm_stop_reason"]
        assert stopped == "answered" or stopped.startswith("budget: ")


def chatting(text):
    if "Step to judge" in text:
        return "Verdict: Yes"
    if "Reply with one line: 'Search:" in text:
        return f"Search: {BRIDGE}"
    return "Final answer: Portsmouth" if "Portsmouth" in text else "The engineer must be found."


@pytest.mark.parametrize(
    "make", [lambda: ScriptedChatModel(script=chatting), lambda: ScriptedLanguageModel(policy)]
)
def test_the_default_critics_will_do(make):
    graph = create_cr_planner_graph(make(), store(), max_steps=4).compile()
    result = graph.invoke({"question": QUESTION})
    assert result["answer"]
    assert len(committed(result)) <= 4


def test_async_gives_the_same_tree():
    graph = planner().compile()
    assert tree(asyncio.run(graph.ainvoke({"question": QUESTION}))) == tree(
        graph.invoke({"question": QUESTION})
    )


def test_killed_at_every_step_it_resumes_to_the_same_tree_without_repeating_a_call():
    wanted = planner().compile().invoke({"question": QUESTION})
    model = ScriptedLanguageModel(policy)
    graph = planner(model).compile(
        checkpointer=InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)),
        interrupt_before=["choose_subgoal", "expand", "choose_execution", "answer"],
    )
    config = {"configurable": {"thread_id": "1"}}
    result = graph.invoke({"question": QUESTION}, config)
    while graph.get_state(config).next:
        result = graph.invoke(None, config)
    assert tree(result) == tree(wanted)
    assert len(model.prompts) == wanted["prm_usage"]["model_calls"]


def test_the_decisions_are_events():
    events = list(planner().compile().stream({"question": QUESTION}, stream_mode="custom"))
    chosen = [e for e in events if e["type"] == "agentprm.subgoal_chosen"]
    assert [e["subgoal"] for e in chosen] == WANTED
    assert chosen[0] == {
        "type": "agentprm.subgoal_chosen",
        "step_id": None,
        "subgoal": "query",
        "scores": {"reason": 0.0, "query": 1.0},
    }
    kinds = {e["type"].removeprefix("agentprm.") for e in events}
    assert {"step_proposed", "documents_retrieved", "step_scored", "step_committed", "answered"} <= kinds


def test_a_second_question_of_a_thread_starts_afresh():
    graph = planner().compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    first = graph.invoke({"question": QUESTION}, config)
    assert tree(graph.invoke({"question": QUESTION}, config)) == tree(first)
