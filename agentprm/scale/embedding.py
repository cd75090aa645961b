"""Embeds batches of texts with an executor, for `agentprm.retrievers.build_index`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agentprm.errors import AgentPRMError
from agentprm.scale.base import Executor

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

__all__ = ["batch_embedder"]


def batch_embedder(
    make_embeddings: Callable[[], Embeddings], executor: Executor
) -> Callable[[Iterable[list[str]]], Iterator[NDArray[np.float32]]]:
    """The `embed_batches` of `build_index` that works with an executor.

    Example:
        >>> from agentprm.scale import LocalExecutor
        >>> from agentprm.testing import FakeEmbeddings
        >>> embed = batch_embedder(FakeEmbeddings, LocalExecutor())
        >>> [vectors.shape[0] for vectors in embed([["a", "b"], ["c"]])]
        [2, 1]

    Args:
        make_embeddings: Opens the embedding model; each process calls it once.
        executor: Where the batches are embedded.

    Returns:
        A function from batches of n texts to arrays of n vectors (n x d), in the order of the batches.
        It raises `AgentPRMError` if a batch fails.
    """

    def embed(batches: Iterable[list[str]]) -> Iterator[NDArray[np.float32]]:
        with closing(executor.stream(_Worker(make_embeddings), batches, ordered=True)) as outcomes:
            for outcome in outcomes:
                if outcome.failure is not None:
                    raise AgentPRMError(
                        f"A batch of texts could not be embedded: {outcome.failure}. Mend the cause and call "
                        "again; batches that were finished are kept."
                    )
                yield outcome.value

    return embed


class _Worker:
    """Factory of the function that embeds one batch."""

    def __init__(self, make_embeddings: Callable[[], Embeddings]) -> None:
        self._make_embeddings = make_embeddings

    def __call__(self) -> Callable[[list[str]], Any]:
        embeddings = self._make_embeddings()
        return lambda texts: np.asarray(embeddings.embed_documents(texts), dtype=np.float32)
