"""Single nodes work from what the state shows now: on later turns, in loops, twice in a row, side by side."""

import operator
from typing import Annotated

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from typing_extensions import TypedDict

from agentprm import ReasoningState
from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.nodes import (
    Answer,
    AnswerFromSteps,
    CompleteSteps,
    CondenseQuestion,
    JudgeAnswer,
    ProposeSteps,
    Rerank,
    Retrieve,
    RetrieveSteps,
    ScoreSteps,
    SelectSteps,
    StartSearch,
)
from agentprm.state import Judgement
from agentprm.testing import FakeReward, ScriptedChatModel
from tests.unit.world import QUESTION, chat_model, good_reward, store

BRUNEL, PARIS = "Where was Brunel born?", "Which river flows through Paris?"
READ = {"Portsmouth": "Portsmouth", "Seine": "the Seine"}


def nearest():
    return store().as_retriever(search_kwargs={"k": 1})


grounded = FakeReward(
    lambda question, steps: float(any(steps[-1]["thought"] in p for p in steps[-1]["passages"]))
)


class State(TypedDict, total=False):
    question: str
    documents: list[Document]
    answer: str
    score: float | None
    tries: int


def line(*nodes, state=State):
    builder = StateGraph(state)
    previous = START
    for place, node in enumerate(nodes):
        name = f"{place}"
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder


def thread(builder):
    graph, config = builder.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
    return lambda state: graph.invoke(state, config)


def answering(state):
    return {"answer": next(reply for key, reply in READ.items() if key in state["documents"][0].page_content)}


@pytest.mark.parametrize("answer", [answering, Answer(ScriptedChatModel(script=READ))])
def test_each_turn_retrieves_answers_and_judges_anew(answer):
    ask = thread(line(Retrieve(nearest(), k=1), answer, JudgeAnswer(grounded)))
    for question, document, reply in ((BRUNEL, "d2", "Portsmouth"), (PARIS, "d3", "the Seine")) * 2:
        result = ask({"question": question})
        assert [d.id for d in result["documents"]] == [document]
        assert (result["answer"], result["score"]) == (reply, 1.0)


def test_a_corrective_loop_searches_again():
    builder = line(Retrieve(nearest(), k=1), answering, JudgeAnswer(lambda q, s: float("river" in q)))
    builder.add_node("rewrite", lambda state: {"question": PARIS})
    builder.add_edge("rewrite", "0")
    builder.edges.remove(("2", END))
    builder.add_conditional_edges("2", lambda state: END if state["score"] else "rewrite", [END, "rewrite"])
    result = builder.compile().invoke({"question": BRUNEL})
    assert (result["answer"], result["documents"][0].id) == ("the Seine", "d3")


def test_a_judge_judges_what_it_is_shown_each_time():
    judge, seen = JudgeAnswer(FakeReward(lambda q, s: {"A": 0.1, "B": 0.2}[s[-1]["thought"]])), []
    for answer, score in (("A", 0.1), ("B", 0.2), ("A", 0.1), ("A", 0.1)):
        update = judge.invoke({"question": "q", "answer": answer, "score": 0.9})
        assert update["score"] == score
        seen.append(update)
    by_documents = JudgeAnswer(grounded)
    for text, score in (("A B", 1.0), ("C", 0.0)):
        state = {"question": "q", "answer": "A", "documents": [Document(text)]}
        assert by_documents.invoke(state)["score"] == score


def test_judges_in_a_row_and_in_parallel_have_keys_of_their_own():
    class Two(State):
        grounded: float
        short: float

    judges = (
        JudgeAnswer(FakeReward(lambda q, s: 0.25), score_key="grounded"),
        JudgeAnswer(FakeReward(lambda q, s: 0.75), score_key="short", name="second"),
    )
    parallel = StateGraph(Two)
    for number, judge in enumerate(judges):
        parallel.add_node(str(number), judge)
        parallel.add_edge(START, str(number))
    for builder in (line(*judges, state=Two), parallel):
        result = builder.compile().invoke({"question": "q", "answer": "a"})
        assert (result["grounded"], result["short"]) == (0.25, 0.75)


def test_answers_judged_through_send_keep_their_scores():
    class Best(TypedDict):
        question: str
        answers: list[str]
        judgements: Annotated[list[Judgement], operator.add]

    builder = StateGraph(Best)
    reward = FakeReward(lambda q, s: len(s[-1]["thought"]) / 10)
    builder.add_node("judge", JudgeAnswer(reward, score_key=None, judgements_key="judgements"))
    builder.add_conditional_edges(
        START, lambda s: [Send("judge", {"question": s["question"], "answer": a}) for a in s["answers"]]
    )
    found = builder.compile().invoke({"question": "q", "answers": ["a", "aaa", "a"]})["judgements"]
    assert [(j["answer"], j["score"]) for j in found] == [("a", 0.1), ("aaa", 0.3), ("a", 0.1)]
    assert len({j["id"] for j in found}) == 3


def test_a_search_in_the_same_graph_is_no_reason_not_to_retrieve():
    class Both(ReasoningState, total=False):
        score: float | None

    search = create_reasoning_graph(chat_model(), store(), good_reward()).compile()
    ask = thread(line(search, Retrieve(nearest(), k=1), JudgeAnswer(grounded), state=Both))
    for question in (QUESTION, BRUNEL):
        result = ask({"question": question})
        assert result["prm_steps"]
        assert [d.id for d in result["documents"]] == [d.id for d in store().similarity_search(question, 1)]


def test_a_state_may_declare_the_cost_and_the_tree_as_the_page_says():
    result = line(Retrieve(nearest(), k=1), Answer(ScriptedChatModel(script=READ)), state=ReasoningState)
    usage = result.compile().invoke({"question": BRUNEL})["prm_usage"]
    assert (usage["retrievals"], usage["model_calls"]) == (1, 1)


def conversation(*messages):
    return {"messages": list(messages)}


CALL = AIMessage("", tool_calls=[{"name": "transfer", "args": {}, "id": "1"}])
HANDOFF = [HumanMessage(BRUNEL), CALL, ToolMessage("transferred", tool_call_id="1")]


class Chat(MessagesState):
    score: float | None


def test_the_last_ai_message_is_the_answer():
    judge = line(JudgeAnswer(FakeReward(lambda q, s: float(s[-1]["thought"] == "Portsmouth"))), state=Chat)
    graph = judge.compile()
    assert graph.invoke(conversation(HumanMessage(BRUNEL), AIMessage("Portsmouth")))["score"] == 1.0
    blocks = AIMessage([{"type": "text", "text": "Portsmouth"}])
    assert (
        graph.invoke(conversation(("user", "Hello"), ("ai", "Hi"), ("user", BRUNEL), blocks))["score"] == 1.0
    )


def test_an_answer_to_an_earlier_question_is_not_judged(caplog):
    graph = line(JudgeAnswer(grounded), state=Chat).compile()
    result = graph.invoke(conversation(("user", BRUNEL), ("ai", "Portsmouth"), ("user", PARIS)))
    assert result["score"] is None
    assert "no answer" in caplog.text


def test_nothing_to_judge_is_said():
    with pytest.raises(InputError, match="no answer to judge"):
        JudgeAnswer(grounded).invoke({"question": "q"})
    assert JudgeAnswer(grounded).invoke({"question": "q", "answer": ""})["score"] is None


@pytest.mark.parametrize("make", [create_rag_graph, create_reasoning_graph])
def test_under_a_supervisor_the_human_message_is_the_question(make):
    own = {} if make is create_rag_graph else {"reward": good_reward()}
    result = make(chat_model(), store(), **own).compile().invoke({"messages": HANDOFF})
    assert result["question"] == BRUNEL
    assert [m.type for m in result["messages"]] == ["human", "ai", "tool", "ai"]


def test_single_nodes_read_the_human_message_wherever_it_stands():
    assert Retrieve(nearest(), k=1).invoke({"messages": HANDOFF})["documents"][0].id == "d2"


def follow_up(text):
    if "Last question" in text:
        return "Question: Where was Brunel born?"
    return "Portsmouth" if "Portsmouth" in text else "unknown"


@pytest.mark.parametrize("make", [create_rag_graph, create_reasoning_graph])
def test_follow_ups_are_condensed(make):
    model = ScriptedChatModel(script=follow_up)
    ask = thread(make(model, store(), condense=True, k=1))
    first = ask({"messages": [("user", "Who designed the Clifton Bridge?")]})
    assert first["question"] == "Who designed the Clifton Bridge?"
    assert "Last question" not in "".join(model.prompts)
    second = ask({"messages": [("user", "And where was he born?")]})
    assert second["question"] == "Where was Brunel born?"
    assert second["messages"][-2].text == "And where was he born?"
    assert sum("Last question" in prompt for prompt in model.prompts) == 1


def test_a_useless_reply_leaves_the_follow_up_as_it_was():
    node = CondenseQuestion(ScriptedChatModel(script=lambda text: " -- "))
    asked = conversation(("user", "Who?"), ("ai", "Brunel"), ("user", "And where was he born?"))
    assert node.invoke(asked)["question"] == "And where was he born?"
    first = CondenseQuestion(ScriptedChatModel(script={})).invoke(conversation(("user", "Who?")))
    assert first["question"] == "Who?"


def test_a_judge_needs_somewhere_to_write_to():
    with pytest.raises(ConfigurationError, match="score_key or a judgements_key"):
        JudgeAnswer(grounded, score_key=None)
    with pytest.raises(ConfigurationError, match="'answer' for two things"):
        JudgeAnswer(grounded, score_key="answer")


def test_reranking_twice_in_a_row():
    def by_length(state, query, documents):
        return [len(d.page_content) for d in documents]

    node = Rerank(by_length)
    state = {"question": "q", "documents": ["a", "aaa", "aa"]}
    once = node.invoke(state)["documents"]
    twice = node.invoke({"question": "q", "documents": once})["documents"]
    assert [d.page_content for d in once] == [d.page_content for d in twice] == ["aaa", "aa", "a"]


def test_single_nodes_ask_for_no_channel_of_a_search():
    class Theirs(TypedDict, total=False):
        question: str
        prm_steps: list
        prm_usage: dict

    nodes = (Retrieve(nearest()), Rerank(lambda *given: []), Answer(chat_model()), JudgeAnswer(grounded))
    for node in (*nodes, CondenseQuestion(chat_model())):
        assert not [name for name in line(node).channels if name.startswith("prm_")]
    line(*nodes, state=Theirs).compile()  # no clash with what a graph declares itself


def test_a_search_of_ones_own_without_its_beginning_says_so_on_the_second_turn():
    model = chat_model()
    nodes = (
        ProposeSteps(model, max_steps=1),
        RetrieveSteps(store()),
        CompleteSteps(model),
        ScoreSteps(good_reward()),
        SelectSteps(threshold=None),
        AnswerFromSteps(model),
    )
    ask = thread(line(*nodes))
    assert ask({"question": BRUNEL})["answer"]
    with pytest.raises(InputError, match="Let StartSearch run"):
        ask({"question": PARIS})
    ask = thread(line(StartSearch(), *nodes))
    assert [ask({"question": question})["answer"] for question in (BRUNEL, BRUNEL)] == ["Portsmouth"] * 2


def test_nothing_to_reorder_is_said(caplog):
    assert Rerank(lambda *given: []).invoke({"question": "q"}) == {}
    assert "no documents to reorder" in caplog.text
