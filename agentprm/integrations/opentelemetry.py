"""Traces as OpenTelemetry spans in OpenInference's conventions, which Phoenix, Langfuse and others show.

Spans are made of a finished trace, so that a run pays nothing for them, and an old file can be exported. A
trace knows how long each step took but not when: the spans of steps follow each other in the order in which
the steps were made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from agentprm.errors import MissingDependencyError
from agentprm.state import Reranking, Step
from agentprm.trace.schema import Trace, answer_path, drawn_steps

try:
    from opentelemetry import trace as otel
except ImportError as missing:
    raise MissingDependencyError.for_extra("opentelemetry-api", "otel") from missing

__all__ = ["export_spans"]

Attributes = dict[str, str | bool | int | float]
_Texts = Mapping[str, Mapping[str, Any]]


def export_spans(trace: Trace, tracer: otel.Tracer | None = None, *, end_ns: int | None = None) -> int:
    """Exports a trace: an agent span, and under it a chain for each step: what was found, reordered, judged.

    A step is a `CHAIN` with its query as input and its finding as output; under it a `RETRIEVER` with the
    passages that were found, a `RERANKER` with both orders where they were reordered, and an `EVALUATOR` with
    its score and value. Steps lie under the step that they go on from, look-aheads too. A loop has its rounds
    in their place, and a run without either has its passages under the agent.

    Args:
        trace: What to export.
        tracer: An OpenTelemetry tracer; that of the global provider if not given.
        end_ns: When the run ended, in nanoseconds since 1970; now if not given.

    Returns:
        How many spans were made.

    Example:
        >>> from agentprm.trace import trace_of
        >>> export_spans(trace_of({"question": "Why?"}))
        1
    """
    tracer = tracer or otel.get_tracer("agentprm")
    steps = drawn_steps(trace)
    durations = [max(0, int(1e9 * (step["usage"].get("seconds") or 0))) for step in steps]
    total = max(int(1e9 * (trace["usage"].get("seconds") or 0)), sum(durations), 1)
    end = time.time_ns() if end_ns is None else end_ns
    begun = end - total
    texts = {document["id"]: document for document in trace["documents"]}
    chosen = {step["id"] for step in answer_path(steps)}
    parents = {step["id"]: step["parent_id"] for step in steps}
    usage = trace["usage"]
    root = tracer.start_span(
        "agentprm search",
        start_time=begun,
        attributes={
            **_kind("AGENT"),
            "input.value": trace["question"],
            "output.value": trace["answer"],
            "llm.token_count.prompt": int(usage.get("prompt_tokens", 0)),
            "llm.token_count.completion": int(usage.get("completion_tokens", 0)),
            "metadata": _json({"stop_reason": trace["stop_reason"], "settings": trace["settings"]}),
        },
    )
    spans: dict[str | None, otel.Span] = {None: root}
    ends: dict[str, int] = {}
    count = 1
    at = begun

    def found(above: otel.Span, query: str, ids: Sequence[str], reranking: Reranking | None) -> int:
        """The spans of a search: what it found, and what a reranker made of it."""
        inner, before = otel.set_span_in_context(above), reranking["before"] if reranking else ids
        made = [("retrieve", _retrieval(query, before, texts))] if before else []
        if reranking:
            made.append(("rerank", _reranked(query, ids, reranking, texts)))
        for name, attributes in made:
            tracer.start_span(name, context=inner, start_time=at, attributes=attributes).end(at)
        return len(made)

    if not steps:
        count += found(root, trace["question"], list(texts), trace.get("reranking"))
    for step, took in zip(steps, durations, strict=True):
        span = tracer.start_span(
            _name(step),
            context=otel.set_span_in_context(spans.get(step["parent_id"], root)),
            start_time=at,
            attributes=_step(step, step["id"] in chosen),
        )
        spans[step["id"]] = span
        inner = otel.set_span_in_context(span)
        count += 1 + found(span, step["query"], step["doc_ids"], step.get("reranking"))
        if step["score"] is not None:
            judged: Attributes = {**_kind("EVALUATOR"), "input.value": step["thought"]}
            judged["output.value"] = step["score"]
            judged["metadata"] = _json({"score": step["score"], "value": step["value"]})
            tracer.start_span("score", context=inner, start_time=at + took, attributes=judged).end(at + took)
            count += 1
        at += took
        above: str | None = step["id"]
        while above is not None:  # a span must not end before those under it
            ends[above] = at
            above = parents.get(above)
    for key, moment in ends.items():
        spans[key].end(moment)
    root.end(end)
    return count


def _kind(name: str) -> Attributes:
    return {"openinference.span.kind": name}


def _name(step: Step) -> str:
    return "conclude" if step["final_answer"] is not None else "step"


def _step(step: Step, chosen: bool) -> Attributes:
    return {
        **_kind("CHAIN"),
        "input.value": step["query"],
        "output.value": step["final_answer"] if step["final_answer"] is not None else step["thought"],
        "metadata": _json({**{"id": step["id"], "status": step["status"]}, "chosen": chosen}),
    }


def _retrieval(query: str, ids: Sequence[str], texts: _Texts) -> Attributes:
    attributes: Attributes = {**_kind("RETRIEVER"), "input.value": query}
    for i, key in enumerate(ids):
        attributes |= _document(f"retrieval.documents.{i}.document", key, texts.get(key))
    return attributes


def _reranked(query: str, ids: Sequence[str], reranking: Reranking, texts: _Texts) -> Attributes:
    attributes: Attributes = {
        **_kind("RERANKER"),
        "reranker.query": query,
        "reranker.model_name": reranking["method"],
        "reranker.top_k": len(ids),
    }
    for i, key in enumerate(reranking["before"]):
        attributes |= _document(f"reranker.input_documents.{i}.document", key, texts.get(key))
    for i, (key, score) in enumerate(zip_longest(ids, reranking["scores"][: len(ids)])):
        attributes |= _document(f"reranker.output_documents.{i}.document", key, texts.get(key))
        if score is not None:
            attributes[f"reranker.output_documents.{i}.document.score"] = float(score)
    return attributes


def _document(prefix: str, key: str, document: Mapping[str, Any] | None) -> Attributes:
    if document is None:
        return {f"{prefix}.id": key}
    return {
        f"{prefix}.id": key,
        f"{prefix}.content": document["text"],
        f"{prefix}.metadata": _json({"title": document["title"], "source": document["source"]}),
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
