"""What computing every token once is worth: search-shaped scoring, n samples, memory, packing.

Parts: `scoring` (children of beams, ours against re-scoring every full prefix, batched and one at a
time), `sampling` (n samples of a long prompt against `generate`), `memory` (cache against its
bound) and `packing` (what decides how many lanes share a row). Medians of `--repeats` runs; the
baselines of `scoring` are slow, so by default one in eight (one at a time) or one in four (batched)
of their candidates is computed and the time multiplied; `--full` computes all.

    python benchmarks/engine.py                   # the packaged SmolLM2-135M, a few minutes
    python benchmarks/engine.py scoring --full
    python benchmarks/engine.py --tiny            # a random model, seconds: does it run?
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from agentprm.lm import Prompt, SamplingParams, TransformersLM, _plan
from agentprm.packaged import default_language_model

PARTS = ("scoring", "sampling", "memory", "packing")


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
            ids = torch.tensor([[0] * (width - len(row)) + row for row in joint])
            mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in joint])
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
    ids = torch.tensor(lm._text.encode([lm._text.render(prompt)]))
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
    usual = _plan.PACKING
    for prompt_tokens, step_tokens, children in shapes:
        search = Search(1, children, 1, prompt_tokens, step_tokens)
        (_, steps), prompt = search.steps[0][0], ask(search, "")
        line = [f"{prompt_tokens:,}", str(step_tokens), str(children)]
        for packing in (0.0, float(usual), float("inf")):
            _plan.PACKING = packing

            def score(prompt: Prompt = prompt, steps: list[str] = steps) -> None:
                lm.loglikelihood([prompt], [steps])

            lm.clear_cache()
            lm.sample([prompt], 1, SamplingParams(max_tokens=1, temperature=0))
            line.append(f"{timed(score, repeats)[0]:.3f}")
        rows.append(line)
    _plan.PACKING = usual
    head = ["prompt", "tokens of a child", "children", "a row each, s", "by the rule, s", "one packed row, s"]
    table("Packing children of one parent", head, rows)


def tiny_model() -> TransformersLM:
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
    return TransformersLM(LlamaForCausalLM(config), tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; default all")
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
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown part {', '.join(sorted(unknown))}; choose of {', '.join(PARTS)}")
    if arguments.cpu_time:
        global clock
        clock, arguments.threads = time.process_time, 1
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.tiny:
        lm = tiny_model()
    else:
        lm = TransformersLM(arguments.model) if arguments.model else default_language_model()
    load = os.getloadavg()[0]
    size = sum(p.numel() for p in lm.model.parameters()) / 1e6
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load:.1f}, "
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
    if "memory" in arguments.parts:
        part_memory(lm, searches[1], [b * 2**20 // shrink**2 for b in (0, 64, 128, 256, 1024)])
    if "packing" in arguments.parts:
        shapes = [(200, 60, 4), (2000, 80, 4), (2000, 80, 16), (2000, 10, 16), (500, 2, 32)]
        part_packing(lm, shapes, arguments.repeats)


if __name__ == "__main__":
    main()
