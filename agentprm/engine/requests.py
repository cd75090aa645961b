"""What callers want of a model, texts to be read and samples to be drawn, and how the next token is drawn.

Plain records, which the scheduler fills in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from agentprm.engine.cache import Row
from agentprm.engine.engine import Piece
from agentprm.engine.tokenizing import without_partial

if TYPE_CHECKING:
    from agentprm.lm.base import SamplingParams

__all__ = ["Branch", "Request", "Sample", "Samples", "Sink", "Text", "draw", "logprobs_at"]

_ROOM = 64  # tokens that are reserved for a sample at first


@dataclass(eq=False)
class Request:
    """One call of a caller.

    Attributes:
        adapter: Name of the adapter that the model is read with; `None` for none.
        future: Done when all of it is. Cancelling it drops the rest before the next pass.
        computed: Tokens that went through the model for it.
        pending: Samples and rows that it waits for, and texts that are not planned yet.
    """

    adapter: str | None = None
    future: Future[None] = field(default_factory=Future)
    computed: int = 0
    pending: int = 0


@dataclass(eq=False)
class Text:
    """A text and what is read on it.

    Attributes:
        request: Who wants it.
        prompt: Token ids.
        reads: What to read on the text itself, by position.
        leaves: What hangs on it.
        scores: Sums of log-probabilities, by result.
        outputs: Whole outputs, fp32, by result.
    """

    request: Request
    prompt: tuple[int, ...]
    reads: dict[int, list[Sink]] = field(default_factory=dict)
    leaves: list[Branch] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    outputs: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sink:
    """What is read off the model's output at one token, and where it goes.

    Attributes:
        text: Whose result it is.
        number: Which of the text's results.
        token: The token whose log-probability is added to the result; `None` takes all outputs.
    """

    text: Text
    number: int
    token: int | None = None


@dataclass(eq=False)
class Branch:
    """Tokens that follow one another in a row and are computed together.

    Attributes:
        ids: Token ids.
        start: Position of the first one; of the trunk, what lies below it is seen.
        reads: What to read, by index in `ids`.
        keep: Whether the prefix tree remembers them.
        lane: Their lane; 0 continues the trunk.
        requests: Who needs them; the first that is still there pays.
    """

    ids: tuple[int, ...]
    start: int
    reads: dict[int, list[Sink]]
    keep: bool = True
    lane: int = 0
    requests: list[Request] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return any(not request.future.done() for request in self.requests)


@dataclass
class Sample:
    """One sample under way.

    Attributes:
        prompt_ids: Tokens of the prompt.
        key: Names the sample, for its random numbers: seed, sample number and prompt text.
        hear: Is told the text so far after each token.
        tokens: The tokens drawn so far.
        logprob: Sum of their log-probabilities.
        text: What they say, once the sample has ended.
        stopped: Whether it ended by itself or at a stop string, not for its length.
    """

    prompt_ids: Sequence[int]
    key: str
    hear: Callable[[str], None] | None = None
    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    text: str | None = None
    stopped: bool = False

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.key.encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def uniform(self) -> float:
        """The sample's next random number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def push(self, token: int, logprob: float, how: Samples) -> None:
        """Takes the next token; sets `text` if the sample has ended."""
        self.tokens.append(token)
        self.logprob += logprob
        if token in how.ends:
            self.text, self.stopped = how.decode(self.prompt_ids, self.tokens[:-1]), True
            return
        full = len(self.tokens) >= how.params.max_tokens
        if not (full or how.params.stop or self.hear):
            return
        said = how.decode(self.prompt_ids, self.tokens)
        answer, stopped = how.cut(said) if how.params.stop else (said, False)
        if stopped:
            self.text, self.stopped = answer, True
        elif full:
            self.text = without_partial(said)
        elif self.hear is not None:
            self.hear(without_partial(said))


@dataclass(eq=False)
class Samples:
    """Samples of one prompt that share a row.

    Attributes:
        request: Who wants them.
        prompt: Token ids.
        samples: One lane of the row each; each ends with its `text` set.
        params: How to sample.
        ends: Token ids that end a turn.
        decode: From the tokens of the prompt and those of a sample to the sample's text.
        cut: From a text to what stands before a stop string, and whether there is one.
        row: Their row, once the prompt is computed.
        logits: `[1, vocabulary]` after the prompt, then `[alive, vocabulary]` after the last step.
    """

    request: Request
    prompt: tuple[int, ...]
    samples: Sequence[Sample]
    params: SamplingParams
    ends: set[int]
    decode: Callable[[Sequence[int], Sequence[int]], str]
    cut: Callable[[str], tuple[str, bool]]
    row: Row | None = None
    logits: torch.Tensor | None = None

    def __post_init__(self) -> None:
        # A single sample continues the trunk: plain causal attention is faster than a lane's.
        self.alive = list(enumerate(self.samples, start=int(len(self.samples) > 1)))

    @property
    def room(self) -> int:
        """Slots to reserve for the samples."""
        return len(self.samples) * min(self.params.max_tokens, _ROOM)

    @property
    def slots(self) -> int:
        """Most slots that the row will take."""
        return len(self.prompt) + len(self.samples) * self.params.max_tokens

    def piece(self) -> Piece:
        """The last token of every sample that goes on."""
        assert self.row is not None
        known = len(self.prompt)
        return Piece(
            self.row,
            [sample.tokens[-1] for _, sample in self.alive],
            [known + len(sample.tokens) - 1 for _, sample in self.alive],
            [lane for lane, _ in self.alive],
            [known] * len(self.alive),
        )

    def leave(self) -> list[tuple[int, tuple[int, ...]]]:
        """Takes out the samples that have ended.

        Returns:
            Lane in the row, and computed tokens of each, to be remembered.
        """
        ended = [(lane, sample) for lane, sample in self.alive if sample.text is not None]
        self.alive = [(lane, sample) for lane, sample in self.alive if sample.text is None]
        return [
            (lane, (*self.prompt, *sample.tokens[:-1])) for lane, sample in ended if len(sample.tokens) > 1
        ]


def draw(
    logits: torch.Tensor, samples: Sequence[Sample], params: SamplingParams
) -> tuple[list[int], list[float]]:
    """The next token of each sample and its log-probability under the unscaled model.

    Args:
        logits: `[samples, vocabulary]`, fp32.
        samples: Where the random numbers come from.
        params: Temperature and nucleus.
    """
    logprobs = logits.log_softmax(dim=-1)
    if params.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        chance = (logits / params.temperature).softmax(dim=-1, dtype=torch.float64)
        if params.top_p < 1:
            chance = _nucleus(chance, params.top_p)
        # Inverting in vocabulary order keeps a draw stable when nearly equal tokens change rank.
        total = chance.cumsum(dim=-1)
        numbers = [sample.uniform() for sample in samples]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        tokens = torch.searchsorted(total, uniform[:, None] * total[:, -1:], right=True)[:, 0]
        # A draw at the very end may land behind the last token that has a chance.
        last = (chance > 0).long().cumsum(dim=-1).argmax(dim=-1)
        tokens = torch.minimum(tokens, last)
    return tokens.tolist(), logprobs.gather(1, tokens[:, None])[:, 0].tolist()


def _nucleus(chance: torch.Tensor, mass: float) -> torch.Tensor:
    """Zeroes what lies outside the smallest set of tokens with at least `mass`."""
    # Sorting a vocabulary costs as much as a small model's pass; a few thousand tokens mostly do.
    for count in (min(4096, chance.shape[-1]), chance.shape[-1]):
        ranked, order = chance.topk(count, dim=-1)
        before = ranked.cumsum(dim=-1) - ranked
        if count == chance.shape[-1] or bool((before[:, -1] >= mass).all()):
            break
    kept = ranked.masked_fill(before >= mass, 0.0)
    return torch.zeros_like(chance).scatter(1, order, kept)


def logprobs_at(logits: torch.Tensor, where: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of single tokens under a full softmax, computed in fp32.

    Args:
        logits: `[rows, vocabulary]`.
        where: Row of each token, in ascending order.
        tokens: Token ids.

    Returns:
        Natural log-probabilities.
    """
    if not where:
        return []
    # In slices: a softmax in fp32 over a large vocabulary takes more memory than the model's pass.
    parts = [rows.float().logsumexp(dim=1) for rows in torch.split(logits, 256)]
    row = torch.tensor(list(where), device=logits.device)
    token = torch.tensor(list(tokens), device=logits.device)
    scores: list[float] = (logits[row, token].float() - torch.cat(parts)[row]).tolist()
    return scores
