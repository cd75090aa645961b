"""What the Ray executor refuses without a cluster; `tests/integration/test_scale_ray.py` has one."""

import builtins

import pytest

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.scale import RayExecutor


@pytest.mark.parametrize(
    "wrong", [{"workers": 0}, {"threads": 0}, {"max_losses": 0}, {"num_cpus": -1}, {"num_cpus": 0}]
)
def test_settings(wrong):
    pytest.importorskip("ray")
    with pytest.raises(ConfigurationError):
        RayExecutor(**wrong)


@pytest.mark.enable_socket
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nobody_listens(address):
    pytest.importorskip("ray")
    with pytest.raises(ConfigurationError, match="No Ray cluster answers"):
        list(RayExecutor(address).stream(lambda: abs, [1]))


def test_without_ray_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **rest):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return real(name, *args, **rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"agentprm\[ray\]"):
        RayExecutor()
