"""A Ray cluster of several nodes on this machine: nodes, workers and drivers die, and nothing is lost."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from langchain_core.documents import Document

from agentprm.budget import metered, record
from agentprm.errors import AgentPRMError, ConfigurationError
from agentprm.evaluation import QaQuestion, run_questions
from agentprm.retrievers import build_index
from agentprm.scale import Journal, RayExecutor, batch_embedder, map_items
from agentprm.testing import FakeEmbeddings
from tests.integration.scale_driver import Squares

ray = pytest.importorskip("ray")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray's test clusters need POSIX"),
]

ROOT = Path(__file__).parents[2]
NODE = {
    "num_cpus": 1,
    "object_store_memory": 80_000_000,
    "include_dashboard": False,
    "include_log_monitor": False,
}


@pytest.fixture(scope="module")
def cluster():
    """Three nodes of one core each, without which nothing is left behind: no process, file or handler."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(ROOT))
        handler = signal.getsignal(signal.SIGTERM)
        before = set(psutil.Process().children(recursive=True))
        folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # a short name: sockets lie in it
        # The cluster writes its address into Ray's own folder, which only a machine that ran Ray has.
        patch.setenv("RAY_TMPDIR", folder)
        Path(folder, "ray").mkdir()
        made = Cluster(initialize_head=True, head_node_args=NODE)
        for _ in range(2):
            made.add_node(**NODE, wait=False)
        made.wait_for_nodes()
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()
        signal.signal(signal.SIGTERM, handler)
        _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=10)
        shutil.rmtree(folder, ignore_errors=True)
        assert not alive


def placed(seconds):
    """A factory of workers that say where they ran."""

    def make():
        here = ray.get_runtime_context().get_node_id()

        def work(item):
            time.sleep(seconds)
            record(model_calls=1, prompt_tokens=item)
            return {"item": item, "node": here}

        return work

    return make


def test_a_node_dies_and_another_joins(cluster, tmp_path):
    victim = next(node for node in cluster.list_all_nodes() if node is not cluster.head_node)
    newcomer = ""
    outcomes = []

    def items():
        """Goes on until a worker on the node that joined has answered."""
        deadline = time.monotonic() + 120
        for number in itertools.count():
            if time.monotonic() > deadline or newcomer in {o.value["node"] for o in outcomes}:
                return
            yield number

    def watch(key, outcome):
        nonlocal newcomer
        outcomes.append(outcome)
        if not newcomer and len({o.value["node"] for o in outcomes}) == 3:
            cluster.remove_node(victim, allow_graceful=False)
            newcomer = cluster.add_node(**NODE, wait=False).node_id

    with metered() as meter, Journal(tmp_path / "j") as journal:
        executor = RayExecutor(workers=3)
        report = map_items(placed(0.1), items(), journal, executor=executor, key=str, on_outcome=watch)
        entries = list(journal.entries())
    count = report.items
    assert [entry.value["item"] for entry in entries] == list(range(count)), "lost, repeated or out of order"
    assert [entry.key for entry in entries] == [str(i) for i in range(count)]
    assert report.failed == 0
    assert sorted(o.index for o in outcomes) == list(range(count))
    assert report.usage["model_calls"] == meter.usage["model_calls"] == count
    assert report.usage["prompt_tokens"] == meter.usage["prompt_tokens"] == sum(range(count))
    lost = [o for o in outcomes if o.lost]
    assert lost, "the node died without work in hand"
    assert all(o.value["node"] != victim.node_id for o in lost)
    assert newcomer in {entry.value["node"] for entry in entries}


def test_a_killed_driver_resumes(cluster, tmp_path):
    path, done, count = tmp_path / "j", tmp_path / "done", 40
    driver = [sys.executable, "-m", "tests.integration.scale_driver", cluster.address]
    process = subprocess.Popen([*driver, str(path), str(done), str(count)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (done.exists() and len(done.read_text().split()) >= 8):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with Journal(path) as journal:
        recorded = [entry.value["item"] for entry in journal.entries()]
        assert 4 <= len(recorded) < count
        report = map_items(Squares(str(done), 0), range(count), journal, executor=RayExecutor(workers=2))
        entries = list(journal.entries())
    assert (report.known, report.failed) == (len(recorded), 0)
    assert report.usage["prompt_tokens"] == sum(range(count))
    assert [entry.value for entry in entries] == [{"item": i, "square": i * i} for i in range(count)]
    assert all(entry.attempts == 1 for entry in entries)
    executed = [int(item) for item in done.read_text().split()]
    assert set(executed) == set(range(count))
    assert all(executed.count(item) == 1 for item in recorded), "recorded items were done again"


def test_what_kills_workers_is_given_up_and_the_rest_goes_on(cluster):
    def make():
        def work(item):
            if item == "deadly":
                os._exit(1)
            if item == "wrong":
                raise ValueError("not this one")
            if item == "unsendable":
                return threading.Lock()
            return item

        return work

    items = ["a", "deadly", "wrong", "unsendable", threading.Lock(), "b"]
    outcomes = list(RayExecutor(workers=2, max_losses=2).stream(make, items, ordered=True))
    assert [o.index for o in outcomes] == list(range(6))
    assert [o.value for o in outcomes] == ["a", None, None, None, None, "b"]
    kinds = [o.failure.kind for o in outcomes if o.failure]
    assert kinds[:2] == ["WorkerDied", "ValueError"]
    assert "TypeError" in kinds[3]
    assert (outcomes[1].lost, outcomes[2].failure.message) == (2, "not this one")
    assert "in work" in outcomes[2].failure.trace


def test_order_and_back_pressure(cluster):
    taken = 0

    def items():
        nonlocal taken
        for taken in range(1, 151):
            yield taken - 1

    def make():
        def work(item):
            time.sleep(0.5 if item == 0 else 0)
            return item

        return work

    values = []
    for outcome in RayExecutor(workers=2, threads=2).stream(make, items(), ordered=True):
        values.append(outcome.value)
        assert taken - len(values) <= 8 * 2 * 2
    assert values == list(range(150))


def test_questions_and_embeddings(cluster, tmp_path):
    questions = [QaQuestion(f"q{i}", f"question {i}") for i in range(10)]
    log = tmp_path / "log.jsonl"

    def make_graph():
        class Graph:
            def invoke(self, input):
                record(model_calls=2)
                return {"answer": input["question"].upper()}

        return Graph()

    executor = RayExecutor(workers=2)
    run_questions(make_graph(), questions[:3], run="r", log=log)
    records = run_questions(make_graph, questions, run="r", log=log, executor=executor)
    assert [r["prediction"] for r in records] == [f"QUESTION {i}" for i in range(10)]
    assert sum(r["usage"]["model_calls"] for r in records) == 20
    many = [Document(id=str(i), page_content=f"text {i} {i % 7}") for i in range(64)]
    embedding = FakeEmbeddings(32)
    spread = batch_embedder(lambda: FakeEmbeddings(32), RayExecutor(workers=1))
    store = build_index(tmp_path / "b", many, embedding, batch_size=8, embed_batches=spread)
    kept = build_index(tmp_path / "a", many, embedding, batch_size=8)
    assert list(store) == list(kept)
    assert store.search_batch(["text 5"], k=9) == kept.search_batch(["text 5"], k=9)


def test_workers_that_cannot_start(cluster):
    def broken():
        raise FileNotFoundError("no model here")

    with pytest.raises(ConfigurationError, match="FileNotFoundError: no model here"):
        list(RayExecutor(workers=1).stream(broken, [1]))
    lock = threading.Lock()
    with pytest.raises(ConfigurationError, match="cannot be sent"):
        list(RayExecutor(workers=1).stream(lambda: lock, [1]))
    with pytest.raises(AgentPRMError, match=r"No worker got ready within 0.5 s. The cluster has .*CPU"):
        list(RayExecutor(workers=1, num_gpus=1, start_timeout_s=0.5).stream(placed(0), [1]))
    assert list(RayExecutor().stream(placed(0), [])) == []
