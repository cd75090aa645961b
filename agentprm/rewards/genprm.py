"""GenPRM's conversation: analysis, programs and their output, a verdict, step after step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentprm.lm.base import Role
from agentprm.rewards.verdict_templates import (
    Continuation,
    Found,
    VerdictTemplate,
    Writing,
    at_word,
    only_last,
)

__all__ = ["GenPRM"]

_GEN_SYSTEM = (
    "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
)
_FENCE = "```"
_VERIFY = f"<verify>\nLet's use python code to find any potential error:\n{_FENCE}python\n"


@dataclass(frozen=True)
class GenPRM(VerdictTemplate):
    r"""A conversation of paragraphs and critiques, with analysis, code and a boxed verdict: GenPRM.

    Each step is a user turn and the critique of it an assistant turn, so steps are judged in order
    and sample i of a step continues sample i of the step before. With `execute` the model also
    writes Python, whose output it is shown, for at most `rounds` rounds; after that it must decide.

    Args:
        opening: How every critique begins.
        closing: As in `VerdictTemplate`.
        execute: Runs a program and gives what it printed, or an error message. It gets code that a
            model wrote: hand it to a sandbox, never to `exec`.
        rounds: Most programs per step (3 in the paper).
        system: System message.
    """

    opening: str = "<analyze>\nLet's analyze the Paragraph {number} step by step: "
    closing: str = ""
    execute: Callable[[str], str] | None = None
    rounds: int = 3
    system: str = _GEN_SYSTEM

    history = True
    staged = True
    thinks = True

    @property
    def stages(self) -> int:
        """See `VerdictTemplate.stages`: analysis, programs, verdict."""
        return 2 if self.execute is None else self.rounds + 2

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        turns: list[tuple[Role, str]] = [("system", self.system)]
        for k, step in enumerate(steps):
            turns.append(("user", step if k else f"{question}\n{step}"))
            if k < len(steps) - 1:
                turns.append(("assistant", earlier[k]))
        return turns

    def write(self, opening: str, number: int) -> Writing:
        """See `VerdictTemplate.write`."""
        decide = "<output>\n**Judgement**: $\\boxed"
        head = opening.replace("{number}", str(number))
        completion = yield Continuation(head, ("</analyze>",))
        analysis = head + completion.text.split("</analyze>")[0].rstrip("\n") + "\n</analyze>\n"
        if self.execute is not None:
            text = analysis + _VERIFY
            for _ in range(self.rounds):
                completion = yield Continuation(text, (f"\n{_FENCE}\n", "</output>"))
                if "<output>" in completion.text:
                    return text + completion.text + "</output>\n"
                if completion.finish_reason == "length":
                    break
                text += completion.text + f"\n{_FENCE}\n"
                code = _last_program(text)
                output = "No code found." if code is None else self.execute(code)
                text += f"[Code Output]\n\n{_FENCE}\n{output}\n{_FENCE}\n"
        # Without code, or with the rounds used up: decide from the analysis.
        completion = yield Continuation(analysis + decide, ("</output>",), 20)
        return analysis + decide + completion.text + "</output>\n"

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        matches = list(re.finditer(r"\\boxed\{\s*(?:\\text\{\s*)?(Yes|No)\s*\}", text, re.IGNORECASE))
        if not matches:
            return only_last(None, count)
        at = matches[-1].start(1)
        return only_last(at_word(text, at, self.words), count)


def _last_program(text: str) -> str | None:
    """The last fenced block of Python that is closed."""
    for block in reversed(text.split(f"{_FENCE}python\n")[1:]):
        body, closed, _ = block.partition(f"\n{_FENCE}")
        if closed:
            return body
    return None
