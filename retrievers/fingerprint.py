"""Tells embedding models apart: a name where they have one, and the vector of a fixed text."""

from __future__ import annotations

from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from typing_extensions import TypedDict

from agentprm.errors import IndexMismatchError

__all__ = ["Fingerprint", "check_fingerprint", "fingerprint", "parse_fingerprint"]

_PROBE = "The quick brown fox jumps over the lazy dog."
# Cosine of the two probe vectors below which two models are different ones; the slack is for other
# hardware, number formats and library versions.
_SAME = 0.999


class Fingerprint(TypedDict):
    """What an index remembers of the embeddings it was built with.

    Attributes:
        name: Name of the model or of the embeddings' class; for messages only.
        probe: Vector of the probe text.
    """

    name: str
    probe: list[float]


def fingerprint(embedding: Embeddings) -> Fingerprint:
    """Embeds the probe text."""
    vector = np.asarray(embedding.embed_documents([_PROBE])[0], dtype=np.float64)
    return Fingerprint(name=_name(embedding), probe=vector.round(6).tolist())


def parse_fingerprint(stored: Any) -> Fingerprint | None:
    """The fingerprint in a manifest, `None` when it is malformed."""
    if not isinstance(stored, dict):
        return None
    name, probe = stored.get("name"), stored.get("probe")
    if not isinstance(name, str) or not isinstance(probe, list) or not probe:
        return None
    if not all(type(x) in (int, float) and abs(x) < 1e30 for x in probe):
        return None
    return Fingerprint(name=name, probe=[float(x) for x in probe])


def check_fingerprint(stored: Fingerprint, embedding: Embeddings) -> None:
    """Compares embeddings with those an index was built with.

    Raises:
        IndexMismatchError: The dimensions differ, or the vectors of the probe text do.
    """
    own = fingerprint(embedding)
    remedy = (
        f"The index was built with {stored['name']!r} and is opened with {own['name']!r}: "
        "open it with the same embeddings, or index again."
    )
    if len(own["probe"]) != len(stored["probe"]):
        raise IndexMismatchError(
            f"Embeddings of {len(own['probe'])} dimensions do not fit an index of "
            f"{len(stored['probe'])}. {remedy}"
        )
    a, b = np.asarray(own["probe"]), np.asarray(stored["probe"])
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norm if norm else float(np.array_equal(a, b))
    if not cosine > _SAME:
        raise IndexMismatchError(f"The embeddings differ (cosine {cosine:.3f} on a test sentence). {remedy}")


def _name(embedding: Any) -> str:
    for attribute in ("model_name", "model", "model_id", "repo_id"):
        value = getattr(embedding, attribute, None)
        if isinstance(value, str) and value:
            return value
    return type(embedding).__name__
