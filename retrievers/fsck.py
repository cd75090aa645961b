"""Checks everything about an index folder, and goes back to its last whole state."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agentprm.errors import AgentPRMError, IndexCorruptError, InputError
from agentprm.retrievers.faiss_store import shard_parts
from agentprm.retrievers.files import FolderLock, storage_errors
from agentprm.retrievers.generations import (
    Generation,
    generations,
    leftovers,
    open_generation,
    point_to,
    read_current,
)
from agentprm.retrievers.index_files import inconsistencies, open_index
from agentprm.retrievers.kept_text import KeptText

__all__ = ["FsckReport", "fsck", "roll_back"]


@dataclass
class FsckReport:
    """What `fsck` found.

    Attributes:
        documents: Documents in the index; 0 when it cannot be opened.
        problems: What is wrong; the index should be restored or built again.
        leftovers: Unfinished work of writers that died. Harmless: the next save removes it.
    """

    documents: int = 0
    problems: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def fsck(path: str | os.PathLike[str]) -> FsckReport:
    """Verifies all checksums of an index folder and that its files agree with each other.

    Args:
        path: A folder that `FaissStore.save` or `ShardedFaissStore.save` wrote.

    Returns:
        The findings; nothing is raised for a damaged index.

    Raises:
        InputError: There is no such folder.
    """
    folder = Path(path)
    report = FsckReport()
    if folder.is_dir():
        report.leftovers = sorted(item.name for item in leftovers(folder))
    try:
        read_current(folder, lambda generation: _check(generation, report))
    except InputError:
        raise
    except AgentPRMError as error:
        report.problems.append(str(error))
    return report


def roll_back(path: str | os.PathLike[str], *, lock_timeout_s: float = 30.0) -> int:
    """Makes the newest whole generation the current one, where the current one is damaged.

    Args:
        path: The index folder.
        lock_timeout_s: Seconds to wait for a writer.

    Returns:
        How many documents the generation has that is now current.

    Raises:
        InputError: There is no such folder.
        IndexCorruptError: No generation is whole; nothing was changed.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"There is no index folder {folder}: check the path.")
    with storage_errors(folder, "The index is as it was."), FolderLock(folder / ".lock", lock_timeout_s):
        report = fsck(folder)
        if report.clean:
            return report.documents
        for candidate in reversed(generations(folder)):
            found = FsckReport()
            try:
                generation = open_generation(candidate)
                _check(generation, found)
            except AgentPRMError:
                continue
            if found.clean:
                point_to(folder, generation.pointer)
                return found.documents
    raise IndexCorruptError(f"{folder} has no whole generation to go back to: restore a copy or index again.")


def _check(generation: Generation, report: FsckReport) -> None:
    parts = shard_parts(generation) if "shards" in generation.manifest else [generation]
    report.documents = 0
    if parts != [generation]:
        generation.verify(everything=True)
    for part in parts:
        part.verify(everything=True)
        core = open_index(part, mmap=True)
        report.documents += len(core)
        report.problems += inconsistencies(core)
    kept = KeptText(generation)
    kept.titles(list)
    kept.words(list)
