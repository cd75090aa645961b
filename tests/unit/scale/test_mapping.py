"""Maps with a journal: killed and resumed, failed and tried again."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.budget import record
from agentprm.errors import AgentPRMError, ConfigurationError, IndexMismatchError, InputError
from agentprm.evaluation import QaQuestion, read_log, run_questions
from agentprm.lm import Prompt, SamplingParams
from agentprm.retrievers import FaissStore, build_index
from agentprm.scale import Journal, LocalExecutor, batch_embedder, item_key, map_items
from agentprm.testing import FakeEmbeddings, ScriptedLanguageModel


class Squares:
    """A worker that counts what it does and fails where told to."""

    def __init__(self, fails=()):
        self.fails, self.seen = set(fails), []

    def __call__(self):
        return self.work

    def work(self, item):
        self.seen.append(item)
        record(model_calls=1)
        if item in self.fails:
            raise RuntimeError(f"cannot {item}")
        return item * item


def values(journal):
    return [entry.value for entry in journal.entries()]


@pytest.mark.parametrize("threads", [1, 3])
def test_failures_are_recorded_and_lose_nothing_else(tmp_path, threads):
    with Journal(tmp_path / "j") as journal:
        squares = Squares({3, 5})
        executor = LocalExecutor(threads)
        report = map_items(squares, range(8), journal, executor=executor)
        assert (report.items, report.known, report.failed, report.usage["model_calls"]) == (8, 0, 2, 8)
        assert values(journal) == [0, 1, 4, None, 16, None, 36, 49]
        again = Squares()
        assert map_items(again, range(8), journal, executor=executor).failed == 2
        assert again.seen == []
        report = map_items(again, range(9), journal, executor=executor, retry_failed=True)
        assert sorted(again.seen) == [3, 5, 8]
        assert (report.items, report.known, report.failed, report.usage["model_calls"]) == (9, 6, 0, 11)
        assert values(journal) == [i * i for i in range(9)]


def test_an_interrupted_run_goes_on_with_the_rest(tmp_path):
    with Journal(tmp_path / "j") as journal:
        squares = Squares()
        with pytest.raises(KeyboardInterrupt):
            map_items(squares, itertools.chain(range(5), interrupt()), journal)
        assert map_items(squares, range(9), journal).usage["model_calls"] == 9
    assert squares.seen == list(range(9))


def interrupt():
    raise KeyboardInterrupt
    yield


def test_keys(tmp_path):
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(InputError, match="same key"):
            map_items(Squares(), [1, 2, 1], journal)
        with pytest.raises(InputError, match="Pass key="):
            map_items(Squares(), [object()], journal)
        map_items(Squares(), [4, 5], journal, key=str)
        assert [e.key for e in journal.entries()] == ["4", "5"]
    assert item_key({"q": "a"}) != item_key({"q": "b"})


DRIVER = """
import sys, time
from agentprm.budget import record
from agentprm.scale import Journal, LocalExecutor, map_items
path, done, seconds = sys.argv[1:]
def make():
    def work(item):
        time.sleep(float(seconds))
        with open(done, "a") as file:
            file.write(f"{item}\\n")
        record(model_calls=1, prompt_tokens=item)
        return {"item": item, "square": item * item}
    return work
with Journal(path) as journal:
    report = map_items(make, range(60), journal, executor=LocalExecutor(4))
    assert (report.items, report.failed) == (60, 0)
    assert report.usage["prompt_tokens"] == sum(range(60)), report
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_driver_resumes(tmp_path):
    path, done = tmp_path / "j", tmp_path / "done"
    command = [sys.executable, "-c", DRIVER, str(path), str(done)]
    for share in (10, 30):
        process = subprocess.Popen([*command, "0.02"])
        deadline = time.monotonic() + 60
        while not (done.exists() and len(done.read_text().split()) >= share):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Journal(path) as journal:
        recorded = [entry.value["item"] for entry in journal.entries()]
    assert 10 <= len(recorded) < 60
    before = done.read_text().split()
    subprocess.run([*command, "0"], check=True)
    assert not {int(item) for item in done.read_text().split()[len(before) :]} & set(recorded)
    assert len(done.read_text().split()) <= 60 + 2 * 5  # at most what was under way is done twice
    with Journal(path) as journal:
        assert values(journal) == [{"item": i, "square": i * i} for i in range(60)]


# The users of executors


def roller():
    """Samples completions of a question after a prefix of steps; a scripted model for the engine."""
    model = ScriptedLanguageModel(lambda text: [text + end for end in "abc"])

    def roll(item):
        prompt = Prompt((("user", item["question"]),), prefix=item["steps"])
        (completions,) = model.sample([prompt], 3, SamplingParams(seed=0))
        return [completion.text for completion in completions]

    return roll


def test_rollouts(tmp_path):
    items = [{"question": f"q{i}", "steps": f"s{j}"} for i in range(4) for j in range(3)]
    with Journal(tmp_path / "j") as journal:
        report = map_items(roller, items, journal, executor=LocalExecutor(2))
        assert values(journal) == [[f"q{i}\ns{j}{end}" for end in "abc"] for i in range(4) for j in range(3)]
    assert (report.failed, report.usage["model_calls"]) == (0, 12)


class Graph:
    """Answers with the question's number."""

    def __init__(self, fails=()):
        self.fails = fails

    def invoke(self, input):
        number = int(input["question"].split()[1])
        record(model_calls=1)
        if number in self.fails:
            raise self.fails[number]
        return {"answer": str(number)}


QUESTIONS = [QaQuestion(f"q{i}", f"question {i}") for i in range(12)]


def test_questions_on_an_executor(tmp_path):
    log = tmp_path / "log.jsonl"
    seen = []
    broken = Graph({3: InputError("too long"), 5: OSError("gone")})
    with pytest.raises(AgentPRMError, match=r"1 of 12 questions failed, the first: q5: OSError: gone"):
        run_questions(broken, QUESTIONS, run="r", log=log, executor=LocalExecutor(3))
    assert len(read_log(log, "r")) == 11
    records = run_questions(
        lambda: Graph(), QUESTIONS, run="r", log=log, executor=LocalExecutor(3),
        on_record=lambda record, known: seen.append((record["question_id"], known)),
    )  # fmt: skip
    assert [r["question_id"] for r in records] == [q.id for q in QUESTIONS]
    assert [r["prediction"] for r in records] == [str(i) if i != 3 else "" for i in range(12)]
    assert records[3]["error"] == "too long"
    assert all(r["usage"]["model_calls"] == 1 for r in records)
    assert [key for key, known in seen if not known] == ["q5"]
    assert len(seen) == 12
    assert len(read_log(log, "r")) == 12
    alone = run_questions(lambda: Graph(), QUESTIONS, run="r")  # a function makes the graph there, too
    assert [r["prediction"] for r in alone] == [str(i) for i in range(12)]


def documents(numbers):
    return [Document(id=f"d{i % 10}", page_content=f"text {i // 3}", metadata={"n": i}) for i in numbers]


def content(store):
    return [(d.id, d.page_content, d.metadata) for d in store]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_index_built_on_an_executor_is_the_same(tmp_path, batch_size):
    """With repeated and changed documents inside the window of what is under way."""
    numbers = [*range(12), *range(5), 11, 30, 30, *range(9)]
    embedding = FakeEmbeddings(32)
    spread = batch_embedder(lambda: FakeEmbeddings(32), LocalExecutor(4))
    kept = build_index(tmp_path / "a", documents(numbers), embedding, batch_size=batch_size)
    steps = []
    store = build_index(
        tmp_path / "b", documents(numbers), embedding, batch_size=batch_size, embed_batches=spread,
        progress=steps.append,
    )  # fmt: skip
    assert content(store) == content(kept)
    assert store.search_batch(["text 2"], k=3) == kept.search_batch(["text 2"], k=3)
    assert steps[-1].seen == len(numbers)
    again = build_index(tmp_path / "b", documents(numbers), embedding, embed_batches=spread)
    assert content(again) == content(kept)


def test_a_build_on_an_executor_goes_on_after_a_failure(tmp_path):
    class Weak(FakeEmbeddings):
        def embed_documents(self, texts):
            if "text 20" in texts:
                raise OSError("gone")
            return super().embed_documents(texts)

    many = [Document(id=str(i), page_content=f"text {i}") for i in range(30)]
    embedding = FakeEmbeddings(32)
    with pytest.raises(AgentPRMError, match="OSError: gone"):
        build_index(
            tmp_path,
            many,
            embedding,
            batch_size=2,
            embed_batches=batch_embedder(lambda: Weak(32), LocalExecutor(3)),
        )
    steps = []
    store = build_index(
        tmp_path, many, embedding, batch_size=2, progress=steps.append,
        embed_batches=batch_embedder(lambda: FakeEmbeddings(32), LocalExecutor(3)),
    )  # fmt: skip
    assert (steps[-1].embedded, steps[-1].resumed) == (10, 20)
    reference = FaissStore(embedding)
    reference.add_documents(many)
    assert content(store) == content(reference)


def test_wrong_batches_are_refused(tmp_path):
    many = [Document(id=str(i), page_content=f"text {i}") for i in range(6)]
    embedding = FakeEmbeddings(32)

    def few(batches):
        yield from [embedding.embed_documents(texts) for texts in batches][:-1]

    def more(batches):
        for texts in batches:
            yield embedding.embed_documents(texts)
        yield embedding.embed_documents(["extra"])

    for embed, kind, match in (
        (few, ConfigurationError, "fewer arrays"),
        (more, ConfigurationError, "more arrays"),
        (lambda batches: (np.ones((1, 32)) for _ in batches), IndexMismatchError, "other vectors"),
        (batch_embedder(lambda: FakeEmbeddings(16), LocalExecutor()), IndexMismatchError, "other vectors"),
    ):
        path = tmp_path / match.replace(" ", "") / str(len(os.listdir(tmp_path)))
        with pytest.raises(kind, match=match):
            build_index(path, many, embedding, batch_size=2, embed_batches=embed)
