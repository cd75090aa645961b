"""Searches that are killed and resumed, and how much their checkpoints hold."""

import asyncio
import hashlib
import random
import sqlite3

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained
from langgraph.runtime import RunControl

from agentprm.graphs import create_reasoning_graph
from agentprm.search import ABMCTS, DVTS, MCTS, Beam
from agentprm.testing import FakeReward, ScriptedLanguageModel, fake_store

QUESTION = "Where was the engineer of the Clifton Bridge born?"
STRATEGIES = {
    "beam": Beam(width=2),
    "dvts": DVTS(subtrees=2, candidates=2),
    "mcts": MCTS(nodes=14, batch=2),
    "ab-mcts": ABMCTS(nodes=10, batch=2),
}


class Killed(BaseException):
    """What ends a process; no handler of errors catches it."""


class Mortal(ScriptedLanguageModel):
    """Invents queries and findings from a hash of its prompt, and dies at its `dies`-th call."""

    def __init__(self, dies=None):
        super().__init__(self.reply, likelihood=lambda prompt, continuation: -1.0)
        self.dies, self.calls = dies, []

    @staticmethod
    def reply(text):
        digest = hashlib.sha256(text.encode()).hexdigest()
        if text.endswith("Search:"):
            return [f" Which {digest[i * 8 : i * 8 + 8]} is known?" for i in range(4)]
        return f"It was {digest[:8]} in {digest[8:12]}"

    def sample(self, prompts, n=1, params=None):
        if self.dies is not None and len(self.calls) == self.dies:
            raise Killed
        rows = super().sample(prompts, n, params)
        self.calls.append((repr(prompts), n, params.seed if params else None))
        return rows


def reward():
    return FakeReward(lambda q, p: int(hashlib.sha256(p[-1]["thought"].encode()).hexdigest(), 16) % 97 / 96)


def compiled(strategy, model, saver, **settings):
    settings = {"max_steps": 3, "threshold": None, **settings}
    builder = create_reasoning_graph(
        model, fake_store(["Nothing is known of it."]), reward(), strategy=strategy, **settings
    )
    return builder.compile(checkpointer=saver)


def tree(values):
    return [{k: v for k, v in step.items() if k != "usage"} for step in values["prm_steps"]]


@pytest.mark.parametrize("deltas", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_search_killed_anywhere_and_resumed_gives_the_same_tree_and_repeats_no_call(name, deltas):
    config = {"configurable": {"thread_id": "1"}}
    alive = Mortal()
    whole = compiled(STRATEGIES[name], alive, InMemorySaver()).invoke({"question": QUESTION}, config)
    total = len(alive.calls)
    assert total >= 5
    chance = random.Random(name)
    for _ in range(13):  # 104 points in all
        saver = InMemorySaver()
        model = Mortal(dies=chance.randrange(total))
        graph = compiled(STRATEGIES[name], model, saver, deltas=deltas)
        with pytest.raises(Killed):
            graph.invoke({"question": QUESTION}, config, durability="sync")
        model.dies = None
        # As another process would: a new graph over the same checkpoints.
        result = compiled(STRATEGIES[name], model, saver, deltas=deltas).invoke(None, config)
        assert tree(result) == tree(whole)
        assert result["answer"] == whole["answer"]
        if name == "ab-mcts":  # whose steps may need two batches, of which one had ended
            assert set(model.calls) == set(alive.calls)
        else:  # only the call that was cut off is made again
            assert sorted(model.calls) == sorted(alive.calls)


def stored(graph, config, connection, durability="async"):
    """Runs a search; its steps, and the bytes of all its checkpoints."""
    result = graph.invoke({"question": QUESTION}, config, durability=durability)
    connection.commit()
    ((held,),) = connection.execute("select sum(length(checkpoint) + length(metadata)) from checkpoints")
    ((written,),) = connection.execute("select coalesce(sum(length(value)), 0) from writes")
    return len(result["prm_steps"]), held + written


@pytest.mark.parametrize(
    ("settings", "durability", "most"),
    [({"deltas": True}, "async", 400_000), ({}, "exit", 100_000)],
)
def test_the_checkpoints_of_200_steps_are_small(settings, durability, most):
    sqlite = pytest.importorskip("langgraph.checkpoint.sqlite")
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    saver = sqlite.SqliteSaver(connection)
    strategy = MCTS(nodes=200, batch=4)
    graph = compiled(strategy, Mortal(), saver, max_steps=12, candidates=4, **settings)
    steps, size = stored(graph, {"configurable": {"thread_id": "1"}}, connection, durability)
    assert steps >= 200
    assert size * 200 / steps <= most


def test_updates_hold_of_a_known_step_what_changed():
    graph = compiled(Beam(width=2), Mortal(), None)
    changed = []
    for update in graph.stream({"question": QUESTION}, stream_mode="updates"):
        changed += update.get("select", {}).get("prm_steps", [])
    assert changed
    assert all(set(step) <= {"id", "status", "usage"} for step in changed)


def test_a_search_that_is_drained_goes_on_later():
    config = {"configurable": {"thread_id": "1"}}
    whole = compiled(Beam(width=2), Mortal(), None).invoke({"question": QUESTION})
    saver = InMemorySaver()
    control = RunControl()
    graph = compiled(Beam(width=2), Mortal(), saver)
    updates = graph.stream({"question": QUESTION}, config, stream_mode="updates", control=control)
    for _ in range(4):
        next(updates)
    control.request_drain()
    with pytest.raises(GraphDrained):
        list(updates)
    assert graph.get_state(config).next
    assert tree(graph.invoke(None, config)) == tree(whole)


def test_a_search_that_is_cancelled_goes_on_later():
    config = {"configurable": {"thread_id": "1"}}
    whole = compiled(Beam(width=2), Mortal(), None).invoke({"question": QUESTION})
    saver = InMemorySaver()
    graph = compiled(Beam(width=2), Mortal(), saver)

    async def cancel():
        async def run():
            async for _ in graph.astream({"question": QUESTION}, config, stream_mode="updates"):
                begun.set()

        begun = asyncio.Event()
        task = asyncio.create_task(run())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert tree(graph.invoke(None, config)) == tree(whole)
