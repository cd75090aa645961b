"""What rerankers learn: passages that answer a question, and others.

`relevance_examples` are for a language model that replies 1 or 0 (the supervised stage of ProRank, arXiv
2506.03487): `train_language_model` teaches it, `LogitReranker(model, labels=("1", "0"))` reads the
fine-grained score off it. `train_cross_encoder` trains an encoder that reads question and passage together;
`CrossEncoderReranker` takes its folder.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.model_names import model_name
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank.judging import DEFINITION, passage_text
from agentprm.text import one_line
from agentprm.training.data import Passage, ReadingRecord
from agentprm.training.fitting import FitReport, Objective, Progress, TrainSettings, fit, padded
from agentprm.training.folder import TrainingFolder, data_of
from agentprm.training.language_model import TextExample

__all__ = ["RelevancePair", "relevance_examples", "relevance_pairs", "train_cross_encoder"]


@dataclass(frozen=True)
class RelevancePair:
    """A question, a passage as rerankers show it, and how relevant it is.

    Attributes:
        question: The question.
        passage: The passage, its title first.
        label: In [0, 1].
    """

    question: str
    passage: str
    label: float


def relevance_pairs(
    records: Sequence[ReadingRecord], *, negatives: int = 3, max_chars: int = 1200, seed: int = 0
) -> list[RelevancePair]:
    """The gold passages of each question, and some of its others, drawn at random.

    Args:
        records: Records of reading; those without an answer have no gold passage.
        negatives: Other passages for each gold one, at most.
        max_chars: Where a passage is cut, as in the reranker.
        seed: Of the draw.
    """
    pairs = []
    for number, record in enumerate(records):
        gold = [passage for passage in record.passages if passage.gold and record.answers]
        others = [passage for passage in record.passages if not passage.gold]
        random.Random(f"{seed}/{number}/{record.question}").shuffle(others)
        chosen: list[tuple[Passage, float]] = [(passage, 1.0) for passage in gold]
        chosen += [(passage, 0.0) for passage in others[: negatives * max(1, len(gold))]]
        pairs += [
            RelevancePair(record.question, passage_text(passage.document(), max_chars), label)
            for passage, label in chosen
        ]
    return pairs


def relevance_examples(
    pairs: Sequence[RelevancePair],
    *,
    labels: tuple[str, str] = ("1", "0"),
    definition: str = DEFINITION,
    prompts: Prompts = PROMPTS,
) -> list[TextExample]:
    """Pairs as the prompts of `LogitReranker`, with the label as reply.

    Args:
        pairs: The pairs; a label of at least one half is the first label.
        labels: Replies for a relevant and an irrelevant passage, as in the reranker.
        definition: As in the reranker.
        prompts: As in the reranker.
    """
    examples = []
    for pair in pairs:
        prompt = prompts.relevant.render(
            prefill=True,
            definition=one_line(definition),
            query=one_line(pair.question),
            passage=pair.passage,
            yes=labels[0],
            no=labels[1],
        )
        reply = labels[0] if pair.label >= 0.5 else labels[1]
        examples.append(TextExample(prompt, (" " if prompt.prefix else "") + reply))
    return examples


@dataclass(frozen=True)
class _Encoded:
    ids: tuple[int, ...]
    types: tuple[int, ...]
    label: float


def train_cross_encoder(
    pairs: Sequence[RelevancePair],
    out: str | Path,
    base: str | Path,
    *,
    dev: Sequence[RelevancePair] = (),
    settings: TrainSettings | None = None,
    max_length: int = 512,
    device: str | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Trains a cross-encoder by the cross-entropy of its score's sigmoid; all of its weights.

    Args:
        pairs: What to learn; labels may be soft.
        out: The folder to write, as sentence-transformers has it.
        base: An encoder or a cross-encoder, a name or folder.
        dev: Pairs to evaluate on while training.
        settings: How to train; by default with a learning rate of 2e-5.
        max_length: Tokens of a pair; the passage is cut to fit, as the reranker cuts it.
        device: For instance `"cpu"`.
        notes: More for the card.
        progress: Called after every step.

    Returns:
        How it went; `None` if the folder holds this very training already.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingDependencyError.for_extra("sentence-transformers", "train") from error
    settings = settings or TrainSettings(learning_rate=2e-5)
    run = {
        "kind": "cross-encoder",
        "base": str(base),
        "settings": asdict(settings),
        "max_length": max_length,
        **data_of(pairs, dev),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    torch.manual_seed(settings.seed)  # a new head begins at random
    try:
        encoder = CrossEncoder(model_name(base), num_labels=1, device=device, max_length=max_length)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The encoder {str(base)!r} cannot be loaded: {error}") from error
    model, tokenizer = encoder.model, encoder.tokenizer
    report = fit(
        model,
        _encoded(pairs, tokenizer, max_length),
        _objective(tokenizer),
        folder.checkpoints,
        settings,
        dev=_encoded(dev, tokenizer, max_length),
        progress=progress,
    )
    folder.finish(lambda path: encoder.save_pretrained(str(path)), report, dict(notes or {}))
    return report


def _encoded(pairs: Sequence[RelevancePair], tokenizer: Any, max_length: int) -> list[_Encoded]:
    if not pairs:
        return []
    encoded = tokenizer(
        [pair.question for pair in pairs],
        [pair.passage for pair in pairs],
        truncation="only_second",
        max_length=max_length,
    )
    ids = encoded["input_ids"]
    types = encoded.get("token_type_ids") or [[0] * len(row) for row in ids]
    return [_Encoded(tuple(i), tuple(t), pair.label) for i, t, pair in zip(ids, types, pairs, strict=True)]


def _objective(tokenizer: Any) -> Objective[_Encoded]:
    def collate(rows: Sequence[_Encoded]) -> dict[str, Any]:
        batch = padded([row.ids for row in rows], int(tokenizer.pad_token_id or 0))
        types = padded([row.types for row in rows], 0)["input_ids"]
        labels = torch.tensor([row.label for row in rows])
        return {**batch, "token_type_ids": types, "labels": labels}

    def loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        inputs = {name: part for name, part in batch.items() if name != "labels"}
        if "token_type_ids" not in tokenizer.model_input_names:
            del inputs["token_type_ids"]
        logits = model(**inputs).logits[:, 0].float()
        total = F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")
        return total, len(batch["labels"])

    return Objective(lambda row: len(row.ids), collate, loss)
