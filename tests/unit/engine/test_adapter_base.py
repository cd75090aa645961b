"""An adapter of the packaged model finds it where it is installed, and the hub's original elsewhere."""

from agentprm import packaged
from agentprm.engine import lora
from agentprm.errors import MissingDependencyError


def test_the_packaged_model_is_found_by_its_name_on_the_hub(monkeypatch, tmp_path):
    config = {"base_model_name_or_path": packaged.PACKAGED_LANGUAGE_MODEL}
    monkeypatch.setattr(lora, "language_model_folder", lambda: tmp_path)
    assert lora.base_name("a", config) == str(tmp_path)

    def missing():
        raise MissingDependencyError("not installed")

    monkeypatch.setattr(lora, "language_model_folder", missing)
    assert lora.base_name("a", config) == packaged.PACKAGED_LANGUAGE_MODEL
    assert lora.base_name("a", {"base_model_name_or_path": "some/model"}) == "some/model"
