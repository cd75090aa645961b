"""One search with a SQLite checkpointer, in a process of its own that may be killed at any moment.

Every finished model call is a line of the log, with the superstep that it belonged to.
"""

import os
import sqlite3
import time

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.config import get_config

from agentprm.graphs import create_reasoning_graph
from agentprm.search import TD
from agentprm.testing import ScriptedLanguageModel
from tests.unit.world import QUESTION, good_reward, likelihood, reply, store


class Logged(ScriptedLanguageModel):
    """Writes each call down before it answers, slowly enough to be killed in between."""

    log = ""

    def sample(self, prompts, n=1, params=None):
        step = get_config()["metadata"]["langgraph_step"]
        rows = super().sample(prompts, n, params)
        time.sleep(0.01)
        with open(self.log, "a", encoding="utf-8") as file:
            for prompt in prompts:
                file.write(f"{step}\t{hash_of(prompt)}\n")
            file.flush()
            os.fsync(file.fileno())
        return rows


def hash_of(prompt):
    import hashlib

    return hashlib.sha256(repr(prompt).encode()).hexdigest()[:16]


def main(database, log):
    Logged.log = log
    model = Logged(reply, likelihood=likelihood)
    saver = SqliteSaver(sqlite3.connect(database, check_same_thread=False))
    graph = create_reasoning_graph(model, store(), good_reward(), value=TD()).compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    state = graph.get_state(config)
    if state.values.get("prm_stop_reason"):
        return
    # Not `state.next`: it is empty, too, where a node's writes are saved and the next checkpoint is not.
    graph.invoke({"question": QUESTION} if state.metadata is None else None, config, durability="sync")
