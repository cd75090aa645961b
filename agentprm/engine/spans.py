"""What of a text is to be scored, and how a prompt is fitted into a model's context."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentprm.errors import ConfigurationError, ContextLengthError, InputError

__all__ = ["Context", "Span", "sample_seed", "span_of"]


@dataclass(frozen=True)
class Span:
    """What to score of a text: the tokens of `ids` from `start` on.

    Attributes:
        ids: Prompt and continuation.
        start: Index of the first scored token, at least 1.
    """

    ids: tuple[int, ...]
    start: int

    @property
    def scored(self) -> tuple[int, ...]:
        """The tokens whose log-probabilities count."""
        return self.ids[self.start :]


def span_of(trunk: Sequence[int], joint: Sequence[int], continuation: str) -> Span:
    """The span of a continuation from the ids of its prompt and of both together.

    Where the boundary falls inside a token, the tokens from there on are scored, given those before.
    """
    pairs = enumerate(zip(trunk, joint, strict=False))
    start = next((at for at, (a, b) in pairs if a != b), min(len(trunk), len(joint)))
    if not start or len(joint) <= start:
        raise InputError(f"The continuation {continuation!r} adds no token to its prompt.")
    return Span(tuple(joint), start)


@dataclass(frozen=True)
class Context:
    """A model's context, and what to do with a prompt that does not fit.

    Attributes:
        length: Most tokens, or `None` where it is not known.
        on_overflow: `"error"`, or `"truncate_left"`: drop the oldest tokens, keep a leading BOS.
        bos: Id of the token to keep.
    """

    length: int | None
    on_overflow: Literal["error", "truncate_left"] = "error"
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.on_overflow not in ("error", "truncate_left"):
            raise ConfigurationError(
                f"on_overflow must be 'error' or 'truncate_left', not {self.on_overflow!r}."
            )

    def lost(self, ids: Sequence[int], new: int) -> int:
        """Tokens to drop so that `new` more fit.

        Raises:
            ContextLengthError: If the policy is not to cut, or nothing would be left.
        """
        if not ids:
            raise InputError("A prompt must have at least one token; this tokenizer adds none of its own.")
        if self.length is None or len(ids) + new <= self.length:
            return 0
        head = self._head(ids)
        if self.on_overflow == "error" or self.length - new - head < 1:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens and {new} more are asked for, but the model's context is "
                f"{self.length}. Shorten the prompt (fewer or shorter passages), lower max_tokens, or use "
                "on_overflow='truncate_left'."
            )
        return len(ids) + new - self.length

    def cut(self, ids: Sequence[int], lost: int) -> list[int]:
        """The ids without the `lost` oldest ones after a leading BOS."""
        head = self._head(ids)
        return [*ids[:head], *ids[head + lost :]]

    def fit(self, trunk: Sequence[int], spans: Sequence[Span], new: int = 0) -> tuple[list[int], list[Span]]:
        """A prompt and its spans, all cut as the longest one needs it, `new` more tokens left free.

        Raises:
            ContextLengthError: As in `lost`, or if a scored token would have nothing before it.
        """
        longest = max(len(span.ids) for span in spans) - len(trunk) + new
        lost = self.lost(trunk, longest)
        if lost and any(span.start <= lost + self._head(trunk) for span in spans):
            raise ContextLengthError("A prompt that is cut to nothing cannot be scored; shorten the text.")
        fitted = [Span(tuple(self.cut(span.ids, lost)), span.start - lost) for span in spans]
        return self.cut(trunk, lost), fitted

    def _head(self, ids: Sequence[int]) -> int:
        return 1 if self.bos is not None and ids[0] == self.bos else 0


def sample_seed(seed: int, ids: Sequence[int], number: int, bits: int) -> int:
    """A sample's own seed, from the call's seed, the prompt's tokens and the sample's number."""
    digest = hashlib.sha256(f"{seed}/{number}/{','.join(map(str, ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - bits)
