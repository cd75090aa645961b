"""A chat over documents that remembers: follow-ups are understood from what was said before.

    python examples/chat_with_memory.py

The model follows a script; any LangChain chat model can take its place.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from agentprm import create_rag_graph
from agentprm.testing import ScriptedChatModel, fake_store

store = fake_store(
    [
        "The Clifton Suspension Bridge was designed by Isambard Kingdom Brunel.",
        "Isambard Kingdom Brunel was born in Portsmouth.",
        "Portsmouth is a port on the south coast of England.",
    ]
)
TURNS = ["Who designed the Clifton Suspension Bridge?", "And where was he born?", "Where is that?"]
CONDENSED = {
    TURNS[1]: "Where was Isambard Kingdom Brunel born?",
    TURNS[2]: "Where is Portsmouth?",
}


def script(text: str) -> str:
    """Stands for a chat model: it makes follow-ups plain, and reads passages."""
    if "Last question:" in text:
        return CONDENSED[text.rpartition("Last question: ")[2]]
    question = text.rpartition("Question: ")[2]
    if "designed" in question:
        return "Isambard Kingdom Brunel"
    return "Portsmouth" if "born" in question else "on the south coast of England"


def main() -> list[str]:
    builder = create_rag_graph(ScriptedChatModel(script=script), store, k=2, condense=True)
    graph = builder.compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "a visitor"}}
    answers = []
    for text in TURNS:
        print(f"> {text}")
        # The tokens of the answer, as they come.
        streamed: Any = graph.stream({"messages": [("user", text)]}, thread, stream_mode="messages")
        for chunk, _ in streamed:
            print(chunk.text, end="", flush=True)
        state = graph.get_state(thread).values
        print(
            f"   [{', '.join(c['doc_id'] for c in state['citations'])}]  understood as: {state['question']}"
        )
        answers.append(str(state["answer"]))
    return answers


if __name__ == "__main__":
    main()
