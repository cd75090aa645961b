"""Trains the query encoder of ANCE-PRF (arXiv 2108.13454): it reads the query and the first passages.

The passages' vectors stay those of the index: only the query's encoder is trained, so that no index is
built anew. `EncoderFeedback(SentenceTransformerEmbeddings(out))` uses it, with as many passages as it was
trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.model_names import model_name
from agentprm.packaged import default_encoder_folder
from agentprm.training.data import ReadingRecord
from agentprm.training.fitting import FitReport, Objective, Progress, TrainSettings, fit, padded
from agentprm.training.folder import TrainingFolder, data_of

__all__ = ["FeedbackExample", "feedback_examples", "train_feedback_encoder"]

SEPARATOR = " [SEP] "


@dataclass(frozen=True)
class FeedbackExample:
    """A query with the passages that it found, and what it should find.

    Attributes:
        query: The query.
        feedback: Texts of the first passages found, best first.
        positives: Texts of passages that it should find.
        negatives: Texts of passages that it should not, the hardest first: those that it found instead.
    """

    query: str
    feedback: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


def feedback_examples(
    records: Sequence[ReadingRecord],
    search: Callable[[str], Sequence[Document]],
    *,
    depth: int = 3,
    negatives: int = 20,
) -> list[FeedbackExample]:
    """Examples from questions with gold passages and the retriever that finds the first passages.

    Args:
        records: Records of reading; those without a gold passage are left out.
        search: From a question to what the index gives, best first, for instance `retriever.invoke`.
        depth: Passages that the encoder reads.
        negatives: Passages of an example that are not gold, at most.
    """
    examples = []
    for record in records:
        gold = [passage.text for passage in record.passages if passage.gold]
        if not gold:
            continue
        found = [document.page_content for document in search(record.question)]
        wrong = [text for text in found if text not in gold][:negatives]
        if wrong:
            examples.append(FeedbackExample(record.question, tuple(found[:depth]), tuple(gold), tuple(wrong)))
    return examples


@dataclass(frozen=True)
class _Encoded:
    ids: tuple[int, ...]
    vectors: torch.Tensor  # of the candidates, positives first
    positives: int


def train_feedback_encoder(
    examples: Sequence[FeedbackExample],
    out: str | Path,
    base: str | Path | None = None,
    *,
    scale: float = 20.0,
    dev: Sequence[FeedbackExample] = (),
    settings: TrainSettings | None = None,
    device: str | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Trains a query encoder to find more from a query and its first passages.

    The loss is the negative logarithm of the positives' share in the softmax over an example's candidates, by
    the product of unit vectors times `scale`.

    Args:
        examples: What to learn.
        out: The folder to write, as sentence-transformers has it.
        base: The sentence-transformers model that made the index's vectors, a name or folder; by default the
            packaged one. The encoder begins as its copy.
        scale: Inverse temperature.
        dev: Examples to evaluate on while training.
        settings: How to train; by default with a learning rate of 2e-5.
        device: For instance `"cpu"`.
        notes: More for the card.
        progress: Called after every step.

    Returns:
        How it went; `None` if the folder holds this very training already.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError.for_extra("sentence-transformers", "train") from error
    if not scale > 0:
        raise ConfigurationError(f"scale must be positive, not {scale}.")
    settings = settings or TrainSettings(learning_rate=2e-5)
    run = {
        "kind": "feedback encoder",
        "base": "the packaged encoder" if base is None else str(base),
        "settings": asdict(settings),
        "scale": scale,
        "passages": max((len(example.feedback) for example in examples), default=0),
        **data_of(examples, dev),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    name = str(default_encoder_folder()) if base is None else model_name(base)
    encoder = SentenceTransformer(name, device=device, trust_remote_code=False)
    rows = [_rows(some, encoder) for some in (examples, dev)]
    report = fit(
        encoder,
        rows[0],
        _objective(encoder, scale),
        folder.checkpoints,
        settings,
        dev=rows[1],
        progress=progress,
    )
    folder.finish(lambda path: encoder.save_pretrained(str(path)), report, dict(notes or {}))
    return report


def _rows(examples: Sequence[FeedbackExample], encoder: Any) -> list[_Encoded]:
    """The joined texts as tokens, and the candidates' vectors as the encoder makes them now."""
    if not examples:
        return []
    texts = sorted({text for one in examples for text in (*one.positives, *one.negatives)})
    made = encoder.encode_document(texts, convert_to_tensor=True, normalize_embeddings=True)
    vectors = dict(zip(texts, made.float().cpu(), strict=True))
    ids = encoder.tokenizer(
        [SEPARATOR.join([one.query, *one.feedback]) for one in examples],
        truncation=True,  # as the encoder itself does when it is used
        max_length=encoder.max_seq_length,
    )["input_ids"]
    return [
        _Encoded(
            tuple(row),
            torch.stack([vectors[t] for t in (*one.positives, *one.negatives)]),
            len(one.positives),
        )
        for row, one in zip(ids, examples, strict=True)
    ]


def _objective(encoder: Any, scale: float) -> Objective[_Encoded]:
    pad = int(encoder.tokenizer.pad_token_id or 0)

    def collate(rows: Sequence[_Encoded]) -> dict[str, Any]:
        width = max(len(row.vectors) for row in rows)
        vectors = torch.zeros(len(rows), width, rows[0].vectors.shape[1])
        candidates = torch.zeros((len(rows), width), dtype=torch.bool)
        positives = torch.zeros((len(rows), width), dtype=torch.bool)
        for number, row in enumerate(rows):
            vectors[number, : len(row.vectors)] = row.vectors
            candidates[number, : len(row.vectors)] = True
            positives[number, : row.positives] = True
        batch = padded([row.ids for row in rows], pad)
        return {**batch, "vectors": vectors, "candidates": candidates, "positives": positives}

    def loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        query = model(inputs)["sentence_embedding"].float()
        query = torch.nn.functional.normalize(query, dim=-1)
        scores = scale * torch.einsum("nd,nkd->nk", query, batch["vectors"])
        scores = scores.masked_fill(~batch["candidates"], -torch.inf)
        found = scores.masked_fill(~batch["positives"], -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
        return -found.sum(), len(query)

    return Objective(lambda row: len(row.ids), collate, loss)
