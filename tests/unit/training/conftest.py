import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Folder of a tiny random language model."""
    pytest.importorskip("torch")
    from tests.unit.training.tiny import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("base"))
