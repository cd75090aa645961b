"""Runs lists through a reranker of the package index; rerank.py starts it in the peers' interpreter.

    python -m venv peers
    peers/bin/python -m pip install torch==2.13.0
    peers/bin/python -m pip install transformers==5.23.0 llm-rankers==0.0.2 ranksmith==0.6.0 rank-llm==0.25.7

Reads a request as JSON from standard input and writes, for each list, the order, the prompts that the
peer asked for, its tokens and seconds as the last line of standard output. A prompt is put to the model
once, and what it took is charged each time the peer asks it again; with `memo` that survives an
interruption.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answers = Callable[[str], int]


class Meter:
    """Counts and charges model calls by prompt."""

    def __init__(self, memo: str | None) -> None:
        self.path = Path(memo) if memo else None
        lines = self.path.read_text("utf-8").splitlines() if self.path and self.path.exists() else []
        self.known: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}
        self.prompts = self.tokens = 0
        self.seconds = self.cpu = 0.0

    def run(self, keys: list[str], compute: Callable[[], tuple[Any, int]]) -> Any:
        """The result of a call with these prompts, from `compute` or as it was the last time."""
        key = json.dumps(keys)
        if key not in self.known:
            seconds, cpu = time.perf_counter(), time.process_time()
            result, tokens = compute()
            row = {
                "key": key,
                "result": result,
                "tokens": tokens,
                "seconds": time.perf_counter() - seconds,
                "cpu": time.process_time() - cpu,
            }
            self.known[key] = row
            if self.path:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
        row = self.known[key]
        self.prompts += len(keys)
        self.tokens += row["tokens"]
        self.seconds += row["seconds"]
        self.cpu += row["cpu"]
        return row["result"]


def llm_rankers(request: dict[str, Any], meter: Meter) -> tuple[list[int], str]:
    from llmrankers.pairwise import PairwiseLlmRanker
    from llmrankers.rankers import SearchResult

    places = {text: place for place, text in enumerate(request["passages"])}
    method, note = request["method"], ""
    if request["model"] is None:
        ranker = PairwiseLlmRanker.__new__(PairwiseLlmRanker)
        ranker.k, ranker.method = 10, method
        grades = request["grades"]

        def compare(query: str, docs: list[str]) -> list[str]:
            meter.prompts += 2
            a, b = (grades[places[text]] for text in docs)
            first, second = ("A" if a > b else "B"), ("A" if b > a else "B")
            return [f"Passage {first}", f"Passage {second}"]
    else:
        import torch

        ranker = PairwiseLlmRanker(request["model"], None, "cpu", method=method, k=10)
        original = ranker.compare
        letters = [ranker.tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in (" A", " B")]

        def generate(input_ids: Any, **_: Any) -> Any:
            # Left alone the packaged model answers with a quotation mark, so that every pair is a tie.
            logits = ranker.llm(input_ids, logits_to_keep=1).logits[:, -1, letters]
            return torch.cat([input_ids, torch.tensor(letters)[logits.argmax(-1)][:, None]], 1)

        ranker.llm.generate = generate
        note = "llm-rankers was held to A or B, one forward pass a prompt; free, this model writes neither."

        def compare(query: str, docs: list[str]) -> list[str]:
            def compute() -> tuple[list[str], int]:
                before = ranker.total_prompt_tokens
                with torch.no_grad():
                    output = original(query, docs)
                return output, ranker.total_prompt_tokens - before

            keys = [f"llm-rankers A or B/{query}/{a}/{b}" for a, b in (docs, docs[::-1])]
            result: list[str] = meter.run(keys, compute)
            return result

    ranker.compare = compare
    ranking = [SearchResult(docid=str(p), score=0.0, text=text) for text, p in places.items()]
    if len(ranking) != len(request["passages"]):
        raise SystemExit("Passages must differ.")
    if method == "allpair":
        # Its own all-pair mode is written for T5 and fails on a Llama (it has no decoder_input_ids); these
        # are its prompts and its scoring, around its compare().
        call = (
            "llm-rankers' all-pair mode fails on Llama-type models: its compare() was called for each pair."
        )
        note = f"{note} {call}".strip()
        scores = dict.fromkeys(range(len(ranking)), 0.0)
        for a, b in itertools.combinations(range(len(ranking)), 2):
            said = ranker.compare(request["query"], [ranking[a].text, ranking[b].text])
            wins = said == ["Passage A", "Passage B"]
            loses = said == ["Passage B", "Passage A"]
            scores[a] += 1.0 if wins else 0.0 if loses else 0.5
            scores[b] += 1.0 if loses else 0.0 if wins else 0.5
        return sorted(scores, key=lambda place: -scores[place]), note
    return [int(result.docid) for result in ranker.rerank(request["query"], ranking)], note


def ranksmith(request: dict[str, Any], meter: Meter) -> tuple[list[int], str]:
    from ranksmith.model import ModelClient, ModelResponse
    from ranksmith.strategies.pairwise import PairwiseStrategy
    from ranksmith.types import Document

    passages = request["passages"]
    if request["model"] is None:
        grades = dict(zip(passages, request["grades"], strict=True))

        class Client(ModelClient):
            def compare(self, query: str, document_a: Any, document_b: Any) -> str:
                meter.prompts += 1
                first = grades[document_a.text] > grades[document_b.text]
                return json.dumps({"winner": "A" if first else "B"})

        client: Any = Client(provider=None)  # type: ignore[arg-type]
        note = ""
    else:
        client, note = (
            ModelClient(provider=Local(request["model"], meter, ModelResponse)),
            (
                'ranksmith asks for JSON: its provider was a local model held to {"winner": "A"} or "B", '
                "one forward pass a prompt."
            ),
        )
    documents = [Document(id=str(place), text=text) for place, text in enumerate(passages)]
    results = PairwiseStrategy(passes=10).rerank(
        query=request["query"], documents=documents, model_client=client
    )
    return [result.original_index for result in results], note


class Local:
    """A provider for ranksmith: one forward pass of a local model, constrained to the JSON it wants."""

    def __init__(self, folder: str, meter: Meter, response: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.torch, self.meter, self.response = torch, meter, response
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.labels = [self.tokenizer.encode(x, add_special_tokens=False)[-1] for x in "AB"]

    def complete(self, request: Any) -> Any:
        messages = [{"role": m.role, "content": m.content} for m in request.messages]
        head = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        text = head + '{"winner": "'

        def compute() -> tuple[str, int]:
            ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with self.torch.no_grad():
                logits = self.model(ids, logits_to_keep=1).logits[0, -1]
            return "AB"[int(logits[self.labels].argmax())], int(ids.shape[1])

        return self.response(content=json.dumps({"winner": self.meter.run([text], compute)}))


def rank_llm(request: dict[str, Any], meter: Meter) -> tuple[list[int], str]:
    # Its package imports vLLM for whatever is used of it; the pairwise mode itself does without.
    # And a listwise mode that the pairwise one does not touch does not import beside transformers 5.
    for name in ("vllm", "vllm.outputs", "rank_llm.rerank.listwise.rank_fid"):
        module = types.ModuleType(name)
        for attribute in ("RequestOutput", "LLM", "SamplingParams", "RankFiDDistill", "RankFiDScore"):
            setattr(module, attribute, object)
        sys.modules.setdefault(name, module)
    from rank_llm.data import Candidate, Query, Request
    from rank_llm.rerank.pairwise.pairwise_rankllm import PairwiseRankLLM

    grades = request["grades"]

    class Pairs(PairwiseRankLLM):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batch_size = 32

        def create_prompt(self, result: Any, index1: int, index2: int) -> tuple[Any, int]:
            return (index1, index2), 0

        def run_llm_batched(self, prompts: list[Any]) -> tuple[list[str], list[int], list[float]]:
            meter.prompts += len(prompts)
            gaps = [grades[a] - grades[b] for a, b in prompts]
            scores = [0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps]
            return [""] * len(prompts), [0] * len(prompts), scores

        def run_llm(self, prompt: Any) -> Any:
            raise NotImplementedError

        def cost_per_1k_token(self, input_token: bool) -> float:
            return 0.0

        def get_num_tokens(self, prompt: str) -> int:
            return 0

        def num_output_tokens(self) -> int:
            return 0

    candidates = [
        Candidate(docid=str(place), score=0.0, doc={"text": text})
        for place, text in enumerate(request["passages"])
    ]
    (result,) = Pairs().rerank_batch(
        [Request(query=Query(text=request["query"], qid="q"), candidates=candidates)]
    )
    note = "rank-llm's pairwise mode loads DuoT5 alone, so its order is compared without a model."
    return [int(candidate.docid) for candidate in result.candidates], note


def main() -> None:
    request = json.load(sys.stdin)
    if request["model"] is not None:
        import torch

        torch.set_num_threads(request["threads"])
    meter = Meter(request["memo"])
    run = {"llm-rankers": llm_rankers, "ranksmith": ranksmith, "rank-llm": rank_llm}[request["peer"]]
    answers = []
    for one in request["lists"]:
        meter.prompts = meter.tokens = 0
        meter.seconds = meter.cpu = 0.0
        order, note = run({**request, **one}, meter)
        answers.append(
            {
                "order": order,
                "prompts": meter.prompts,
                "tokens": meter.tokens,
                "seconds": meter.seconds,
                "cpu": meter.cpu,
                "note": note,
            }
        )
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
