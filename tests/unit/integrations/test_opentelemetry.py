"""Spans of a trace, as a real exporter gets them."""

import json

import pytest

pytest.importorskip("opentelemetry.sdk")

from langchain_core.documents import Document
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentprm.budget import empty_usage
from agentprm.integrations import export_spans
from agentprm.trace import trace_of


def step(step_id, parent, score, seconds, **more):
    return {
        "id": step_id,
        "parent_id": parent,
        "depth": step_id.count(".") + 1,
        "query": f"query {step_id}",
        "retrieve": True,
        "doc_ids": ["a", "b"],
        "thought": f"thought {step_id}",
        "final_answer": None,
        "score": score,
        "value": None,
        "status": "committed",
        "usage": {**empty_usage(), "seconds": seconds},
        "cited_ids": ["a"],
        **more,
    }


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace = trace_of(
        {
            "question": "Where?",
            "answer": "Portsmouth",
            "prm_steps": [
                step("1", None, 0.75, 2.0),
                step("2", None, None, 1.0, doc_ids=[], status="rejected"),
                step("1.1", "1", 0.5, 0.5, final_answer="Portsmouth"),
            ],
            "prm_documents": [Document(id="a", page_content="In Portsmouth.", metadata={"title": "T"})],
        }
    )
    count = export_spans(trace, provider.get_tracer("test"), end_ns=10_000_000_000)
    found = exporter.get_finished_spans()
    assert len(found) == count
    return found


def kinds(spans):
    return sorted(span.attributes["openinference.span.kind"] for span in spans)


def test_each_step_has_its_retrieval_and_its_score(spans):
    assert kinds(spans) == ["AGENT", "CHAIN", "CHAIN", "CHAIN", *["EVALUATOR"] * 2, *["RETRIEVER"] * 2]
    root = next(span for span in spans if span.parent is None)
    assert root.attributes["input.value"] == "Where?"
    assert root.attributes["output.value"] == "Portsmouth"
    retrieval = next(s for s in spans if s.attributes.get("retrieval.documents.0.document.id") == "a")
    assert retrieval.attributes["retrieval.documents.0.document.content"] == "In Portsmouth."
    assert retrieval.attributes["retrieval.documents.1.document.id"] == "b"
    scores = {s.attributes["output.value"] for s in spans if s.name == "score"}
    assert scores == {0.75, 0.5}


def exported(state):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    count = export_spans(trace_of(state), provider.get_tracer("test"))
    spans = exporter.get_finished_spans()
    assert len(spans) == count
    return spans


def test_reranking_is_a_span_of_its_own():
    reranking = {"method": "pairwise", "before": ["a", "b", "c"], "scores": [0.9, None]}
    spans = exported(
        {
            "question": "Where?",
            "prm_steps": [step("1", None, None, 1.0, doc_ids=["c", "a"], reranking=reranking)],
        }
    )
    assert kinds(spans) == ["AGENT", "CHAIN", "RERANKER", "RETRIEVER"]
    found = {span.name: dict(span.attributes) for span in spans}
    assert [found["retrieve"][f"retrieval.documents.{i}.document.id"] for i in range(3)] == ["a", "b", "c"]
    rerank = found["rerank"]
    assert (rerank["reranker.query"], rerank["reranker.model_name"]) == ("query 1", "pairwise")
    assert (rerank["reranker.top_k"], rerank["reranker.input_documents.2.document.id"]) == (2, "c")
    assert [rerank[f"reranker.output_documents.{i}.document.id"] for i in range(2)] == ["c", "a"]
    assert rerank["reranker.output_documents.0.document.score"] == 0.9
    assert "reranker.output_documents.1.document.score" not in rerank


def test_a_run_without_steps_has_its_passages():
    documents = [
        Document(
            id=key, page_content=key, metadata={"rerank": {"method": "m", "score": s, "prior_rank": place}}
        )
        for key, s, place in (("b", 2.0, 1), ("a", 1.0, 0))
    ]
    spans = exported({"question": "Where?", "answer": "x", "documents": documents})
    assert kinds(spans) == ["AGENT", "RERANKER", "RETRIEVER"]
    found = {span.name: dict(span.attributes) for span in spans}
    assert found["retrieve"]["retrieval.documents.0.document.id"] == "a"
    assert found["rerank"]["reranker.output_documents.0.document.id"] == "b"
    plain = exported({"question": "Where?", "documents": [Document(id="a", page_content="a")]})
    assert kinds(plain) == ["AGENT", "RETRIEVER"]


def test_rounds_of_a_loop_are_steps():
    one = {
        "id": "1", "goal": "", "queries": ["who"], "doc_ids": ["a"], "note": "Ada", "facts": [], "kept": True,
        "score": 0.5, "answer": None, "status": "done",
    }  # fmt: skip
    spans = exported({"question": "Where?", "prm_rounds": [one, {**one, "id": "2"}]})
    assert kinds(spans) == ["AGENT", *["CHAIN"] * 2, *["EVALUATOR"] * 2, *["RETRIEVER"] * 2]


def test_the_tree_is_that_of_the_search(spans):
    by_id = {span.context.span_id: span for span in spans}
    steps = {json.loads(s.attributes["metadata"])["id"]: s for s in spans if s.name in ("step", "conclude")}
    assert by_id[steps["1.1"].parent.span_id] is steps["1"]
    assert by_id[steps["2"].parent.span_id].parent is None
    assert json.loads(steps["1.1"].attributes["metadata"])["chosen"] is True
    assert json.loads(steps["2"].attributes["metadata"])["chosen"] is False


def test_times_follow_each_other_and_enclose(spans):
    by_id = {span.context.span_id: span for span in spans}
    for span in spans:
        assert span.start_time <= span.end_time <= 10_000_000_000
        if span.parent is not None:
            above = by_id[span.parent.span_id]
            assert above.start_time <= span.start_time
            assert span.end_time <= above.end_time
    steps = {json.loads(s.attributes["metadata"])["id"]: s for s in spans if s.name in ("step", "conclude")}
    assert steps["2"].start_time - steps["1"].start_time == 2_000_000_000
    assert steps["1.1"].end_time - steps["1.1"].start_time == 500_000_000
