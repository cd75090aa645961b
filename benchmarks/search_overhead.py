"""What the nodes of a search cost beside LangGraph itself, and what its checkpoints weigh.

    python benchmarks/search_overhead.py --nodes 50 100 200

A search by steps without retrieval beside two others of the same nodes, edges, supersteps and requests. `by
hand` is the search as somebody writes it with LangGraph alone: functions that fill in the same prompts, ask
the same scripted chat model by `batch`, read the replies by a pattern, and choose by UCT; no budget, events,
refused settings, retries, or steps whose costs are told. `replay` is a graph of functions that only send the
messages that the search sent and write what it wrote; nobody has use for it, and nothing can cost less but
what `batch` does. Processor time in milliseconds per superstep at each size of the tree, without and with
checkpoints in SQLite, the median of `--repeats` runs that take turns; bytes of all checkpoints of a search
with retrieval in SQLite, plain, as deltas, and at exit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import re
import sqlite3
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatResult
from langgraph.graph import END, START, StateGraph
from pydantic import Field
from typing_extensions import TypedDict

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
from agentprm.prompts import PROMPTS
from agentprm.search import MCTS
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel

QUESTION = "Where was the engineer of the Clifton Bridge born?"
STEPS = 12  # most of a path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[50, 100, 200], help="steps of the tree")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    print(
        "| steps | supersteps | requests | checkpoints | replay | by hand | nodes | over replay | over hand |"
    )
    print("| --: | --: | --: | --- | --: | --: | --: | --: | --: |")
    for nodes, kept in itertools.product(args.nodes, (False, True)):
        model = chat_model()
        graphs = {make.__name__: make(nodes, model, kept) for make in (replaying, by_hand, searching)}
        times: dict[str, list[float]] = {name: [] for name in graphs}
        shapes: dict[str, tuple[int, int]] = {}
        for _ in range(args.repeats + 1):
            for name, graph in graphs.items():
                asked, began = len(model.asked), time.process_time()
                supersteps = sum(
                    1 for _ in graph.stream({"question": QUESTION}, thread(), stream_mode="updates")
                )
                times[name].append(1000 * (time.process_time() - began) / supersteps)
                shapes[name] = supersteps, len(model.asked) - asked
        ((supersteps, requests),) = set(shapes.values())  # all three work alike, or this fails
        replay, hand, own = (statistics.median(times[name][1:]) for name in graphs)  # the first one warms up
        shape = f"| {nodes} | {supersteps} | {requests} | {'SQLite' if kept else 'none'} |"
        more = f"{100 * (own / replay - 1):.0f} % | {100 * (own / hand - 1):.0f} %"
        print(f"{shape} {replay:.2f} | {hand:.2f} | {own:.2f} | {more} |", flush=True)
    print("\n| steps | checkpoints | KB |\n| --: | --- | --: |")
    for nodes in args.nodes:
        for name, deltas, durability in (
            ("plain", False, "async"),
            ("deltas", True, "async"),
            ("exit", False, "exit"),
        ):
            print(f"| {nodes} | {name} | {stored(nodes, deltas, durability) / 1000:.0f} |")
    return 0


class Recording(ScriptedChatModel):
    """A scripted model that remembers its messages as they came."""

    asked: list[list[BaseMessage]] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.asked.append(messages)
        return super()._generate(messages, *args, **kwargs)


def chat_model() -> Recording:
    """Queries that are all different, and findings out of a hash of the prompt."""
    numbers = itertools.count()

    def script(text: str) -> str:
        if "Search:" in text:
            return f"Search: Which {hashlib.sha256(str(next(numbers)).encode()).hexdigest()[:8]} is known?"
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"It was {digest[:8]} in {digest[8:12]}"

    return Recording(script=script)


def thread() -> Any:
    """A thread of its own for each run."""
    return {"configurable": {"thread_id": uuid.uuid4().hex}}


def saver(kept: bool) -> Any:
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver(sqlite3.connect(":memory:", check_same_thread=False)) if kept else None


def searching(nodes: int, model: Recording, kept: bool) -> Any:
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


def replaying(nodes: int, model: Recording, kept: bool) -> Any:
    """A graph that asks and writes what the search asked and wrote, without working for it."""
    search = searching(nodes, model, False)
    written: list[tuple[str, dict[str, Any], list[list[BaseMessage]]]] = []
    asked = len(model.asked)
    for update in search.stream({"question": QUESTION}, thread(), stream_mode="updates"):
        requests, asked = model.asked[asked:], len(model.asked)
        written += [(name, change, requests) for name, change in update.items()]
    names = list(dict.fromkeys(name for name, *_ in written))
    place = [0]

    def replay(name: str) -> Callable[[Any], Any]:
        def node(state: Any) -> Any:
            if name == names[0]:
                place[0] = 0
            _, change, requests = written[place[0]]
            if requests:
                model.batch([[type(m)(content=m.content) for m in messages] for messages in requests])
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
    return bare.compile(checkpointer=saver(kept))


def merged(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Steps by their ids."""
    steps = {step["id"]: step for step in left or []}
    for step in right:
        steps[step["id"]] = {**steps.get(step["id"], {}), **step}
    return list(steps.values())


def added(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    """Costs."""
    return {key: (left or {}).get(key, 0) + count for key, count in right.items()}


class Plain(TypedDict, total=False):
    """State of the graph that is written by hand."""

    question: str
    steps: Annotated[list[dict[str, Any]], merged]
    frontier: list[str]
    usage: Annotated[dict[str, int], added]
    stop: str
    answer: str


def by_hand(nodes: int, model: Recording, kept: bool) -> Any:
    """The same search as somebody writes it with LangGraph alone: functions, one model, no further wishes."""

    def ask(system: str, texts: list[str]) -> tuple[list[str], dict[str, int]]:
        first = [SystemMessage(system)] if system else []
        replies = [str(r.text) for r in model.batch([[*first, HumanMessage(text)] for text in texts])]
        tokens = sum(map(len, texts)) // 4 + sum(map(len, replies)) // 4
        return replies, {"calls": len(texts), "tokens": tokens}

    def path(steps: dict[str, dict[str, Any]], step_id: str) -> list[dict[str, Any]]:
        found = []
        while step_id:
            found.append(steps[step_id])
            step_id = steps[step_id]["parent"]
        return found[::-1]

    def known(steps: list[dict[str, Any]]) -> str:
        return "\n".join(f"{step['query']} {step['thought']}" for step in steps) or "(nothing yet)"

    def start(state: Any) -> Any:
        return {"steps": [], "frontier": [""], "stop": ""}

    def propose(state: Any) -> Any:
        steps = {step["id"]: step for step in state["steps"]}
        usage = {"calls": 0, "tokens": 0}
        fresh: list[dict[str, Any]] = []
        places = [(place, path(steps, place)) for place in state["frontier"]]
        texts, owners = [], []
        for place, before in places:
            if len(before) < STEPS - 1:
                template = PROMPTS.proceed if before else PROMPTS.propose
                text = template.user.format(question=state["question"], known=known(before))
                texts += [text] * 4
                owners += [place] * 4
        replies: list[str] = []
        for system, some in itertools.groupby(
            zip(owners, texts, strict=True),
            key=lambda pair: PROMPTS.proceed.system if pair[0] else PROMPTS.propose.system,
        ):
            said, cost = ask(system, [text for _, text in some])
            replies, usage = replies + said, added(usage, cost)
        for place, before in places:
            queries: dict[str, None] = {}
            for owner, reply in zip(owners, replies, strict=True):
                if owner == place and (found := re.match(r"\s*search:\s*(.+)", reply, re.IGNORECASE)):
                    queries.setdefault(found[1].strip())
            for number, query in enumerate(queries or {state["question"]: None}, 1):
                fresh.append(
                    {
                        "id": f"{place}.{number}" if place else str(number),
                        "parent": place,
                        "depth": len(before) + 1,
                        "query": query,
                        "thought": "",
                        "final_answer": None,
                        "score": None,
                        "status": "proposed",
                    }
                )
        return {"steps": fresh, "usage": usage}

    def complete(state: Any) -> Any:
        steps = {step["id"]: step for step in state["steps"]}
        fresh = [step for step in state["steps"] if step["status"] == "proposed"]
        texts = [
            PROMPTS.complete.user.format(
                passages="(none)", known=known(path(steps, step["parent"])), query=step["query"]
            )
            for step in fresh
        ]
        replies, usage = ask("", texts)
        done = []
        for step, reply in zip(fresh, replies, strict=True):
            final = reply.strip() if step["query"] == state["question"] else None
            done.append(
                {"id": step["id"], "thought": reply.strip(), "final_answer": final, "status": "completed"}
            )
        return {"steps": done, "usage": usage}

    def score(state: Any) -> Any:
        return {
            "steps": [
                {"id": step["id"], "score": 0.5, "status": "scored"}
                for step in state["steps"]
                if step["status"] == "completed"
            ]
        }

    def select(state: Any) -> Any:
        steps = {step["id"]: step for step in state["steps"]}
        children: dict[str, list[str]] = {}
        for step in steps.values():
            children.setdefault(step["parent"], []).append(step["id"])
        if len(steps) >= nodes:
            best = max(steps.values(), key=lambda step: (step["final_answer"] is not None, step["score"]))
            return {"frontier": [best["id"]], "stop": "nodes"}
        visits: Counter[str] = Counter()
        total: Counter[str] = Counter()
        grows: dict[str, bool] = {}
        for step in sorted(steps.values(), key=lambda step: -step["depth"]):
            here, above = step["id"], step["parent"]
            visits[here] += 1
            total[here] += step["score"]
            leaf = here not in children and step["final_answer"] is None and step["depth"] < STEPS
            grows[here] = grows.get(here, False) or leaf
            visits[above] += visits[here]
            total[above] += total[here]
            grows[above] = grows.get(above, False) or grows[here]
        means = {here: total[here] / visits[here] for here in visits}
        frontier: list[str] = []
        while len(frontier) < 4 and grows.get("", False):
            place = ""
            while place in children:
                log = math.log(visits[place])
                place = max(
                    (child for child in children[place] if grows[child]),
                    key=lambda child: means[child] + math.sqrt(2 * log / visits[child]),
                )
            frontier.append(place)
            grows[place] = False
            while True:
                visits[place] += 1
                if not place:
                    break
                place = steps[place]["parent"]
                grows[place] = any(grows[child] for child in children[place])
        return {"frontier": frontier, "stop": "" if frontier else "answered"}

    def answer(state: Any) -> Any:
        steps = {step["id"]: step for step in state["steps"]}
        found = path(steps, state["frontier"][0])
        if found[-1]["final_answer"] is not None:
            return {"answer": found[-1]["final_answer"]}
        text = PROMPTS.summarise.user.format(question=state["question"], known=known(found))
        replies, usage = ask("", [text])
        return {"answer": replies[0].strip(), "usage": usage}

    plain: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    way = (start, propose, complete, score, select, answer)
    for node in way:
        plain.add_node(node.__name__, node)
    for before, after in itertools.pairwise([START, *(node.__name__ for node in way[:-1])]):
        plain.add_edge(before, after)
    plain.add_conditional_edges(
        "select", lambda state: "answer" if state["stop"] else "propose", ["propose", "answer"]
    )
    plain.add_edge("answer", END)
    return plain.compile(checkpointer=saver(kept))


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
