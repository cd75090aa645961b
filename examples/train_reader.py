"""A reader that learned your documents: their facts become questions, and the questions train it.

    python examples/train_reader.py [FOLDER] [--question "…"] [--from-scratch]

Nothing needs a label. A part of the questions is held out, and two readers are asked those: the one that
comes along, and the one that went on learning from it (or from the plain encoder). Needs the packaged models
and the extra `train` (`make setup-dev`); takes a few minutes. The commands that do the same are `agentprm
index`, `synth`, `train reader` and `ask`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from agentprm import (
    FaissStore,
    create_reasoning_graph,
    default_embeddings,
    default_language_model,
    default_reader,
    load_folder,
)
from agentprm.demo import corpus_path
from agentprm.packaged import packaged_reader_folder
from agentprm.readers import SpanReader
from agentprm.training import ReadingRecord, read_records, split_by_question
from agentprm.training.span_examples import span_examples
from agentprm.training.span_reader import SpanTraining, evaluate_reader, train_span_reader
from agentprm.training.synth import synthesize


def main(
    folder: str | Path | None = None,
    out: str | Path = "trained-reader",
    *,
    question: str | None = None,
    from_scratch: bool = False,
    steps: int = 120,
) -> dict[str, dict[str, float]]:
    documents = load_folder(folder or corpus_path() / "corpus.jsonl").documents
    store = FaissStore.from_documents(documents, default_embeddings())

    # Without a reader to check them, the questions that the packaged one fails are kept too.
    made = synthesize(store, Path(out, "data"), questions=500)
    print(f"{made.facts} facts in {made.passages} passages became {sum(made.kept.values())} questions.")
    records = read_records(Path(out, "data"), ReadingRecord)
    train, held_out = (span_examples(part, hard=3) for part in split_by_question(records, 0.3))

    # What it knows already is kept best with a third of the usual rates.
    slow = 1 if from_scratch else 3
    how = SpanTraining(
        epochs=20,
        max_steps=steps,
        learning_rate=1.5e-4 / slow,
        head_rate=1e-3 / slow,
        held_out=0,
        evaluations=0,
    )
    start = None if from_scratch else packaged_reader_folder()
    train_span_reader(train, Path(out, "reader"), how=how, start=start)
    trained = SpanReader(Path(out, "reader"))

    scores = {
        "packaged": evaluate_reader(default_reader(), held_out),
        "trained": evaluate_reader(trained, held_out),
    }
    print(f"{len(train)} questions learned, {len(held_out)} held out; per cent of these:")
    print("reader     right from its passage  right among others  no answer without it")
    for name, row in scores.items():
        cells = (100 * row[key] for key in ("gold_em", "among_em", "none_refused"))
        print(f"{name:9}" + "".join(f"{cell:22.0f}" for cell in cells))
    gain = scores["trained"]["among_em"] - scores["packaged"]["among_em"]
    print("It reads better now." if gain > 0 else "It reads no better; keep the packaged one.")

    graph = create_reasoning_graph(default_language_model(), store, reader=trained).compile()
    result = graph.invoke({"question": question or held_out[0].question})
    print(result["question"], result["answer"], [citation["title"] for citation in result["citations"]])
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", nargs="?", help="documents; the demo's, if not given")
    parser.add_argument("--out", default="trained-reader", help="folder to write")
    parser.add_argument("--question", help="one about the documents; a held-out one, if not given")
    parser.add_argument("--from-scratch", action="store_true", help="from the plain encoder")
    main(**vars(parser.parse_args()))
