"""Imports folders of langchain-community's FAISS store (`index.faiss` and `index.pkl`)."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (only ever through the restricted class below)
from pathlib import Path
from typing import Any

import faiss as faiss_module
import numpy as np
from langchain_core.embeddings import Embeddings

from agentprm.errors import ConfigurationError, IndexCorruptError, IndexMismatchError, InputError
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.metrics import Metric

__all__ = ["import_langchain_faiss"]

faiss: Any = faiss_module


class _Stub:
    """Stands for a class of a pickle; only collects its state."""

    def __init__(self, *args: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        inner = state.get("__dict__", state) if isinstance(state, dict) else {}
        self.state = inner if isinstance(inner, dict) else {}


class _Docstore(_Stub):
    pass


class _Document(_Stub):
    pass


_ALLOWED: dict[tuple[str, str], Any] = {
    ("langchain_community.docstore.in_memory", "InMemoryDocstore"): _Docstore,
    ("langchain.docstore.in_memory", "InMemoryDocstore"): _Docstore,
    ("langchain_core.documents.base", "Document"): _Document,
    ("langchain.schema.document", "Document"): _Document,
    ("langchain.docstore.document", "Document"): _Document,
    ("langchain.schema", "Document"): _Document,
    ("builtins", "set"): set,
}


class _Restricted(pickle.Unpickler):
    """Knows documents and their container, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"index.pkl asks for {module}.{name}, which a store of documents does not need: "
                "the file is not imported."
            ) from None


def import_langchain_faiss(
    folder: str | os.PathLike[str],
    embedding: Embeddings,
    *,
    trust_index_file: bool = False,
    index_name: str = "index",
    metric: Metric | None = None,
    factory: str = "Flat",
) -> FaissStore:
    """Copies an old store into a `FaissStore`.

    The pickle is read by an unpickler that knows documents only and runs nothing. FAISS itself still
    parses `index.faiss`, which a stranger could have crafted; hence the flag.

    Args:
        folder: The folder that the old store's `save_local` wrote.
        embedding: The embeddings that the old store was built with.
        trust_index_file: Must be `True`: you know where the folder comes from.
        index_name: Name of the files without their endings.
        metric: Metric of the new store. The old one did not save it; `None` takes the FAISS metric.
        factory: Factory of the new store.

    Raises:
        ConfigurationError: `trust_index_file` is not set.
        InputError: A file is missing, or the pickle holds anything but documents.
        IndexCorruptError: The files cannot be parsed or do not fit each other.
        IndexMismatchError: The embeddings have another dimension.
    """
    if not trust_index_file:
        raise ConfigurationError(
            "FAISS index files from strangers are unsafe to parse: pass trust_index_file=True "
            "if you know where this folder comes from."
        )
    data, pickled = (_bytes(Path(folder) / f"{index_name}{end}") for end in (".faiss", ".pkl"))
    documents, ids = _documents(pickled)
    vectors, inner_product = _vectors(data)
    if vectors.shape[1] != len(embedding.embed_query("dimension")):
        raise IndexMismatchError(
            f"The old index has {vectors.shape[1]} dimensions and the embeddings have others: "
            "use the embeddings that it was built with."
        )
    if set(ids) != set(range(len(vectors))):
        raise IndexCorruptError(
            f"The old store has {len(vectors)} vectors and {len(ids)} ids, which do not fit: index again."
        )
    store = FaissStore(embedding, metric=metric or ("ip" if inner_product else "l2"), factory=factory)
    rows = [documents[ids[row]] for row in range(len(vectors))]
    store.add_embeddings(
        [text for text, _ in rows], vectors, [m for _, m in rows], ids=[ids[r] for r in range(len(rows))]
    )
    return store


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the folder.") from None


def _documents(data: bytes) -> tuple[dict[str, tuple[str, dict[str, Any]]], dict[int, str]]:
    try:
        docstore, ids = _Restricted(io.BytesIO(data)).load()
        stored = docstore.state["_dict"]
        documents = {
            str(key): (str(d.state["page_content"]), dict(d.state.get("metadata") or {}))
            for key, d in stored.items()
        }
        numbers = {int(row): str(key) for row, key in ids.items()}
        if set(numbers.values()) - set(documents):
            raise ValueError("an id has no document")
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise IndexCorruptError(
            f"index.pkl cannot be read ({type(error).__name__}: {error}): index again."
        ) from None
    return documents, numbers


def _vectors(data: bytes) -> tuple[np.ndarray[Any, Any], bool]:
    faiss.set_deserialization_vector_byte_limit(max(2 * len(data), 1 << 20))
    try:
        index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
        if isinstance(index, faiss.IndexIVF):
            index.make_direct_map()
        vectors = index.reconstruct_n(0, index.ntotal)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise IndexCorruptError(f"index.faiss cannot be read ({reason}): index again.") from None
    return vectors, index.metric_type == faiss.METRIC_INNER_PRODUCT
