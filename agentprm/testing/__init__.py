"""Test doubles that need no model and no network; agentprm's own tests use them."""

from agentprm.testing.agents import ScriptedAgentModel, calls
from agentprm.testing.fakes import FakeEmbeddings, FakeReward, fake_store
from agentprm.testing.scripted import ScriptedChatModel, ScriptedLanguageModel

__all__ = [
    "FakeEmbeddings",
    "FakeReward",
    "ScriptedAgentModel",
    "ScriptedChatModel",
    "ScriptedLanguageModel",
    "calls",
    "fake_store",
]
