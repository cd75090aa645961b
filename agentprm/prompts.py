"""Every prompt of agentprm, as replaceable templates.

Replace one with `dataclasses.replace(PROMPTS, answer=ChatTemplate(...))` and pass the result to a
node or graph. Text that comes from a passage or from a model is put on one line before it enters a
prompt, so that it cannot open a line of the prompt's own grammar.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.lm.base import Prompt, Role
from agentprm.state import Step, title_of

if TYPE_CHECKING:
    from agentprm.rewards.base import RewardStep

__all__ = [
    "PROMPTS",
    "ChatTemplate",
    "Prompts",
    "Proposal",
    "known_text",
    "numbered",
    "one_line",
    "parse_finding",
    "parse_proposal",
    "passage_line",
    "passages_text",
]

#: How a proposal to search begins; the other form is `Final answer:`.
SEARCH = "Search:"


@dataclass(frozen=True)
class ChatTemplate:
    """A chat prompt with `{placeholders}`.

    The system text and the examples are constant, so that a backend with a prefix cache computes
    them once; what varies stands in the last message.

    Args:
        fields: Names that `user` may use; checked at construction.
        user: The last message, with placeholders.
        system: Instruction; empty for none.
        examples: Earlier turns, pairs of user and assistant texts, without placeholders.
    """

    fields: tuple[str, ...]
    user: str
    system: str = ""
    examples: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        used = {name for _, name, _, _ in string.Formatter().parse(self.user) if name is not None}
        if unknown := used - set(self.fields):
            raise ConfigurationError(
                f"The template uses {sorted(unknown)}, but only {list(self.fields)} are filled in."
            )

    def render(self, prefix: str = "", **values: str) -> Prompt:
        """The prompt with `values` filled in; `prefix` begins the assistant's turn."""
        messages: list[tuple[Role, str]] = [("system", self.system)] if self.system else []
        for question, reply in self.examples:
            messages += [("user", question), ("assistant", reply)]
        messages.append(("user", self.user.format(**{name: values.get(name, "") for name in self.fields})))
        return Prompt(tuple(messages), prefix)


def one_line(text: str) -> str:
    """`text` with every run of white space, line breaks included, as one blank."""
    return " ".join(text.split())


def passage_line(document: Document, max_chars: int = 1200) -> str:
    """A passage as one line, title first, cut at `max_chars` characters with a visible mark."""
    text = one_line(document.page_content)
    if len(text) > max_chars:
        text = text[:max_chars].rsplit(" ", 1)[0] + " […]"
    return f"{one_line(title_of(document))}: {text}"


def numbered(passages: Sequence[str]) -> str:
    """Passages with their numbers, a line each."""
    return "\n".join(f"[{i}] {passage}" for i, passage in enumerate(passages, 1)) or "(none)"


def passages_text(documents: Sequence[Document], max_chars: int = 1200) -> str:
    """The documents as numbered passages."""
    return numbered([passage_line(document, max_chars) for document in documents])


def known_text(path: Sequence[Step | RewardStep]) -> str:
    """What the steps of `path` asked and found, a line each."""
    lines = [one_line(f"{step['query']} {step['thought']}") for step in path if step["thought"]]
    return "\n".join(lines) or "(nothing yet)"


@dataclass(frozen=True)
class Proposal:
    """A parsed line of the model: a search or a conclusion."""

    query: str = ""
    final_answer: str | None = None


_LINE = re.compile(r"^\W*(search|final answer)\W*:\s*(.*?)\s*$", re.IGNORECASE)


def parse_proposal(text: str) -> Proposal | None:
    """Reads the first line of `text` that is not blank; `None` if it is neither form.

    Only the model's own output is ever parsed, and only its first line: what follows, a copied
    passage for instance, has no say.
    """
    first = next((line for line in text.splitlines() if line.strip()), "")
    match = _LINE.match(first)
    if match is None or not re.search(r"\w", match.group(2)):
        return None
    if match.group(1).lower() == "search":
        return Proposal(query=one_line(match.group(2)))
    return Proposal(final_answer=parse_finding(match.group(2)))


def parse_finding(text: str) -> str:
    """The first line of `text` that is not blank, without quotes and label; empty if there is none."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    first = re.sub(r"^\s*(?:answer|finding|final answer)\s*:\s*", "", one_line(first), flags=re.IGNORECASE)
    cleaned = first.strip(" \t\"'*`")
    return cleaned if re.search(r"\w", cleaned) else ""


@dataclass(frozen=True)
class Prompts:
    """The templates of the nodes.

    Attributes:
        propose: Next search or conclusion; fields `question`, `known`.
        complete: Finding of a step; fields `passages`, `known`, `query`.
        critique: What is wrong with a step; fields `question`, `known`, `query`, `passages`,
            `thought`, `score`, `future`.
        refine: A better step; the same fields and `critique`.
        answer: Answer from passages; fields `passages`, `question`.
        recall: Answer without passages; field `question`.
        summarise: Answer from the chain; fields `question`, `known`.
        judge: Is a finding right?; fields `question`, `known`, `query`, `passages`, `thought`.
        compare: Which of two passages fits better?; fields `query`, `first`, `second`.
    """

    propose: ChatTemplate
    complete: ChatTemplate
    critique: ChatTemplate
    refine: ChatTemplate
    answer: ChatTemplate
    recall: ChatTemplate
    summarise: ChatTemplate
    judge: ChatTemplate
    compare: ChatTemplate


_READ_EXAMPLES = (
    (
        "[1] Lost River (film): Lost River is a 2014 fantasy film written and directed by Ryan Gosling.\n"
        "[2] Lost River: The Lost River rises in the hills of West Virginia.\n"
        "Known: (nothing yet)\n"
        "Question: Who directed the film Lost River?",
        "Ryan Gosling",
    ),
    (
        "[1] Ryan Gosling: Ryan Gosling (born November 12, 1980) is a Canadian actor. His mother, Donna, "
        "is a teacher.\n"
        "Known: Who directed the film Lost River? Ryan Gosling\n"
        "Question: When was the director of Lost River born?",
        "November 12, 1980",
    ),
)
_STEP = "Question: {question}\nKnown:\n{known}\nStep: {query}\nPassages:\n{passages}\nFinding: {thought}"
_STEP_FIELDS = ("question", "known", "query", "passages", "thought")

PROMPTS = Prompts(
    propose=ChatTemplate(
        fields=("question", "known"),
        system=(
            "Solve the question one simple search at a time. Use what is known already and never repeat a "
            "search. Reply with one line: 'Search: <a short question about one thing>', or, once the answer "
            "is known, 'Final answer: <short answer>'."
        ),
        examples=(
            (
                "Question: In which country was the inventor of the Kelvin scale born?\n"
                "Known:\n(nothing yet)",
                "Search: Who invented the Kelvin scale?",
            ),
            (
                "Question: In which country was the inventor of the Kelvin scale born?\n"
                "Known:\nWho invented the Kelvin scale? William Thomson",
                "Search: In which country was William Thomson born?",
            ),
            (
                "Question: Which river is longer, the Thames or the Severn?\n"
                "Known:\nHow long is the Thames? 346 km",
                "Search: How long is the Severn?",
            ),
            (
                "Question: Which river is longer, the Thames or the Severn?\n"
                "Known:\nHow long is the Thames? 346 km\nHow long is the Severn? 354 km",
                "Final answer: the Severn",
            ),
        ),
        user="Question: {question}\nKnown:\n{known}",
    ),
    complete=ChatTemplate(
        fields=("passages", "known", "query"),
        system="Answer the question from the passages and from what is known, in as few words as possible.",
        examples=_READ_EXAMPLES,
        user="{passages}\nKnown: {known}\nQuestion: {query}",
    ),
    critique=ChatTemplate(
        fields=(*_STEP_FIELDS, "score", "future"),
        system=(
            "You review one step of a search for the answer to a question. A reward model gave it a low "
            "score. Look for a fault in the decomposition (the step asks too much, something known, or "
            "something beside the point), in the retrieval (the passages do not speak of what was asked) "
            "and in the finding (not supported by the passages, wrong entity, incomplete). Say in one or "
            "two sentences what to do better."
        ),
        user=_STEP + "\nScore: {score}\nWhat would follow: {future}",
    ),
    refine=ChatTemplate(
        fields=(*_STEP_FIELDS, "critique"),
        system=(
            "Replace a weak step of a search for the answer to a question by a better one, following the "
            "critique. Reply with one line: 'Search: <a short question about one thing>', or, if the answer "
            "is known, 'Final answer: <short answer>'."
        ),
        user=_STEP + "\nCritique: {critique}",
    ),
    answer=ChatTemplate(
        fields=("passages", "question"),
        system="Answer the question from the passages and from what is known, in as few words as possible.",
        examples=_READ_EXAMPLES,
        user="{passages}\nKnown: (nothing yet)\nQuestion: {question}",
    ),
    recall=ChatTemplate(
        fields=("question",),
        system="Answer the question in as few words as possible.",
        examples=(
            ("Question: Who directed the film Lost River?", "Ryan Gosling"),
            ("Question: In which country does the Rhine rise?", "Switzerland"),
        ),
        user="Question: {question}",
    ),
    summarise=ChatTemplate(
        fields=("question", "known"),
        system="Answer the question from what is known, in as few words as possible.",
        examples=(
            (
                "Known:\nWho invented the Kelvin scale? William Thomson\n"
                "In which country was William Thomson born? Ireland\n"
                "Question: In which country was the inventor of the Kelvin scale born?",
                "Ireland",
            ),
            (
                "Known:\nHow long is the Thames? 346 km\nHow long is the Severn? 354 km\n"
                "Question: Which river is longer, the Thames or the Severn?",
                "the Severn",
            ),
        ),
        user="Known:\n{known}\nQuestion: {question}",
    ),
    judge=ChatTemplate(
        fields=_STEP_FIELDS,
        system=(
            "You check one step of a search for the answer to a question. Is the finding right and of use? "
            "Reply Yes or No."
        ),
        user=_STEP,
    ),
    compare=ChatTemplate(
        fields=("query", "first", "second"),
        system=(
            "You decide which of two passages answers a question better. Reply 'Passage A' or 'Passage B'."
        ),
        user=(
            "Question: {query}\n\nPassage A: {first}\n\nPassage B: {second}\n\nWhich passage answers better?"
        ),
    ),
)
