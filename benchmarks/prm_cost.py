"""What incremental scoring is worth: a search's candidates scored by a process reward model.

b beams with m children each, T steps, a prompt of P tokens, steps of s tokens, n = b m candidates a
step. Three ways to score them, in tokens:

    full         n (T P + s T (T + 1) / 2)          every candidate's whole prefix, every time
    packed       T P + b s T (T - 1) / 2 + n T s    siblings share a pass, nothing is kept between steps
    incremental  P + n T s                          keys and values of prefixes are kept

The table prints the formulas, the tokens that `TokenHead` really computed (counted on a small model;
the count does not depend on its size), and CPU seconds of a random Llama of SmolLM2-135M's width on
one thread; CPU seconds, so that a busy machine shows less. Full scoring is plain transformers in
batches of `--batch`, timed at `--depths` depths and interpolated between them. Scores of both ways
are compared.

    python benchmarks/prm_cost.py --rows 0 1 3     # SmolLM2's 30 layers: about half an hour
    python benchmarks/prm_cost.py --layers 6       # a fifth of the work a token; ratios stay
    python benchmarks/prm_cost.py --counts         # tokens alone
    python benchmarks/prm_cost.py --tiny           # seconds: does it run?
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForTokenClassification, PreTrainedTokenizerFast

from agentprm.rewards import PieceSteps, RewardStep, TokenHead

WORDS = [f"w{i}" for i in range(500)]
SEPARATOR = "<sep>"


@dataclass(frozen=True)
class Search:
    """A search: beams, children of each, steps, tokens of the prompt and of a step."""

    b: int
    m: int
    T: int
    P: int
    s: int

    @property
    def n(self) -> int:
        return self.b * self.m

    @property
    def full(self) -> int:
        return self.n * (self.T * self.P + self.s * self.T * (self.T + 1) // 2)

    @property
    def packed(self) -> int:
        return self.T * self.P + self.b * self.s * self.T * (self.T - 1) // 2 + self.n * self.T * self.s

    @property
    def incremental(self) -> int:
        return self.P + self.n * self.T * self.s


SEARCHES = [
    Search(4, 4, 10, 200, 60),
    Search(4, 4, 40, 200, 60),
    Search(64, 4, 40, 200, 60),
    Search(4, 4, 5, 2000, 80),
]
TINY = [Search(2, 2, 3, 20, 6), Search(2, 2, 3, 40, 6)]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, so that token counts are exact."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<pad>", SEPARATOR, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", additional_special_tokens=[SEPARATOR]
    )


def make_model(small: bool, vocabulary: int, layers: int = 2) -> LlamaForTokenClassification:
    """A random Llama with two classes, small or of SmolLM2-135M's width."""
    shape: dict[str, int] = (
        {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
        if small
        else {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
    )
    heads = 2 if small else 3
    config = LlamaConfig(
        **shape,
        num_hidden_layers=layers,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        num_labels=2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = LlamaForTokenClassification(config).eval()
    with torch.no_grad():
        model.score.weight.mul_(5)  # so that scores differ
    return model


def words(count: int, source: random.Random) -> str:
    return " ".join(source.choice(WORDS) for _ in range(count))


def step(search: Search, source: random.Random) -> RewardStep:
    return RewardStep(query="", passages=[], thought=words(search.s - 1, source), final_answer=None)


def incremental(reward: TokenHead, search: Search) -> tuple[float, int, list[Any]]:
    """Runs the search; the last child of each beam goes on. Seconds, tokens, and some of its scores."""
    source = random.Random(0)
    question = words(search.P, source)
    reward.clear_cache()
    before, seconds = reward.tokens_computed, 0.0
    beams: list[list[RewardStep]] = [[]] * search.b
    kept = []
    for depth in range(1, search.T + 1):
        children = [[*beam, step(search, source)] for beam in beams for _ in range(search.m)]
        start = time.process_time()
        rows = reward.score(question, children)
        seconds += time.process_time() - start
        kept.append((depth, question, children[0], rows[0][-1]))
        beams = children[search.m - 1 :: search.m]
    return seconds, reward.tokens_computed - before, kept


def full(
    model: Any, reward: TokenHead, search: Search, kept: list[Any], batch: int, depths: int
) -> tuple[float, float]:
    """Seconds of full scoring, and the largest difference of a score to the incremental one's."""
    chosen = sorted({round(d) for d in np.linspace(1, search.T, min(depths, search.T))})
    taken, gap = [], 0.0
    for depth, question, child, score in kept:
        if depth not in chosen:
            continue
        texts = [entry["thought"] for entry in child]
        ids = reward.template.ids(reward.tokenizer, question, texts)
        rows = torch.tensor([ids] * batch)
        start = time.process_time()
        with torch.no_grad():
            logits = model(input_ids=rows, use_cache=False).logits
        taken.append((time.process_time() - start) / batch)
        gap = max(gap, abs(float(logits[0, -1].softmax(-1)[1]) - score))
    per_candidate = np.interp(np.arange(1, search.T + 1), chosen, taken)
    return float(search.n * per_candidate.sum()), gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small searches on a small model")
    parser.add_argument("--counts", action="store_true", help="count tokens, time nothing")
    parser.add_argument("--layers", type=int, default=30, help="layers of the timed model")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the incremental way; medians")
    parser.add_argument("--batch", type=int, default=2, help="candidates in a full pass")
    parser.add_argument("--depths", type=int, default=4, help="depths at which full scoring is timed")
    parser.add_argument("--rows", type=int, nargs="*", help="which searches, from 0; default all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    tokenizer = make_tokenizer()
    template = PieceSteps(separator=SEPARATOR)
    searches = TINY if arguments.tiny else SEARCHES
    chosen = searches if arguments.rows is None else [searches[i] for i in arguments.rows]
    counter = TokenHead(make_model(True, len(tokenizer)), tokenizer, template=template)
    model = make_model(arguments.tiny, len(tokenizer), arguments.layers)
    reward = TokenHead(model, tokenizer, template=template)

    print(
        f"torch {torch.__version__}, {platform.machine()}, one thread, {arguments.layers} layers, "
        f"medians of {arguments.repeats}\n"
    )
    head = ["b, m, T, P, s", "full", "packed", "incremental", "computed", "full/incr."]
    head += ["CPU s incr.", "CPU s full", "measured", "largest difference"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for search in chosen:
        _, computed, _ = incremental(counter, search)
        cells = [
            f"{search.b}, {search.m}, {search.T}, {search.P}, {search.s}",
            *(f"{count:,}" for count in (search.full, search.packed, search.incremental, computed)),
            f"{search.full / search.incremental:.1f}x",
        ]
        if not arguments.counts:
            runs = [incremental(reward, search) for _ in range(arguments.repeats)]
            seconds = statistics.median(run[0] for run in runs)
            slow, gap = full(model, reward, search, runs[0][2], arguments.batch, arguments.depths)
            cells += [f"{seconds:.1f}", f"{slow:.1f}", f"{slow / seconds:.1f}x", f"{gap:.0e}"]
        else:
            cells += ["", "", "", ""]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
