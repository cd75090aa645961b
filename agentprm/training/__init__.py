"""Training: records of examples, their sources, their labels, and trainers.

What lives where: `data` defines the records and their files, `splits` divides them by question and drops
near-duplicates. `labels` makes labels of steps of what is known about them, `annotating` asks judges and
tools, `choosing` says which steps, questions and domains to use.

`sources` makes records of question-answering sets, `traces` of runs of our graphs, `rollouts` goes on from
their steps for Monte-Carlo values. `synth` makes data of a collection without labels: `questions` of the
facts that `patterns` reads with the table of `relations`, in other words by `rewording`.

`span_reader` trains a reader that quotes (`agentprm.readers.SpanReader`), on the examples of `span_examples`
and `families`.
`fitting` is the loop that the trainers share, `folder` what they write, `lora` the adapters that they train.
`bases` opens the model to train. `language_model` teaches a language model replies; `planner` and
`language_reader` say which ones, and `compositions` composes plans. `reward_model` trains what scores steps
or candidates, `step_critic` the same of a small encoder, on the steps that `candidate_steps` makes;
`preferences` by comparisons, judgements and outcomes, with the `losses`; `train_rounds` does so
again and again, `online` while the reward is used. `merging` makes one adapter of several. `rerankers` and
`feedback_encoder` train parts of retrieval.
"""

from agentprm.training.choosing import annotator, balanced, choose_questions, domain_weights
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
from agentprm.training.splits import drop_near_duplicates, split_by_question

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
    "annotator",
    "balanced",
    "choose_questions",
    "domain_weights",
    "drop_near_duplicates",
    "read_records",
    "split_by_question",
    "write_records",
]
