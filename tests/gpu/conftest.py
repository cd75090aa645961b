"""What a GPU computes is what plain transformers and the CPU compute; skipped where there is no GPU.

`AGENTPRM_TEST_DEVICE` names another accelerator than the first CUDA device: `cuda:1`, `mps`, `xpu`.
"""

from __future__ import annotations

import os

import pytest

DEVICE = os.environ.get("AGENTPRM_TEST_DEVICE", "cuda")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips the folder's tests where torch has no such device."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    try:
        torch.ones(1, device=DEVICE)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        pytest.skip(f"torch has no {DEVICE} here: {str(error).splitlines()[0]}")


def pytest_report_header() -> str | None:
    """Which GPU it was, and which torch and transformers."""
    try:
        import torch
        import transformers

        name = torch.cuda.get_device_name(DEVICE) if torch.cuda.is_available() else DEVICE
    except ImportError:
        return None
    return f"gpu tests on {name}: torch {torch.__version__}, transformers {transformers.__version__}"


@pytest.fixture(scope="session")
def device() -> str:
    """Name of the device that the tests run on."""
    return DEVICE
