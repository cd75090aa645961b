"""A client of the Model Context Protocol that starts `agentprm serve` and asks it.

agentprm index my-notes -o my-index
python examples/mcp_client.py my-index "Where was Brunel born?" --model ollama:llama3.2
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import TextContent


async def ask(command: Sequence[str], question: str) -> str:
    """Starts a server, lists its tools, and has a question answered."""
    program, *arguments = command
    server = StdioServerParameters(command=program, args=arguments, env=dict(os.environ))
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        for tool in (await session.list_tools()).tools:
            print(f"{tool.name}: {tool.description}")
        result = await session.call_tool("ask", {"question": question})
        return "\n".join(part.text for part in result.content if isinstance(part, TextContent))


def main(index: str, question: str, *options: str) -> str:
    command = [sys.executable, "-m", "agentprm.cli", "serve", index, *options]
    answer = asyncio.run(ask(command, question))
    print(answer)
    return answer


if __name__ == "__main__":
    main(*sys.argv[1:])
