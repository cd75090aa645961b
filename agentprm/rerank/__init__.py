"""Rerankers: LangChain document compressors that judge passages with a language model."""

from agentprm.rerank.pairwise import PairwiseReranker

__all__ = ["PairwiseReranker"]
