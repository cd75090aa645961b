"""What the nodes of a search cost beside LangGraph itself, and what its checkpoints weigh.

    python benchmarks/search_overhead.py --nodes 50 100 200

A search with a scripted model and a retriever that finds nothing, whose calls are most of the difference,
against a bare graph of the same nodes, edges and
channels whose functions write what the nodes wrote. Milliseconds per superstep at each size of the tree, the
median of `--repeats` runs that take turns; bytes of all checkpoints in SQLite, plain, as deltas, and at
exit.
"""

from __future__ import annotations

import argparse
import hashlib
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph

from agentprm.graphs import create_reasoning_graph
from agentprm.graphs.state import Question, ReasoningGraphState, SearchContext, Searched
from agentprm.search import MCTS
from agentprm.testing import FakeReward, ScriptedLanguageModel

QUESTION = "Where was the engineer of the Clifton Bridge born?"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 100, 200], help="steps of the tree")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    print("| steps | supersteps | bare, ms each | search, ms each | more |\n| --: | --: | --: | --: | --: |")
    for nodes in args.nodes:
        search, bare = pair(nodes)
        times: dict[str, list[float]] = {"bare": [], "search": []}
        supersteps = 0
        for _ in range(args.repeats):
            for name, graph in (("bare", bare), ("search", search)):
                began = time.perf_counter()
                supersteps = sum(1 for _ in graph.stream({"question": QUESTION}, stream_mode="updates"))
                times[name].append(time.perf_counter() - began)
        one, other = (1000 * statistics.median(times[name]) / supersteps for name in ("bare", "search"))
        print(f"| {nodes} | {supersteps} | {one:.2f} | {other:.2f} | {100 * (other / one - 1):.0f} % |")
    print("\n| steps | checkpoints | KB |\n| --: | --- | --: |")
    for nodes in args.nodes:
        for name, deltas, durability in (
            ("plain", False, "async"),
            ("deltas", True, "async"),
            ("exit", False, "exit"),
        ):
            print(f"| {nodes} | {name} | {stored(nodes, deltas, durability) / 1000:.0f} |")
    return 0


def script(text: str) -> str | list[str]:
    """Queries and findings out of a hash of the prompt."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if text.endswith("Search:"):
        return [f" Which {digest[i * 8 : i * 8 + 8]} is known?" for i in range(4)]
    return f"It was {digest[:8]} in {digest[8:12]}"


def builder(nodes: int, deltas: bool = False) -> StateGraph[Any, Any, Any, Any]:
    reward = FakeReward(lambda q, p: int(hashlib.sha256(p[-1]["thought"].encode()).hexdigest(), 16) % 97 / 96)
    model = ScriptedLanguageModel(script, likelihood=lambda prompt, continuation: -1.0)
    strategy = MCTS(nodes=nodes, batch=4)
    return create_reasoning_graph(
        model,
        lambda query: [],
        reward,
        strategy=strategy,
        candidates=4,
        max_steps=12,
        threshold=None,
        deltas=deltas,
    )


def pair(nodes: int) -> tuple[Any, Any]:
    """The search, and a bare graph that writes the same without working for it."""
    search = builder(nodes).compile()
    written: list[tuple[str, dict[str, Any]]] = []
    for update in search.stream({"question": QUESTION}, stream_mode="updates"):
        written += update.items()
    names = list(dict.fromkeys(name for name, _ in written))
    place = [0]

    def replay(name: str) -> Callable[[Any], Any]:
        def node(state: Any) -> Any:
            if name == names[0]:
                place[0] = 0
            update = written[place[0]][1]
            place[0] += 1
            return update

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
    return search, bare.compile()


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
