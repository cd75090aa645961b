"""A FAISS store that can be trusted with data, and relevance feedback for any retriever.

Stands on its own: `from agentprm.retrievers import FaissStore, FeedbackRetriever`. What lives where, in the
order in which data flows:

- Files become documents: `loading` walks a folder, `formats`, `html_text` and `json_rows` read its files,
  `splitting` makes chunks.
- Documents become an index: `building` embeds what is new (`embeddings`) and fills a store.
- A store: `faiss_store` has that of one index and that of several; both are a `saved_store`, which
  changes, searches and saves indexes as one, and a `store_base`, which has LangChain's methods.
- An index: `index_core` keeps vectors and keys (`vectors`), documents (`document_table`) and an index
  over the vectors (`approximate`, `gpu`) in step; `filters` says which may be found.
- On disk: `index_files` and `kept_text` write and open the parts, `generations` switches from one state to
  the next under a lock (`files`), `fingerprint` knows the embeddings, `fsck` checks and goes back,
  `files` opens what a stranger may have made.
- A query finds passages: `lexical` by words; `retrieving` by words and vectors, then once more with a method
  (`feedback`, `features`, or `links` over `mentions` and `leads`) that learns from the hits that `selectors`
  choose; it also has the default. `adapters` lets other vector stores take part. `titles` says under which
  title a name is known. `self_search` looks in the memory of a model; `summary_tree` is read from the top
  down.
"""

from agentprm.retrievers.adapters import AdaptedIndex, vector_index
from agentprm.retrievers.building import BuildProgress, build_index
from agentprm.retrievers.embeddings import SentenceTransformerEmbeddings
from agentprm.retrievers.faiss_store import FaissStore, ShardedFaissStore
from agentprm.retrievers.features import FeatureFeedback, FeatureStore, extract_features
from agentprm.retrievers.feedback import (
    BridgeFeedback,
    EncoderFeedback,
    TextFeedback,
    VectorFeedback,
    average,
    rocchio,
)
from agentprm.retrievers.files import WriterConflictError
from agentprm.retrievers.fsck import FsckReport, fsck, roll_back
from agentprm.retrievers.lexical import LexicalIndex
from agentprm.retrievers.links import LinkFeedback, LinkWeights
from agentprm.retrievers.loading import LoadReport, Skipped, load_folder
from agentprm.retrievers.mentions import MentionIndex
from agentprm.retrievers.retrieving import FeedbackRetriever, HybridRetriever, default_retriever
from agentprm.retrievers.selectors import MarginSelector, Selection, TopSelector
from agentprm.retrievers.self_search import SelfSearch
from agentprm.retrievers.store_base import Hit
from agentprm.retrievers.summary_tree import SummaryNode, SummaryTree
from agentprm.retrievers.vectors import VectorIndex

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
    "LexicalIndex",
    "LinkFeedback",
    "LinkWeights",
    "LoadReport",
    "MarginSelector",
    "MentionIndex",
    "Selection",
    "SelfSearch",
    "SentenceTransformerEmbeddings",
    "ShardedFaissStore",
    "Skipped",
    "SummaryNode",
    "SummaryTree",
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
    "load_folder",
    "rocchio",
    "roll_back",
    "vector_index",
]
