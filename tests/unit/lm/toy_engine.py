"""A tiny model behind the interfaces of vLLM: its Python module, and its HTTP server on loopback.

Everything is computed by plain forward passes of whole texts. What vLLM does beyond that (a prefix
cache of blocks, log-probabilities that are missing for cached tokens, seeds per sample, choices) is
done the slow way, so that it can serve as an oracle.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import select
import socket
import struct
import threading
import time
from collections import deque, namedtuple
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import torch

import agentprm.lm
from agentprm.engine.tokenizing import PromptText

BLOCK = 16


class ToyEngine:
    """Samples and scores token ids; counts what a cache of blocks would have left to compute."""

    def __init__(self, model, tokenizer, max_len=512):
        self.model, self.tokenizer, self.max_len = model, tokenizer, max_len
        self.adapted = {}  # engines with the model of an adapter, by its folder
        self.blocks = set()
        self.lock = threading.Lock()

    def logprobs(self, ids):
        """`[len(ids), vocabulary]`: row i is what follows the first i + 1 tokens."""
        with torch.no_grad():
            return self.model(torch.tensor([list(ids)])).logits[0].float().log_softmax(dim=-1)

    def cached(self, ids, read=True):
        """Tokens of the prompt that are found in the cache; remembers all of its whole blocks."""
        keys = [tuple(ids[:end]) for end in range(BLOCK, len(ids) + 1, BLOCK)]
        with self.lock:
            hits = 0
            for key in keys:
                if not (read and key in self.blocks and len(key) < len(ids)):
                    break
                hits = len(key)
            self.blocks.update(keys)
        return hits

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def complete(self, ids, max_tokens, temperature=1.0, seed=None, stop=(), choices=()):
        """New ids, their log-probabilities, the text, and why it ended."""
        rng = random.Random(seed)
        allowed = [self.tokenizer(c, add_special_tokens=False)["input_ids"] for c in choices]
        new, scores = [], []
        while True:
            row = self.logprobs([*ids, *new])[-1]
            if allowed:
                fitting = [c for c in allowed if c[: len(new)] == new]
                if any(len(c) == len(new) for c in fitting):
                    return new, scores, self.text(new), "stop"
                options = sorted({c[len(new)] for c in fitting})
                token = max(options, key=lambda t: float(row[t]))
            elif temperature == 0:
                token = int(row.argmax())
            else:
                weights = (row / temperature).softmax(dim=-1).tolist()
                token = rng.choices(range(len(weights)), weights)[0]
            new.append(token)
            scores.append(float(row[token]))
            if token == self.tokenizer.eos_token_id:
                return new, scores, self.text(new), "stop"
            found = [at for at in (self.text(new).find(s) for s in stop) if at >= 0]
            if found:
                return new, scores, self.text(new)[: min(found)], "stop"
            if len(new) == max_tokens:
                return new, scores, self.text(new), "length"

    def render(self, messages):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def plain_score(model, tokenizer, rendered, continuation):
    """Log-likelihood by one plain pass over the joint text."""
    trunk = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    joint = tokenizer(rendered + continuation, add_special_tokens=False)["input_ids"]
    start = next((i for i, (a, b) in enumerate(zip(trunk, joint, strict=False)) if a != b), len(trunk))
    with torch.no_grad():
        rows = model(torch.tensor([joint])).logits[0].float().log_softmax(dim=-1)
    return sum(float(rows[i - 1, joint[i]]) for i in range(start, len(joint)))


async def check_greedy(lm, model, tokenizer, prompts):
    """Greedy samples of `lm`, sync and async, are those of the model by itself."""
    toy, text = ToyEngine(model, tokenizer), PromptText(tokenizer)
    params = agentprm.lm.SamplingParams(max_tokens=16, temperature=0)
    for prompt in prompts:
        ids = tokenizer(text.render(prompt), add_special_tokens=False)["input_ids"]
        tokens, scores, words, reason = toy.complete(ids, 16, temperature=0)
        for (row,) in (lm.sample([prompt], 2, params), await lm.asample([prompt], 2, params)):
            assert [(c.text, c.tokens, c.finish_reason) for c in row] == [(words, len(tokens), reason)] * 2
            assert row[0].logprob == pytest.approx(sum(scores), abs=1e-2)


# ---------------------------------------------------------------------------------- HTTP


class Loopback:
    """A server on loopback; `answer(method, path, body)` gives status and JSON.

    Attributes:
        faults: What the next requests to a path get instead: `(path end, fault)`, where a fault is a
            status, `(status, headers)`, `"reset"`, `"garbage"`, `"hang"`, or a JSON value.
        log: `(method, path, body, headers)` of all requests.
        most: Most requests that were under way at a time.
        closed: Requests whose client went away while they hung.
    """

    def __init__(self, answer, delay=0.0):
        self.answer, self.delay = answer, delay
        self.faults, self.log = deque(), []
        self.running = self.most = self.closed = 0
        self.lock = threading.Lock()
        self.hung = threading.Semaphore(0)
        self.stopping = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.serve(self, "GET", None)

            def do_POST(self):
                length = int(self.headers.get("content-length", 0))
                outer.serve(self, "POST", json.loads(self.rfile.read(length)))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.root = f"http://127.0.0.1:{self.server.server_port}"
        self.url = self.root + "/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()

    async def hung_up_on(self, task, requests=1):
        """Cancels a task whose requests hang here, and waits until their connections are closed."""
        for _ in range(requests):
            await asyncio.to_thread(self.hung.acquire, timeout=5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            if self.closed == requests:
                break
            await asyncio.sleep(0.02)
        assert self.closed == requests

    def paths(self, end=""):
        return [path for _, path, _, _ in self.log if path.endswith(end)]

    def bodies(self, end):
        return [body for _, path, body, _ in self.log if path.endswith(end)]

    def serve(self, handler, method, body):
        with self.lock:
            self.log.append((method, handler.path, body, dict(handler.headers)))
            self.running += 1
            self.most = max(self.most, self.running)
            fault = None
            if self.faults and handler.path.endswith(self.faults[0][0]):
                fault = self.faults.popleft()[1]
        try:
            if self.delay:
                time.sleep(self.delay)
            self.reply(handler, method, body, fault)
        except (BrokenPipeError, ConnectionError):
            pass
        finally:
            with self.lock:
                self.running -= 1

    def reply(self, handler, method, body, fault):
        status, headers = 200, {}
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.close_connection = True
            handler.connection.close()
            return
        if fault == "hang":
            self.hung.release()
            while not self.stopping.is_set():
                if select.select([handler.connection], [], [], 0.02)[0]:
                    self.closed += 1
                    handler.close_connection = True
                    return
            return
        if isinstance(fault, int):
            status, value = fault, {"error": {"message": f"fault {fault}"}}
        elif isinstance(fault, tuple):
            (status, headers), value = fault, {"error": {"message": "fault"}}
        elif fault == "garbage":
            value = None
        elif fault is not None:
            value = fault
        else:
            status, value = self.answer(method, handler.path, body)
        data = b"<html>not json</html>" if value is None else json.dumps(value).encode()
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name, text)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


def _refused(message, status=400):
    return status, {"error": {"message": message, "code": status}}


def vllm_answers(engine, *, version="0.32.0", tokenizes=True, echoes=True, token_ids=True, details=True):
    """What a vLLM server answers; the switches take features away."""

    def completions(body):
        ids = body["prompt"]
        new = body["max_tokens"]
        if len(ids) + new > engine.max_len:
            return _refused(f"This model's maximum context length is {engine.max_len} tokens.")
        wanted = body.get("logprob_token_ids")
        echo = body.get("echo")
        if echo and not echoes:
            return _refused("echo is not supported")
        guided = body.get("structured_outputs", {}).get("choice") or body.get("guided_choice") or ()
        cached = engine.cached(ids, read=not echo)
        choices, generated = [], 0
        for number in range(body.get("n", 1)):
            seed = body.get("seed")
            tokens, scores, text, reason = engine.complete(
                ids,
                new,
                body.get("temperature", 1.0),
                None if seed is None else seed + number,
                body.get("stop", ()),
                guided,
            )
            generated += len(tokens)
            logprobs = {"token_logprobs": scores, "top_logprobs": [{}] * len(scores)}
            if wanted and token_ids:
                row = engine.logprobs(ids)[-1]
                top = {f"token_id:{t}": float(row[t]) for t in [*wanted, tokens[0]]}
                logprobs["top_logprobs"] = [top]
            if echo:
                rows = engine.logprobs(ids)
                before = [None, *(float(rows[i - 1, ids[i]]) for i in range(1, len(ids)))]
                logprobs["token_logprobs"] = before + scores
            if body.get("logprobs") is None:
                logprobs = None
            choices.append({"index": number, "text": text, "finish_reason": reason, "logprobs": logprobs})
        usage = {"prompt_tokens": len(ids), "completion_tokens": generated}
        if details:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return 200, {"choices": choices[::-1], "usage": usage}

    def chat(body):
        messages = list(body["messages"])
        prefix = ""
        if body.get("continue_final_message"):
            assert body["add_generation_prompt"] is False
            prefix = messages.pop()["content"]
        ids = engine.tokenizer(engine.render(messages) + prefix, add_special_tokens=False)["input_ids"]
        status, value = completions({**body, "prompt": ids})
        if status == 200:
            for choice in value["choices"]:
                choice["message"] = {"role": "assistant", "content": choice.pop("text")}
                choice["logprobs"] = None
        return status, value

    def answer(method, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "toy", "max_model_len": engine.max_len}]}
        if path == "/version" and version:
            return 200, {"version": version}
        if path == "/tokenize" and tokenizes:
            if "messages" in body:
                text, special = engine.render(body["messages"]), False
            else:
                text, special = body["prompt"], body["add_special_tokens"]
            ids = engine.tokenizer(text, add_special_tokens=special)["input_ids"]
            return 200, {"tokens": ids, "count": len(ids), "max_model_len": engine.max_len}
        if path == "/detokenize" and tokenizes:
            return 200, {"prompt": engine.tokenizer.decode(body["tokens"], skip_special_tokens=False)}
        if path == "/v1/completions":
            return completions(body)
        if path == "/v1/chat/completions":
            return chat(body)
        return _refused("no such path", 404)

    return answer


# ---------------------------------------------------------------------- the Python module


class _Params(SimpleNamespace):
    def __init__(self, **fields):
        super().__init__(**{**self.defaults, **fields})
        assert set(fields) <= set(self.defaults), fields


class SamplingParams(_Params):
    defaults = {
        "max_tokens": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "stop": None,
        "seed": None,
        "logprobs": None,
        "prompt_logprobs": None,
        "logprob_token_ids": None,
        "structured_outputs": None,
        "detokenize": True,
        "skip_reading_prefix_cache": None,
    }


class PoolingParams(_Params):
    defaults = {"task": None, "use_activation": None, "skip_reading_prefix_cache": None}


def _scores(row, tokens):
    return {int(t): SimpleNamespace(logprob=float(row[t])) for t in tokens}


def sampled(engine, ids, p):
    """A `RequestOutput` as vLLM makes it."""
    skip = p.skip_reading_prefix_cache
    if skip is None:
        skip = p.prompt_logprobs is not None
    cached = engine.cached(ids, read=not skip)
    if len(ids) + p.max_tokens > engine.max_len:
        raise ValueError("The prompt is too long.")
    choices = p.structured_outputs.choice if p.structured_outputs else ()
    tokens, scores, text, reason = engine.complete(
        ids, p.max_tokens, p.temperature, p.seed, p.stop or (), choices
    )
    rows = engine.logprobs([*ids, *tokens])
    prompt = None
    if p.prompt_logprobs is not None:
        # Where the cache was read, nothing was computed: the memory holds anything.
        prompt = [None] + [
            _scores(rows[i - 1], [ids[i]]) if i > cached else {-17: SimpleNamespace(logprob=math.nan)}
            for i in range(1, len(ids))
        ]
    wanted = p.logprob_token_ids or []
    done = SimpleNamespace(
        text=text if p.detokenize else "",
        token_ids=tokens,
        finish_reason=reason,
        cumulative_logprob=None if p.logprobs is None else sum(scores),
        logprobs=[_scores(rows[len(ids) - 1 + i], [t, *wanted]) for i, t in enumerate(tokens)],
    )
    return SimpleNamespace(
        prompt_token_ids=ids, prompt_logprobs=prompt, outputs=[done], num_cached_tokens=cached
    )


def pooled(engine, head, ids, p):
    """A `PoolingRequestOutput` of token classification; cached tokens have no rows."""
    assert p.task == "token_classify"
    assert p.use_activation is False
    skip = True if p.skip_reading_prefix_cache is None else p.skip_reading_prefix_cache
    cached = engine.cached(ids, read=not skip)
    data = head(ids)[cached:]
    return SimpleNamespace(prompt_token_ids=ids, outputs=SimpleNamespace(data=data), num_cached_tokens=cached)


@contextmanager
def vllm_module(monkeypatch, engine, head=None):
    """Puts a module `vllm` in place whose engines run on `engine`; yields it."""
    import sys
    from types import ModuleType

    vllm = ModuleType("vllm")
    vllm.started, vllm.aborted, vllm.stopped, vllm.slow = [], [], [], 0.0

    def of(request):
        return engine if request is None else engine.adapted[request.lora_path]

    def config(enable_lora):
        return SimpleNamespace(
            lora_config=SimpleNamespace() if enable_lora else None,
            model_config=SimpleNamespace(max_model_len=engine.max_len),
            cache_config=SimpleNamespace(block_size=BLOCK),
        )

    class LLM:
        __module__ = "vllm.entrypoints.llm"

        def __init__(self, enable_lora=False):
            self.llm_engine = SimpleNamespace(vllm_config=config(enable_lora))

        def get_tokenizer(self):
            return engine.tokenizer

        def generate(self, prompts, params, use_tqdm=True, lora_request=None):
            assert not use_tqdm
            own = of(lora_request)
            return [sampled(own, i["prompt_token_ids"], p) for i, p in zip(prompts, params, strict=True)]

        def encode(self, prompts, params, pooling_task=None, use_tqdm=True):
            assert pooling_task == "token_classify"
            return [
                pooled(engine, head, i["prompt_token_ids"], p) for i, p in zip(prompts, params, strict=True)
            ]

    class AsyncEngineArgs:
        def __init__(self, model, disable_log_stats=False, **options):
            if "nonsense" in options:
                raise TypeError("unexpected keyword argument 'nonsense'")
            if model == "broken":
                raise ValueError("no such model")
            vllm.started.append((model, options))

    class AsyncLLM:
        __module__ = "vllm.v1.engine.async_llm"

        def __init__(self):
            self.vllm_config = config(vllm.started[-1][1].get("enable_lora", False))
            try:
                self.loop = asyncio.get_running_loop()
            except RuntimeError:
                self.loop = None

        @classmethod
        def from_engine_args(cls, args):
            return cls()

        def get_tokenizer(self):
            return engine.tokenizer

        def shutdown(self):
            vllm.stopped.append(self)

        async def generate(self, prompt, params, name, lora_request=None):
            own = of(lora_request)
            async for output in self.stream(name, lambda: sampled(own, prompt["prompt_token_ids"], params)):
                yield output

        async def encode(self, prompt, params, name):
            work = lambda: pooled(engine, head, prompt["prompt_token_ids"], params)  # noqa: E731
            async for output in self.stream(name, work):
                yield output

        async def stream(self, name, work):
            # As vLLM's output handler: on the loop that the engine was made in, or used in first.
            self.loop = self.loop or asyncio.get_running_loop()
            assert self.loop is asyncio.get_running_loop()
            try:
                await asyncio.sleep(vllm.slow)
                output = work()
            except (asyncio.CancelledError, GeneratorExit):
                vllm.aborted.append(name)
                raise
            yield output

    vllm.LLM, vllm.AsyncEngineArgs = LLM, AsyncEngineArgs
    vllm.SamplingParams, vllm.PoolingParams = SamplingParams, PoolingParams
    vllm.sampling_params = SimpleNamespace(StructuredOutputsParams=SimpleNamespace)
    paths = ("vllm.v1", "vllm.v1.engine", "vllm.v1.engine.async_llm", "vllm.lora", "vllm.lora.request")
    deeper = {name: ModuleType(name) for name in paths}
    deeper["vllm.v1.engine.async_llm"].AsyncLLM = AsyncLLM
    deeper["vllm.lora.request"].LoRARequest = namedtuple("LoRARequest", "lora_name lora_int_id lora_path")
    for name, module in {"vllm": vllm, **deeper}.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield vllm
