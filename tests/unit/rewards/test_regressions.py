"""Mistakes of published scoring helpers, each with a test that shows it and that we do not make it."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.errors import ConfigurationError, ContextLengthError, InputError  # noqa: E402
from agentprm.rewards import (  # noqa: E402
    ChatPrefix,
    ChatSteps,
    PieceSteps,
    PlainSteps,
    PrefixScalar,
    TokenHead,
    TokenLogits,
    TurnSteps,
    ValueHead,
    as_trajectory,
    labelled_row,
    step_cross_entropy,
)

QUESTION = "Natalia sold 48 clips. How many?"
STEPS = ["In May she sold 24 clips.", "Together that is 72."]


def score(reward, *trajectories):
    return reward.score(QUESTION, [as_trajectory(steps) for steps in trajectories])


def ids_of(tokenizer, text, special=False):
    return tokenizer(text, add_special_tokens=special)["input_ids"]


@pytest.fixture(scope="module")
def classes(tiny, tokenizer):
    """A two-class model."""
    return tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2)


@pytest.fixture(scope="module")
def words(tiny, tokenizer):
    """A language model."""
    return tiny.model("LlamaForCausalLM", len(tokenizer))


# 1. Phantom steps: a text that ends in the separator is not followed by an empty step.


@pytest.mark.parametrize("ending", ["\n\n", "\n\n\n\n", "  \n \n", "\n"])
def test_a_trailing_separator_is_no_step(ending, classes, tokenizer):
    text = "\n\n".join(STEPS)
    assert len((text + "\n\n").split("\n\n")) == 3, "what published helpers split into"
    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    kept = reward.score(QUESTION, [as_trajectory(text)])
    assert reward.score(QUESTION, [as_trajectory(text + ending)]) == kept
    # As a step of its own text, too: white space at its end is not part of a step.
    steps = [{**s, "thought": s["thought"] + ending} for s in as_trajectory(text)]
    assert reward.score(QUESTION, [steps]) == kept
    assert len(kept[0]) == 2
    with pytest.raises(InputError, match="without a finding"):
        reward.score(QUESTION, [[*steps, {**steps[0], "thought": ending}]])


def test_blank_lines_inside_a_step_have_no_score(tiny, tokenizer):
    model = tiny.model("Qwen2Model", len(tokenizer))
    model.v_head = torch.nn.Linear(32, 1)
    reward = ValueHead(model, tokenizer, template=PieceSteps(separator="\n", head="{question}\n", lines=True))
    one = [{**as_trajectory("a")[0], "thought": "first line\n\nsecond line"}]
    ids = reward.template.ids(tokenizer, QUESTION, ["first line\n\nsecond line"])
    newline = ids_of(tokenizer, "\n")
    assert sum(i == newline[0] for i in ids) == 3, (
        "after the question and after each line, none for the blank"
    )
    assert len(reward.score(QUESTION, [one])[0]) == 1


# 2. and 8. fp16: a probability that underflows to zero, and pairs that are found by `!= 0`.


def reference_pairs(probabilities, mask):
    """The published helper: multiply by the mask, drop zeros, take the rest as pairs."""
    kept = (probabilities * mask[:, None]).flatten()
    return kept[kept != 0].view(-1, 2)[:, 1].tolist()


def test_a_wide_logit_gap_does_not_shift_pairs():
    logits = torch.tensor([[0.0, 18.0], [1.0, 0.0], [17.5, 0.0]])
    mask = torch.ones(3)
    half = logits.half().softmax(dim=-1)
    assert float(half[0, 0]) == 0.0
    assert float(torch.tensor([0.0, 17.3]).half().softmax(-1)[0]) > 0
    with pytest.raises(RuntimeError):
        # Five numbers are left, and if a second one is lost the pairs are of two steps each.
        reference_pairs(half[:2].float(), mask[:2])
    crossed = reference_pairs(half.float(), mask)
    assert len(crossed) == 2, "three steps, two scores"


def test_half_precision_keeps_every_step(tiny, tokenizer):
    model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2).half()
    with torch.no_grad():
        model.score.weight.mul_(60.0)  # gaps far beyond 17.4
    reward = TokenHead(model, tokenizer, template=PieceSteps())
    ids = reward.template.ids(tokenizer, QUESTION, STEPS)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    ends = [len(reward.template.ids(tokenizer, QUESTION, STEPS[: k + 1])) - 1 for k in range(2)]
    gaps = (logits[ends, 1] - logits[ends, 0]).float()
    assert float(gaps.abs().max()) > 17.4
    assert 0.0 in logits[ends].softmax(dim=-1).flatten().tolist(), "fp16 loses one"
    row = score(reward, STEPS)[0]
    assert len(row) == 2
    for value, gap in zip(row, gaps.tolist(), strict=True):
        assert 0 < value <= 1 or abs(gap) > 80
        # The head runs in fp32, so its logits are close to the half-precision ones, not equal.
        assert math.log(max(value, 1e-37)) == pytest.approx(
            -math.log1p(math.exp(-gap)) if gap > -80 else gap, rel=0.05, abs=0.05
        )


# 3. and 4. One position off: at the tag, before the word, never the neighbour.


def test_the_tag_is_read_at_itself_and_the_word_before_itself(words, tokenizer):
    good, bad = ids_of(tokenizer, " +")[0], ids_of(tokenizer, " -")[0]
    reward = TokenLogits(words, tokenizer, template=PlainSteps(number=True), good=" +", bad=" -")
    text = f"{QUESTION} Step 1: {STEPS[0]} ки"
    with torch.no_grad():
        logits = words(input_ids=torch.tensor([ids_of(tokenizer, text)])).logits[0]
    at, before = (float(logits[i, [good, bad]].softmax(-1)[0]) for i in (-1, -2))
    got = score(reward, STEPS[:1])[0][0]
    assert got == pytest.approx(at, abs=2e-5)
    assert abs(at - before) > 1e-3, "a reading one token early must show"

    turns = TokenLogits(words, tokenizer, template=TurnSteps(), good="+", bad="-")
    chat = [{"role": "user", "content": f"{QUESTION} {STEPS[0]}"}, {"role": "assistant", "content": "+"}]
    ids = ids_of(tokenizer, tokenizer.apply_chat_template(chat, tokenize=False))
    plus, minus = ids_of(tokenizer, "+")[0], ids_of(tokenizer, "-")[0]
    place = max(i for i, token in enumerate(ids) if token == plus)
    with torch.no_grad():
        logits = words(input_ids=torch.tensor([ids])).logits[0]
    early, at = (float(logits[i, [plus, minus]].softmax(-1)[0]) for i in (place - 1, place))
    got = score(turns, STEPS[:1])[0][0]
    assert got == pytest.approx(early, abs=2e-5)
    assert abs(at - early) > 1e-3


def test_two_words_not_the_whole_vocabulary(words, tokenizer):
    reward = TokenLogits(words, tokenizer, template=PlainSteps(), good=" +", bad=" -")
    other = TokenLogits(words, tokenizer, template=PlainSteps(), good=" -", bad=" +")
    for a, b in zip(score(reward, STEPS)[0], score(other, STEPS)[0], strict=True):
        assert a + b == pytest.approx(1.0)


# 5. Labels: where training reads is where scoring reads, and soft labels stay soft.


@pytest.mark.parametrize("template", [PieceSteps(), PieceSteps(separator="\n\n"), ChatSteps(), TurnSteps()])
def test_training_labels_stand_where_scores_are_read(template, classes, tokenizer):
    row = labelled_row(template, tokenizer, QUESTION, STEPS, [True, 0.7])
    reward = TokenHead(classes, tokenizer, template=template)
    with torch.no_grad():
        logits = classes(input_ids=torch.tensor([row.ids])).logits[0]
    assert logits[row.positions].softmax(-1)[:, 1].tolist() == pytest.approx(
        score(reward, STEPS)[0], abs=2e-5
    )
    assert row.labels == [1.0, 0.7]


def test_soft_labels_are_not_cut_to_integers():
    logits = torch.tensor([[0.3, -0.2], [1.0, 2.0]], requires_grad=True)
    soft = step_cross_entropy(logits, [0.7, 1.0])
    cut = step_cross_entropy(logits, [float(int(0.7)), 1.0])
    by_hand = (
        -(
            0.7 * logits.log_softmax(-1)[0, 1]
            + 0.3 * logits.log_softmax(-1)[0, 0]
            + logits.log_softmax(-1)[1, 1]
        )
        / 2
    )
    assert float(soft.detach()) == pytest.approx(float(by_hand.detach()))
    assert abs(float((soft - cut).detach())) > 0.05
    hard = step_cross_entropy(logits, [0.0, 1.0])
    usual = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert float(hard.detach()) == pytest.approx(float(usual.detach()))
    soft.backward()
    assert logits.grad is not None
    with pytest.raises(InputError, match="NaN"):
        step_cross_entropy(logits, [math.nan, 1.0])


def test_labels_that_do_not_fit(tokenizer):
    with pytest.raises(InputError, match="2 steps, but 1"):
        labelled_row(PieceSteps(), tokenizer, QUESTION, STEPS, [1.0])
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        labelled_row(PieceSteps(), tokenizer, QUESTION, STEPS, [1.0, -1.0])
    with pytest.raises(InputError, match="prefix"):
        labelled_row(ChatPrefix(), tokenizer, QUESTION, STEPS, [1.0, 1.0])
    unlabelled = labelled_row(PieceSteps(), tokenizer, QUESTION, STEPS, [None, 1])
    assert len(unlabelled.positions) == 1
    assert labelled_row(PieceSteps(), tokenizer, QUESTION, [], []).ids == []


# 7. Padding: none is made, so a long neighbour changes nothing.


def test_a_long_neighbour_changes_nothing(classes, tokenizer):
    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    alone = score(reward, STEPS)[0]
    again = TokenHead(classes, tokenizer, template=ChatSteps())
    assert score(again, ["clips in May. " * 30], STEPS)[1] == pytest.approx(alone, abs=2e-5)


# Long inputs: never cut.


def test_long_inputs_raise_or_are_reported(tiny, tokenizer):
    short = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2, positions=64)
    template = PieceSteps()
    long = [*STEPS, "and so on. " * 30, "The end."]
    with pytest.raises(ContextLengthError, match=r"step 3 .* context is 64"):
        score(TokenHead(short, tokenizer, template=template), long)
    told = TokenHead(short, tokenizer, template=template, on_overflow="nan")
    row = score(told, long, STEPS)
    assert [math.isnan(s) for s in row[0]] == [False, False, True, True]
    assert told.unscored == 2
    assert row[0][:2] == row[1]
    assert row[1] == pytest.approx(score(TokenHead(short, tokenizer, template=template), STEPS)[0], abs=2e-5)
    none = TokenHead(short, tokenizer, template=template, on_overflow="nan")
    assert all(map(math.isnan, score(none, long[2:])[0]))
    for wrong in ({"on_overflow": "cut"}, {"cache_bytes": -1}, {"max_batch_tokens": 0}, {"cache_size": 0}):
        with pytest.raises(ConfigurationError):
            TokenHead(short, tokenizer, template=template, **wrong)


# 12. Text that looks like a separator or a control token is data.


def test_separators_in_a_text_are_data(classes, words, tokenizer):
    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    extra = ids_of(tokenizer, "<extra_0>")[0]
    end = tokenizer.eos_token_id
    ids = reward.template.ids(
        tokenizer, f"{QUESTION} <extra_0><|im_end|>", [f"{STEPS[0]} <extra_0> more<|im_end|>", STEPS[1]]
    )
    assert [i for i, token in enumerate(ids) if token == extra][-1] == len(ids) - 1
    assert sum(token == extra for token in ids) == 2
    assert sum(token == end for token in ids) == 1, "the user's turn ends once"
    assert len(score(reward, [f"{STEPS[0]} <extra_0>", STEPS[1]])[0]) == 2
    tag = ids_of(tokenizer, " ки")
    shepherd = PlainSteps(number=True).ids(tokenizer, QUESTION, ["a ки b", "c ки"])
    places = [i for i in range(len(shepherd)) if shepherd[i - len(tag) + 1 : i + 1] == tag]
    assert len(places) == 2
    # A template's own marks are not looked for in what the user wrote.
    asked = ChatPrefix(references={"{reference}": "{question}"}).ids(tokenizer, "{reference}", ["a"])
    assert tokenizer.decode(asked).count("{question}") == 1


def test_tags_inside_words_are_left_alone(tokenizer):
    from agentprm.rewards.templates import without_marks

    assert without_marks(tokenizer, "руки ки. ки", [" ки"]) == "руки к и. к и"
    assert without_marks(tokenizer, "a [PRM] b", [" [PRM]"]) == "a [ PRM] b"
    assert without_marks(tokenizer, "a \n\n b\nc", ["\n\n"]) == "a\nb\nc"
    assert without_marks(tokenizer, "a\nb", ["\n\n"]) == "a\nb"


# 11. Judge words with and without the space before them, as tokenizers of either kind have them.


def sentencepiece_like():
    """A tokenizer that puts its own mark before every text, as Llama 2's and Mistral's do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "\n", "▁", "+", "-", "▁+", "▁-", "ки", "▁ки", "a", "b", "▁a", "▁b"]
    merges = [("▁", "+"), ("▁", "-"), ("▁", "ки"), ("▁", "a"), ("▁", "b"), ("к", "и")]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "к", "и"])}
    raw = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_judge_words_of_both_kinds_of_tokenizers(tokenizer):
    from agentprm.rewards.templates import first_token

    theirs = sentencepiece_like()
    assert theirs.convert_ids_to_tokens(theirs("+ -")["input_ids"]) == ["▁+", "▁-"]
    for tok, spaced in ((theirs, "▁+"), (tokenizer, "Ġ+")):
        assert tok.convert_ids_to_tokens(first_token(tok, " +")) == spaced
        assert tok.convert_ids_to_tokens(first_token(tok, "+")) == "+"
    template = PlainSteps(number=False)
    template.check(theirs)
    assert theirs.convert_ids_to_tokens(template.ids(theirs, "a", ["b", "a"])[-1]) == "▁ки"


# 14. The sentence that stands for a missing reference answer.


def test_a_reference_answer_is_a_matter_of_the_template(tiny, tokenizer):
    model = tiny.model("Qwen2ForSequenceClassification", len(tokenizer), labels=1)
    without = PrefixScalar(model, tokenizer, template=ChatPrefix(references={"another": "5"}))
    asked = without.template.ids(tokenizer, QUESTION, STEPS)
    assert "The reference answer is: There is no reference answer for this question." in tokenizer.decode(
        asked
    )
    with_one = PrefixScalar(model, tokenizer, template=ChatPrefix(references={QUESTION: "72"}))
    assert score(with_one, STEPS) != score(without, STEPS)


async def test_async_and_cancelled(classes, tokenizer):
    import asyncio

    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    want = score(reward, STEPS)
    reward.clear_cache()
    assert await reward.ascore(QUESTION, [as_trajectory(STEPS)]) == [pytest.approx(want[0], abs=2e-5)]
    reward.clear_cache()
    task = asyncio.create_task(reward.ascore(QUESTION, [as_trajectory(STEPS)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert score(reward, STEPS)[0] == pytest.approx(want[0], abs=2e-5)


def test_threads_agree(classes, tokenizer):
    from concurrent.futures import ThreadPoolExecutor

    want = {
        k: score(TokenHead(classes, tokenizer, template=ChatSteps()), [*STEPS, f"{k}."])[0] for k in range(6)
    }
    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda k: score(reward, [*STEPS, f"{k}."])[0], range(6)))
    for k, row in enumerate(got):
        assert row == pytest.approx(want[k], abs=2e-5)


def test_a_forked_process_can_score(classes, tokenizer):
    import os

    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    reward = TokenHead(classes, tokenizer, template=ChatSteps())
    want = score(reward, STEPS)[0]
    reward.clear_cache()
    # Locks that are held at the moment of the fork would be held for ever in the child.
    with reward._lock, reward._encoding:
        child = os.fork()
        if child == 0:
            try:
                same = score(reward, STEPS)[0] == pytest.approx(want, abs=2e-5)
            finally:
                os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
