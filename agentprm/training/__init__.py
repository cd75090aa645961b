"""Training: records of examples, their sources, their labels.

What lives where: `data` defines the records and their files.
"""

from agentprm.training.data import (
    Passage,
    PlanRecord,
    PlanStep,
    PreferenceRecord,
    ReadingRecord,
    Record,
    StepCounts,
    StepLabelRecord,
    TrajectoryStep,
    read_records,
    write_records,
)

__all__ = [
    "Passage",
    "PlanRecord",
    "PlanStep",
    "PreferenceRecord",
    "ReadingRecord",
    "Record",
    "StepCounts",
    "StepLabelRecord",
    "TrajectoryStep",
    "read_records",
    "write_records",
]
