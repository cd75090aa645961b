"""Mapping work over threads or a Ray cluster, each result recorded once, with resume."""

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
