"""Test doubles that need no model and no network; agentprm's own tests use them.

`scripted` models answer from a script, one of them calls tools; those of `servers` stand behind an
address; `fakes` has embeddings, a store and a reward.
"""

from agentprm.testing.fakes import FakeEmbeddings, FakeReward, fake_store
from agentprm.testing.scripted import (
    ScriptedAgentModel,
    ScriptedChatModel,
    ScriptedLanguageModel,
    ScriptedReader,
    calls,
)
from agentprm.testing.servers import LlamaCppServer, OllamaServer, OpenAIReasoningServer, OpenAIServer

__all__ = [
    "FakeEmbeddings",
    "FakeReward",
    "LlamaCppServer",
    "OllamaServer",
    "OpenAIReasoningServer",
    "OpenAIServer",
    "ScriptedAgentModel",
    "ScriptedChatModel",
    "ScriptedLanguageModel",
    "ScriptedReader",
    "calls",
    "fake_store",
]
