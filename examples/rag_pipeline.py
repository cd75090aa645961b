"""A RAG pipeline over a folder of documents: index, retrieve, rerank in pairs, answer with citations.

    python examples/rag_pipeline.py [FOLDER] [QUESTION]

Without arguments it asks the demo corpus. Needs the packaged models (`make setup`).
"""

from __future__ import annotations

import sys

from agentprm import FaissStore, create_rag_graph, default_embeddings, default_language_model, load_folder
from agentprm.demo import corpus_path
from agentprm.rerank import PairwiseReranker, QueryLikelihoodComparator


def main(folder: str | None = None, question: str = "Who designed the Clifton Suspension Bridge?") -> str:
    embeddings = default_embeddings()
    documents = load_folder(folder or corpus_path() / "corpus.jsonl", embeddings=embeddings).documents
    store = FaissStore.from_documents(documents, embeddings)
    model = default_language_model()
    # The packaged model is too small to compare on request, but tells which passage makes a query likelier.
    reranker = PairwiseReranker(model=QueryLikelihoodComparator(model), aggregation="all_pair")
    graph = create_rag_graph(model, store, k=3, passages=1, reranker=reranker).compile()
    result = graph.invoke({"question": question})
    print(result["answer"])
    for citation in result["citations"]:
        print(f"  [{citation['doc_id']}] {citation['title']}")
    return str(result["answer"])


if __name__ == "__main__":
    main(*sys.argv[1:])
