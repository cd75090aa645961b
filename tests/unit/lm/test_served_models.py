"""`ServerLM` on servers with the habits of OpenAI's reasoning models, Ollama and llama.cpp."""

import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agentprm.budget import metered
from agentprm.errors import ConfigurationError, ContextLengthError, ModelServerError, TransientModelError
from agentprm.lm import Prompt, SamplingParams, ServerLM, as_language_model
from agentprm.lm.base import listening
from agentprm.lm.json_http import http_address
from agentprm.lm.reports import error_within, refused_settings, token_count, too_long
from agentprm.lm.retries import Retries
from agentprm.rewards import HttpClassifier
from agentprm.rewards.base import RewardStep
from agentprm.testing import LlamaCppServer, OllamaServer, OpenAIReasoningServer
from tests.unit.lm.toy_engine import Loopback

pytestmark = pytest.mark.enable_socket

ASK = Prompt((("system", "Be brief."), ("user", "Where?")))
WARM = SamplingParams(max_tokens=20, temperature=0.7, top_p=0.9, stop=("\n", "END"), seed=1)
SCRIPT = {"Where?": "Paris"}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    wait = Retries._wait
    monkeypatch.setattr(Retries, "_wait", lambda *arguments: min(wait(*arguments), 0.001))


def texts(rows):
    return [[c.text for c in row] for row in rows]


# ------------------------------------------------------------------------ settings


async def test_a_reasoning_model_gets_what_it_takes_and_is_asked_again_only_once():
    with OpenAIReasoningServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        assert texts(lm.sample([ASK], 3, WARM)) == [["Paris"] * 3]
        first = len(server.bodies())
        server.requests.clear()
        assert texts(await lm.asample([ASK, ASK], 2, WARM)) == [["Paris"] * 2] * 2
        assert (first > 2, len(server.bodies())) == (True, 2)
        for body in server.bodies():
            assert not {"stop", "temperature", "top_p", "seed", "max_tokens"} & set(body)
            assert body["max_completion_tokens"] > 20 + 300  # room for the thought


def test_callers_at_once_learn_together():
    with OpenAIReasoningServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(texts(lm.sample([ASK], 2, WARM)))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[["Paris"] * 2]] * 8


def test_greedy_samples_of_a_model_without_a_temperature_are_drawn():
    with OpenAIReasoningServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        greedy = SamplingParams(max_tokens=20, temperature=0)
        assert texts(lm.sample([ASK], 2, greedy)) == [["Paris"] * 2]


def test_what_a_thought_cost_is_counted():
    with OpenAIReasoningServer(SCRIPT, thinking=300) as server:
        lm = ServerLM(server.url)
        with metered() as meter:
            lm.sample([ASK], 1, SamplingParams(max_tokens=20))
        assert meter.usage["completion_tokens"] == 20 + 1 + 302  # cut off in the thought, then whole
        assert meter.usage["model_calls"] == 1  # as planned
        tight = ServerLM(server.url, thinking_tokens=10)
        assert tight.sample([ASK], 1, SamplingParams(max_tokens=20))[0][0].text == ""


def test_a_refusal_of_something_else_is_an_error():
    with OpenAIReasoningServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        server.faults += [(400, {"error": {"message": "Invalid image."}})]
        with pytest.raises(ModelServerError, match="Invalid image"):
            lm.sample([ASK], 1, WARM)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("Unsupported parameter: 'stop' is not supported with this model.", {"stop"}),
        ("Unsupported value: 'temperature' does not support 0 with this model.", {"temperature"}),
        ("`temperature` and `top_p` cannot both be specified for this model.", {"temperature", "top_p"}),
        ("stop_sequences: each stop sequence must contain non-whitespace", {"stop"}),
        ("seed: Extra inputs are not permitted", {"seed"}),
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", {"max_tokens"}),
        ("Only one completion choice is allowed", {"n"}),
        ("'n' must be 1", {"n"}),
        ("stop: '\\n' is invalid, it can't be blank", {"stop"}),
        ("'response_format' of type 'json_schema' is not supported with this model", {"schema"}),
        ("Forbidden parameter: stop", {"stop"}),
        ("seed is disallowed for reasoning models", {"seed"}),
        ('{"message": "Der Wert geht nicht.", "param": "stop"}', {"stop"}),
        ('{"loc": ["body", "temperature"], "msg": "geht nicht"}', {"temperature"}),
        ('{"message": "Your stop is near.", "param": null}', set()),
        ("This model's maximum context length is 8 tokens; you requested 9 (max_tokens 5), invalid", set()),
        ("The model is invalid", set()),
        ("temperature was 0.7", set()),
    ],
)
def test_refusals(said, names):
    every = ("temperature", "top_p", "seed", "stop", "max_tokens", "n", "schema")
    assert refused_settings(said, every) == names
    assert refused_settings(said, ()) == set()


# ------------------------------------------------------------------------ samples


@pytest.mark.parametrize("kind", [OllamaServer, LlamaCppServer])
async def test_missing_samples_are_asked_for(kind):
    with kind(SCRIPT) as server:
        lm = ServerLM(server.url)
        assert lm.sample_calls(2, 3) == 6
        with metered() as meter:
            assert texts(lm.sample([ASK], 3, WARM)) == [["Paris"] * 3]
        assert meter.usage["model_calls"] == 3
        server.requests.clear()
        assert texts(await lm.asample([ASK], 3, WARM)) == [["Paris"] * 3]
        bodies = server.bodies()
        assert len(bodies) == 3
        assert all("n" not in body for body in bodies)
        assert len({body["seed"] for body in bodies}) == 3


@pytest.mark.parametrize("apart", [False, True])
async def test_a_stop_string_ends_no_thought(apart):
    with OllamaServer(SCRIPT, thought="Hm.\nIs it? END Search: no", apart=apart) as server:
        lm = ServerLM(server.url)
        for rows in (lm.sample([ASK], 1, WARM), await lm.asample([ASK], 1, WARM)):
            assert rows[0][0].text.endswith("Paris")


def test_leading_blank_lines_are_no_stop():
    with OllamaServer({"Where?": "\n\nParis\nand more"}) as server:
        assert ServerLM(server.url).sample([ASK], 1, WARM)[0][0].text == "\n\nParis"


def test_content_in_parts():
    parts = [{"type": "thinking", "text": "no"}, {"type": "text", "text": "Par"}, {"text": "is"}]
    with OllamaServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        server.faults += [(200, {"choices": [{"message": {"content": parts}}]})]
        assert lm.sample([ASK], 1, WARM)[0][0].text == "Paris"


def test_a_thought_that_the_template_opened():
    replies = iter(["so\n</think>\n\nParis", "so, the question is. What"])

    def answer(method, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "r1"}]}
        if "chat" not in path:
            return 404, {}
        text = next(replies, "still thinking.")
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": "length"}]}

    with Loopback(answer) as server:
        lm = ServerLM(server.url)
        assert lm.sample([ASK], 1, WARM)[0][0].text.endswith("Paris")
        assert lm.sample([ASK], 1, WARM)[0][0].text == "<think>still thinking."


@pytest.mark.parametrize("thought", ["", "Hm."])
async def test_who_listens_hears_the_answer_grow(thought):
    with OllamaServer({"Where?": "In Paris, by the Seine"}, thought=thought) as server:
        lm = ServerLM(server.url)
        for asynchronous in (False, True):
            heard = []
            with listening(heard.append), metered() as meter:
                rows = await lm.asample([ASK]) if asynchronous else lm.sample([ASK])
            assert rows[0][0].text.endswith("In Paris, by the Seine")
            assert heard[-1] == rows[0][0].text
            assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(heard))
            assert len(heard) > 4
            assert meter.usage["completion_tokens"] == rows[0][0].tokens
        with listening(heard.append):
            server.faults += [(400, {"error": {"message": "'stream' is not supported"}})]
            assert lm.sample([ASK])[0][0].text.endswith("Seine")


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ('data: {"error": {"message": "Slow down", "code": 429}}\n\n', "Slow down"),
        ('data: {"choices": [{"delta": {"content": "Pa"}}]}\n\n', "broke off"),
        ("data: {nothing\n\n", "no JSON"),
        ('data: {"choices": [{"delta": {}, "finish_reason": "error"}]}\n\n', "finish_reason"),
    ],
)
def test_streams_that_break(events, error):
    class Breaking(OllamaServer):
        def answer(self, path, body):
            return iter([events]) if "chat" in path else super().answer(path, body)

    with Breaking({}) as server:
        lm = ServerLM(server.url, max_retries=1)
        with listening(lambda text: None), pytest.raises(TransientModelError, match=error):
            lm.sample([ASK])
        assert len(server.bodies()) == 2


def test_structured():
    schema = {"title": "place", "type": "object", "properties": {"place": {"type": "string"}}}
    params = SamplingParams(schema=schema)
    with OllamaServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        assert lm.capabilities.structured
        lm.sample([ASK], 1, params)
        (body,) = server.bodies()
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert '"place"' in body["messages"][-1]["content"]
        server.requests.clear()
        server.faults += [(400, {"error": {"message": "response_format json_schema is not supported"}})]
        assert lm.sample([ASK], 1, params)[0][0].text == "Paris"
        lm.sample([ASK], 1, params)
        assert ["response_format" in body for body in server.bodies()] == [True, False, False]
        assert server.bodies()[-1]["messages"][-1]["content"] == "Where?"


# ------------------------------------------------------------------------ names and addresses


def test_names():
    with OllamaServer(SCRIPT, model="llama3.2") as server:
        for name in (None, "llama3.2", "Llama3.2", "llama3.2:latest"):
            assert ServerLM(server.url, name).model == "llama3.2:latest"
        with pytest.raises(ConfigurationError, match=r"llama3\.2:latest"):
            ServerLM(server.url, "llama3")
        host = server.root.removeprefix("http://")
        for address in (f"{host}/v1", host, server.root):
            lm = as_language_model(address)
            assert isinstance(lm, ServerLM)
            assert texts(lm.sample([ASK])) == [["Paris"]]


def test_a_server_without_models_or_without_a_list():
    def none(method, path, body):
        return 200, {"object": "list", "data": None}

    with Loopback(none) as server, pytest.raises(ConfigurationError, match="no models"):
        ServerLM(server.url)

    def unlisted(method, path, body):
        if "chat" in path:
            return 200, {"choices": [{"message": {"content": body["model"]}}]}
        return 404, {"error": {"message": "no"}}

    with Loopback(unlisted) as server:
        assert texts(ServerLM(server.url, "mine").sample([ASK])) == [["mine"]]
        with pytest.raises(ConfigurationError, match="does not exist"):
            ServerLM(server.url)


def test_addresses():
    assert http_address("localhost:11434/v1") == "http://localhost:11434/v1"
    assert http_address("127.0.0.1:80") == "http://127.0.0.1:80"
    assert http_address("https://x.org") == "https://x.org"
    for other in ("Qwen/Qwen3-8B", "models/a:b", "openai:gpt-5", "localhost", "/a/b", "C:\\m"):
        assert http_address(other) is None


# ------------------------------------------------------------------------ failures


@pytest.mark.parametrize("status", [400, 500])
def test_too_long(status):
    with LlamaCppServer(SCRIPT, context=50, too_long_status=status) as server:
        lm = ServerLM(server.url)
        server.requests.clear()
        with pytest.raises(ContextLengthError, match="available context size"):
            lm.sample([Prompt((("user", "Where? " * 100),))])
        assert len(server.bodies()) == 1


@pytest.mark.parametrize(
    "said",
    [
        '{"type": "exceed_context_size_error"}',
        '{"code": "context_length_exceeded"}',
        "This model's maximum context length is 4096 tokens",
        "`inputs` tokens + `max_new_tokens` must be <= 4096",
        "Input length must be <= 2048",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "the request exceeds the available context size",
        "maximum model length",
    ],
)
def test_wordings_of_too_long(said):
    assert too_long(said)
    with OllamaServer(SCRIPT) as server:
        lm = ServerLM(server.url)
        for status in (400, 413, 500):
            server.faults.append((status, {"error": said}))
            with pytest.raises(ContextLengthError):
                lm.sample([ASK])
    assert not too_long("temperature must be <= 2")


@pytest.mark.parametrize(
    ("reply", "again"),
    [
        ({"error": {"message": "Slow down", "code": 429}}, True),
        ({"error": {"message": "Bad gateway", "code": "502"}}, True),
        ({"error": {"message": "Busy", "type": "overloaded_error"}}, True),
        ({"choices": [{"finish_reason": "error", "message": {"content": "Par"}}]}, True),
        ({"error": {"message": "No such model", "code": 400}}, False),
        ({"error": "it broke"}, False),
    ],
)
async def test_an_error_within_a_success(reply, again):
    with OllamaServer(SCRIPT) as server:
        lm = ServerLM(server.url, max_retries=1)
        server.faults += [(200, reply)]
        if again:
            assert texts(await lm.asample([ASK])) == [["Paris"]]
            server.faults += [(200, reply)] * 2
        with pytest.raises(TransientModelError if again else ModelServerError) as caught:
            lm.sample([ASK])
        said, _ = error_within(reply)
        assert said.split(" (")[0] in str(caught.value)


SECRET = "sk-verysecret"


@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
def test_secrets_are_in_no_error(status):
    def echo(method, path, body):
        if path.endswith("/models"):
            return 200, {"data": [{"id": "m"}]}
        if "chat" not in path and "classify" not in path:
            return 404, {}
        return status, {"error": {"message": f"bad key {SECRET} of pa%ss / pa%25ss", "code": status}}

    with Loopback(echo) as server:
        address = server.url.replace("http://", "http://me:pa%25ss@")
        lm = ServerLM(address, api_key=SECRET, headers={"X-Api-Key": "head-secret"}, max_retries=0)
        with pytest.raises(Exception, match=r"bad key \*\*\*") as caught:
            lm.sample([ASK])
        chain, error = [], caught.value
        while error is not None:
            chain.append(repr(error) + str(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        for secret in (SECRET, "pa%ss", "pa%25ss", "head-secret"):
            assert secret not in "".join(chain)
            assert secret not in repr(lm) + lm._http.base_url
        reward = HttpClassifier(f"{address}/classify", api_key=SECRET, max_retries=0)
        with pytest.raises(Exception, match=r"\*\*\*") as caught:
            reward.score("q", [[RewardStep(query="", passages=[], thought="t", final_answer=None)]])
        assert SECRET not in str(caught.value)
        assert "pa%" not in str(caught.value)
    gone = address.rsplit(":", 1)[0] + ":9/v1"
    with pytest.raises(TransientModelError) as caught:
        ServerLM(gone, max_retries=0)
    assert "pa%" not in str(caught.value) + repr(caught.value.__cause__)
    with pytest.raises(ConfigurationError) as caught:
        ServerLM("ftp://me:word@host/v1")
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize("count", [-5, 2**70, True, "9", None, 1.5])
def test_counts_that_are_none(count):
    assert token_count(count, 7) == 7

    def answer(method, path, body):
        if path.endswith("/models"):
            return 200, {"data": [{"id": "m"}]}
        usage = {
            "prompt_tokens": count,
            "completion_tokens": count,
            "prompt_tokens_details": {"cached_tokens": count},
        }
        if path == "/classify":
            return 200, {"data": [{"probs": [0.1, 0.9]}], "usage": usage}
        if "chat" not in path:
            return 404, {}
        return 200, {"choices": [{"message": {"content": "Paris"}}], "usage": usage}

    with Loopback(answer) as server, metered() as meter:
        ServerLM(server.url).sample([ASK])
        reward = HttpClassifier(server.url.removesuffix("/v1") + "/classify")
        reward.score("q", [[RewardStep(query="", passages=[], thought="t", final_answer=None)]])
    assert all(0 <= value < 1000 for value in meter.usage.values())


def test_half_a_character_of_a_model():
    with OllamaServer({"Where?": "Par\ud83d"}) as server:
        assert ServerLM(server.url).sample([ASK])[0][0].text == "Par\ufffd"
        assert texts(ServerLM(server.url).sample([Prompt((("user", "Where? \ud83d"),))])) == [["Par\ufffd"]]


class Drip:
    """A server of raw bytes: sends a reply's head, then a byte now and then, or without end."""

    def __init__(self, endless=False):
        import socket

        self.endless, self.socket = endless, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.send, args=(client,), daemon=True).start()

    def send(self, client):
        try:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                client.sendall(b" " * (2**20 if self.endless else 1))
                if not self.endless:
                    time.sleep(0.05)
        except OSError:
            pass


def test_an_answer_has_an_end():
    drip = Drip()
    start = time.perf_counter()
    with pytest.raises(TransientModelError, match="TimeoutError"):
        ServerLM(drip.url, timeout_s=0.3, max_retries=0)
    assert time.perf_counter() - start < 10
    drip.socket.close()
    flood = Drip(endless=True)
    with pytest.raises(ModelServerError, match="64 MiB"):
        ServerLM(flood.url)
    flood.socket.close()


def test_deeply_nested_json_is_no_json():
    def answer(method, path, body):
        return 200, json_bomb

    json_bomb = None
    for _ in range(900):
        json_bomb = [json_bomb]
    with Loopback(answer) as server, pytest.raises(ModelServerError):
        ServerLM(server.url)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status):
    reached = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            reached.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()

        class Redirecting(Elsewhere):
            def do_GET(self):
                self.send_response(status)
                self.send_header("Location", f"http://127.0.0.1:{other.server_port}/v1/models")
                self.end_headers()

            do_POST = do_GET

        with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with pytest.raises(ModelServerError):
                ServerLM(
                    f"http://127.0.0.1:{server.server_port}/v1", "m", api_key=SECRET, max_retries=0
                ).sample([ASK])
            server.shutdown()
        other.shutdown()
    assert reached == []


def test_adapters_that_a_server_lists_beside_their_model():
    def answer(method, path, body):
        if path == "/v1/models":
            rows = [{"id": "base", "max_model_len": 64}, {"id": "planner", "parent": "base"}]
            return 200, {"data": rows}
        if "chat" not in path:
            return 404, {}
        return 200, {"choices": [{"message": {"content": body["model"]}, "finish_reason": "stop"}]}

    with Loopback(answer) as server:
        for name, expected in ((None, "base"), ("base", "base"), ("planner", "planner")):
            lm = ServerLM(server.url, name)
            assert lm.max_context == 64
            assert lm.sample([ASK], 1, WARM)[0][0].text == expected
