"""A small hand-written demo corpus with multi-hop questions and relevance judgements."""

from __future__ import annotations

import pathlib


def corpus_path() -> pathlib.Path:
    """Return the folder that holds ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``."""
    return pathlib.Path(__file__).resolve().parent
