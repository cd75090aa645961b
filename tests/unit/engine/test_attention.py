"""How a pass reaches the attention of models of several versions of transformers."""

import logging

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.engine.engine import cache_argument  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402
from tests.unit.lm.conftest import build_model, build_tokenizer  # noqa: E402


class Renamed(torch.nn.Module):
    def forward(self, input_ids, cache=None):
        """As since transformers 5.24."""


class Older(torch.nn.Module):
    def forward(self, input_ids, past_key_values=None, cache_position=None):
        """As before."""


class Headed(torch.nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, **kwargs):
        """As a reward model's decoder with a head."""


def test_the_cache_goes_by_the_name_that_the_model_knows():
    assert cache_argument(Renamed()) == cache_argument(Headed(Renamed())) == "cache"
    assert cache_argument(Older()) == cache_argument(Headed(Older())) == "past_key_values"
    with pytest.raises(TypeError, match="takes no cache"):
        cache_argument(torch.nn.Linear(1, 1))


def test_nothing_that_is_about_to_go_is_used(caplog):
    tokenizer = build_tokenizer()
    with caplog.at_level(logging.WARNING, "transformers"):
        lm = TransformersLM(build_model("llama", len(tokenizer)), tokenizer)
        lm.sample([Prompt((("user", "Who?"),))], 2, SamplingParams(max_tokens=3))
    assert not [record for record in caplog.records if "deprecated" in record.getMessage()]
