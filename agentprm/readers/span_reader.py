"""A reader that marks the answer in a passage: an encoder with a head for spans and one for yes and no.

Every passage is read by itself, and every answer gets its log-odds against "this passage does not answer".
So passages can be compared: with log-odds o of all answers in all passages, an answer has the probability
exp(o) / (1 + sum of all exp(o)), and none has 1 / (1 + sum). For one passage that is the softmax over its
spans, yes, no and none; for several it is the shared normalisation of Clark and Gardner (2018, "Simple and
effective multi-paragraph reading comprehension", section 3) with one "none" for all passages together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from langchain_core.documents import Document
from safetensors.torch import load_file, save, save_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from agentprm.budget import record
from agentprm.errors import ConfigurationError, InputError
from agentprm.forking import ForkSafeLock
from agentprm.model_names import model_name
from agentprm.packaged import default_encoder_folder
from agentprm.readers.base import LEAD, Reader, ReaderAnswer
from agentprm.text import clean_text, fold

__all__ = ["SpanModel", "SpanReader", "SpanSettings", "Window", "load_span_model", "windows"]

_CONFIG, _WEIGHTS = "span_reader.json", "span_reader.safetensors"
_FORMAT = 1
_PACKAGED = "packaged"
# Spans that are looked at for one answer: most of them overlap the best.
_TRIED = 16
_WHICH = re.compile(r"\W*(?:\w+\s+)?(?:who|whom|whose|what|which|where|when|why|how)\b", re.IGNORECASE)


@dataclass(frozen=True)
class SpanSettings:
    """What a span reader was trained with, and is to be read with.

    Attributes:
        base: Name or folder of the encoder; `packaged` is the one that `default_embeddings` uses.
        max_length: Tokens of question and passage together; longer passages are read in windows.
        stride: Tokens that neighbouring windows share.
        answer_tokens: Most tokens of an answer.
    """

    base: str = _PACKAGED
    max_length: int = 288
    stride: int = 64
    answer_tokens: int = 20


class Window(NamedTuple):
    """One passage, or a part of a long one, with its question, in tokens.

    Attributes:
        input_ids: Token ids.
        token_type_ids: 0 for the question, 1 for the passage.
        offsets: For every token its characters in the passage's text; `None` for tokens outside of it.
    """

    input_ids: list[int]
    token_type_ids: list[int]
    offsets: list[tuple[int, int] | None]


def windows(tokenizer: Any, question: str, title: str, text: str, settings: SpanSettings) -> list[Window]:
    """A question and a passage in tokens; the title is read but never quoted."""
    head = f"{title}. " if title else ""
    asked = tokenizer(
        question, truncation=True, max_length=settings.max_length // 2, add_special_tokens=False
    )
    coded = tokenizer(head + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    q, ids = asked["input_ids"], coded["input_ids"]
    places = [
        (start - len(head), end - len(head)) if start >= len(head) and end > start else None
        for start, end in coded["offset_mapping"]
    ]
    room = settings.max_length - len(q) - 3
    step = max(1, room - settings.stride)
    found = []
    at = 0
    while True:
        part = ids[at : at + room]
        tokens = [tokenizer.cls_token_id, *q, tokenizer.sep_token_id, *part, tokenizer.sep_token_id]
        kinds = [0] * (len(q) + 2) + [1] * (len(part) + 1)
        found.append(Window(tokens, kinds, [*[None] * (len(q) + 2), *places[at : at + room], None]))
        if at + room >= len(ids):
            return found
        at += step


class SpanModel(nn.Module):
    """An encoder with heads for the beginning and the end of a span, for yes, for no and for none.

    Args:
        encoder: A transformers encoder with `last_hidden_state`.
        answer_tokens: Most tokens of a span.
    """

    def __init__(self, encoder: Any, answer_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.answer_tokens = answer_tokens
        size = encoder.config.hidden_size
        self.span = nn.Linear(size, 2)
        self.choice = nn.Linear(size, 3)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor,
        quotable: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-odds of answers against none.

        Args:
            input_ids: Tokens [n, t].
            attention_mask: 1 for tokens, 0 for padding [n, t].
            token_type_ids: 0 for the question, 1 for the passage [n, t].
            quotable: Which tokens an answer may hold [n, t], bool.

        Returns:
            Spans [n, t, w], where [i, j, k] is the span of tokens j to j + k inclusive and -inf where that
            is none; yes and no [n, 2].
        """
        types = getattr(self.encoder.config, "type_vocab_size", 0) or 0
        extra = {"token_type_ids": token_type_ids} if types > 1 else {}
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **extra).last_hidden_state
        # The heads are small; in fp32 a score does not lose its last digits.
        hidden = hidden.float()
        with torch.autocast(hidden.device.type, enabled=False):
            begin, end = self.span(hidden).unbind(-1)
            none, yes, no = self.choice(hidden[:, 0]).unbind(-1)
        begin = begin.masked_fill(~quotable, -torch.inf)
        end = end.masked_fill(~quotable, -torch.inf)
        width = min(self.answer_tokens, end.shape[1])
        ends = nn.functional.pad(end, (0, width - 1), value=-torch.inf).unfold(1, width, 1)
        return begin[:, :, None] + ends - none[:, None, None], torch.stack([yes, no], 1) - none[:, None]


def collate(rows: Sequence[Window], pad: int) -> dict[str, torch.Tensor]:
    """The arguments of `SpanModel.forward` for some windows."""
    longest = max(len(row.input_ids) for row in rows)

    def padded(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([value + [fill] * (longest - len(value)) for value in values])

    return {
        "input_ids": padded([row.input_ids for row in rows], pad),
        "attention_mask": padded([[1] * len(row.input_ids) for row in rows], 0),
        "token_type_ids": padded([row.token_type_ids for row in rows], 0),
        "quotable": padded([[int(o is not None) for o in row.offsets] for row in rows], 0).bool(),
    }


def load_encoder(base: str) -> tuple[Any, Any]:
    """The encoder and the tokenizer that a span reader is built on."""
    name = str(default_encoder_folder()) if base == _PACKAGED else model_name(base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # Eager attention is the fastest one in bf16 on a CPU, and its dropout the dearest part of a training.
        encoder = AutoModel.from_pretrained(
            name,
            dtype=torch.float32,
            trust_remote_code=False,
            attn_implementation="eager",
            attention_probs_dropout_prob=0.0,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The encoder {base!r} cannot be loaded: {error}") from error
    if not tokenizer.is_fast or tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
        raise ConfigurationError(
            f"The encoder {base!r} has no fast tokenizer with [CLS] and [SEP], which a span reader needs."
        )
    return encoder, tokenizer


def load_span_model(folder: str | Path) -> tuple[SpanModel, Any, SpanSettings]:
    """What a folder of a span reader holds: the model, its tokenizer and its settings.

    Raises:
        ConfigurationError: If the folder is none of a span reader, or does not fit its encoder.
    """
    settings, weights = _open(Path(folder))
    encoder, tokenizer = load_encoder(settings.base)
    model = SpanModel(encoder, settings.answer_tokens)
    _fill(model, weights, Path(folder))
    return model, tokenizer, settings


class SpanReader(Reader):
    """Answers by quoting: the likeliest span of the passages, or yes, or no.

    Args:
        folder: A folder that `save` or `agentprm train reader` wrote.
        device: A torch device; `None` takes a GPU if there is one.
        batch_tokens: Most tokens of one forward pass; bounds memory.
        refusal: `read` gives no answer where `no_answer` is above this.

    Raises:
        ConfigurationError: If the folder is none of a span reader, or does not fit its encoder.
    """

    reads_leads = True

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str | None = None,
        batch_tokens: int = 8192,
        refusal: float = 0.5,
    ) -> None:
        model, tokenizer, settings = load_span_model(folder)
        self._set_up(model, tokenizer, settings, device, batch_tokens, refusal)

    @classmethod
    def of(cls, model: SpanModel, tokenizer: Any, settings: SpanSettings) -> Self:
        """A reader on a model in memory, where it is."""
        reader = cls.__new__(cls)
        reader._set_up(model, tokenizer, settings, str(next(model.parameters()).device), 8192, 0.5)
        return reader

    def _set_up(
        self,
        model: SpanModel,
        tokenizer: Any,
        settings: SpanSettings,
        device: str | None,
        batch_tokens: int,
        refusal: float,
    ) -> None:
        if not 0 <= refusal <= 1:
            raise ConfigurationError(f"refusal must be a probability, not {refusal}.")
        if batch_tokens < 1:
            raise ConfigurationError(f"batch_tokens must be at least 1, not {batch_tokens}.")
        self.settings, self.batch_tokens, self.refusal = settings, batch_tokens, refusal
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model, self._tokenizer = model.to(self._device), tokenizer
        self._lock = ForkSafeLock()

    def candidates(
        self, questions: Sequence[str], passages: Sequence[Sequence[Document]], *, n: int
    ) -> list[list[ReaderAnswer]]:
        """See `Reader.candidates`. Equal answers of several passages count together."""
        if len(questions) != len(passages):
            raise InputError(f"{len(questions)} questions with passages for {len(passages)}.")
        if n < 1:
            raise InputError(f"n must be at least 1, not {n}.")
        rows: list[Window] = []
        owners: list[tuple[int, int, int]] = []
        for number, (question, documents) in enumerate(zip(questions, passages, strict=True)):
            asked = clean_text(question)
            for place, document in enumerate(documents):
                title = str(document.metadata.get("title") or "")
                body = _body(title, document.page_content)
                head = " ".join(part for part in (document.metadata.get(LEAD), title) if part)
                with self._lock:  # A fast tokenizer must not be used by two threads at once.
                    cut = windows(self._tokenizer, asked, head, document.page_content[body:], self.settings)
                rows += cut
                owners += [(number, place, body)] * len(cut)
        record(read_tokens=sum(len(row.input_ids) for row in rows))
        scored = self._score(rows, n)
        found: list[list[_Found]] = [[] for _ in questions]
        totals = [0.0] * len(questions)
        for (number, place, body), row, (options, total) in zip(owners, rows, scored, strict=True):
            totals[number] = _add_logs(totals[number], total)
            for odds, start, end in options:
                if start < 0:
                    if not _WHICH.match(questions[number]):  # "Where …?" is not answered by yes or no
                        found[number].append(_Found("yes" if end == -1 else "no", odds, place, -1, -1))
                    continue
                first, last = row.offsets[start], row.offsets[end]
                assert first is not None
                assert last is not None
                content = passages[number][place].page_content
                begin, stop = trimmed(content, body + first[0], body + last[1])
                if begin < stop:
                    found[number].append(_Found(content[begin:stop], odds, place, begin, stop))
        return [_ranked(some, total, n) for some, total in zip(found, totals, strict=True)]

    def _score(self, rows: list[Window], n: int) -> list[tuple[list[tuple[float, int, int]], float]]:
        """For each window its best answers (log-odds, first and last token) and the log of all odds.

        The tokens of yes are (-1, -1), of no (-1, -2).
        """
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
        results: dict[int, tuple[list[tuple[float, int, int]], float]] = {}
        at = 0
        while at < len(order):
            size = 1
            while at + size < len(order) and (size + 1) * len(rows[order[at + size]].input_ids) <= (
                self.batch_tokens
            ):
                size += 1
            batch = order[at : at + size]
            at += size
            inputs = collate([rows[i] for i in batch], self._tokenizer.pad_token_id or 0)
            with torch.inference_mode():
                self._model.eval()
                spans, choices = self._model(**{k: v.to(self._device) for k, v in inputs.items()})
            for i, span, choice in zip(batch, spans.cpu(), choices.cpu(), strict=True):
                flat = span.flatten()
                best = torch.topk(flat, min(_TRIED * n, len(flat)))
                options = [(float(choice[0]), -1, -1), (float(choice[1]), -1, -2)]
                for odds, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    if odds > -torch.inf:
                        start, width = divmod(index, span.shape[1])
                        options.append((odds, start, start + width))
                total = float(torch.logsumexp(torch.cat([flat, choice]).double(), 0))
                results[i] = (options, total)
        return [results[i] for i in range(len(rows))]

    def save(self, folder: str | Path) -> None:
        """Writes what was trained, in fp16, with its settings; the encoder's own part is not copied."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        weights = trained_weights(self._model)
        save_file(weights, target / _WEIGHTS)
        digest = hashlib.sha256((target / _WEIGHTS).read_bytes()).hexdigest()
        config = {"format": _FORMAT, "sha256": digest, **asdict(self.settings)}
        (target / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def trained_weights(model: SpanModel) -> dict[str, torch.Tensor]:
    """The weights that training changes: all but the embeddings of tokens, in fp16."""
    return {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith("encoder.embeddings.") and value.is_floating_point()
    }


def trained_digest(model: SpanModel) -> str:
    """SHA-256 of the weights that training changes, as they are saved."""
    return hashlib.sha256(save(trained_weights(model))).hexdigest()


class _Found(NamedTuple):
    text: str
    odds: float
    passage: int
    start: int
    end: int


_NEXT = re.compile(r"[.!?]\s+(?:He|She|It|They|His|Her|Its|Their|The|This|These|In|On|At)\b")
_PAIRS = (("(", ")"), ("[", "]"), ("\u201c", "\u201d"))


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without a sentence that begins in it, and without half a pair of brackets or quotation marks."""
    if (match := _NEXT.search(text, start, end)) and match.start() > start:
        end = match.start()
    for opening, closing in _PAIRS:
        said = text[start:end]
        if said.count(opening) > said.count(closing):
            place = said.rindex(opening)
            start, end = (start, start + len(said[:place].rstrip())) if place else (start + 1, end)
        elif said.count(closing) > said.count(opening) and said.endswith(closing):
            end -= 1
    if text.count('"', start, end) % 2:
        if text[start] == '"':
            start += 1
        elif text[end - 1] == '"':
            end -= 1
    return start, end


def _body(title: str, content: str) -> int:
    """Where a passage begins whose title stands on its first line, as in `load_folder`'s documents."""
    first = content.split("\n", 1)[0]
    whole = len(first) < len(content) and title and first.strip() == title.strip()
    return len(first) + 1 if whole else 0


def _ranked(found: list[_Found], total: float, n: int) -> list[ReaderAnswer]:
    """Different answers by probability; `total` is the logarithm of 1 + all odds."""
    groups: dict[str, list[_Found]] = {}
    kept: list[_Found] = []
    for one in sorted(found, key=lambda one: -one.odds):
        if one.start >= 0 and any(
            one.passage == better.passage and one.start < better.end and better.start < one.end
            for better in kept
        ):
            continue  # another cut of the same answer
        kept.append(one)
        groups.setdefault(fold(one.text).casefold(), []).append(one)
    none = float(torch.exp(torch.tensor(-total, dtype=torch.float64)))
    answers = []
    for group in groups.values():
        odds = torch.tensor([one.odds for one in group], dtype=torch.float64)
        score = float(torch.exp(torch.logsumexp(odds, 0) - total))
        best = group[0]
        answers.append(ReaderAnswer(best.text, score, none, best.passage, best.start, best.end))
    return sorted(answers, key=lambda answer: -answer.score)[:n]


def _add_logs(left: float, right: float) -> float:
    return float(torch.logaddexp(torch.tensor(left).double(), torch.tensor(right).double()))


def _open(folder: Path) -> tuple[SpanSettings, dict[str, torch.Tensor]]:
    path = folder.expanduser() / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"{folder} holds no {_CONFIG} ({error}). Pass a folder that `agentprm train reader` wrote."
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON ({error}).") from error
    kinds = {"base": str, "max_length": int, "stride": int, "answer_tokens": int, "sha256": str}
    if not isinstance(config, dict) or config.pop("format", None) != _FORMAT:
        raise ConfigurationError(f"{path} is not of format {_FORMAT}, which this version of agentprm reads.")
    if set(config) != set(kinds) or any(type(config[name]) is not kind for name, kind in kinds.items()):
        raise ConfigurationError(f"{path} must hold {', '.join(kinds)}; it holds {', '.join(config)}.")
    digest = config.pop("sha256")
    settings = SpanSettings(**config)
    if not (settings.max_length >= 16 and settings.answer_tokens >= 1 and settings.stride >= 0):
        raise ConfigurationError(f"{path} has numbers out of their range.")
    weights = folder.expanduser() / _WEIGHTS
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            raise ConfigurationError(f"{weights} has changed: its SHA-256 is {found}, expected {digest}.")
        return settings, load_file(weights)
    except OSError as error:
        raise ConfigurationError(f"{weights} cannot be read ({error}).") from error


def _fill(model: SpanModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    expected = {
        name: value.shape
        for name, value in model.state_dict().items()
        if not name.startswith("encoder.embeddings.") and value.is_floating_point()
    }
    if {name: value.shape for name, value in weights.items()} != expected:
        raise ConfigurationError(f"The weights in {folder} do not fit their encoder.")
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
