"""One JSON schema for the record of a run, and the views that draw it.

`schema` makes the record, of what a graph returns. `html`, `mermaid` and `terminal` draw it; `live` tells of
a search while it runs, and `app` is a page that follows one. `text` makes what models and passages say
harmless to look at.
"""

from agentprm.trace.html import to_html
from agentprm.trace.mermaid import to_mermaid
from agentprm.trace.schema import (
    GUESS,
    TRACE_FORMAT,
    TRACE_VERSION,
    Trace,
    TraceDocument,
    answer_path,
    least_confidence,
    load_trace,
    save_trace,
    trace_of,
    trace_schema,
)
from agentprm.trace.terminal import answer_panel, search_tree, sources_table

__all__ = [
    "GUESS",
    "TRACE_FORMAT",
    "TRACE_VERSION",
    "Trace",
    "TraceDocument",
    "answer_panel",
    "answer_path",
    "least_confidence",
    "load_trace",
    "save_trace",
    "search_tree",
    "sources_table",
    "to_html",
    "to_mermaid",
    "trace_of",
    "trace_schema",
]
