"""The prefix tree: against a plain dictionary of prefixes, and inside the model against no cache."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import HealthCheck, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from agentprm.budget import metered  # noqa: E402
from agentprm.engine.cache import PrefixTree  # noqa: E402
from agentprm.engine.planning import pack, shared_beginnings  # noqa: E402
from agentprm.engine.requests import Sample  # noqa: E402
from agentprm.errors import ConfigurationError  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def content(tokens, begin, end):
    """Two layers whose entry at a position depends on everything up to it."""
    rows = [float(hash(tuple(tokens[: i + 1])) % 10007) for i in range(begin, end)]
    keys = torch.tensor(rows).reshape(1, -1, 1).repeat(2, 1, 3)
    return [(keys, -keys), (keys + 1, keys + 2)]


class Computed:
    """A row that has computed some tokens."""

    adapter = None

    def __init__(self, tokens):
        self.tokens = tokens

    def fetch(self, lane, begin, end):
        return content(self.tokens, begin, end)


def add(tree, tokens):
    tree.insert(tokens, Computed(tokens))


def check_match(tree, tokens, known):
    path, count = tree.match(tokens)
    assert count == sum(stretch.count for stretch in path)
    assert count == max(n for n in range(len(tokens) + 1) if n == 0 or tuple(tokens[:n]) in known)
    for layer in range(2):
        for side in range(2):
            if path:
                got = torch.cat([s.layers[layer][side][:, : s.count] for s in path], dim=1)
                assert torch.equal(got, content(tokens, 0, count)[layer][side])
    return path


@settings(deadline=None)
@given(SEQUENCES, SEQUENCES)
def test_longest_known_beginning(sequences, queries):
    tree, known = PrefixTree(2**20), set()
    for tokens in sequences:
        add(tree, tokens)
        known |= {tuple(tokens[: n + 1]) for n in range(len(tokens))}
        assert tree.nbytes == len(known) * 4 * 2 * 3 * 4
    for tokens in sequences + queries:
        check_match(tree, tokens, known)
    tree.trim()
    assert tree.nbytes == len(known) * 4 * 2 * 3 * 4
    tree.clear()
    assert tree.nbytes == 0
    assert tree.match(sequences[0]) == ([], 0)


@settings(deadline=None)
@given(SEQUENCES, st.integers(0, 40))
def test_the_bound_holds_and_recent_ones_stay(sequences, tokens_kept):
    tree = PrefixTree(tokens_kept * 96)
    for tokens in sequences:
        held = tree.match(tokens).stretches
        before = [(s.layers[0][0].clone(), s.count) for s in held]
        add(tree, tokens)
        tree.trim()
        assert tree.nbytes <= tokens_kept * 96
        assert all(torch.equal(s.layers[0][0], k) for s, (k, _) in zip(held, before, strict=True))
        path, count = tree.match(tokens)
        for stretch in path:
            assert stretch.count > 0
        if tokens_kept >= 12 * len(sequences):
            assert count == len(tokens)
    total = sum(node.nbytes for node in tree._nodes())
    assert total == tree.nbytes


@settings(deadline=None)
@given(SEQUENCES, st.data())
def test_shared_beginnings_cover_what_is_shared(sequences, data):
    prompts = [list(t) for t in dict.fromkeys(tuple(t * 5) for t in sequences)]
    known = [data.draw(st.integers(0, len(p) - 1)) for p in prompts]
    done = {tuple(p[:n]) for p, k in zip(prompts, known, strict=True) for n in range(1, k + 1)}
    known = [max((n for n in range(1, len(p)) if tuple(p[:n]) in done), default=0) for p in prompts]
    computed = 0
    for level in shared_beginnings(prompts, known):
        for count, members in level:
            start = prompts[members[0]][:count]
            assert all(prompts[i][:count] == start for i in members)
            new = {tuple(start[:n]) for n in range(1, len(start) + 1)} - done
            assert len(new) >= 1
            computed += len(new)
            done |= new
    # What is left to compute twice is shorter than what a pass of its own pays for.
    rest = sum(len({tuple(p[:n]) for n in range(1, len(p) + 1)} - done) for p in prompts)
    unique = len({tuple(p[:n]) for p in prompts for n in range(1, len(p) + 1)} - done)
    assert rest - unique <= 16 * len(prompts)


def test_beginnings_nest_deeper_than_functions():
    prompts = [[7] * n for n in range(1, 1501)]
    levels = shared_beginnings(prompts, [0] * len(prompts))
    assert [[(count, len(members)) for count, members in level] for level in levels] == [
        [(count, 1501 - count)] for count in range(16, 1500, 16)
    ]


WORDS = [" Paris", " river", "\n", " the play", " 東京", " step", " a", " search: x"]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=0, max_size=14).map("".join)


@st.composite
def calls(draw):
    """A few calls whose prompts grow out of each other, as in a search."""
    texts = [draw(TEXTS) + "."]
    plan = []
    for _ in range(draw(st.integers(2, 5))):
        batch = []
        for _ in range(draw(st.integers(1, 3))):
            base = draw(st.sampled_from(texts))
            text = base + draw(TEXTS) if draw(st.booleans()) else base
            texts.append(text)
            batch.append(text)
        plan.append(
            (draw(st.sampled_from(["score", "judge", "sample", "continue"])), batch, draw(st.integers(1, 3)))
        )
    return plan


@pytest.fixture
def oracle_of():
    def of(model):
        def logprobs(ids):
            with torch.no_grad():
                return model(torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)

        return logprobs

    return of


@pytest.fixture
def oracle(any_model, oracle_of):
    return oracle_of(any_model)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=calls(), bound=st.sampled_from([0, 20_000, 2**30]))
def test_a_search_gives_what_no_cache_gives(folder, tokenizer, oracle, plan, bound):
    lm = shared_lm(folder, bound)
    for kind, batch, n in plan:
        prompts = [Prompt((("user", "answer the question"),), text) for text in batch]
        ids = lm._text.encode([lm._text.render(p) for p in prompts])
        if kind == "score":
            continuations = [" Paris", " the river is", " x" * n]
            for mine, scores in zip(
                ids, lm.loglikelihood(prompts, [continuations] * len(prompts)), strict=True
            ):
                for continuation, score in zip(continuations, scores, strict=True):
                    new = tokenizer(continuation, add_special_tokens=False)["input_ids"]
                    joint = oracle(mine + new)
                    want = sum(joint[len(mine) - 1 + i, t].item() for i, t in enumerate(new))
                    assert score == pytest.approx(want, abs=1e-4, rel=1e-5)
        elif kind == "judge":
            for mine, scores in zip(
                ids, lm.loglikelihood(prompts, [["A", "B", "x"]] * len(prompts)), strict=True
            ):
                want = [oracle(mine)[-1, tokenizer(c)["input_ids"][0]].item() for c in ("A", "B", "x")]
                assert scores == pytest.approx(want, abs=1e-4, rel=1e-5)
        else:
            params = SamplingParams(max_tokens=6, temperature=0 if kind == "continue" else 1.0, seed=n)
            for lane in recorded(lm, prompts, n, params):
                new = lane.tokens
                joint = oracle([*lane.prompt_ids, *new])[len(lane.prompt_ids) - 1 : -1]
                chosen = joint[range(len(new)), new]
                assert lane.logprob == pytest.approx(chosen.sum().item(), abs=1e-4, rel=1e-5)
                if params.temperature == 0:
                    assert torch.all(chosen >= joint.max(-1).values - 1e-4)
        assert lm.cache_bytes <= bound


def recorded(lm, prompts, n, params):
    """The samples with their tokens."""
    lanes = []

    class Recorded(Sample):
        def __post_init__(self):
            super().__post_init__()
            lanes.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentprm.lm.transformers.Sample", Recorded)
        result = lm.sample(prompts, n, params)
    assert {(c.text, c.logprob) for some in result for c in some} == {(x.text, x.logprob) for x in lanes}
    return lanes


def shared_lm(folder, bound, cache={}):  # noqa: B006
    """Building one costs more than using it; an emptied one is as good as new."""
    if (folder, bound) not in cache:
        cache[folder, bound] = TransformersLM(folder, dtype="float32", device="cpu", cache_bytes=bound)
    cache[folder, bound].clear_cache()
    return cache[folder, bound]


def computed(call):
    with metered() as meter:
        result = call()
    return meter.usage["computed_tokens"], result


def tokens_of(lm, text):
    return len(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


@contextmanager
def saying(lm, text):
    """Forces what the model samples; what it computes stays real."""
    ids = [*lm.tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    steps = iter(ids)

    def force(module, args, output):
        output.logits = torch.full_like(output.logits, -50.0)
        output.logits[..., next(steps)] = 50.0
        return output

    handle = lm.model.register_forward_hook(force)
    try:
        yield
    finally:
        handle.remove()


QUESTION = "Who wrote the play? " * 12


def test_what_is_paid_for(llama):
    greedy = SamplingParams(max_tokens=10, temperature=0)
    ask = Prompt((("user", QUESTION),), "Step")
    length = len(llama._text.encode([llama._text.render(ask)])[0])
    first, result = computed(lambda: llama.sample([ask], 1, greedy))
    assert first == length + result[0][0].tokens - 1
    again, repeated = computed(lambda: llama.sample([ask], 1, greedy))
    assert again == 1 + result[0][0].tokens - 1
    assert repeated[0][0].text == result[0][0].text
    # Scoring right after sampling pays for the continuation and the prompt's last token.
    scoring, _ = computed(lambda: llama.loglikelihood([ask], [[" the river", " x"]]))
    assert scoring == 1 + tokens_of(llama, " the river") - 1 + tokens_of(llama, " x") - 1
    # Long continuations each take the last token along instead of waiting for a pass of its own.
    verses = [" the river" * 20, " a poet" * 20]
    scoring, _ = computed(lambda: llama.loglikelihood([ask], [verses]))
    assert scoring == sum(tokens_of(llama, verse) for verse in verses)
    # A committed completion is not computed again.
    said = " the play was written by a poet"
    with saying(llama, said):
        assert llama.sample([ask], 1, SamplingParams(max_tokens=20, temperature=0))[0][0].text == said
    grown = Prompt(ask.messages, "Step" + said + " and then")
    cost, _ = computed(lambda: llama.loglikelihood([grown], [[" x"]]))
    assert cost == tokens_of(llama, " and then") + tokens_of(llama, " x") - 1
    llama.clear_cache()
    assert llama.cache_bytes == 0
    assert computed(lambda: llama.sample([ask], 1, greedy))[0] == first


def test_a_batch_shares_its_beginnings(llama):
    prompts = [Prompt((("user", QUESTION),), f"Step {i}") for i in range(8)]
    ids = llama._text.encode([llama._text.render(p) for p in prompts])
    unique = len({tuple(row[: n + 1]) for row in ids for n in range(len(row))})
    cost, _ = computed(lambda: llama.loglikelihood(prompts, [[" x"]] * 8))
    assert cost <= unique + 8
    assert cost < sum(map(len, ids)) / 4


def test_verdicts_of_siblings(llama, oracle_of):
    """Prompts that share a long beginning are judged in a packed row, each exactly and once."""
    prompts = [Prompt((("user", QUESTION * 2),), f"Step {'the river ' * (i % 4)}{i}") for i in range(9)]
    ids = llama._text.encode([llama._text.render(p) for p in prompts])
    unique = len({tuple(row[: n + 1]) for row in ids for n in range(len(row))})
    cost, got = computed(lambda: llama.loglikelihood(prompts, [["A", "B"]] * 9))
    for mine, scores in zip(ids, got, strict=True):
        want = [oracle_of(llama.model)(mine)[-1, llama.tokenizer(c)["input_ids"][0]].item() for c in "AB"]
        assert scores == pytest.approx(want, abs=1e-4, rel=1e-5)
    assert cost <= unique + 3 * 16
    assert computed(lambda: llama.loglikelihood(prompts, [["A", "B"]] * 9))[0] == 9
    assert computed(lambda: llama.loglikelihood(prompts[:1] * 3, [["A"], [], ["B"]]))[1] == [
        [pytest.approx(got[0][0], abs=1e-4)],
        [],
        [pytest.approx(got[0][1], abs=1e-4)],
    ]


@example(sizes=[1, 1, 1, 1, 1, 5], prompt=1, max_slots=4)
@given(st.lists(st.integers(1, 50), max_size=20), st.integers(0, 500), st.integers(1, 800))
def test_packing(sizes, prompt, max_slots):
    rows = pack(sizes, prompt, max_slots)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    for row in rows:
        total = sum(sizes[i] for i in row)
        assert len(row) == 1 or (
            prompt + total <= max_slots and total * max(sizes[i] for i in row) <= 16 * prompt
        )


@given(st.integers(1, 30), st.integers(1, 80), st.integers(1, 900))
def test_rows_of_equal_lanes_are_even(count, size, prompt):
    rows = [len(row) for row in pack([size] * count, prompt, 10_000)]
    most = max(1, 16 * prompt // size**2)  # lanes of a row
    assert len(rows) == -(-count // most)
    assert max(rows) - min(rows) <= 1 or max(rows) == -(-count // len(rows))


def test_without_a_bound_to_keep_anything(models, tokenizer, llama):
    forgetful = TransformersLM(models["llama"], tokenizer, cache_bytes=0)
    prompts = [Prompt((("user", QUESTION),), f"Step {i}") for i in range(3)]
    params = SamplingParams(max_tokens=8, temperature=0.8, seed=4)
    assert [[c.text for c in some] for some in forgetful.sample(prompts, 2, params)] == [
        [c.text for c in some] for some in llama.sample(prompts, 2, params)
    ]
    assert forgetful.cache_bytes == 0
    assert llama.cache_bytes > 0
    with pytest.raises(ConfigurationError, match="cache_bytes"):
        TransformersLM(models["llama"], tokenizer, cache_bytes=-1)


def test_ragged_rows(llama):
    long, short = Prompt((("user", QUESTION * 4),)), Prompt((("user", "a"),))
    continuations = [[" x", " the river"], [" Paris"], [" Paris"]]
    middle = Prompt((("user", QUESTION + "passage thought"),))
    want = [
        llama.loglikelihood([p], [c])[0] for p, c in zip([long, short, middle], continuations, strict=True)
    ]
    llama.clear_cache()
    llama.sample([short, middle], 1, SamplingParams(max_tokens=3, temperature=0))
    got = llama.loglikelihood([long, short, middle], continuations)
    for a, b in zip(got, want, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


@pytest.mark.parametrize("bound", [0, 60_000, 2**30])
def test_threads_that_evict_each_other(models, tokenizer, llama, bound):
    prompts = [Prompt((("user", QUESTION[: 40 + 20 * i]),), f"Step {i % 3}") for i in range(8)]
    continuations = [" the river is", " x", " a poet" * 6, " step " * 9]
    params = SamplingParams(max_tokens=6, temperature=1.0, seed=2)
    want = llama.loglikelihood(prompts, [continuations] * 8), llama.sample(prompts, 2, params)
    shared = TransformersLM(models["llama"], tokenizer, cache_bytes=bound)

    def work(i):
        part = slice(i % 4 * 2, i % 4 * 2 + 2)
        for _ in range(3):
            scores = shared.loglikelihood(prompts[part], [continuations] * 2)
            for got, expected in zip(scores, want[0][part], strict=True):
                assert got == pytest.approx(expected, abs=1e-4)
            got_texts = [[c.text for c in some] for some in shared.sample(prompts[part], 2, params)]
            assert got_texts == [[c.text for c in some] for some in want[1][part]]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert shared.cache_bytes <= bound


def test_a_failed_call_leaves_a_sound_cache(llama):
    prompt = Prompt((("user", QUESTION),))
    params = SamplingParams(max_tokens=12, temperature=0)
    want = llama.sample([prompt], 1, params)[0][0].text
    llama.clear_cache()
    passes = 0

    def fail(*_):
        nonlocal passes
        passes += 1
        if passes == 4:
            raise RuntimeError("out of memory")

    handle = llama.model.model.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError):
            llama.sample([prompt], 1, params)
    finally:
        handle.remove()
    assert llama.sample([prompt], 1, params)[0][0].text == want


def test_positions_that_depend_on_the_length(models, tokenizer):
    config = copy.deepcopy(models["llama"].config)
    config.rope_parameters = {
        "rope_type": "dynamic",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 128,
    }
    lm = TransformersLM(type(models["llama"])(config).eval(), tokenizer)
    assert lm.max_context == 128
