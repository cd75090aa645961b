"""Every node in every kind of state and situation; `python -m tests.unit.nodes.matrix` writes docs/matrix.md.

A cell of the page is a test of `test_matrix.py`, so the page says what is tested and nothing else.
"""

import asyncio
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentprm.graphs import (
    create_adaptive_rag_graph,
    create_cr_planner_graph,
    create_evidence_graph,
    create_glore_graph,
    create_goal_graph,
    create_hpt_graph,
    create_ladder_graph,
    create_note_graph,
    create_prs_graph,
    create_r2_graph,
    create_rag_graph,
    create_rearter_graph,
    create_reasoning_graph,
    create_routed_graph,
    create_summary_graph,
)
from agentprm.nodes import (
    Answer,
    AnswerFromSteps,
    BeginSteps,
    CompleteSteps,
    CondenseQuestion,
    DecideRetrieval,
    FollowPlan,
    JudgeAnswer,
    LookAhead,
    PlanQuestion,
    ProposeSteps,
    Reason,
    RecallExperience,
    RecallSteps,
    RefineStep,
    RejectEarly,
    Rerank,
    RerankSteps,
    Retrieve,
    RetrieveSteps,
    ScoreSteps,
    SelectSteps,
    StartSearch,
    cache_policy,
    retry_policy,
)
from agentprm.retrievers import SummaryTree
from agentprm.retrievers.summary_tree import SummaryNode
from agentprm.search import TD
from agentprm.search.subgoals import SENTENCES
from agentprm.testing import FakeEmbeddings, FakeReward, ScriptedLanguageModel, ScriptedReader

PAGE = Path(__file__).parents[3] / "docs" / "matrix.md"
BRUNEL, PARIS = "Where was Brunel born?", "On which river does Paris lie?"
ANSWERS = {BRUNEL: "Portsmouth", PARIS: "the Seine"}
TEXTS = {BRUNEL: "Brunel was born in Portsmouth.", PARIS: "Paris lies on the Seine."}
OTHER = Document("Telford built bridges.", id="other")


# --- kinds of state: what a user would write


class Plain(TypedDict, total=False):
    question: str
    messages: Annotated[list, add_messages]
    documents: list[Document]
    answer: str
    score: float | None
    turns: int
    collected: Annotated[list, operator.add]


class Model(BaseModel):
    question: str = ""
    messages: Annotated[list, add_messages] = []
    documents: list = []
    answer: str = ""
    score: float | None = None
    turns: int = 0
    collected: Annotated[list, operator.add] = []


@dataclass
class Data:
    question: str = ""
    messages: Annotated[list, add_messages] = field(default_factory=list)
    documents: list = field(default_factory=list)
    answer: str = ""
    score: float | None = None
    turns: int = 0
    collected: Annotated[list, operator.add] = field(default_factory=list)


class Chat(MessagesState, total=False):
    documents: list[Document]
    answer: str
    score: float | None
    turns: int
    collected: Annotated[list, operator.add]


KINDS = {"TypedDict": Plain, "pydantic": Model, "dataclass": Data, "MessagesState": Chat}


# --- the world: each part counts its calls, and fails once if told to


class World:
    def __init__(self, *, fails=False):
        self.calls, self.fails, self.memory = 0, fails, InMemoryStore()

    def work(self):
        self.calls += 1
        if self.fails:
            self.fails = False
            raise ConnectionError("gone for a moment")

    def search(self, query):
        self.work()
        return [passage(BRUNEL if "Brunel" in query else PARIS)]

    def reply(self, text):
        self.work()
        if "Last question" in text or text.endswith("Search:"):
            asked = text.rpartition("Last question:")[2]
            return f" {BRUNEL if 'Brunel' in asked else PARIS}"
        return ANSWERS[BRUNEL] if TEXTS[BRUNEL] in text or BRUNEL in text else ANSWERS[PARIS]

    def rank(self, state, query, documents):
        self.work()
        return [float(d.id != "other") for d in documents]

    def grade(self, question, steps):
        self.work()
        return float(steps[-1]["thought"] in "".join(steps[-1]["passages"]))

    def next_subgoal(self, question, path):
        """Ask, look up, then reason."""
        wanted = "reason" if any(step["passages"] for step in path) else "retrieve"
        return {SENTENCES[wanted]: 0.9, SENTENCES["query"]: 0.5}.get(path[-1]["thought"], 0.1)

    def reader(self):
        return ScriptedReader({"Brunel": {"Portsmouth": 0.9}, "Paris": {"the Seine": 0.9}})

    def tree(self):
        leaves = [
            SummaryNode(id=question, text=text, title="", level=0, children=[])
            for question, text in TEXTS.items()
        ]
        top = SummaryNode(id="1.0", text="A man, and a town.", title="", level=1, children=list(TEXTS))
        return SummaryTree([*leaves, top])

    @property
    def model(self):
        return ScriptedLanguageModel(self.reply)

    @property
    def reward(self):
        return FakeReward(self.grade)


def passage(question):
    return Document(TEXTS[question], id=TEXTS[question][:5])


def searching(world):
    model, reward = world.model, world.reward
    rollout = [
        ProposeSteps(model, n=1, look_ahead=True, max_steps=1),
        RetrieveSteps(world.search),
        CompleteSteps(model),
        ScoreSteps(reward),
    ]
    return [
        StartSearch(),
        ProposeSteps(model, max_steps=1),
        RejectEarly(reward),
        RetrieveSteps(world.search),
        RerankSteps(world.rank),
        BeginSteps(model),
        CompleteSteps(model),
        ScoreSteps(reward),
        LookAhead(rollout, value=TD()),
        SelectSteps(),
        RefineStep(model),
        AnswerFromSteps(model),
    ]


def following(world):
    return [
        StartSearch(),
        PlanQuestion(),
        FollowPlan(),
        RetrieveSteps(world.search),
        CompleteSteps(world.model),
        ScoreSteps(world.reward),
        SelectSteps(),
        AnswerFromSteps(world.model),
    ]


ROWS: dict[str, Callable[[World], list[Any]]] = {
    "CondenseQuestion, Retrieve": lambda w: [CondenseQuestion(w.model), Retrieve(w.search)],
    "Retrieve": lambda w: [Retrieve(w.search)],
    "Rerank": lambda w: [Rerank(w.rank)],
    "Answer": lambda w: [Answer(w.model)],
    "JudgeAnswer": lambda w: [JudgeAnswer(w.reward)],
    "DecideRetrieval": lambda w: [DecideRetrieval(w.model)],
    "the nodes of a search": searching,
    "the nodes of a plan": following,
    "create_adaptive_rag_graph": lambda w: [
        create_adaptive_rag_graph(w.model, w.search, lambda question: True).compile()
    ],
    "Reason": lambda w: [Reason(w.model)],
    "create_routed_graph": lambda w: [
        create_routed_graph(w.model, w.search, router=lambda question: "reasoning").compile()
    ],
    "create_note_graph": lambda w: [create_note_graph(w.model, w.search, max_rounds=1).compile()],
    "create_evidence_graph": lambda w: [create_evidence_graph(w.model, w.search, max_rounds=1).compile()],
    "create_goal_graph": lambda w: [create_goal_graph(w.model, w.search, max_rounds=1).compile()],
    "create_rag_graph": lambda w: [create_rag_graph(w.model, w.search).compile()],
    "create_reasoning_graph": lambda w: [create_reasoning_graph(w.model, w.search, w.reward).compile()],
    "create_rearter_graph": lambda w: [create_rearter_graph(w.model, w.search, w.reward).compile()],
    "create_glore_graph": lambda w: [create_glore_graph(w.model, w.search, w.reward).compile()],
    "create_cr_planner_graph": lambda w: [
        create_cr_planner_graph(w.model, w.search, w.next_subgoal, w.reward).compile()
    ],
    "create_ladder_graph": lambda w: [
        create_ladder_graph(
            {"rag": create_rag_graph(w.model, w.search).compile()}, lambda question, steps: 1.0
        ).compile()
    ],
    "create_hpt_graph": lambda w: [create_hpt_graph(w.model, w.search, lambda q, steps: 1.0).compile()],
    "create_prs_graph": lambda w: [
        create_prs_graph(w.model, w.search, w.reward, reader=w.reader()).compile()
    ],
    "create_r2_graph": lambda w: [
        create_r2_graph(
            w.model,
            w.search,
            w.reward,
            experience=RecallExperience(by="template", store=w.memory),
            analogies=RecallSteps(store=w.memory),
            max_steps=1,
        ).compile()
    ],
    "create_summary_graph": lambda w: [
        create_summary_graph(
            w.model, w.tree(), FakeEmbeddings(), judge=lambda q, facts: len(facts) > 1, patience=1
        ).compile()
    ],
}
PLAINLY_CACHED = {"Retrieve", "Rerank", "Answer", "JudgeAnswer", "DecideRetrieval", "Reason"}
GRAPHS = {row for row in ROWS if row.startswith("create_")}


def given(row, kind, question, number=0):
    """What the state holds when the nodes run."""
    documents = [OTHER, passage(question)]
    if kind != "MessagesState":
        return {"question": question, "documents": documents, "answer": ANSWERS[question]}
    messages = [HumanMessage(question, id=f"h{number}")]
    if row == "JudgeAnswer":
        return {
            "messages": [*messages, AIMessage(ANSWERS[question], id=f"a{number}")],
            "documents": documents,
        }
    return {"messages": messages, "documents": documents}


def check(row, result, question):
    if row in ("CondenseQuestion, Retrieve", "Retrieve"):
        assert [d.page_content for d in result["documents"]] == [TEXTS[question]]
    elif row == "Rerank":
        assert [d.page_content for d in result["documents"]] == [TEXTS[question], OTHER.page_content]
    elif row == "JudgeAnswer":
        assert result["score"] == 1.0
    else:
        assert result["answer"] == ANSWERS[question]


def chain(row, kind, world, **settings):
    """A graph of the row's nodes in a state of that kind."""
    builder = StateGraph(KINDS[kind])
    nodes = ROWS[row](world)
    for place, node in enumerate(nodes):
        builder.add_node(f"n{place}", node, **settings)
        builder.add_edge(f"n{place - 1}" if place else START, f"n{place}")
    return builder, f"n{len(nodes) - 1}"


def finished(row, kind, world, **settings):
    builder, last = chain(row, kind, world, **settings)
    builder.add_edge(last, END)
    return builder


def saver():
    return InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))


THREAD: Any = {"configurable": {"thread_id": "1"}}


# --- situations


def sync(row, kind):
    check(row, finished(row, kind, World()).compile().invoke(given(row, kind, BRUNEL)), BRUNEL)


def on_loop(row, kind):
    graph = finished(row, kind, World()).compile()
    check(row, asyncio.run(graph.ainvoke(given(row, kind, PARIS))), PARIS)


def send(row, kind):
    """Two at once; each passes its result on under a key with a reducer."""
    inner = finished(row, kind, World()).compile()
    builder = StateGraph(KINDS[kind])
    builder.add_node("each", lambda state: {"collected": [inner.invoke(state)]})
    payloads = [given(row, kind, question) for question in (BRUNEL, PARIS)]
    builder.add_conditional_edges(START, lambda state: [Send("each", p) for p in payloads], ["each"])
    first, second = builder.compile().invoke({"turns": 0})["collected"]
    check(row, first, BRUNEL)
    check(row, second, PARIS)


def loop(row, kind):
    builder, last = chain(row, kind, World())
    questions = (BRUNEL, PARIS, BRUNEL)

    def turn(state):
        turns = (state["turns"] if isinstance(state, dict) else state.turns) + 1
        new = given(row, kind, questions[turns], turns) if turns < 3 else {}
        if kind == "MessagesState" and row != "JudgeAnswer" and new:
            new["messages"] = [AIMessage("Well.", id=f"w{turns}"), *new["messages"]]
        return {**new, "turns": turns}

    def over(state):
        return END if (state["turns"] if isinstance(state, dict) else state.turns) == 3 else "n0"

    builder.add_node("turn", turn)
    builder.add_edge(last, "turn")
    builder.add_conditional_edges("turn", over, ["n0", END])
    check(row, builder.compile().invoke({**given(row, kind, BRUNEL), "turns": 0}), BRUNEL)


def turns(row, kind):
    graph = finished(row, kind, World()).compile(checkpointer=saver())
    for number, question in enumerate((BRUNEL, PARIS, BRUNEL)):
        state = given(row, kind, question, number)
        if kind == "MessagesState" and number and row != "JudgeAnswer":
            state["messages"] = [AIMessage("Well.", id=f"w{number}"), *state["messages"]]
        check(row, graph.invoke(state, THREAD), question)


def subgraph(row, kind):
    builder = StateGraph(KINDS[kind])
    builder.add_node("inner", finished(row, kind, World()).compile())
    builder.add_edge(START, "inner")
    check(row, builder.compile().invoke(given(row, kind, PARIS)), PARIS)


def retry(row, kind):
    world = World(fails=True)
    graph = finished(row, kind, world, retry_policy=retry_policy()).compile()
    check(row, graph.invoke(given(row, kind, BRUNEL)), BRUNEL)
    assert not world.fails


def cache(row, kind):
    world = World()
    policy = CachePolicy() if row in PLAINLY_CACHED else cache_policy()
    graph = finished(row, kind, world, cache_policy=policy).compile(cache=InMemoryCache())
    for question in (BRUNEL, BRUNEL, PARIS, PARIS):
        before = world.calls
        check(row, graph.invoke(given(row, kind, question)), question)
        if question == BRUNEL and before:
            assert world.calls == before


def interrupt(row, kind):
    builder = finished(row, kind, World())
    graph = builder.compile(checkpointer=saver(), interrupt_before=list(builder.nodes))
    result = graph.invoke(given(row, kind, PARIS), THREAD)
    for _ in builder.nodes:
        assert graph.get_state(THREAD).next
        result = graph.invoke(None, THREAD)
    assert not graph.get_state(THREAD).next
    check(row, result, PARIS)


def streaming(mode):
    def stream(row, kind):
        graph = finished(row, kind, World()).compile(checkpointer=saver())
        parts = list(
            graph.stream(given(row, kind, BRUNEL), THREAD, stream_mode=mode, subgraphs=row in GRAPHS)
        )
        if mode == "custom":
            events = [part[1] if row in GRAPHS else part for part in parts]
            assert all(event["type"].startswith("agentprm.") for event in events)
            assert events or row == "Retrieve"
        elif mode == "messages":
            said = [part[1] if row in GRAPHS else part for part in parts]
            texts = "".join(m.text for m, _ in said if m.type != "human")
            assert texts in ("", ANSWERS[BRUNEL])
            assert texts or row not in ("Answer", *GRAPHS)
        else:
            assert parts
        check(row, graph.get_state(THREAD).values, BRUNEL)

    return stream


SITUATIONS: dict[str, Callable[[str, str], None]] = {
    "sync": sync,
    "async": on_loop,
    "`Send`": send,
    "loop": loop,
    "second turn": turns,
    "subgraph": subgraph,
    "retry": retry,
    "cache": cache,
    "interrupt": interrupt,
    **{f"stream `{m}`": streaming(m) for m in ("values", "updates", "messages", "custom", "tasks", "debug")},
}
CELLS = [(row, kind, situation) for row in ROWS for kind in KINDS for situation in SITUATIONS]


def page():
    """The page: for each kind of state a table of the tested cells."""
    lines = [
        "# Where nodes are tested",
        "",
        "Each ✓ is a test of `tests/unit/nodes/test_matrix.py`: the nodes of the row in a graph whose state",
        "is of the kind of the table, in the situation of the column. A test fails if this page says more or",
        "less; it is written by `python -m tests.unit.nodes.matrix`. The keys: [nodes.md](nodes.md).",
        "",
        "*Loop* and *second turn* ask three questions in turn and check the answers; *interrupt* stops at",
        "every node and resumes; *cache* counts calls of models and retrievers (the nodes alone with",
        "`CachePolicy()`, the others with `cache_policy()`); checkpoints are in LangGraph's strict mode.",
    ]
    for kind in KINDS:
        lines += [
            "",
            f"## {kind}",
            "",
            f"| | {' | '.join(SITUATIONS)} |",
            "|---" * (len(SITUATIONS) + 1) + "|",
        ]
        for row in ROWS:
            marks = ["✓" if (row, kind, situation) in CELLS else "" for situation in SITUATIONS]
            name = ", ".join(f"`{part}`" for part in row.split(", ")) if "of a" not in row else row
            lines.append(f"| {name} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
