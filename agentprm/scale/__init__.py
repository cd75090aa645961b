"""Mapping work over threads or a Ray cluster, each result recorded once, with resume.

What lives where, in the order in which work goes: `mapping` gives items to an executor and reads what is
done from the `journal`; `local` and `cluster` are the executors, by the contract in `base`, whose backlog
hands items out and takes back those of workers that died; `embedding` is the work of embedding texts.
"""

from agentprm.scale.base import Executor, Failure, Outcome, WorkerFactory
from agentprm.scale.cluster import RayExecutor
from agentprm.scale.embedding import batch_embedder
from agentprm.scale.journal import Entry, Journal
from agentprm.scale.local import LocalExecutor
from agentprm.scale.mapping import MapReport, item_key, map_items

__all__ = [
    "Entry",
    "Executor",
    "Failure",
    "Journal",
    "LocalExecutor",
    "MapReport",
    "Outcome",
    "RayExecutor",
    "WorkerFactory",
    "batch_embedder",
    "item_key",
    "map_items",
]
