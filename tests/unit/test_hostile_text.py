"""Every function of the library that reads text of strangers takes time linear in it, and bounded memory.

Each is fed long repetitions, and parsers also such behind a beginning that they know. Where that takes more
than a fifth of a second, four times the text may not take much more than four times as long.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

import agentprm.trace.html as page
from agentprm.documents import passage_line, supporting
from agentprm.engine.tokenizing import as_data, opened_thought
from agentprm.errors import AgentPRMError
from agentprm.evaluation import contains_answer, exact_match, normalize_answer, normalize_unicode, token_f1
from agentprm.lm import Completion
from agentprm.lm.reports import refused_settings, too_long
from agentprm.nodes import condense_question
from agentprm.replies import (
    answer_span,
    begins_thinking,
    finished_text,
    inert,
    parse_finding,
    parse_proposal,
    without_thought,
)
from agentprm.rerank.judging import passage_text
from agentprm.rerank.listwise import parse_permutation
from agentprm.rerank.prompted import parse_label
from agentprm.rerank.rubric import parse_grade
from agentprm.rerank.setwise import parse_member
from agentprm.retrievers import LexicalIndex, MentionIndex
from agentprm.retrievers.filters import compile_filter
from agentprm.retrievers.formats import SUFFIXES, read_file
from agentprm.retrievers.html_text import read_html
from agentprm.retrievers.leads import lead_names
from agentprm.retrievers.mentions import title_names
from agentprm.retrievers.splitting import split_text
from agentprm.rewards import as_trajectory, graded_templates
from agentprm.rewards.checkers import (
    ArithmeticChecker,
    FormulaWriter,
    ProgramWriter,
    TableChecker,
    read_entailment,
)
from agentprm.rewards.checkers import python as python_checker
from agentprm.rewards.checkers._formulas import FormulaError, parse_formula
from agentprm.rewards.checkers.table import read_tables
from agentprm.rewards.conversation import shortened
from agentprm.rewards.graded_templates import GenPRM, Principled, Rubric
from agentprm.rewards.templates import without_marks
from agentprm.rewards.verdict_templates import Grounded, Judge, SolutionCheck, StepChecks
from agentprm.testing import FakeEmbeddings, ScriptedLanguageModel
from agentprm.text import clean_text, cut, cut_words, fold, one_line, sentence_ends, terms, words
from agentprm.trace.live import event_line
from agentprm.trace.text import shown_line

SIZE = 20_000

UNITS = [
    *(
        " ",
        "\n",
        "\t",
        "\r\n",
        "\n\n",
        " \n",
        "a",
        "a ",
        "A ",
        "1",
        "1 ",
        "1,",
        "1.",
        "-",
        "_",
        "*",
        "#",
        "# ",
    ),
    *("(", "()", "[", "[]", "{", "{}", "<", "<>", "((", "[ ", "( 1", "<<", "|", "| ", "|a", "|-", "/", "\\"),
    *(
        ".",
        ". ",
        "?",
        "?!",
        ":",
        ": ",
        ";",
        ", ",
        '"',
        '" ',
        "'",
        "`",
        "```",
        "```\n",
        "a```python\n",
        "~",
        "=",
    ),
    *("=1", "1+", "1/", "1=1 ", "\\frac{", "\\boxed{", "\\text {", "\\text{", "$", "^", "2^", "\\sqrt"),
    *("<think>", "</think>", "<think> ", "<|", "<|a|>", "</s>", "Step 1 ", "Step ", "Verdict: ", "Search: "),
    *(
        "search :",
        "Final answer: ",
        "answer ",
        "Answer:",
        "the ",
        "passage ",
        "Passage A ",
        "[1]",
        "[1] > ",
        "> ",
    ),
    *('"scores": {', '{"a":', "[[", "a1: b\n", "a1 & ", "-> ", "or ", "known as ", "is ", "not ", "P(x) & "),
    *(
        "Table: a: b; ",
        "<p>",
        "<b><p>",
        "<table><tr><td>",
        "<!--",
        "<a href='",
        "&amp",
        "assert ",
        "\n# a",
        "- ",
    ),
    *(
        "漢",
        "か。",
        "กำ",
        "한",
        "a\u0301",
        "\u0301",
        "\u0315\u0300",
        "\ufdfa",
        "👩\u200d",
        "\ud83d",
        "\u200b",
        "٣",
    ),
    *(
        "Ab ",
        "Ab Cd ",
        "Home ",
        "# x\n",
        "---\n",
        "title: a\n",
        "a: &x [*x]\n",
        "- - ",
        "> > ",
        "* a\n",
        "\\",
    ),
]
BEGINNINGS = [
    *(
        "",
        "Search: ",
        "Final answer: ",
        "Answer",
        "The answer is",
        "<think>",
        "Verdict:",
        "\\boxed{",
        "```python\n",
    ),
    *(
        "---\n",
        "# ",
        "| a |\n",
        "fact1 ",
        "fact1 & fact2 -> int1: ",
        "P |- ",
        "<score>",
        "[1",
        "Passage ",
        "1 = ",
    ),
    *("Ab Cd (", "Question:", "x, known as ", '{"scores": ', "Step 1: \\boxed{correct}"),
]

LM = ScriptedLanguageModel(lambda text: "")


class Writer(ProgramWriter):
    said = ""

    def _reply(self, question: str, prefix: Any) -> str:
        return self.said


class Formulas(FormulaWriter):
    said = ""

    def _reply(self, question: str, prefix: Any) -> str:
        return self.said


def step(thought: str, *passages: str) -> dict[str, Any]:
    return {"query": "q", "passages": list(passages), "thought": thought, "final_answer": None}


def written(writer: Any) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        writer.said = text
        return writer("q", [step("t")])

    return read


def mentions(text: str) -> None:
    index = MentionIndex.from_documents(
        [Document(id="a", page_content=text), Document(id="b", page_content="x", metadata={"title": text})]
    )
    index.find(text, misspelt=True)
    index.names(text)
    index.find("Home A a Ab Cd")


def doc(text: str) -> Document:
    return Document(id="d", page_content=text, metadata={"title": text, "tags": text})


FUNCTIONS: dict[str, Callable[[str], Any]] = {
    # text
    "words": words,
    "terms": terms,
    "fold": fold,
    "sentence_ends": sentence_ends,
    "cut": lambda text: (cut(text, len(text) - 1), cut_words(text, len(text) // 2)),
    "sentences on a page": page._sentences,
    "clean_text": clean_text,
    "one_line": one_line,
    "shown_line": lambda text: shown_line(text, 80),
    "event_line": lambda text: event_line({"type": "agentprm.answered", "answer": text}),
    "shortened": lambda text: shortened(text, 1000),
    # retrievers
    "supporting": lambda text: supporting(text, [doc(text)], text),
    "mentions": mentions,
    "lead_names": lead_names,
    "title_names": lambda text: title_names(doc(text)),
    "lexical": lambda text: LexicalIndex([doc(text)]).search(text),
    "read_html": read_html,
    "split_text": lambda text: split_text(text, 1000, 100, markdown=True),
    "filters": lambda text: compile_filter({"tags": {"$contains": text[:20_000] + "!"}})(doc(text)),
    "fake embeddings": FakeEmbeddings().embed_query,
    # evaluation
    "metrics": lambda text: (
        exact_match(text, [text]),
        token_f1(text, [text]),
        contains_answer(text, [text + "x"]),
        normalize_answer(text),
        normalize_unicode(text),
    ),
}

PARSERS: dict[str, Callable[[str], Any]] = {
    # prompts and replies
    "passage_line": lambda text: passage_line(doc(text)),
    "parse_proposal": parse_proposal,
    "parse_proposal after": lambda text: parse_proposal(text, "Search: what"),
    "parse_finding": parse_finding,
    "finished_text": lambda text: finished_text(Completion(text, 1, "length")),
    "replies": lambda text: [
        f(text) for f in (answer_span, begins_thinking, inert, opened_thought, without_thought)
    ],
    "question label": condense_question._LABEL.search,
    "control tokens": as_data,
    "refusals": lambda text: (too_long(text), refused_settings(text, ["n", "schema", "temperature"])),
    # rerank
    "passage_text": lambda text: passage_text(doc(text), 1000),
    "parse_label": lambda text: parse_label(text, ("Passage A", "Passage B")),
    "parse_permutation": lambda text: parse_permutation(text, 20),
    "parse_grade": parse_grade,
    "parse_member": lambda text: parse_member(text, "ABCD"),
    # rewards
    "judge": lambda text: Judge().find(text, "q", 3),
    "step checks": lambda text: StepChecks().find(text, "q", 3),
    "solution check": lambda text: SolutionCheck().find(text, "q", 3),
    "grounded": lambda text: Grounded().find(text, "q", 3),
    "genprm": lambda text: (GenPRM().find(text, "q", 3), graded_templates._last_program(text)),
    "principled": lambda text: Principled().find(text, "q", 3),
    "rubric": lambda text: Rubric(rubrics=("is true",)).find(text, "q", 3),
    "as_trajectory": as_trajectory,
    "step tags": lambda text: [without_marks(Tokenizer(), text, [tag]) for tag in ("\n", "ки", "<extra_0>")],
    # checkers
    "arithmetic": lambda text: ArithmeticChecker().check("q", [step(text)]),
    "table": lambda text: TableChecker().check(text, [step(text, text)]),
    "read_tables": lambda text: list(read_tables(text)),
    "entailment": lambda text: [read_entailment(text, [step(t, text)]) for t in (text, "a1 -> b")],
    "formula": parse_formula,
    "programs": python_checker._programs,
    "program writer": written(Writer(LM)),
    "formula writer": written(Formulas(LM)),
}


class Tokenizer:
    """No added tokens but one."""

    chat_template = None
    all_special_ids = (0,)
    all_special_tokens = ("</s>",)
    added_tokens_decoder: dict[int, Any] = {}

    def __len__(self) -> int:
        return 1


def spent(function: Callable[[str], Any], text: str) -> float:
    start = time.process_time()
    with contextlib.suppress(AgentPRMError, FormulaError):
        function(text)
    return time.process_time() - start


def hostile(function: Callable[[str], Any], beginnings: Sequence[str] = ()) -> list[str]:
    """The texts on which a function is slow, by what they are made of."""
    slow = []
    spent(function, "x")  # imports what it needs
    made = [("", unit) for unit in UNITS]
    made += [(begin, unit) for begin in beginnings for unit in UNITS[:6] + UNITS[6::9]]
    for begin, unit in made:
        text = begin + unit * (SIZE // len(unit)) + "\nx"
        seconds = spent(function, text)
        if seconds < 0.2:
            continue
        # Quadratic time takes 16 times as long, linear time 4 times. A machine may pause in any one of them.
        part = begin + unit * (SIZE // 4 // len(unit)) + "\nx"
        for _ in range(4):
            if seconds <= 8 * spent(function, part):
                break
            seconds = min(seconds, spent(function, text))
        else:
            slow.append(f"{begin!r} + {unit!r} * n: {seconds:.1f} s")
            if seconds > 5:
                break
    return slow


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_take_linear_time(name: str) -> None:
    assert hostile(FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_take_linear_time(name: str) -> None:
    if name == "arithmetic":
        pytest.importorskip("sympy")
    assert hostile(PARSERS[name], BEGINNINGS) == []


@pytest.mark.parametrize("suffix", [s for s in SUFFIXES if s not in (".pdf", ".docx", ".htm", ".markdown")])
def test_files_are_read_in_linear_time(suffix: str, tmp_path: Path) -> None:
    def read(text: str) -> Any:
        path = tmp_path / f"f{suffix}"
        path.write_text(clean_text(text), encoding="utf-8")
        return list(read_file(path, "f"))

    assert hostile(read) == []


def test_a_filter_with_many_values_is_applied_in_linear_time() -> None:
    many = [str(i) for i in range(100_000)]
    test = compile_filter({"tags": {"$in": many}})
    start = time.process_time()
    assert not any(test(Document(page_content="x", metadata={"tags": f"x{i}"})) for i in range(2000))
    assert time.process_time() - start < 5
