"""Two levels of retrieval from experience: templates once, analogous steps at each place that is expanded."""

import asyncio

import pytest
from langgraph.store.memory import InMemoryStore

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_goal_graph, create_r2_graph, create_reasoning_graph
from agentprm.nodes import (
    CommitExperience,
    Episode,
    EpisodeStep,
    RecallExperience,
    RecallSteps,
    add_experience,
)
from agentprm.questions import question_template
from agentprm.state import new_step
from agentprm.testing import FakeEmbeddings, ScriptedChatModel, ScriptedReader
from tests.unit.graphs.test_gathering import Solver, search
from tests.unit.world import QUESTION, good_reward, language_model, store


def episode(question, *steps, answer="A", done=True):
    made = [EpisodeStep(thought=query, query=query, finding=finding) for query, finding in steps]
    return Episode(question=question, steps=made, answer=answer, done=done)


DOME = episode(
    "Where was the engineer of the Florence Dome born?",
    ("Who designed the Florence Dome?", "Brunelleschi"),
    ("Where was Brunelleschi born?", "Florence"),
    answer="Florence",
)
ARCH = episode(
    "Who paid for the Marble Arch?",
    ("Who ordered the Marble Arch?", "George IV"),
    ("In which abbey church was George IV crowned as king?", "Westminster"),
)
BAD = episode("Where was the painter of Guernica born?", ("Who was born?", "nobody"), done=False)
SAME = episode(QUESTION, ("Who designed the Clifton Bridge?", "secret"), answer="secret")


def memory(*episodes, **index):
    kept = InMemoryStore(**index)
    assert add_experience(kept, episodes or (DOME, ARCH, BAD, SAME)) == len(episodes or (1, 2, 3, 4))
    return kept


@pytest.mark.parametrize(
    ("question", "template"),
    [
        ("Where was the director of Lost River born?", "Where was the director of _ born?"),
        ('Who wrote "The Raven" in 1845?', "Who wrote _ in _?"),
        ("The Clifton Bridge was designed by whom?", "The _ was designed by whom?"),
        ("When did Lothair II's mother die?", "When did _'s mother die?"),
        ("Which film came first, Aas Ka Panchhi or Up?", "Which film came first, _ or _?"),
        ("Brunel was born where?", "_ was born where?"),
        ("谁设计了这座桥？", "谁设计了这座桥？"),
        ("", ""),
    ],
)
def test_a_template_has_gaps_for_names_and_numbers(question, template):
    assert question_template(question) == template
    assert question_template(template) == template


def test_templates_are_compared_without_the_names_in_them():
    kept = memory(
        episode("Where was the engineer of the Florence Dome born?"),
        episode("Who paid for the Clifton Bridge?"),  # shares the name, not the form
    )
    node = RecallExperience(store=kept, by="template", k=1)
    assert "Florence Dome" in node.invoke({"question": QUESTION})["examples"]
    by_question = RecallExperience(store=kept, k=1).invoke(
        {"question": "Who paid the Clifton Bridge engineer?"}
    )
    assert "Clifton" in by_question["examples"]


def test_steps_are_recalled_at_each_place_by_what_was_asked_and_found_there():
    kept = memory()
    first = {**new_step("1", None, "Who designed the bridge?"), "thought": "Brunel", "status": "committed"}
    other = {
        **new_step("2", None, "In which abbey church was George IV crowned as king?"),
        "thought": "Westminster",
        "status": "open",
    }
    state = {"question": QUESTION, "prm_steps": [first, other], "prm_frontier": ["1", "2"]}
    shown = RecallSteps(store=kept, k=1, same_question=False).invoke(state)["prm_examples"]
    assert shown["1"] == (
        "Example (right): Where was the engineer of the Florence Dome born?\n"
        "[0] Search: Who designed the Florence Dome? Found: Brunelleschi\n"
        "[1] Search: Where was Brunelleschi born? Found: Florence"
    )
    assert shown["2"].splitlines()[0] == "Example (right): Who paid for the Marble Arch?"
    assert "secret" not in "".join(shown.values())
    assert "nobody" not in "".join(shown.values())  # what failed is no analogy
    root = RecallSteps(store=kept, k=9, same_question=True).invoke({"question": QUESTION})["prm_examples"]
    assert set(root) == {""}
    assert "secret" in root[""]
    assert RecallSteps(store=InMemoryStore()).invoke({"question": QUESTION})["prm_examples"] == {}


def test_a_store_with_an_index_ranks_steps_by_it():
    embeddings = FakeEmbeddings()
    kept = memory(index={"embed": embeddings, "dims": embeddings.dimension, "fields": ["key"]})
    shown = RecallSteps(store=kept, k=1, same_question=False).invoke({"question": QUESTION})
    assert "Florence Dome" in shown["prm_examples"][""]


def proposals(model):
    return [prompt for prompt in model.prompts if prompt.endswith("Search:")]


def test_the_coarse_level_is_in_every_proposal_and_the_fine_one_at_its_place_alone():
    model = language_model()
    graph = create_r2_graph(model, store(), good_reward(), threshold=None, max_steps=3)
    result = graph.compile(store=memory()).invoke({"question": QUESTION})
    assert result["answer"] == "Portsmouth"
    asked = proposals(model)
    assert len(asked) > 1
    coarse = "Example (right): Where was the engineer of the Florence Dome born?\nSearch: Who designed"
    assert all(prompt.count(coarse) == 1 for prompt in asked)
    assert all("secret" not in prompt for prompt in model.prompts)
    fine = [prompt[prompt.index("[0]") :].splitlines()[0] for prompt in asked]
    assert len(set(fine)) > 1  # anew at each place
    others = [prompt for prompt in model.prompts if not prompt.endswith("Search:")]
    assert not any("Florence" in prompt for prompt in others)


def test_an_answered_question_becomes_experience_and_helps_the_next_one():
    kept, model = InMemoryStore(), language_model()
    graph = create_reasoning_graph(model, store(), good_reward(), experience=True, analogies=True)
    compiled = graph.compile(store=kept)
    compiled.invoke({"question": QUESTION})
    assert not any("Example" in prompt for prompt in proposals(model))
    model.prompts.clear()
    asyncio.run(compiled.ainvoke({"question": "Where was the engineer of the Severn Bridge born?"}))
    assert all(f"Example: {QUESTION}" in prompt for prompt in proposals(model))


def test_async_gives_the_same_tree():
    def run(how):
        compiled = create_r2_graph(language_model(), store(), good_reward(), max_steps=3).compile(
            store=memory()
        )
        result = how(compiled)
        return [{k: v for k, v in s.items() if k != "usage"} for s in result["prm_steps"]]

    state = {"question": QUESTION}
    assert run(lambda g: g.invoke(state)) == run(lambda g: asyncio.run(g.ainvoke(state)))


def test_thoughts_are_thought_anew_before_each_step():
    kept = memory()
    for make in (
        lambda e: create_reasoning_graph(language_model(), store(), good_reward(), experience=e),
        lambda e: create_goal_graph(solver(), search, experience=e),
    ):
        events = []
        thinking = RecallExperience(language_model(), by="thought")
        compiled = make(thinking).compile(store=kept)
        for event in compiled.stream({"question": QUESTION}, stream_mode="custom"):
            events.append(event["type"])
        recalled = events.count("agentprm.experience_recalled")
        assert recalled > 1


def solver():
    return ScriptedChatModel(script=Solver())


def test_what_makes_no_sense_is_refused():
    reader = ScriptedReader({})
    with pytest.raises(ConfigurationError, match="experience and analogies"):
        create_reasoning_graph(language_model(), store(), mode="plan", reader=reader, experience=True)
    with pytest.raises(ConfigurationError, match="store"):
        create_r2_graph(language_model(), store()).compile().invoke({"question": QUESTION})
    with pytest.raises(ConfigurationError, match="after"):
        RecallSteps(after=-1)
    with pytest.raises(ConfigurationError, match="template"):
        RecallExperience(by="form")
    stepwise = create_reasoning_graph(language_model(), store(), reader=reader, analogies=True)
    assert "recall_steps" in stepwise.nodes


def test_a_committed_episode_is_recalled_by_its_template():
    kept = InMemoryStore()
    CommitExperience(store=kept).invoke({"question": DOME["question"], "answer": "Florence"})
    node = RecallExperience(store=kept, by="template")
    assert "Florence Dome" in node.invoke({"question": QUESTION})["examples"]
