"""Several servers behind one address, by the configuration of nginx that `docs/scale.md` gives."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentprm.lm import Prompt, SamplingParams
from agentprm.scale import Journal, LocalExecutor, map_items

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
DOCS = Path(__file__).parents[2] / "docs" / "scale.md"

pytestmark = [
    pytest.mark.enable_socket,
    pytest.mark.skipif(NGINX is None, reason="needs nginx"),
]


class Replica:
    """A chat server that answers with its name and remembers whose requests it got."""

    def __init__(self, name):
        self.sessions = []
        replica = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.reply(200, {"data": [{"id": "model", "object": "model"}]})

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/v1/chat/completions":
                    self.reply(404, {"error": {"message": "no such path"}})
                    return
                replica.sessions.append(self.headers["X-Session-ID"])
                message = {"role": "assistant", "content": name}
                usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self.reply(200, {"id": "1", "model": "model", "choices": [choice], "usage": usage})

            def reply(self, status, content):
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


@pytest.fixture
def replicas():
    made = [Replica("a"), Replica("b")]
    yield made
    for replica in made:
        replica.close()


@pytest.fixture
def router(replicas, tmp_path):
    port = free_port()
    (text,) = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for number, replica in enumerate(replicas, 1):
        text = text.replace(f"replica-{number}:8000", f"127.0.0.1:{replica.port}")
    text = text.replace("listen 8000", f"listen 127.0.0.1:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log stderr crit;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}{text}}}\n"
    )
    process = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(config)])
    deadline = time.monotonic() + 10
    while True:
        assert process.poll() is None, "nginx refused the documented configuration"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(10)


def asker(address, headers):
    def make():
        from agentprm.lm import ServerLM

        model = ServerLM(address, headers=headers)

        def ask(item):
            prompt = Prompt((("user", f"question {item}"),))
            ((completion,),) = model.sample([prompt], 1, SamplingParams(max_tokens=4))
            return completion.text

        return ask

    return make


def test_a_session_stays_and_moves_when_its_replica_dies(replicas, router, tmp_path):
    homes = {}
    for _ in range(20):
        session = uuid.uuid4().hex
        outcomes = list(LocalExecutor().stream(asker(router, {"X-Session-ID": session}), range(3)))
        homes[session] = {outcome.value for outcome in outcomes}
    assert all(len(home) == 1 for home in homes.values()), "a session was spread"
    assert set.union(*homes.values()) == {"a", "b"}, "one replica got everything"
    orphan = next(session for session, home in homes.items() if home == {"b"})
    replicas[1].close()
    with Journal(tmp_path / "j") as journal:
        report = map_items(asker(router, {"X-Session-ID": orphan}), range(5), journal)
        assert [entry.value for entry in journal.entries()] == ["a"] * 5
    assert (report.failed, report.usage["model_calls"], report.usage["completion_tokens"]) == (0, 5, 5)


def test_requests_without_a_session_spread(replicas, router):
    outcomes = list(LocalExecutor(4).stream(asker(router, None), range(24)))
    assert {outcome.value for outcome in outcomes} == {"a", "b"}
