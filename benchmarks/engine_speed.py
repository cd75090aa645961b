"""How fast this machine can be: precisions, compilation, llama.cpp. Parts of `engine.py`.

Run by another interpreter, this file is llama.cpp's side: `python engine_speed.py model.gguf …`
needs only llama-cpp-python there.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PREFILL, CONTEXT, STEPS = 256, 128, 8


def median(work: Callable[[], Any], repeats: int, clock: Callable[[], float]) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def precision(
    model: Any, ids: list[int], repeats: int, clock: Callable[[], float], compiled: bool
) -> list[list[str]]:
    """Rows of the table: a plain forward pass in every precision, and how far its scores are off.

    Args:
        model: In fp32.
        ids: At least 512 tokens of real text.
        repeats: Timings are medians of that many.
        clock: What to time with.
        compiled: Whether to compile, which takes minutes.
    """
    import copy
    import warnings

    import torch

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)

    def dynamic() -> Any:
        # Scales of a whole batch's activations: a row's result depends on its company.
        return torch.ao.quantization.quantize_dynamic(
            copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8
        )

    def weights() -> Any:
        return _replace_linear(copy.deepcopy(model), _int8_linear)

    variants: list[tuple[str, Callable[[], Any]]] = [
        ("fp32", lambda: model),
        ("bf16", lambda: copy.deepcopy(model).bfloat16()),
    ]
    if model.device.type == "cpu":
        variants += [("int8, dynamic (torch.ao)", dynamic), ("int8, weights only", weights)]
    if compiled:
        variants.append(("fp32, torch.compile", lambda: torch.compile(copy.deepcopy(model), dynamic=True)))
    text = torch.tensor([ids[:PREFILL]], device=model.device)
    with torch.no_grad():
        exact = model(text, use_cache=False).logits[0].float().log_softmax(-1)
        rows = []
        for name, make in variants:
            rows.append([name, *_figures(make, text, exact, repeats, clock)])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)  # kept, whatever the next one does
        return rows


def _figures(
    make: Callable[[], Any], text: Any, exact: Any, repeats: int, clock: Callable[[], float]
) -> list[str]:
    import torch

    start = clock()
    model = make()
    scores = model(text, use_cache=False).logits[0].float().log_softmax(-1)
    first = clock() - start
    prefill = median(lambda: model(text, use_cache=False, logits_to_keep=1), repeats, clock)
    speeds = [PREFILL / prefill] + [_decoding(model, text, rows, repeats, clock) for rows in (1, 8)]
    company = torch.cat([text, text.flip(1) // 2 + 3])
    together = model(company, use_cache=False).logits[0].float().log_softmax(-1)
    target = text[0, 1:, None]
    agree = (scores.argmax(-1) == exact.argmax(-1)).float().mean().item()
    off = (scores[:-1].gather(1, target) - exact[:-1].gather(1, target)).abs().mean().item()
    changed = (together - scores).abs().max().item()
    return [
        *(f"{speed:.0f}" for speed in speeds),
        f"{100 * agree:.1f} %",
        f"{off:.1e}",
        f"{changed:.1e}",
        f"{first:.1f}",
    ]


def _decoding(model: Any, text: Any, rows: int, repeats: int, clock: Callable[[], float]) -> float:
    """New tokens per second after `CONTEXT` tokens."""
    begin = text[:, :CONTEXT].expand(rows, -1)

    from agentprm.engine.engine import cache_argument

    def decode() -> float:
        name = cache_argument(model)
        cache = model(begin, use_cache=True, logits_to_keep=1)[name]
        start = clock()
        for _ in range(STEPS):
            model(begin[:, :1], **{name: cache}, use_cache=True)
        return clock() - start

    decode()
    return rows * STEPS / statistics.median(decode() for _ in range(max(1, repeats // 2)))


def _replace_linear(model: Any, make: Callable[[Any], Any]) -> Any:
    import torch

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.Linear):
                setattr(parent, name, make(child))
    return model


def _int8_linear(linear: Any) -> Any:
    """A linear layer with int8 weights, a scale for each output; activations stay fp32."""
    import torch

    class Int8(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weight = linear.weight.data
            self.scale = (weight.abs().amax(1) / 127).clamp(min=1e-12).contiguous()
            self.weight = (weight / self.scale[:, None]).round().to(torch.int8).contiguous()
            self.bias = linear.bias

        def forward(self, x: Any) -> Any:
            y = torch._weight_int8pack_mm(x.reshape(-1, x.shape[-1]), self.weight, self.scale)
            y = y.view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias

    return Int8()


def llama_cpp(
    python: str, gguf: str, threads: int, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Tokens per second of llama.cpp on a model file, measured in the interpreter that has it."""
    command = [python, __file__, gguf, str(threads), str(repeats), clock.__name__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(f"{python} could not run llama.cpp: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _llama_side(gguf: str, threads: int, repeats: int, clock: Callable[[], float]) -> dict[str, Any]:
    import llama_cpp as library

    model = library.Llama(
        gguf, n_ctx=2048, n_batch=PREFILL, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    tokens = [5 + i * 7 % 40000 for i in range(PREFILL)]

    def prefill() -> None:
        model.reset()
        model.eval(tokens)

    def decode() -> float:
        model.reset()
        model.eval(tokens[:CONTEXT])
        start = clock()
        for token in tokens[:STEPS]:
            model.eval([token])
        return clock() - start

    seconds = median(prefill, repeats, clock)
    decode()
    steps = statistics.median(decode() for _ in range(repeats))
    return {"version": library.__version__, "prefill": PREFILL / seconds, "decode": STEPS / steps}


if __name__ == "__main__":
    path, threads, repeats, clock = sys.argv[1:]
    print(json.dumps(_llama_side(path, int(threads), int(repeats), getattr(time, clock))))
