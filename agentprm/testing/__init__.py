"""Test doubles that need no model and no network; agentprm's own tests use them."""

from agentprm.testing.fakes import FakeEmbeddings, FakeReward, fake_store
from agentprm.testing.scripted import ScriptedChatModel, ScriptedLanguageModel

__all__ = ["FakeEmbeddings", "FakeReward", "ScriptedChatModel", "ScriptedLanguageModel", "fake_store"]
