"""A small hand-written demo corpus with multi-hop questions and relevance judgements."""

from __future__ import annotations

import pathlib

__all__ = ["corpus_path"]


def corpus_path() -> pathlib.Path:
    """The folder that holds `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`."""
    return pathlib.Path(__file__).resolve().parent
