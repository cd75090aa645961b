"""The journal: each item counts once, in the order of the input, whatever happens in between."""

import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.budget import empty_usage
from agentprm.errors import InputError
from agentprm.scale import Failure, Journal, Outcome


def outcome(value=None, calls=1, failure=None):
    return Outcome(0, value, failure, {**empty_usage(), "model_calls": calls})


def rows(journal):
    return [(e.key, e.value, e.failure and e.failure.kind, e.usage["model_calls"]) for e in journal.entries()]


def test_the_first_result_of_an_item_counts_and_its_cost_once(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.plan(0, "a")
        assert journal.status("a") == "missing"
        assert journal.record("a", outcome({"x": [1, None]}, 3))
        assert not journal.record("a", outcome("other", 5))
        assert not journal.record("a", outcome(failure=Failure("Late", "")))
        assert rows(journal) == [("a", {"x": [1, None]}, None, 3)]
        assert journal.status("a") == "done"


def test_a_later_attempt_replaces_a_failure_and_adds_its_cost(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.plan(0, "a")
        journal.record("a", outcome(calls=2, failure=Failure("ValueError", "no", "trace")))
        assert journal.status("a") == "failed"
        assert next(journal.entries()).failure == Failure("ValueError", "no", "trace")
        journal.record("a", outcome("yes", 3))
        assert rows(journal) == [("a", "yes", None, 5)]
        assert next(journal.entries()).attempts == 2


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_a_result_that_is_no_json_is_a_failure(tmp_path, value):
    with Journal(tmp_path / "j") as journal:
        journal.plan(0, "a")
        journal.record("a", outcome(value))
        assert "not JSON" in str(next(journal.entries()).failure)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.permutations(range(6)).flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])), max_size=4)
)
def test_entries_follow_the_latest_input(tmp_path_factory, inputs):
    """Against a dictionary: reordered, shortened and lengthened inputs of one run."""
    known = {}
    with Journal(tmp_path_factory.mktemp("j") / "j") as journal:
        for number, keys in enumerate(inputs):
            for position, key in enumerate(keys):
                journal.plan(position, str(key))
                journal.record(str(key), outcome(number))
                known.setdefault(str(key), number)
            journal.end_plan(len(keys))
            assert [(e.key, e.value) for e in journal.entries()] == [(str(k), known[str(k)]) for k in keys]


def test_runs_in_one_file_do_not_mix(tmp_path):
    with Journal(tmp_path / "j", "a") as first, Journal(tmp_path / "j", "b") as second:
        for journal, value in ((first, 1), (second, 2)):
            journal.plan(0, "x")
            journal.record("x", outcome(value))
        assert [rows(first)[0][1], rows(second)[0][1]] == [1, 2]


def test_repeated_keys_are_refused(tmp_path):
    with Journal(tmp_path / "j") as journal:
        journal.plan(0, "a")
        with pytest.raises(InputError, match="Items 0 and 1 have the same key"):
            journal.plan(1, "a")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no database, but long enough to look for a header in it" * 20)
    with sqlite3.connect(tmp_path / "foreign") as connection:
        connection.execute("CREATE TABLE t (x)")
    for name in ("text", "foreign"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(InputError, match="not a journal"):
            Journal(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(InputError, match="cannot be opened"):
        Journal(tmp_path / "missing" / "j")
    Journal(tmp_path / "j").close()
    with sqlite3.connect(tmp_path / "j") as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="format 9"):
        Journal(tmp_path / "j")


WRITER = """
import sys
from agentprm.budget import empty_usage
from agentprm.scale import Journal, Outcome
with Journal(sys.argv[1]) as journal:
    for i in range(200):
        journal.plan(i, str(i))
        journal.record(str(i), Outcome(i, sys.argv[2], None, {**empty_usage(), "model_calls": 1}))
"""


def test_two_writers_record_each_item_once(tmp_path):
    path = str(tmp_path / "j")
    Journal(path).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with Journal(path) as journal:
        entries = list(journal.entries())
    assert [e.key for e in entries] == [str(i) for i in range(200)]
    assert all(e.usage["model_calls"] == 1 and e.attempts == 1 for e in entries)
