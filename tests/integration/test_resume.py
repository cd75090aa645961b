"""A search killed with SIGKILL and resumed ends as the uninterrupted one, and repeats no recorded call."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

pytest.importorskip("langgraph.checkpoint.sqlite")
from langgraph.checkpoint.sqlite import SqliteSaver

ROOT = Path(__file__).parents[2]
WORKER = [sys.executable, "-m", "tests.integration.resume_worker"]


def start(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*WORKER, str(folder / "state.sqlite"), str(folder / "calls.log")], cwd=ROOT, env=environment
    )


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
    assert start(whole).wait(120) == 0
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
        while len(calls(killed)) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.03))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
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
    assert start(killed).wait(120) == 0
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
