"""The search along a plan: order, names, comparisons, candidates, quotations, resumption."""

import asyncio
import json

import pytest
from langchain_core.documents import Document
from langgraph.checkpoint.memory import InMemorySaver

from agentprm.budget import SearchBudget
from agentprm.errors import CapabilityError, ConfigurationError, InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.nodes import Answer, CompleteSteps, FollowPlan, PlanQuestion, StartSearch
from agentprm.nodes.reading import favoured, led_to
from agentprm.readers import ReaderAnswer
from agentprm.readers.base import LEAD
from agentprm.retrievers import default_retriever
from agentprm.retrievers.titles import Titles, titles_of
from agentprm.rewards import ReaderGrounding
from agentprm.search import TD
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel, ScriptedReader, fake_store
from agentprm.trace import load_trace, save_trace, trace_of

TEXTS = {
    "Up (film)": "Up is a film. It was directed by Mario Soffici and won prizes.",
    "Mario Soffici": "Mario Soffici (born 1900) was a director. He was born in Rome. He died in 1956.",
    "Down (film)": "Down is a film directed by Bob Ray. Its music is by Ann Lee.",
    "Bob Ray": "Bob Ray was born in Oslo and died in 1990.",
}
BIRTH = "Where was the director of film Up born?"
DEATHS = "Which film has the director who died first, Up or Down?"
SCRIPT = {
    "directed Up": {"Soffici": 0.8, "prizes": 0.1},
    "directed Down": {"Bob Ray": 0.5, "Ann Lee": 0.4},
    "Where was Mario Soffici born": {"Rome": 0.9},
    "When did Mario Soffici die": {"1956": 0.9},
    "When did Bob Ray die": {"1990": 0.7},
    "When did Ann Lee die": {},
}


def world():
    documents = [Document(id=t, page_content=x, metadata={"title": t}) for t, x in TEXTS.items()]
    return fake_store(documents), ScriptedReader(SCRIPT)


def silent(text):
    raise AssertionError(f"the language model is asked: {text[-200:]}")


def graph(reward=None, **kwargs):
    store, reader = world()
    kwargs.setdefault("reader", reader)
    kwargs.setdefault("passages", 3)
    model = kwargs.pop("model", ScriptedLanguageModel(silent))
    return create_reasoning_graph(model, store, reward, mode="plan", **kwargs)


def run(question=BIRTH, **kwargs):
    return graph(**kwargs).compile().invoke({"question": question})


def told(result):
    return {s["query"]: s["thought"] for s in result["prm_steps"] if s["status"] == "committed"}


def test_each_sub_question_starts_from_what_was_found():
    result = run()
    assert result["prm_plan"] == ["Who directed Up?", "Where was #1 born?"]
    # "Soffici" stands for the longer name around it, under which the index knows him.
    assert told(result) == {"Who directed Up?": "Soffici", "Where was Mario Soffici born?": "Rome"}
    assert (result["answer"], result["prm_stop_reason"]) == ("Rome", "answered")
    assert result["prm_usage"]["model_calls"] == 0


def test_the_sentences_that_say_so_are_cited():
    cited = [(c["doc_id"], c["quote"]) for c in run()["citations"]]
    assert cited == [
        ("Up (film)", "It was directed by Mario Soffici and won prizes."),
        ("Mario Soffici", "He was born in Rome."),
    ]
    for citation in run()["citations"]:
        assert citation["text"][citation["start"] : citation["end"]] == citation["quote"]


def test_independent_sub_questions_are_worked_on_side_by_side():
    rounds = [
        [step["query"] for step in update["propose"]["prm_steps"]]
        for update in graph(FakeReward()).compile().stream({"question": DEATHS}, stream_mode="updates")
        if "propose" in update
    ]
    assert [len(proposed) for proposed in rounds] == [2, 2, 1]
    assert rounds[0] == ["Who directed Up?", "Who directed Down?"]


def chosen_by(right):
    return FakeReward(lambda question, prefix: 0.9 if prefix[-1]["thought"] in right else 0.2)


def test_the_reward_chooses_among_the_findings_of_a_reader():
    right = ("Soffici", "Bob Ray", "1956", "1990", "Up")
    reader = ScriptedReader({**SCRIPT, "directed Down": {"Ann Lee": 0.5, "Bob Ray": 0.4}})
    result = run(DEATHS, reader=reader, reward=chosen_by(right), candidates=2)
    assert told(result)["Who directed Down?"] == "Bob Ray"
    rejected = [s["thought"] for s in result["prm_steps"] if s["status"] == "rejected"]
    assert "Ann Lee" in rejected
    assert result["answer"] == "Up"


def test_a_comparison_is_decided_without_a_model():
    result = run(DEATHS)
    last = result["prm_steps"][-1]
    assert (last["query"], last["retrieve"], last["thought"]) == (DEATHS, False, "Up")
    assert last["cited_ids"] == ["Up (film)", "Down (film)", "Mario Soffici", "Bob Ray"]


def test_what_the_findings_do_not_decide_is_left_to_the_reader():
    script = {**SCRIPT, "directed Down": {"Bob Ray": 0.9}, "When did Bob Ray die": {"Oslo": 0.7}}
    reader = ScriptedReader({DEATHS: {"Down": 0.3}, **script})
    result = run(DEATHS, reader=reader)
    assert result["answer"] == "Down"
    assert reader.asked[-1][0] == DEATHS


def test_and_to_the_model_without_a_reader():
    def reply(text):
        tail = text.rpartition("Question:")[2]
        if "from what is known" in text:
            return "Down"
        if "Down" in tail:
            return "Ann Lee"
        return next((next(iter(a), "") for q, a in SCRIPT.items() if q in tail and a), "unknown")

    model = ScriptedLanguageModel(reply)
    result = run(DEATHS, model=model, reader=None, reward=FakeReward())
    assert told(result)["When did Ann Lee die?"] == "unknown"
    assert result["answer"] == "Down"


def tree(result):
    """The tree without its cost: a reward that is run anew has forgotten what it scored."""
    return [{key: value for key, value in step.items() if key != "usage"} for step in result["prm_steps"]]


@pytest.mark.parametrize("question", [BIRTH, DEATHS])
def test_async_gives_the_same_tree(question):
    assert tree(asyncio.run(graph().compile().ainvoke({"question": question}))) == tree(run(question))


def test_a_killed_run_goes_on_from_each_checkpoint():
    whole = run(DEATHS)
    saver = InMemorySaver()
    config = {"configurable": {"thread_id": "1"}}
    graph().compile(checkpointer=saver).invoke({"question": DEATHS}, config)
    compiled = graph().compile(checkpointer=saver)
    for state in list(compiled.get_state_history(config)):
        if state.next and state.next[0] != "__start__":
            assert tree(compiled.invoke(None, state.config)) == tree(whole)


def test_a_second_question_has_a_plan_of_its_own():
    compiled = graph().compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    compiled.invoke({"question": DEATHS}, config)
    assert tree(compiled.invoke({"question": BIRTH}, config)) == tree(run(BIRTH))


def test_the_trace_keeps_quotations_and_confidence(tmp_path):
    trace = trace_of(run(), {})
    save_trace(trace, tmp_path / "trace.json")
    first = load_trace(tmp_path / "trace.json")["steps"][0]
    assert first["quote"]["doc_id"] == "Up (film)"
    assert first["confidence"] == 0.8
    assert json.loads(json.dumps(first)) == first


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ({"retrievals": 1}, "budget: retrievals"),
        ({"retrievals": 0}, "budget: retrievals"),
        ({"reward_calls": 1}, "budget: reward_calls"),
        ({"model_calls": 0}, "budget: model_calls"),
    ],
)
def test_a_budget_ends_the_search(budget, reason):
    result = run(budget=SearchBudget(**budget), model=ScriptedLanguageModel(lambda text: "from memory"))
    assert result["prm_stop_reason"] == reason


def test_a_plan_is_written_by_a_model_if_it_can_be_read():
    plan = "1. Who directed Up?\n2. Where did #1 grow up?"
    asked = []

    def reply(text):
        asked.append(text)
        return f" {plan}"

    node = PlanQuestion(ScriptedChatModel(script=reply))
    assert node.invoke({"question": BIRTH})["prm_plan"] == ["Who directed Up?", "Where did #1 grow up?"]
    assert BIRTH in asked[0]
    for nonsense in ("I cannot do that.", "1. Who is #2?", "\n".join(f"{n}. Who {n}?" for n in range(1, 20))):
        node = PlanQuestion(ScriptedChatModel(script=lambda text, reply=nonsense: reply))
        assert node.invoke({"question": BIRTH})["prm_plan"] == ["Who directed Up?", "Where was #1 born?"]


def test_a_comparison_that_a_plan_leaves_out_is_added():
    node = PlanQuestion(lambda question: ["When was Ann born?", "When was Bob born?"])
    question = "Who is older, Ann or Bob?"
    assert node.invoke({"question": question})["prm_plan"][-1] == f"Compare #1 and #2: {question}"


def test_a_plan_is_the_default_with_a_reader():
    store, reader = world()
    model = ScriptedLanguageModel(silent)
    assert "plan" in create_reasoning_graph(model, store, reader=reader).nodes
    assert "plan" not in create_reasoning_graph(model, store, reader=reader, mode="step").nodes
    assert "plan" not in create_reasoning_graph(model, store, reader=reader, value=TD()).nodes
    assert "plan" not in create_reasoning_graph(model, store).nodes


def test_a_question_without_parts_is_its_own_plan():
    result = run("Who directed Up?")
    assert (result["prm_plan"], result["answer"]) == (["Who directed Up?"], "Soffici")


class LedReader(ScriptedReader):
    """One that answers from passages behind a lead alone."""

    reads_leads = True

    def candidates(self, questions, passages, *, n):
        rows = super().candidates(questions, passages, n=n)
        for row, documents in zip(rows, passages, strict=True):
            for place, document in enumerate(documents):
                if LEAD in document.metadata and "Rome" in document.page_content:
                    start = document.page_content.index("Rome")
                    row[:] = [ReaderAnswer("Rome", 0.9, 0.1, place, start, start + 4)]
        return rows


def test_a_whole_question_is_read_behind_the_sentences_that_name_a_passage():
    question = "Up owes its director to which town?"
    reader = LedReader({})
    result = run(question, reader=reader)
    assert result["prm_plan"] == [question]
    assert result["answer"] == "Rome"
    assert [(c["doc_id"], c["quote"]) for c in result["citations"]] == [
        ("Mario Soffici", "He was born in Rome.")
    ]
    (_, shown), *_ = reader.asked
    assert shown.count("Mario Soffici") == 2


def test_a_question_of_yes_and_no_is_read_without():
    reader = LedReader({"Does": {"yes": 0.9}})
    assert run("Does Up owe its director to Rome?", reader=reader)["answer"] == "yes"
    assert all(len(set(shown)) == len(shown) for _, shown in reader.asked)


def test_a_sub_question_is_read_without():
    reader = LedReader(SCRIPT)
    run(BIRTH, reader=reader)
    assert reader.asked
    assert all(len(set(shown)) == len(shown) for _, shown in reader.asked)


def test_the_sentence_with_most_words_of_the_question_leads_to_a_passage():
    documents = [
        Document(
            "Ann Lee sings. Ann Lee married Bob Ray. Bob Ray leads the band Up.", metadata={"title": "Up"}
        ),
        Document("Bob Ray\nBob Ray was born in Oslo.", id="bob", metadata={"title": "Bob Ray"}),
        Document("Nobody names this one.", metadata={"title": "Down"}),
    ]
    shown, places = led_to("Where was the man born who leads the band Up?", documents)
    assert shown[:3] == documents
    assert places == [0, 1, 2, 1]
    assert (shown[3].id, shown[3].page_content) == ("bob", documents[1].page_content)
    assert shown[3].metadata == {"title": "Bob Ray", LEAD: "Up: Bob Ray leads the band Up."}
    assert documents[1].metadata == {"title": "Bob Ray"}


def test_a_plan_cannot_look_ahead():
    with pytest.raises(ConfigurationError, match="nothing to simulate"):
        graph(value=TD())
    with pytest.raises(ConfigurationError, match="'step' or 'plan'"):
        create_reasoning_graph(ScriptedLanguageModel(silent), world()[0], mode="tree")


def test_a_search_that_has_ended_is_not_gone_on_with():
    state = StartSearch().invoke({"question": BIRTH})
    with pytest.raises(InputError, match="has ended"):
        FollowPlan().invoke({**state, "prm_stop_reason": "answered", "prm_frontier": []})


def test_plain_retrieval_is_read_by_a_reader():
    store, reader = world()
    compiled = create_rag_graph(ScriptedLanguageModel(silent), store, reader=reader, k=3).compile()
    result = compiled.invoke({"question": "Who directed Up?"})
    assert result["answer"] == "Soffici"
    assert [c["quote"] for c in result["citations"]] == ["It was directed by Mario Soffici and won prizes."]
    refused = compiled.invoke({"question": "Who is the king?"})
    assert (refused["answer"], refused["citations"], refused["prm_stop_reason"]) == ("", [], "no answer")


def test_a_reader_writes_no_sentences():
    with pytest.raises(CapabilityError, match="quotes its answer"):
        Answer(ScriptedReader({}), form="one sentence")


def test_siblings_that_ask_the_same_find_different_things():
    _, reader = world()
    document = Document(id="d", page_content=TEXTS["Down (film)"])
    state = StartSearch().invoke({"question": BIRTH})
    step = {
        "id": "1",
        "parent_id": None,
        "depth": 1,
        "query": "Who directed Down?",
        "retrieve": True,
        "doc_ids": ["d"],
        "thought": "",
        "final_answer": None,
        "score": None,
        "value": None,
        "status": "proposed",
        "usage": {},
    }
    done = {**step, "id": "2", "thought": "Bob Ray", "status": "committed"}
    state = {"question": BIRTH, "prm_documents": [document], "prm_steps": [done, step, {**step, "id": "3"}]}
    found = CompleteSteps(reader, passages=3).invoke(state)["prm_steps"]
    assert [(s["id"], s["thought"], s["status"]) for s in found] == [
        ("1", "Ann Lee", "completed"),
        ("3", "", "unparsed"),
    ]


def answers(question, titles, *scores):
    """Which of the passages with these titles is believed, if the reader is so sure of each."""
    passages = [Document(id=title, page_content=title, metadata={"title": title}) for title in titles]
    read = [ReaderAnswer("Ann Lee", score, 0.0, place, 0, 1) for place, score in enumerate(scores)]
    return [titles[answer.passage] for answer in favoured(question, passages, read)]


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("Who directed The Glass Boat?", "The Glass Boat"),
        ("Who directed the glass boat (1927 film)?", "The Glass Boat (1927 film)"),
        ("Who directed Jazz Boat?", "Jazz Boat"),
        ("Who directed it?", "Jazz Boat"),
    ],
)
def test_the_passage_that_a_question_names_is_believed_rather_than_another(question, best):
    titles = ("Jazz Boat", "The Glass Boat", "The Glass Boat (1927 film)")
    assert answers(question, titles, 0.4, 0.3, 0.2)[0] == best
    # Unless it hardly answers.
    assert answers(question, titles, 0.9, 0.01, 0.01)[0] == "Jazz Boat"


def test_of_several_things_that_a_question_names_none_is_preferred():
    said = answers("Did Jazz Boat earn more than The Glass Boat?", ("Jazz Boat", "The Glass Boat"), 0.3, 0.4)
    assert said == ["The Glass Boat", "Jazz Boat"]


@pytest.mark.parametrize(
    ("question", "whole", "best"),
    [
        ("What county borders on Lee County?", "", "Ray"),
        ("What county borders on Lee County?", "Where does the lee county of Ray end?", "Dodge County"),
        ("Who is a child of #1?", "Who is a child of the man from the Lee County?", "Ray"),
        ("What county is Ann's?", "", "the Lee County"),
        ("What county is larger, Lee County or Ray?", "", "the Lee County"),  # it is to be one of them
        ("Of Lee County and Ray, which one is larger?", "", "the Lee County"),
        ("Lee County and Ray are old. Which was settled first?", "", "the Lee County"),
        ("What county borders on Leeds County?", "", "the Lee County"),
    ],
)
def test_what_only_repeats_the_question_is_no_answer(question, whole, best):
    read = [
        ReaderAnswer(text, score, 0.0, None)
        for text, score in (("the Lee County", 0.6), ("Ray", 0.2), ("Dodge County", 0.1))
    ]
    assert favoured(question, [], read, whole)[0].text == best
    # Unless the reader is all but sure.
    sure = [ReaderAnswer("Lee County", 0.95, 0.0, None), ReaderAnswer("Dodge County", 0.01, 0.0, None)]
    assert favoured(question, [], sure, whole)[0].text == "Lee County"


def test_where_only_titles_with_a_bracket_are_found_those_are_named():
    assert answers("Who directed Up?", ("Down", "Up (film)"), 0.4, 0.3)[0] == "Up (film)"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("Mario Soffici", "Mario Soffici"),
        ("the director Mario Soffici", "Mario Soffici"),
        ("MARIO SOFFICI", "Mario Soffici"),
        ("Ann Lee", "Ann Lee (judge)"),
        ("Mario Soffici and Bob Ray", "Mario Soffici and Bob Ray"),
        ("1956", "1956"),
        ("yes", "yes"),
        ("Nobody Known", "Nobody Known"),
        ("", ""),
    ],
)
def test_a_name_is_resolved_to_the_title_that_the_index_knows(name, title):
    texts = {**TEXTS, "Ann Lee (judge)": "Ann Lee is a judge."}
    documents = [Document(id=t, page_content=x, metadata={"title": t}) for t, x in texts.items()]
    assert Titles(fake_store(documents)).resolve(name) == title


def test_a_name_of_several_titles_is_that_which_speaks_of_its_passage():
    texts = {
        "Up": "Up is a film by Ann Lee.",
        "Ann Lee (judge)": "Ann Lee is a judge.",
        "Ann Lee (director)": "Ann Lee is a director, known for Up.",
    }
    documents = [Document(id=t, page_content=x, metadata={"title": t}) for t, x in texts.items()]
    titles = Titles(fake_store(documents))
    assert titles.resolve("Ann Lee", documents[0], 16, 23) == "Ann Lee (director)"
    assert titles.resolve("Lee", documents[0], 20, 23) == "Ann Lee (director)"
    assert titles.resolve("Ann Lee") == "Ann Lee"  # nothing tells


def test_a_rank_before_a_name_is_no_part_of_its_title():
    titles = Titles(
        fake_store([Document(id=t, page_content=t, metadata={"title": t}) for t in ("Ann Lee", "Ann")])
    )
    assert titles.resolve("Queen Ann Lee") == "Ann Lee"
    assert titles.resolve("Queen Ann") == "Queen Ann"
    assert titles.resolve("Rose Ann Lee") == "Rose Ann Lee"


def test_the_titles_of_a_retriever_are_those_of_its_store():
    store, _ = world()
    assert titles_of(default_retriever(store)) is not None
    assert titles_of(store.as_retriever()) is not None
    assert titles_of(lambda query: []) is None


def test_the_reward_of_a_reader_is_its_probability():
    _, reader = world()
    reward = ReaderGrounding(reader)
    directed = {
        "query": "Who directed Down?",
        "passages": [TEXTS["Down (film)"]],
        "thought": "the Bob Ray",
        "final_answer": None,
    }
    invented = {**directed, "thought": "Nobody"}
    sentence = {**directed, "thought": "It says that BOB RAY directed the film."}
    told = {**directed, "confidence": 0.25}
    compared = {"query": DEATHS, "passages": [], "thought": "Up", "final_answer": "Up"}
    rows = reward.score(
        DEATHS, [[directed], [invented], [told, compared], [directed, told, compared], [compared]]
    )
    assert rows == [[0.5], [0.0], [0.25, 0.25], [0.5, 0.25, 0.25], [0.5]]
    assert reward.score(DEATHS, [[sentence]]) == [[0.5]]
    # What is found makes no other reading.
    assert len(reader.asked) == 2
    assert reward.score(DEATHS, [[directed]]) == [[0.5]]
    assert len(reader.asked) == 2
    with pytest.raises(ConfigurationError, match="is no reader"):
        ReaderGrounding(ScriptedLanguageModel(silent))


@pytest.mark.parametrize(
    ("found", "answer"),
    [
        (({"yes": 0.9}, {"no": 0.9}), "Mario Soffici"),
        (({"yes": 0.6}, {"yes": 0.9}), "Bob Ray"),  # the likelier yes
        (({"no": 0.6}, {"no": 0.9}), "Mario Soffici"),  # the less likely no
    ],
)
def test_one_of_two_is_chosen_by_what_was_said_of_each(found, answer):
    script = {"Was Mario Soffici from Rome": found[0], "Was Bob Ray from Rome": found[1]}
    question = "Which director was from Rome, Mario Soffici or Bob Ray?"
    result = run(question, reader=ScriptedReader(script))
    assert result["answer"] == answer
    assert result["prm_usage"]["model_calls"] == 0


def test_an_answer_to_this_or_that_is_one_of_both():
    question = "Who had the best ranking, Mario Soffici or Bob Ray?"
    result = run(question, reader=ScriptedReader({question: {"Soffici": 0.4}}))
    assert result["answer"] == "Mario Soffici"
    # what is quoted stays as it stands there
    assert result["prm_steps"][-1]["thought"] == "Soffici"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"yes": 0.55}, "no"),  # the passage about Up does not say so
        ({"yes": 0.95}, "yes"),
    ],
)
def test_a_yes_gives_way_to_the_words_of_the_passage_where_it_is_a_guess(said, answer):
    result = run("Are Mario Soffici and Up both directors?", reader=ScriptedReader({"Is": said}))
    assert told(result)["Is Mario Soffici a director?"] == "yes"
    assert told(result)["Is Up a director?"] == answer
    assert result["answer"] == answer


def test_a_no_gives_way_to_the_words_of_the_passage():
    reader = ScriptedReader({"Is": {"no": 0.55, "yes": 0.45}})
    result = run("Are Mario Soffici and Up both directors?", reader=reader)
    assert told(result)["Is Mario Soffici a director?"] == "yes"
    assert told(result)["Is Up a director?"] == "no"
    assert result["answer"] == "no"
