"""Rerankers: LangChain document compressors that judge passages with a language model.

What lives where, in the order in which an order comes about:

- `base`: `Reranker`, which runs a plan sync and async and writes the record of each passage. `judging`: how
  a plan asks an `Assessor`, within budget and deadline, whatever fails, and how one is made of a language
  model.
- One passage at a time: `pointwise`, by query likelihood, a yes or no, a critic or a cross-encoder; `rubric`
  in stages.
- Several at once: `setwise`, `listwise`.
- In pairs: `comparator` is the contract, by functions and decision models; `prompted` asks language models,
  and `suggest` finds out how one is best asked. `pairwise` puts a comparator into one of the `tournaments`
  and remembers its verdicts.
- `feedback`: judges, rerankers among them, as those who pick passages for relevance feedback.
"""

from agentprm.rerank.base import Ranked, Ranking, Reranker
from agentprm.rerank.comparator import Comparator, Comparison, DecisionComparator, FunctionComparator
from agentprm.rerank.feedback import JudgeSelector, RerankSelector
from agentprm.rerank.judging import Assessor, Judging
from agentprm.rerank.listwise import ListwiseReranker
from agentprm.rerank.pairwise import PairwiseReranker, VerdictCache, as_comparator
from agentprm.rerank.pointwise import (
    CriticReranker,
    CriticState,
    CrossEncoderReranker,
    LogitReranker,
    PointwiseReranker,
    QueryLikelihoodReranker,
)
from agentprm.rerank.prompted import GenerationComparator, QueryLikelihoodComparator, ScoringComparator
from agentprm.rerank.rubric import RubricReranker, Stage
from agentprm.rerank.setwise import SetwiseReranker
from agentprm.rerank.suggest import Probe, ProbeReport, Suggestion, asuggest_comparator, suggest_comparator
from agentprm.rerank.tournaments import active, all_pairs, heapsort, play, sliding

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
