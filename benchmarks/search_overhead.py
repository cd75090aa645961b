"""What the nodes of a search cost beside LangGraph itself, and what its checkpoints weigh.

    python benchmarks/search_overhead.py --nodes 50 100 200

A search by steps without retrieval, made of the nodes, against a bare graph of the same nodes, edges and
channels in which plain functions send the same requests to the same scripted chat model, side by side too,
and write what the nodes wrote. So both have the same supersteps, the same state and the same model; what is
more is what our nodes do besides: prompts, parsing, the tree, the strategy, costs, events. Processor time in
milliseconds per superstep at each size of the tree, without and with checkpoints in SQLite, the least of
`--repeats` runs that take turns; bytes of all checkpoints of a search with retrieval in SQLite, plain, as
deltas, and at exit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, StateGraph

from agentprm.graphs import create_reasoning_graph
from agentprm.graphs.state import Question, ReasoningGraphState, SearchContext, Searched
from agentprm.nodes import (
    AnswerFromSteps,
    CompleteSteps,
    ProposeSteps,
    ScoreSteps,
    SelectSteps,
    StartSearch,
)
from agentprm.search import MCTS
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel

QUESTION = "Where was the engineer of the Clifton Bridge born?"
STEPS = 12  # most of a path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 100, 200], help="steps of the tree")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    print("| steps | supersteps | requests | checkpoints | bare, ms each | search, ms each | more |")
    print("| --: | --: | --: | --- | --: | --: | --: |")
    for nodes, kept in itertools.product(args.nodes, (False, True)):
        model = chat_model()
        search, bare = pair(nodes, model, kept)
        times: dict[str, list[float]] = {"bare": [], "search": []}
        supersteps = requests = 0
        for _ in range(args.repeats):
            for name, graph in (("bare", bare), ("search", search)):
                asked, began = len(model.prompts), time.process_time()
                supersteps = sum(
                    1 for _ in graph.stream({"question": QUESTION}, thread(), stream_mode="updates")
                )
                times[name].append(1000 * (time.process_time() - began) / supersteps)
                requests = len(model.prompts) - asked
        one, other = min(times["bare"]), min(times["search"])
        print(
            f"| {nodes} | {supersteps} | {requests} | {'SQLite' if kept else 'none'} | {one:.2f} "
            f"| {other:.2f} | {100 * (other / one - 1):.0f} % |"
        )
    print("\n| steps | checkpoints | KB |\n| --: | --- | --: |")
    for nodes in args.nodes:
        for name, deltas, durability in (
            ("plain", False, "async"),
            ("deltas", True, "async"),
            ("exit", False, "exit"),
        ):
            print(f"| {nodes} | {name} | {stored(nodes, deltas, durability) / 1000:.0f} |")
    return 0


def chat_model() -> ScriptedChatModel:
    """Queries that are all different, and findings out of a hash of the prompt."""
    numbers = itertools.count()

    def script(text: str) -> str:
        if "Search:" in text:
            return f"Search: Which {hashlib.sha256(str(next(numbers)).encode()).hexdigest()[:8]} is known?"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"It was {digest[:8]} in {digest[8:12]}"

    return ScriptedChatModel(script=script)


def thread() -> Any:
    """A thread of its own for each run."""
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


def saver(kept: bool) -> Any:
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False)) if kept else None


def searching(nodes: int, model: ScriptedChatModel, kept: bool) -> Any:
    """A search without retrieval, compiled."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(
        ReasoningGraphState, context_schema=SearchContext, input_schema=Question, output_schema=Searched
    )
    reward = FakeReward()
    way: list[Any] = [
        StartSearch(),
        ProposeSteps(model, n=4, max_steps=STEPS),
        CompleteSteps(model),
        ScoreSteps(reward),
        SelectSteps(MCTS(nodes=nodes, batch=4), reward=reward, threshold=None, max_steps=STEPS),
        AnswerFromSteps(model),
    ]
    for node in way:
        builder.add_node(node.name, node, input_schema=ReasoningGraphState)
    for node, after in itertools.pairwise([None, *way[:-1]]):
        builder.add_edge(node.name if node else START, after.name)
    builder.add_conditional_edges(
        "select", lambda state: "answer" if state.get("prm_stop_reason") else "propose", ["propose", "answer"]
    )
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver(kept))


def pair(nodes: int, model: ScriptedChatModel, kept: bool) -> tuple[Any, Any]:
    """The search, and a bare graph that asks and writes the same without working for it."""
    search = searching(nodes, model, kept)
    written: list[tuple[str, dict[str, Any], list[Any]]] = []
    asked = len(model.prompts)
    for update in search.stream({"question": QUESTION}, thread(), stream_mode="updates"):
        requests = [[HumanMessage(text)] for text in model.prompts[asked:]]
        asked = len(model.prompts)
        for name, change in update.items():
            written.append((name, change, requests))
    names = list(dict.fromkeys(name for name, *_ in written))
    place = [0]

    def replay(name: str) -> Callable[[Any], Any]:
        def node(state: Any) -> Any:
            if name == names[0]:
                place[0] = 0
            _, change, requests = written[place[0]]
            if requests:
                model.batch(requests)
            place[0] += 1
            return change

        return node

    def after(state: Any) -> str:
        return END if place[0] >= len(written) else written[place[0]][0]

    bare: StateGraph[Any, Any, Any, Any] = StateGraph(
        ReasoningGraphState, context_schema=SearchContext, input_schema=Question, output_schema=Searched
    )
    for name in names:
        bare.add_node(name, replay(name), input_schema=ReasoningGraphState)
        bare.add_conditional_edges(name, after, [*names, END])
    bare.add_edge(START, names[0])
    return search, bare.compile(checkpointer=saver(kept))


def script(text: str) -> str | list[str]:
    """Queries and findings out of a hash of the prompt."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if text.endswith("Search:"):
        return [f" Which {digest[i * 8 : i * 8 + 8]} is known?" for i in range(4)]
    return f"It was {digest[:8]} in {digest[8:12]}"


def builder(nodes: int, deltas: bool = False) -> StateGraph[Any, Any, Any, Any]:
    reward = FakeReward(lambda q, p: int(hashlib.sha256(p[-1]["thought"].encode()).hexdigest(), 16) % 97 / 96)
    model = ScriptedLanguageModel(script, likelihood=lambda prompt, continuation: -1.0)
    return create_reasoning_graph(
        model,
        lambda query: [],
        reward,
        strategy=MCTS(nodes=nodes, batch=4),
        candidates=4,
        max_steps=STEPS,
        threshold=None,
        deltas=deltas,
    )


def stored(nodes: int, deltas: bool, durability: Any) -> int:
    """Bytes of all checkpoints of one search."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    connection = sqlite3.connect(":memory:", check_same_thread=False)
    graph = builder(nodes, deltas).compile(checkpointer=SqliteSaver(connection))
    graph.invoke({"question": QUESTION}, {"configurable": {"thread_id": "1"}}, durability=durability)
    connection.commit()
    ((held,),) = connection.execute("select sum(length(checkpoint) + length(metadata)) from checkpoints")
    ((written,),) = connection.execute("select coalesce(sum(length(value)), 0) from writes")
    return int(held + written)


if __name__ == "__main__":
    sys.exit(main())
