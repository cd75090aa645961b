"""Rerankers: LangChain document compressors that judge passages with a language model.

What lives where, in the order in which an order comes about:

- `base`: `Reranker`, which runs a plan sync and async and writes the record of each passage. `judging`: how
  a plan asks an `Assessor`, within budget and deadline, whatever fails. `asking`: assessors made of a
  language model.
- One passage at a time: `pointwise`, the base of `query_likelihood`, `logit`, `cross_encoder` and `critic`;
  `rubric` in stages.
- Several at once: `setwise`, `listwise`.
- In pairs: `comparator` is the contract; `prompted` (with `labels`), `likelihood` and `decisions` implement
  it, and `suggest` finds out which of them suits a model. `pairwise` puts a comparator into one of the
  `tournaments` (`budgeted` makes the most of a budget) and remembers its `verdicts`.
- `feedback`: judges, rerankers among them, as those who pick passages for relevance feedback.
"""

from agentprm.rerank.base import Ranked, Ranking, Reranker
from agentprm.rerank.budgeted import active
from agentprm.rerank.comparator import Comparator, Comparison, FunctionComparator
from agentprm.rerank.critic import CriticReranker, CriticState
from agentprm.rerank.cross_encoder import CrossEncoderReranker
from agentprm.rerank.decisions import DecisionComparator
from agentprm.rerank.feedback import JudgeSelector, RerankSelector
from agentprm.rerank.judging import Assessor, Judging
from agentprm.rerank.likelihood import QueryLikelihoodComparator
from agentprm.rerank.listwise import ListwiseReranker
from agentprm.rerank.logit import LogitReranker
from agentprm.rerank.pairwise import PairwiseReranker, as_comparator
from agentprm.rerank.pointwise import PointwiseReranker
from agentprm.rerank.prompted import GenerationComparator, ScoringComparator
from agentprm.rerank.query_likelihood import QueryLikelihoodReranker
from agentprm.rerank.rubric import RubricReranker, Stage
from agentprm.rerank.setwise import SetwiseReranker
from agentprm.rerank.suggest import Probe, ProbeReport, Suggestion, asuggest_comparator, suggest_comparator
from agentprm.rerank.tournaments import all_pairs, heapsort, play, sliding
from agentprm.rerank.verdicts import VerdictCache

__all__ = [
    "Assessor",
    "Comparator",
    "Comparison",
    "CriticReranker",
    "CriticState",
    "CrossEncoderReranker",
    "DecisionComparator",
    "FunctionComparator",
    "GenerationComparator",
    "JudgeSelector",
    "Judging",
    "ListwiseReranker",
    "LogitReranker",
    "PairwiseReranker",
    "PointwiseReranker",
    "Probe",
    "ProbeReport",
    "QueryLikelihoodComparator",
    "QueryLikelihoodReranker",
    "Ranked",
    "Ranking",
    "RerankSelector",
    "Reranker",
    "RubricReranker",
    "ScoringComparator",
    "SetwiseReranker",
    "Stage",
    "Suggestion",
    "VerdictCache",
    "active",
    "all_pairs",
    "as_comparator",
    "asuggest_comparator",
    "heapsort",
    "play",
    "sliding",
    "suggest_comparator",
]
