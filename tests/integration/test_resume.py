"""A search killed with SIGKILL and resumed ends as the uninterrupted one, and repeats no recorded call."""

import multiprocessing
import random
import sqlite3
import time
from collections import Counter

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

pytest.importorskip("langgraph.checkpoint.sqlite")
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.integration import resume_worker

# Every run is a process of its own, forked from one that has imported what they need.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", resume_worker.__name__])


def start(folder):
    paths = str(folder / "state.sqlite"), str(folder / "calls.log")
    process = PROCESSES.Process(target=resume_worker.main, args=paths)
    process.start()
    return process


def run(folder):
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0


def checkpointed_step(folder):
    """The last superstep that the database holds; -2 before there is any."""
    if not (folder / "state.sqlite").exists():
        return -2
    saver = SqliteSaver(
        sqlite3.connect(folder / "state.sqlite", check_same_thread=False),
        serde=JsonPlusSerializer(allowed_msgpack_modules=None),
    )
    found = saver.get_tuple({"configurable": {"thread_id": "1"}})
    return found.metadata["step"] if found else -2


def outcome(folder):
    saver = SqliteSaver(sqlite3.connect(folder / "state.sqlite", check_same_thread=False))
    values = saver.get_tuple({"configurable": {"thread_id": "1"}}).checkpoint["channel_values"]
    steps = [
        {k: v for k, v in step.items() if k != "usage"}
        | {"calls": step["usage"]["model_calls"], "tokens": step["usage"]["prompt_tokens"]}
        for step in values["prm_steps"]
    ]
    usage = {k: v for k, v in values["prm_usage"].items() if k != "seconds"}
    return values["answer"], values["prm_stop_reason"], steps, usage


def calls(folder):
    if not (folder / "calls.log").exists():
        return []
    lines = (folder / "calls.log").read_text("utf-8").splitlines()
    return [(int(step), prompt) for step, prompt in (line.split("\t") for line in lines)]


def test_ten_kills_change_nothing(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    run(whole)
    reference, reference_calls = outcome(whole), Counter(calls(whole))
    assert reference[0] == "Portsmouth"
    total = sum(reference_calls.values())
    generator = random.Random(7)
    killed = tmp_path / "killed"
    killed.mkdir()
    kills = runs = 0
    recorded: list[tuple[int, int]] = []  # (lines of the log, last checkpointed step) at each kill
    while kills < 10 and runs < 60:
        runs += 1
        process = start(killed)
        # Wait until it has really begun to work, then for a random while.
        before, deadline = len(calls(killed)), time.monotonic() + 60
        while len(calls(killed)) == before and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.03))
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            recorded.append((len(calls(killed)), checkpointed_step(killed)))
        elif checkpointed_step(killed) >= 0 and outcome_is_final(killed):
            # Done before ten kills: begin a new thread of the same kind and go on killing.
            check(killed, reference, reference_calls, recorded)
            killed = tmp_path / f"killed{runs}"
            killed.mkdir()
            recorded = []
    assert kills == 10
    assert total > 0
    run(killed)
    check(killed, reference, reference_calls, recorded)


def outcome_is_final(folder):
    try:
        return bool(outcome(folder)[1])
    except KeyError:
        return False


def check(folder, reference, reference_calls, recorded):
    assert outcome(folder) == reference
    log = calls(folder)
    assert set(log) == set(reference_calls)
    for lines, step in recorded:
        repeated = [call for call in log[lines:] if call[0] <= step]
        assert not repeated, f"calls of step {repeated} were made again after checkpoint {step}"
