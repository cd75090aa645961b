"""Mapping work over threads or a Ray cluster, each result recorded once, with resume.

What lives where, in the order in which work goes: `mapping` gives items to an executor and reads what is
done from the `journal`; `base` has the contract of executors, the one of threads, and the backlog that hands
items out and takes back those of workers that died; `cluster` has the one of Ray; `embedding` is the work of
embedding texts.
"""

from agentprm.scale.base import Executor, Failure, LocalExecutor, Outcome, WorkerFactory
from agentprm.scale.cluster import RayExecutor
from agentprm.scale.embedding import batch_embedder
from agentprm.scale.journal import Entry, Journal
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
