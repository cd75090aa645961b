"""A FAISS store that can be trusted with data, and relevance feedback for any retriever.

Stands on its own: `from agentprm.retrievers import FaissStore, FeedbackRetriever`.
"""

from agentprm.retrievers.adapters import AdaptedIndex, vector_index
from agentprm.retrievers.bulk import BuildProgress, build_index
from agentprm.retrievers.defaults import default_retriever
from agentprm.retrievers.embeddings import SentenceTransformerEmbeddings
from agentprm.retrievers.faiss_store import FaissStore
from agentprm.retrievers.features import FeatureFeedback, FeatureStore, extract_features
from agentprm.retrievers.feedback import average, rocchio
from agentprm.retrievers.feedback_methods import BridgeFeedback, EncoderFeedback, TextFeedback, VectorFeedback
from agentprm.retrievers.feedback_retriever import FeedbackRetriever
from agentprm.retrievers.fsck import FsckReport, fsck, roll_back
from agentprm.retrievers.hybrid import HybridRetriever
from agentprm.retrievers.legacy import import_langchain_faiss
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.links import LinkFeedback, LinkWeights
from agentprm.retrievers.loading import LoadReport, Skipped, load_folder
from agentprm.retrievers.locking import WriterConflictError
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.selectors import JudgeSelector, MarginSelector, Selection, TopSelector
from agentprm.retrievers.sharding import ShardedFaissStore
from agentprm.retrievers.store_base import Hit
from agentprm.retrievers.vector_index import VectorIndex

__all__ = [
    "AdaptedIndex",
    "BridgeFeedback",
    "BuildProgress",
    "EncoderFeedback",
    "FaissStore",
    "FeatureFeedback",
    "FeatureStore",
    "FeedbackRetriever",
    "FsckReport",
    "Hit",
    "HybridRetriever",
    "JudgeSelector",
    "LexicalIndex",
    "LinkFeedback",
    "LinkWeights",
    "LoadReport",
    "MarginSelector",
    "MentionIndex",
    "Selection",
    "SentenceTransformerEmbeddings",
    "ShardedFaissStore",
    "Skipped",
    "TextFeedback",
    "TopSelector",
    "VectorFeedback",
    "VectorIndex",
    "WriterConflictError",
    "average",
    "build_index",
    "default_retriever",
    "extract_features",
    "fsck",
    "import_langchain_faiss",
    "load_folder",
    "rocchio",
    "roll_back",
    "vector_index",
]
