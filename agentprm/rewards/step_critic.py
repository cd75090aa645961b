"""A small trained critic of steps: an encoder reads question, sub-question, finding and passage together.

`agentprm.training.step_critic` trains it. A step's logit is the greatest over its passages, plus a weighted
sum of what can be counted: how sure a reader is of the finding, whether it stands in a passage or was given
away by the sub-question, and the like (`FEATURES`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from agentprm.errors import ConfigurationError, MissingDependencyError, check_least
from agentprm.forking import ForkSafeLock
from agentprm.packaged import default_reader, packaged_reader_folder
from agentprm.readers.base import Reader
from agentprm.rewards.base import PrefixReward, Trajectory, logit
from agentprm.rewards.reader_grounding import ReaderGrounding, gives_answer
from agentprm.text import clean_text, one_line, terms

try:
    import torch
    from safetensors.torch import load_file
    from torch import nn
except ImportError as missing:
    raise MissingDependencyError.for_extra(missing.name or "torch", "transformers") from missing

from agentprm.engine.lora import merge_adapter
from agentprm.readers.span_reader import SpanSettings, Window, collate, load_encoder, load_span_model, windows

__all__ = [
    "CONFIG",
    "FEATURES",
    "CriticModel",
    "CriticSettings",
    "StepCritic",
    "StepRows",
    "batch_of",
    "features_of",
    "open_encoder",
    "rows_of",
    "save_critic",
]

CONFIG, WEIGHTS = "step_critic.json", "step_critic.safetensors"
_FORMAT = 1
_READER = "reader"
_MOST = 6.0  # logit of the reader's probability, at most

#: What is counted of a step besides what the encoder reads.
FEATURES = (
    "logit of the reader's probability",
    "finding in a passage",
    "finding in the sub-question",
    "finding in the question",
    "words of the sub-question that question or findings hold",
    "a passage's title named",
    "length of the finding",
    "asks the whole question",
)


@dataclass(frozen=True)
class CriticSettings:
    """What a critic was trained with, and is to be read with.

    Attributes:
        base: Its encoder: `reader` is that of the packaged reader, `packaged` the one of
            `default_embeddings`; or the folder of a span reader, or an encoder's name or folder.
        max_length: Tokens of step and passage together; longer passages are read in windows.
        stride: Tokens that neighbouring windows share.
        rank: Rank of the adapter; 0 reads the features alone, without an encoder.
        alpha: Its products are scaled by `alpha / rank`.
    """

    base: str = _READER
    max_length: int = 320
    stride: int = 64
    rank: int = 16
    alpha: int = 32

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha < 1 or self.max_length < 32 or self.stride < 0:
            raise ConfigurationError(f"{self} has numbers out of their range.")


class StepRows(NamedTuple):
    """A step in tokens, a window for every passage or part of a long one, and what is counted of it."""

    rows: list[Window]
    features: list[float]


class CriticModel(nn.Module):
    """An encoder with a head that gives a logit for every window, and weights of the features.

    Args:
        encoder: A transformers encoder with `last_hidden_state`; `None` reads the features alone.
    """

    def __init__(self, encoder: Any | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1) if encoder is not None else None
        self.counted = nn.Linear(len(FEATURES), 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [steps] that steps are right, of `batch_of`'s tensors."""
        # Heads are small; in fp32 a score does not lose its last digits.
        with torch.autocast(batch["features"].device.type, enabled=False):
            logits: torch.Tensor = self.counted(batch["features"]).squeeze(-1)
        if self.encoder is None or self.head is None:
            return logits
        types = getattr(self.encoder.config, "type_vocab_size", 0) or 0
        extra = {"token_type_ids": batch["token_type_ids"]} if types > 1 else {}
        hidden = self.encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **extra
        ).last_hidden_state[:, 0]
        with torch.autocast(hidden.device.type, enabled=False):
            read = self.head(hidden.float()).squeeze(-1)
        # A step is as good as its best passage says.
        best = torch.full_like(logits, -torch.inf).scatter_reduce(0, batch["owner"], read, "amax")
        return logits + best


def _reader_folder(base: str) -> Path:
    return packaged_reader_folder() if base == _READER else Path(base).expanduser()


def _base_digest(settings: CriticSettings) -> str:
    """SHA-256 of the reader's weights that an adapter changes; encoders by name are known by their name."""
    path = _reader_folder(settings.base) / "span_reader.json"
    if not settings.rank or not path.is_file():
        return ""
    return str(json.loads(path.read_text(encoding="utf-8"))["sha256"])


def open_encoder(base: str) -> tuple[Any, Any]:
    """The encoder and tokenizer that a critic is built on; see `CriticSettings.base`."""
    folder = _reader_folder(base)
    if (folder / "span_reader.json").is_file():
        model, tokenizer, _ = load_span_model(folder)
        return model.encoder, tokenizer
    return load_encoder(base)


def rows_of(
    tokenizer: Any, question: str, path: Trajectory, settings: CriticSettings, features: Sequence[float]
) -> StepRows:
    """The last step of a path, with what the steps before it found."""
    step = path[-1]
    known = "; ".join(one_line(before["thought"]) for before in path[:-1])
    parts = (question, known, step["query"], step["thought"])
    # The tokenizer reads its separator's name as the separator; nobody else may write it.
    mark = tokenizer.sep_token
    head = f" {mark} ".join(clean_text(one_line(part)).replace(mark, " ") for part in parts)
    cut = SpanSettings(settings.base, settings.max_length, settings.stride)
    rows: list[Window] = []
    for passage in step["passages"]:
        rows += windows(tokenizer, head, "", passage.replace(mark, " "), cut)
    return StepRows(rows, list(features))


def batch_of(steps: Sequence[StepRows], pad: int, *, encoded: bool = True) -> dict[str, torch.Tensor]:
    """What `CriticModel` takes."""
    batch = {"features": torch.tensor([step.features for step in steps])}
    if encoded:
        batch |= collate([row for step in steps for row in step.rows], pad)
        del batch["quotable"]
        batch["owner"] = torch.tensor([i for i, step in enumerate(steps) for _ in step.rows])
    return batch


def features_of(question: str, path: Trajectory, support: float) -> list[float]:
    """The numbers that `FEATURES` names.

    Args:
        question: The question.
        path: Steps; the last one is looked at.
        support: The reader's probability of its finding.
    """
    step = path[-1]
    finding, query = one_line(step["thought"]), one_line(step["query"])
    known = [question, *(before["thought"] for before in path[:-1])]
    asked = set(terms(query))
    held = {term for text in known for term in terms(text)}
    titles = [passage.partition(":")[0].partition(" (")[0] for passage in step["passages"]]
    return [
        min(max(logit(support, 1e-9), -_MOST), _MOST) / _MOST,
        float(any(gives_answer(passage, finding) for passage in step["passages"])),
        float(gives_answer(query, finding)),
        float(gives_answer(question, finding)),
        len(asked & held) / len(asked) if asked else 0.0,
        float(any(gives_answer(text, title) for title in titles for text in (query, *known))),
        min(len(finding.split()), 30) / 10,
        float(query.casefold() == one_line(question).casefold() or not query),
    ]


class StepCritic(PrefixReward):
    """A trained critic of steps: the probability that a step finds what its question needs.

    A step without passages, such as a comparison of what was found before, is as good as the worst step
    before it, and .5 if there is none: the critic knows nothing of steps that rest on no passage.

    Args:
        folder: A folder that `agentprm train critic --kind encoder` wrote.
        reader: Says how sure it is of findings that it did not give itself; by default the packaged one.
        passages: Most passages of a step that are read.
        device: A torch device; `None` takes a GPU if there is one.
        batch_tokens: Most tokens of one forward pass; bounds memory.
        cache_size: Scores that are remembered.

    Raises:
        ConfigurationError: If the folder holds no critic, or one that does not fit its encoder.
    """

    threshold = 0.5

    def __init__(
        self,
        folder: str | Path,
        *,
        reader: Reader | None = None,
        passages: int = 5,
        device: str | None = None,
        batch_tokens: int = 8192,
        cache_size: int = 10_000,
    ) -> None:
        super().__init__(cache_size)
        check_least(1, passages=passages, batch_tokens=batch_tokens)
        self.settings, tensors = _open(Path(folder).expanduser())
        self.passages, self.batch_tokens = passages, batch_tokens
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._reader = ReaderGrounding(reader or default_reader(device=device), passages=passages)
        encoder: Any = None
        self._tokenizer: Any = None
        if self.settings.rank:
            encoder, self._tokenizer = open_encoder(self.settings.base)
        self.model = CriticModel(encoder)
        _fill(self.model, tensors, self.settings, Path(folder))
        self.model.to(self._device).eval()
        self._lock = ForkSafeLock()

    def score_prefixes(self, question: str, prefixes: Sequence[Trajectory]) -> list[float]:
        """See `PrefixReward.score_prefixes`."""
        # A step without passages stands on those before it.
        rested = [[p[:k] for k in range(1, len(p))] if not p[-1]["passages"] else [p] for p in prefixes]
        needed = {repr(p): p for group in rested for p in group if p[-1]["passages"]}
        scores = dict(zip(needed, self._probabilities(question, list(needed.values())), strict=True))
        return [
            min((scores[key] for p in group if (key := repr(p)) in scores), default=0.5) for group in rested
        ]

    def _probabilities(self, question: str, paths: Sequence[Trajectory]) -> list[float]:
        if not paths:
            return []
        paths = [[*p[:-1], {**p[-1], "passages": p[-1]["passages"][: self.passages]}] for p in paths]
        support = self._reader.score_prefixes(question, [path[-1:] for path in paths])
        features = [features_of(question, p, s) for p, s in zip(paths, support, strict=True)]
        if self._tokenizer is None:
            steps = [StepRows([], row) for row in features]
        else:
            with self._lock:  # a fast tokenizer must not be used by two threads at once
                steps = [
                    rows_of(self._tokenizer, question, p, self.settings, row)
                    for p, row in zip(paths, features, strict=True)
                ]
        found: list[float] = []
        at = 0
        while at < len(steps):
            size = 1
            while at + size < len(steps) and _tokens(steps[at : at + size + 1]) <= self.batch_tokens:
                size += 1
            pad = self._tokenizer.pad_token_id or 0 if self._tokenizer is not None else 0
            batch = batch_of(steps[at : at + size], pad, encoded=self._tokenizer is not None)
            with torch.inference_mode():
                logits = self.model({name: tensor.to(self._device) for name, tensor in batch.items()})
            found += logits.double().sigmoid().tolist()
            at += size
        return found


def _tokens(steps: Sequence[StepRows]) -> int:
    lengths = [len(row.input_ids) for step in steps for row in step.rows]
    return len(lengths) * max(lengths, default=0)


def save_critic(model: CriticModel, settings: CriticSettings, folder: Path, adapter: dict[str, Any]) -> None:
    """Writes weights in fp16 and settings.

    Args:
        model: The critic.
        settings: Its settings.
        folder: Where to.
        adapter: The tensors of its encoder's adapter by name, as peft calls them.
    """
    from safetensors.torch import save_file

    own = {n: v for n, v in model.state_dict().items() if not n.startswith("encoder.")}
    weights = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in {**own, **adapter}.items()
    }
    save_file(weights, folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    config = {"format": _FORMAT, "sha256": digest, "base_sha256": _base_digest(settings), **asdict(settings)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _open(folder: Path) -> tuple[CriticSettings, dict[str, torch.Tensor]]:
    path, weights = folder / CONFIG, folder / WEIGHTS
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(
            f"{folder} holds no critic ({error}). Pass a folder that `agentprm train critic --kind encoder` "
            "wrote."
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON ({error}).") from error
    if not isinstance(config, dict) or config.pop("format", None) != _FORMAT:
        raise ConfigurationError(f"{path} is not of format {_FORMAT}, which this version of agentprm reads.")
    digest, base = config.pop("sha256", None), config.pop("base_sha256", None)
    kinds = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(CriticSettings)}
    if set(config) != set(kinds) or any(type(config[name]) is not kind for name, kind in kinds.items()):
        raise ConfigurationError(f"{path} must hold {', '.join(kinds)}; it holds {', '.join(config)}.")
    if found != digest:
        raise ConfigurationError(f"{weights} has changed: its SHA-256 is {found}, expected {digest}.")
    settings = CriticSettings(**config)
    if base != _base_digest(settings):
        raise ConfigurationError(
            f"{folder} was trained on another reader than the one in {settings.base!r}: train it again, or "
            "keep that reader."
        )
    return settings, load_file(weights)


def _fill(
    model: CriticModel, tensors: dict[str, torch.Tensor], settings: CriticSettings, folder: Path
) -> None:
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    adapter = {name: value.float() for name, value in tensors.items() if ".lora_" in name}
    rest = {name: value.float() for name, value in tensors.items() if name not in adapter}
    if {n: v.shape for n, v in rest.items()} != {n: v.shape for n, v in own.items()}:
        raise ConfigurationError(f"The weights in {folder} do not fit their encoder.")
    model.load_state_dict(rest, strict=False)
    if settings.rank:
        config = {"peft_type": "LORA", "r": settings.rank, "lora_alpha": settings.alpha}
        merge_adapter(model.encoder, config, adapter)
