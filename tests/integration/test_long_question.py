"""A question that does not fit the model's context is a clear error, not a silent cut."""

import pytest

from agentprm import create_rag_graph, create_reasoning_graph, default_language_model
from agentprm.errors import ContextLengthError
from agentprm.testing import fake_store

pytestmark = pytest.mark.models


@pytest.mark.parametrize("create", [create_rag_graph, create_reasoning_graph])
def test_a_question_longer_than_the_context(create):
    graph = create(default_language_model(), fake_store(["Brunel was born in Portsmouth."])).compile()
    with pytest.raises(ContextLengthError, match=r"\d"):
        graph.invoke({"question": "Where was Brunel born, and why? " * 1500})
