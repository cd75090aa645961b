"""Model servers on loopback that answer from a script, with the habits of real ones.

Real HTTP in a thread: clients, retries, refusals and streams are tested as they are. Each server takes
the script of a `ScriptedChatModel`.

Example:
    with OllamaServer({"capital of France": "Paris"}) as server:
        model = ChatOllama(model="llama3.2", base_url=server.root)
        assert model.invoke("What is the capital of France?").text == "Paris"
"""

from __future__ import annotations

import json
import math
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from agentprm.testing.scripted import Script, scripted_reply

__all__ = ["FakeServer", "LlamaCppServer", "OllamaServer", "OpenAIReasoningServer", "OpenAIServer"]

Likely = Callable[[str, str], Mapping[str, float]]
HttpReply = tuple[int, Any]


class FakeServer(ABC):
    """A model server on loopback; use it as a context manager.

    Args:
        script: Texts to look for in the conversation and what to reply, or a function from the
            conversation's text to the reply.
        model: The model's name in the server's list.
        likely: The likeliest tokens and their probabilities, the written one among them, from the
            conversation's text and that token. Without it no log-probabilities are reported.

    Attributes:
        root: Address without a path, for instance `http://127.0.0.1:40123`.
        url: Address of OpenAI's interface, `root` and `/v1`.
        requests: `(path, body)` of all requests so far.
        faults: Replies for the next chat requests instead of the script's: `(status, JSON)` each.
    """

    def __init__(self, script: Script, *, model: str = "fake", likely: Likely | None = None) -> None:
        self.script, self.model, self.likely = script, model, likely
        self.requests: list[tuple[str, Any]] = []
        self.faults: list[HttpReply] = []
        self.root = self.url = ""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer._handle(self, None)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                outer._handle(self, json.loads(self.rfile.read(length) or b"null"))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = self.root + "/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bodies(self, path: str = "chat") -> list[Any]:
        """The bodies of all requests to paths that contain `path`."""
        with self._lock:
            return [body for at, body in self.requests if path in at]

    @abstractmethod
    def answer(self, path: str, body: Any) -> HttpReply | Iterator[str] | None:
        """Status and JSON for a request, the lines of a stream, or `None` for a path it does not have."""

    def reply(self, body: Any) -> str:
        """What the script says to the conversation of a request."""
        return scripted_reply(self.script, _conversation(body))

    def logprobs(self, body: Any, text: str) -> list[dict[str, Any]] | None:
        """A row for every token of `text` (a word and the blank before it), if the request asks for them."""
        if self.likely is None or not body.get("logprobs"):
            return None
        rows = []
        for token in re.findall(r" ?\w+|\s|[^\w\s]+", text):
            likely = self.likely(_conversation(body), token)
            listed = sorted(likely.items(), key=lambda item: -item[1])[: body.get("top_logprobs") or 0]
            rows.append(
                {**_logprob(token, likely[token]), "top_logprobs": [_logprob(t, p) for t, p in listed]}
            )
        return rows

    def models(self) -> HttpReply:
        """The list of models in OpenAI's form."""
        return 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]}

    def _handle(self, request: BaseHTTPRequestHandler, body: Any) -> None:
        with self._lock:
            self.requests.append((request.path, body))
            fault = self.faults.pop(0) if self.faults and "chat" in request.path else None
        answer = fault or self.answer(request.path, body)
        status: int = 200
        value: Any = answer
        if answer is None:
            status, value = 404, {"error": {"message": "not found", "code": 404}}
        elif isinstance(answer, tuple):
            status, value = answer
        lines = [line.encode() for line in value] if isinstance(value, Iterator) else None
        content = json.dumps(value).encode() if lines is None else b"".join(lines)
        kind = "application/json" if lines is None else self.stream_type(request.path)
        try:
            request.send_response(status)
            request.send_header("Content-Type", kind)
            request.send_header("Content-Length", str(len(content)))
            request.end_headers()
            for part in [content] if lines is None else lines:
                request.wfile.write(part)
                request.wfile.flush()
        except OSError:
            request.close_connection = True  # the client has gone

    @staticmethod
    def stream_type(path: str) -> str:
        """Media type of a stream at `path`."""
        return "text/event-stream"

    def completion(
        self,
        body: Any,
        texts: list[str],
        *,
        finish: str = "stop",
        thinking_tokens: int = 0,
        **message: Any,
    ) -> HttpReply | Iterator[str]:
        """Texts as a reply of `/chat/completions`, streamed word by word if the request asks for it."""
        prompt = sum(len(str(m.get("content"))) // 4 + 1 for m in body["messages"])
        new = sum(len(text) // 4 + 1 for text in texts) + thinking_tokens
        usage = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        if thinking_tokens:
            usage["completion_tokens_details"] = {"reasoning_tokens": thinking_tokens}  # type: ignore[assignment]
        head = {"id": "chatcmpl-1", "created": 1, "model": self.model}
        if not body.get("stream"):
            choices = [
                {
                    "index": i,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": text, **message},
                    "logprobs": rows and {"content": rows},
                }
                for i, text in enumerate(texts)
                for rows in [self.logprobs(body, text)]
            ]
            return 200, {**head, "object": "chat.completion", "choices": choices, "usage": usage}

        def chunk(delta: dict[str, Any], reason: str | None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return (
                "data: "
                + json.dumps({**head, "object": "chat.completion.chunk", "choices": [choice], **more})
                + "\n\n"
            )

        def stream() -> Iterator[str]:
            yield chunk({"role": "assistant", "content": "", **message}, None)
            for word in re.findall(r"\S+\s*|\s+", texts[0]):
                yield chunk({"content": word}, None)
            yield chunk({}, finish)
            last = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
            yield "data: " + json.dumps(last) + "\n\ndata: [DONE]\n\n"

        return stream()


def _error(status: int, message: str, **more: Any) -> HttpReply:
    return status, {"error": {"message": message, "type": "invalid_request_error", "code": None, **more}}


def _conversation(body: Any) -> str:
    parts = (message.get("content") or "" for message in body["messages"])
    return "\n".join(p if isinstance(p, str) else "".join(x.get("text", "") for x in p) for p in parts)


def _logprob(token: str, probability: float) -> dict[str, Any]:
    logprob = math.log(probability) if probability else -9999.0  # OpenAI's word for never
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


class _OpenAI(FakeServer):
    """OpenAI's paths."""

    @abstractmethod
    def chat(self, body: Any) -> HttpReply | Iterator[str]:
        """The reply to a request of `/chat/completions`."""

    def answer(self, path: str, body: Any) -> HttpReply | Iterator[str] | None:
        """See `FakeServer.answer`."""
        if path == "/v1/models":
            return self.models()
        return self.chat(body) if path == "/v1/chat/completions" else None


class OpenAIServer(_OpenAI):
    """OpenAI's chat models that do not reason: log-probabilities, with up to 20 tokens at each place."""

    def chat(self, body: Any) -> HttpReply | Iterator[str]:
        """The reply to a request of `/chat/completions`."""
        listed = body.get("top_logprobs")
        if listed is not None and not body.get("logprobs"):
            return _error(400, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
        if listed is not None and not 0 <= listed <= 20:
            return _error(400, f"Invalid value for 'top_logprobs': must be at most 20, got {listed}.")
        return self.completion(body, [self.reply(body) for _ in range(body.get("n") or 1)])


class OpenAIReasoningServer(_OpenAI):
    """OpenAI's reasoning models: settings are refused, and thoughts use up the token cap unseen.

    Args:
        script: As in `FakeServer`.
        model: As in `FakeServer`.
        thinking: Tokens of each thought.
    """

    def __init__(self, script: Script, *, model: str = "gpt-5-mini", thinking: int = 300) -> None:
        super().__init__(script, model=model)
        self.thinking = thinking

    def chat(self, body: Any) -> HttpReply | Iterator[str]:
        """The reply to a request of `/chat/completions`."""
        if "max_tokens" in body:
            return self._unsupported("max_tokens", "'max_completion_tokens' instead")
        for name in ("stop", "logprobs", "seed"):
            if body.get(name) is not None:
                return self._unsupported(name, "")
        for name in ("temperature", "top_p"):
            if body.get(name, 1) != 1:
                said = (
                    f"Unsupported value: '{name}' does not support {body[name]} with this model. "
                    "Only the default (1) value is supported."
                )
                return _error(400, said, param=name, code="unsupported_value")
        cap = body.get("max_completion_tokens", 10**6)
        if cap <= self.thinking:
            empty = [""] * (body.get("n") or 1)
            return self.completion(body, empty, finish="length", thinking_tokens=cap)
        texts = [self.reply(body) for _ in range(body.get("n") or 1)]
        return self.completion(body, texts, thinking_tokens=self.thinking)

    @staticmethod
    def _unsupported(name: str, instead: str) -> HttpReply:
        said = f"Unsupported parameter: '{name}' is not supported with this model."
        said += f" Use {instead}." if instead else ""
        return _error(400, said, param=name, code="unsupported_parameter")


class OllamaServer(FakeServer):
    """Ollama: `n` is ignored, names carry a tag, thinking comes apart from the answer or within it.

    It speaks its own interface (`/api/chat`, for `ChatOllama`) and OpenAI's.

    Args:
        script: As in `FakeServer`.
        model: Name without a tag.
        thought: What the model thinks before each answer; empty for one that does not.
        apart: The thought comes in a field of its own; else between tags in the answer.
        likely: As in `FakeServer`.
    """

    def __init__(
        self,
        script: Script,
        *,
        model: str = "llama3.2",
        thought: str = "",
        apart: bool = False,
        likely: Likely | None = None,
    ) -> None:
        super().__init__(script, model=f"{model}:latest", likely=likely)
        self.thought, self.apart = thought, apart

    def answer(self, path: str, body: Any) -> HttpReply | Iterator[str] | None:
        """See `FakeServer.answer`."""
        if path == "/v1/models":
            return self.models()
        if path == "/api/tags":
            return 200, {"models": [{"name": self.model, "model": self.model}]}
        if path not in ("/v1/chat/completions", "/api/chat"):
            return None
        if body.get("model") not in (self.model, self.model.removesuffix(":latest")):
            return _error(404, f"model '{body.get('model')}' not found", type="not_found_error")
        reply = self.reply(body)
        field: dict[str, Any] = {}
        if self.thought and self.apart:
            field = {"thinking" if path == "/api/chat" else "reasoning": self.thought}
        elif self.thought:
            reply = f"<think>\n{self.thought}\n</think>\n\n{reply}"
        if path == "/v1/chat/completions":
            return self.completion(body, [reply], **field)  # whatever `n` says
        return self._native(body, reply, field)

    @staticmethod
    def stream_type(path: str) -> str:
        """See `FakeServer.stream_type`."""
        return "application/x-ndjson" if path == "/api/chat" else "text/event-stream"

    def _native(self, body: Any, reply: str, field: dict[str, Any]) -> HttpReply | Iterator[str]:
        counts = {"prompt_eval_count": 9, "eval_count": len(reply) // 4 + 1}
        head = {"model": self.model, "created_at": "2026-01-01T00:00:00Z"}
        tokens = self.logprobs(body, reply)
        end: dict[str, Any] = {"done": True, "done_reason": "stop", **counts}
        if not body.get("stream", True):
            message = {"role": "assistant", "content": reply, **field}
            return 200, {**head, "message": message, **({"logprobs": tokens} if tokens else {}), **end}
        messages = [{"role": "assistant", "content": "", **field}] if field else []
        messages += [{"role": "assistant", "content": word} for word in re.findall(r"\S+\s*|\s+", reply)]
        rows: list[dict[str, Any]] = [{**head, "message": message, "done": False} for message in messages]
        if tokens:
            rows[-1]["logprobs"] = tokens
        rows.append({**head, "message": {"role": "assistant", "content": ""}, **end})
        return (json.dumps(row) + "\n" for row in rows)


class LlamaCppServer(FakeServer):
    """llama.cpp's server: one choice a request, a tokenizer of its own form, a small context.

    Args:
        script: As in `FakeServer`.
        model: As in `FakeServer`.
        context: Longest prompt, in tokens of four characters.
        too_long_status: Status with which longer ones are refused; older versions call it 500.
    """

    def __init__(
        self, script: Script, *, model: str = "model.gguf", context: int = 4096, too_long_status: int = 400
    ) -> None:
        super().__init__(script, model=model)
        self.context, self.too_long_status = context, too_long_status

    def answer(self, path: str, body: Any) -> HttpReply | Iterator[str] | None:
        """See `FakeServer.answer`."""
        if path in ("/v1/models", "/models"):
            return self.models()
        if path == "/tokenize":
            return 200, {"tokens": [ord(c) for c in body.get("content", "")]}
        if path == "/detokenize":
            return 200, {"content": "".join(map(chr, body.get("tokens", [])))}
        if path not in ("/v1/chat/completions", "/chat/completions"):
            return None
        if (body.get("n") or 1) > 1:
            return _error(400, "Only one completion choice is allowed")
        tokens = sum(len(str(message.get("content"))) // 4 + 1 for message in body["messages"])
        if tokens > self.context:
            said = (
                f"the request exceeds the available context size ({self.context} tokens), try increasing it"
            )
            more = {"type": "exceed_context_size_error", "n_prompt_tokens": tokens, "n_ctx": self.context}
            if self.too_long_status >= 500:
                more = {"type": "server_error", "code": self.too_long_status}
            return _error(self.too_long_status, said, **more)
        return self.completion(body, [self.reply(body)])
