"""Agents: what users write with the middleware, the tool and the adapters."""

from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool

from agentprm import SearchBudget, create_rag_graph
from agentprm.integrations import (
    ActionRound,
    RetrievalControl,
    RewardGuidedActions,
    action_trace,
    create_search_tool,
)
from agentprm.rewards import RewardStep, VerdictReward, trajectory_of
from agentprm.testing import ScriptedAgentModel, ScriptedChatModel, fake_store
from agentprm.trace import Trace

chat = ScriptedChatModel(script={})
store = fake_store([Document("x")])
tool: BaseTool = create_search_tool(create_rag_graph(chat, store))
guide = RewardGuidedActions(VerdictReward(chat), n=2, below=None, budget=SearchBudget(model_calls=9))
simple = create_agent(ScriptedAgentModel(replies=[]), middleware=[guide])
informed = create_agent(ScriptedAgentModel(replies=[]), middleware=[RetrievalControl(store)])
# Of LangChain's own middleware, too, a list of several kinds needs its type.
several: list[AgentMiddleware[Any, Any, Any]] = [
    RetrievalControl(store),
    HumanInTheLoopMiddleware({"search": True}),
    guide,
]
agent = create_agent(ScriptedAgentModel(replies=[]), tools=[tool], middleware=several)
state: dict[str, Any] = agent.invoke({"messages": [HumanMessage("Who?")]})
trace: Trace = action_trace(state)
rounds: list[ActionRound] = state["prm_actions"]
question: str = trajectory_of(state["messages"]).question
steps: list[RewardStep] = trajectory_of(state["messages"]).trajectory
