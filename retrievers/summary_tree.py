"""A tree of summaries over documents: what PECAN reads from the top down, until it knows enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from typing_extensions import TypedDict

from agentprm.documents import distinct_documents, passage_line, title_of
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm import LanguageModel, as_language_model
from agentprm.prompts import ChatTemplate, reply_params
from agentprm.replies import finished_text, parse_finding
from agentprm.text import one_line

__all__ = ["SummaryNode", "SummaryTree"]

SUMMARISE = ChatTemplate(
    fields=("passages",),
    system=(
        "Sum up what the passages say in a few short sentences, one event or fact each, with full names. "
        "Leave "
        "out nothing that somebody might ask for, and add nothing. Reply with the summary only."
    ),
    user="{passages}",
    prefix="Summary:",
)


class SummaryNode(TypedDict):
    """A node of the tree.

    Attributes:
        id: The document's id, or for a summary `level.number`.
        text: The document's text, or the summary.
        title: The document's title; empty for a summary.
        level: 0 for documents.
        children: What a summary sums up, in order.
    """

    id: str
    text: str
    title: str
    level: int
    children: list[str]


class SummaryTree:
    """Documents, summaries of neighbouring ones, summaries of these, up to a few at the top.

    Args:
        nodes: The nodes, children before those that sum them up.

    Attributes:
        nodes: All nodes by id.
        roots: Ids of the top ones, in order.

    Raises:
        InputError: If a node sums up one that is not there.
    """

    def __init__(self, nodes: Sequence[SummaryNode]) -> None:
        self.nodes = {node["id"]: node for node in nodes}
        below = {child for node in nodes for child in node["children"]}
        if missing := below - set(self.nodes):
            raise InputError(f"The tree of summaries has no node {sorted(missing)[0]!r}.")
        self.roots = [node["id"] for node in nodes if node["id"] not in below]

    def __len__(self) -> int:
        return len(self.nodes)

    @classmethod
    def from_documents(
        cls,
        documents: Sequence[Any],
        model: LanguageModel | BaseChatModel | str,
        *,
        width: int = 5,
        max_tokens: int = 160,
        template: ChatTemplate = SUMMARISE,
    ) -> SummaryTree:
        """Sums up `width` neighbours at a time, level by level, until at most `width` are left.

        Args:
            documents: Chunks, in their order.
            model: Writes the summaries, one call each.
            width: Children of a summary.
            max_tokens: Most tokens of a summary.
            template: The prompt, with the field `passages`.
        """
        if isinstance(width, bool) or not isinstance(width, int) or width < 2:
            raise ConfigurationError(f"width must be an integer of at least 2, not {width!r}.")
        writer = as_language_model(model)
        params = reply_params(writer, max_tokens=max_tokens, lines=True)
        leaves = distinct_documents(documents)
        level = [
            SummaryNode(id=str(d.id), text=d.page_content, title=title_of(d), level=0, children=[])
            for d in leaves
        ]
        lines = [passage_line(document) for document in leaves]
        nodes = list(level)
        while len(level) > width:
            groups = [range(i, min(i + width, len(level))) for i in range(0, len(level), width)]
            prompts = [
                template.render(
                    prefill=writer.capabilities.prefill, passages="\n".join(lines[i] for i in group)
                )
                for group in groups
            ]
            rows = writer.sample(prompts, 1, params)
            above = []
            for number, (group, row) in enumerate(zip(groups, rows, strict=True), 1):
                said = parse_finding(finished_text(row[0])).removeprefix("Summary:").strip()
                above.append(
                    SummaryNode(
                        id=f"summary:{level[0]['level'] + 1}.{number}",
                        # Without a summary the beginnings stand for themselves.
                        text=said or " ".join(one_line(level[i]["text"])[:200] for i in group),
                        title="",
                        level=level[0]["level"] + 1,
                        children=[level[i]["id"] for i in group],
                    )
                )
            level = above
            lines = [one_line(node["text"]) for node in level]
            nodes += level
        return cls(nodes)

    def document(self, node_id: str) -> Document:
        """A node as a document."""
        node = self.nodes[node_id]
        metadata = {"title": node["title"], "level": node["level"]}
        return Document(id=node_id, page_content=node["text"], metadata=metadata)

    def save(self, path: str | Path) -> None:
        """Writes the tree as JSON."""
        Path(path).write_text(json.dumps(list(self.nodes.values()), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> SummaryTree:
        """Reads a tree that `save` wrote.

        Raises:
            InputError: If the file holds none.
        """
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a tree of summaries: {error}.") from error
        wanted = SummaryNode.__annotations__.keys()
        if not isinstance(rows, list) or not all(
            isinstance(r, Mapping) and set(r) == set(wanted) for r in rows
        ):
            raise InputError(f"{path} is no tree of summaries; write one with SummaryTree.save.")
        return cls(rows)
