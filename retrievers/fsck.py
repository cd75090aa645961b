"""Checks everything about an index folder, without changing it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from agentprm.errors import AgentPRMError, InputError
from agentprm.retrievers.generations import Generation, leftovers, read_current
from agentprm.retrievers.index_core import IndexCore
from agentprm.retrievers.sharding import shard_parts

__all__ = ["FsckReport", "fsck"]


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


def _check(generation: Generation, report: FsckReport) -> None:
    parts = shard_parts(generation) if "shards" in generation.manifest else [generation]
    report.documents = 0
    if parts != [generation]:
        generation.verify(everything=True)
    for part in parts:
        part.verify(everything=True)
        core = IndexCore.open(part, mmap=True)
        report.documents += len(core)
        report.problems += core.inconsistencies()
