"""Strategies along a plan: what they go on from, how many findings they get, what is refused."""

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.search import ABMCTS, DVTS, MCTS, Beam, BestOfN
from agentprm.search.named import STRATEGIES
from agentprm.testing import FakeReward, ScriptedLanguageModel, ScriptedReader, fake_store

QUESTION = "Where was the director of film Up born?"
TEXTS = {
    "Up (film)": "Up is a film by Ann Lee, Bob Ray and Mario Soffici.",
    "Ann Lee": "Ann Lee lived in Paris.",
    "Bob Ray": "Bob Ray was born in Oslo, and lived in Bonn.",
    "Mario Soffici": "Mario Soffici was born in Rome.",
}
# The likeliest director leads nowhere: only a search that keeps the second one finds a place of birth.
SCRIPT = {
    "directed": {"Ann Lee": 0.5, "Bob Ray": 0.4, "Mario Soffici": 0.05},
    "Ann Lee born": {"Paris": 0.1},
    "Bob Ray born": {"Oslo": 0.9, "Bonn": 0.05},
    "Mario Soffici born": {"Rome": 0.95},
}
BOTH = "Are Up and Down in the same country?"


def silent(text):
    raise AssertionError(f"the language model is asked: {text[-200:]}")


def graph(strategy, reader=None, **kwargs):
    documents = [Document(id=t, page_content=x, metadata={"title": t}) for t, x in TEXTS.items()]
    model = ScriptedLanguageModel(silent)
    kwargs = {"passages": 4, "mode": "plan", **kwargs}
    return create_reasoning_graph(
        model, fake_store(documents), reader=reader or ScriptedReader(SCRIPT), strategy=strategy, **kwargs
    ).compile()


def grown(result):
    """Each step's findings from the first on."""
    by_id = {step["id"]: step for step in result["prm_steps"]}
    paths = []
    for step in result["prm_steps"]:
        path = [step["thought"]]
        while step["parent_id"]:
            step = by_id[step["parent_id"]]
            path.append(step["thought"])
        paths.append(" > ".join(path[::-1]))
    return paths


def test_greedy_follows_the_likeliest_finding_alone():
    result = graph("greedy").invoke({"question": QUESTION})
    assert grown(result) == ["Ann Lee", "Ann Lee > Paris"]
    assert result["answer"] == "Paris"


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("greedy", "majority")])
def test_every_other_strategy_finds_the_path_that_is_likeliest_as_a_whole(strategy):
    result = graph(strategy).invoke({"question": QUESTION})
    # .4 * .9 against .5 * .1 and .05 * .95.
    assert result["answer"] == "Oslo"
    assert result["prm_stop_reason"] == "answered"


def test_a_beam_goes_on_from_its_width():
    result = graph(Beam(width=2)).invoke({"question": QUESTION})
    assert sorted(grown(result)) == sorted(
        ["Ann Lee", "Bob Ray", "Mario Soffici", "Ann Lee > Paris", "Bob Ray > Oslo", "Bob Ray > Bonn"]
    )


def test_best_of_n_has_n_paths():
    result = graph(BestOfN(n=3)).invoke({"question": QUESTION})
    assert sorted(grown(result)) == sorted(
        ["Ann Lee", "Bob Ray", "Mario Soffici", "Ann Lee > Paris", "Bob Ray > Oslo", "Mario Soffici > Rome"]
    )


def test_subtrees_begin_with_different_findings():
    result = graph(DVTS(subtrees=2, candidates=1)).invoke({"question": QUESTION})
    assert sorted(grown(result)) == sorted(["Ann Lee", "Bob Ray", "Ann Lee > Paris", "Bob Ray > Oslo"])


def test_widening_gives_the_next_best_finding_each_time():
    result = graph(ABMCTS(nodes=6, seed=1)).invoke({"question": QUESTION})
    paths = [path for path in grown(result) if path and not path.endswith("> ")]
    assert len(paths) == len(set(paths))
    first = [path for path in paths if ">" not in path]
    assert first == ["Ann Lee", "Bob Ray", "Mario Soffici"][: len(first)]


def test_a_tree_search_ends_where_nothing_is_left_to_read():
    result = graph(MCTS(nodes=100)).invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "answered"
    assert len(grown(result)) == 7


def test_what_several_paths_ask_is_read_once():
    reader = ScriptedReader({"Up": {"Ann Lee": 0.5, "Bob Ray": 0.4}, "Down": {"Mario Soffici": 0.9}})
    compiled = graph(
        Beam(width=2),
        reader,
        planner=lambda question: ["Where is Up?", "Where is Down?", "Compare #1 and #2: " + BOTH],
    )
    compiled.invoke({"question": BOTH})
    assert sorted(question for question, _ in reader.asked) == ["Where is Down?", "Where is Up?"]


LONG = {
    "directed": {"Ann Lee": 0.5, "Bob Ray": 0.4, "Mario Soffici": 0.05},
    "Ann Lee": {"Paris": 0.6, "Ann": 0.2},
    "Bob Ray": {"Oslo": 0.9, "Bonn": 0.05},
    "Mario Soffici": {"Rome": 0.95},
    "Paris lie": {"Paris": 0.5},
}


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "greedy"])
def test_a_search_that_a_budget_cuts_off_has_finished_a_path_first(strategy):
    plan = ["Who directed Up?", "Where was #1 born?", "Where does #2 lie?"]
    compiled = graph(strategy, ScriptedReader(LONG), planner=lambda question: plan, budget={"retrievals": 3})
    result = compiled.invoke({"question": QUESTION})  # or the language model would be asked to sum up
    ends = [step for step in result["prm_steps"] if step["final_answer"] and step["status"] == "committed"]
    assert [step["depth"] for step in ends] == [3]
    assert result["answer"] == ends[0]["final_answer"]
    assert result["prm_usage"]["retrievals"] == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strategy": "beam", "reader": None}, "give a reader"),
        ({"candidates": 3, "reader": None}, "give a reader"),
        ({"query_reward": FakeReward()}, "query_reward"),
        ({"recall": True}, "recall"),
    ],
)
def test_what_means_nothing_along_a_plan_is_refused_when_the_graph_is_built(settings, said):
    settings = {"reader": ScriptedReader(SCRIPT), **settings}
    with pytest.raises(ConfigurationError, match=said):
        create_reasoning_graph(
            ScriptedLanguageModel(silent), fake_store(["A text."]), FakeReward(), mode="plan", **settings
        )
