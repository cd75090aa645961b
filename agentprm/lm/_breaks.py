"""Counts prompts that do not go on where an earlier one ended, though they look as if they did.

Keys and values are shared by tokens, so such prompts are computed correctly; they merely share less.
Two things cause it. A chat template may write an earlier turn differently than the model said it (it
drops the reasoning, trims spaces). And the tokenizer may join the end of an earlier prompt with the
beginning of what follows in one token.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from agentprm._fork import reset_after_fork
from agentprm.errors import ConfigurationError
from agentprm.lm._text import PromptText
from agentprm.lm.base import Prompt, Role

__all__ = ["BreakCounter"]

_CONVERSATIONS = 256  # that are remembered
_PREFIXES = 32  # of each

_Messages = tuple[tuple[Role, str], ...]


class BreakCounter:
    """Watches the prompts of a model.

    Args:
        text: The tokenizer and its template.

    Attributes:
        template: Conversations of which the template writes an earlier turn of the assistant
            differently than that turn was prompted and continued.
        tokens: Prompts that extend the text of an earlier one, and continuations of a prompt, whose
            tokens do not extend its tokens.
    """

    def __init__(self, text: PromptText) -> None:
        self.template = 0
        self.tokens = 0
        self._text = text
        # Per conversation, the prefixes seen: their text, number of tokens and a hash of these.
        self._seen: OrderedDict[_Messages, OrderedDict[str, tuple[int, int]]] = OrderedDict()
        self.after_fork()
        reset_after_fork(self)

    def after_fork(self) -> None:
        """Makes the counter usable in a forked process."""
        self._lock = threading.Lock()

    def see(self, prompt: Prompt, text: str, ids: Sequence[int]) -> None:
        """Takes note of a prompt.

        Args:
            prompt: The prompt.
            text: As it was rendered.
            ids: Its tokens.
        """
        with self._lock:
            known = prompt.messages in self._seen
            prefixes = self._seen.setdefault(prompt.messages, OrderedDict())
            self._seen.move_to_end(prompt.messages)
            if prompt.prefix not in prefixes:
                earlier = max((p for p in prefixes if prompt.prefix.startswith(p)), key=len, default=None)
                if earlier is not None:
                    count, digest = prefixes[earlier]
                    self.tokens += hash(tuple(ids[:count])) != digest
                prefixes[prompt.prefix] = (len(ids), hash(tuple(ids)))
            prefixes.move_to_end(prompt.prefix)
            if len(prefixes) > _PREFIXES:
                prefixes.popitem(last=False)
            if len(self._seen) > _CONVERSATIONS:
                self._seen.popitem(last=False)
        if not known and self._rewritten(prompt.messages, text):
            with self._lock:
                self.template += 1

    def joined(self) -> None:
        """Counts a continuation that shares a token with its prompt."""
        with self._lock:
            self.tokens += 1

    def _rewritten(self, messages: _Messages, text: str) -> bool:
        for at, (role, said) in enumerate(messages):
            if role == "assistant" and at:
                try:
                    before = self._text.render(Prompt(messages[:at], said))
                except ConfigurationError:  # the template takes no conversation that ends there
                    continue
                if not text.startswith(before):
                    return True
        return False
