"""Training by comparisons, judgements and outcomes: references, losses, what is learned, rounds, kills."""

import json
import math

import pytest
import torch

from agentprm.engine.loading import load_model
from agentprm.engine.tokenizing import PromptText, load_tokenizer
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm import Prompt
from agentprm.lm.transformers import TransformersLM
from agentprm.rewards import load_reward
from agentprm.training.data import PreferenceRecord, StepLabelRecord
from agentprm.training.fitting import TrainSettings
from agentprm.training.language_model import CausalRow, TextExample, causal_rows
from agentprm.training.lora import LoraSettings, add_lora
from agentprm.training.online import OnlineReward
from agentprm.training.preferences import (
    JudgedReply,
    Preference,
    critique_replies,
    train_by_comparisons,
    train_by_judgements,
    train_log_ratio,
)
from agentprm.training.train_rounds import train_rounds

PROMPT = Prompt((("user", "Who wrote the play?"),))
ONE = TrainSettings(max_steps=1, batch_tokens=4096, precision="fp32")
QUICK = TrainSettings(epochs=10, learning_rate=0.01, batch_tokens=512, precision="fp32")
COMPARISONS = [Preference(PROMPT, f"the {w} one yes", f"the {w} one no") for w in ("red", "blue", "green")]
JUDGED = [
    JudgedReply(c.prompt, reply, reply is c.chosen) for c in COMPARISONS for reply in (c.chosen, c.rejected)
]


def logprob(lm, prompt, reply):
    return lm.loglikelihood([prompt], [[reply + lm.tokenizer.eos_token]])[0][0]


def adapted(base, folder):
    return TransformersLM(str(base), adapters={"a": str(folder)}).with_adapter("a")


@pytest.mark.parametrize(
    ("train", "examples", "start"),
    [
        (train_by_comparisons, COMPARISONS, math.log(2)),
        (train_by_judgements, JUDGED, 0.5),
    ],
)
def test_better_replies_become_likelier_than_worse_ones(base, tmp_path, train, examples, start):
    report = train(examples, tmp_path / "one", base=base, settings=ONE)
    # before the first step the model is its reference: all ratios are zero
    assert report.losses[0][1] == pytest.approx(start, rel=1e-4)
    train(examples, tmp_path / "p", base=base, settings=QUICK)
    before, after = TransformersLM(str(base)), adapted(base, tmp_path / "p")
    for pair in COMPARISONS:
        gain = [logprob(after, PROMPT, r) - logprob(before, PROMPT, r) for r in (pair.chosen, pair.rejected)]
        assert gain[0] > gain[1] + 1


def test_a_round_begins_where_the_last_one_ended_which_is_its_reference(base, tmp_path):
    seen = []

    def collect(number, last):
        seen.append((number, last))
        return COMPARISONS

    def train(examples, folder, last):
        report = train_by_comparisons(examples, folder, base=base, settings=ONE, start=last)
        assert report.losses[0][1] == pytest.approx(math.log(2), rel=1e-4)
        return report

    last = train_rounds(tmp_path / "r", 2, collect, train)
    assert seen == [(1, None), (2, tmp_path / "r" / "round-1")]
    assert last == tmp_path / "r" / "round-2"
    assert train_rounds(tmp_path / "r", 2, collect, train) == last
    assert len(seen) == 2  # nothing is done again
    first, second = (
        logprob(adapted(base, tmp_path / "r" / f"round-{i}"), PROMPT, "the red one yes") for i in (1, 2)
    )
    assert first != second
    with pytest.raises(ConfigurationError, match="rounds"):
        train_rounds(tmp_path / "r", 0, collect, train)


def test_killed_and_resumed_it_is_the_same_adapter(base, tmp_path):
    def kill(state):
        if state.step == 7:
            raise KeyboardInterrupt

    settings = TrainSettings(epochs=10, learning_rate=0.01, batch_tokens=512, evaluate_every=3)
    train_by_judgements(JUDGED, tmp_path / "a", base=base, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        train_by_judgements(JUDGED, tmp_path / "b", base=base, settings=settings, progress=kill)
    report = train_by_judgements(JUDGED, tmp_path / "b", base=base, settings=settings)
    assert report.resumed_at == 6
    files = [json.loads((tmp_path / name / "card.json").read_text())["files"] for name in "ab"]
    assert files[0] == files[1]


def critique(before, after, text="It asks too much."):
    return PreferenceRecord.model_validate(
        {
            "question": "Who?",
            "rejected": {"query": "Where?", "thought": "There."},
            "critique": text,
            "chosen": {"query": "Who?", "thought": "Ann Lee."},
            "rejected_score": before,
            "chosen_score": after,
        }
    )


def test_critiques_are_judged_by_what_came_of_them():
    good, bad = critique_replies(
        [critique(0.2, 0.9), critique(0.6, 0.2), critique(0.5, 0.5), critique(0.1, 0.9, "")]
    )
    assert (good.reply, good.desirable, good.weight) == ("It asks too much.", True, 1.0)
    assert not bad.desirable
    assert bad.weight == pytest.approx(math.exp(0.4))
    assert "Step: Where?" in good.prompt.messages[-1][1]
    assert "Score: 0.20" in good.prompt.messages[-1][1]


def outcome(steps, correct):
    return StepLabelRecord(
        question="Who wrote the play?",
        steps=steps,
        labels=[None] * len(steps),
        labeller="outcome",
        correct=correct,
    )


OUTCOMES = [
    outcome([f"{a} step", f"{b} {'yes' if right else 'no'}"], right)
    for a in ("red", "blue")
    for b in ("red", "green")
    for right in (True, False)
]


@pytest.mark.parametrize("loss", ["cross-entropy", "dpo"])
def test_rewards_of_steps_come_out_of_outcomes(base, tmp_path, loss):
    one = train_log_ratio(OUTCOMES, tmp_path / "one", base=base, loss=loss, settings=ONE)
    assert one.losses[0][1] == pytest.approx(math.log(2), rel=1e-4)
    train_log_ratio(OUTCOMES, tmp_path / "r", base=base, loss=loss, beta=0.1, settings=QUICK)
    reward = load_reward(tmp_path / "r", reference=base)
    assert reward.family.name == "implicit"
    question = OUTCOMES[0].question
    good = reward.score(question, [o.trajectory for o in OUTCOMES if o.correct])
    bad = reward.score(question, [o.trajectory for o in OUTCOMES if not o.correct])
    assert min(row[1] for row in good) > max(row[1] for row in bad)
    # the first steps are the same on both sides
    assert [row[0] for row in good] == pytest.approx([row[0] for row in bad], abs=1e-4)


def test_outcomes_are_needed(base, tmp_path):
    with pytest.raises(InputError, match="correct"):
        train_log_ratio([outcome(["red"], None)], tmp_path / "a", base=base)
    with pytest.raises(InputError, match="dpo"):
        train_log_ratio([outcome(["red"], True)], tmp_path / "b", base=base, loss="dpo")
    with pytest.raises(ConfigurationError, match="beta"):
        train_log_ratio(OUTCOMES, tmp_path / "c", base=base, beta=0)


def online(base, **options):
    model = add_lora(load_model(str(base), "float32", "cpu"), LoraSettings(rank=4, alpha=8), 0)
    prompt_text = PromptText(load_tokenizer(str(base)))
    text = [f"the {w} one {e}" for w in ("red", "blue") for e in ("yes", "no")]
    rows = causal_rows([TextExample(PROMPT, t) for t in text], prompt_text)
    return OnlineReward(model, beta=0.5, learning_rate=0.02, **options), rows


def test_an_online_reward_learns_from_the_batches_that_it_scores(base):
    reward, rows = online(base)
    outcomes = [True, False, True, False]
    first = reward.step(rows, outcomes)
    assert first.loss == pytest.approx(math.log(2), rel=1e-5)
    assert all(value == pytest.approx(0, abs=1e-5) for row in first.rewards for value in row)
    assert [len(row) for row in first.rewards] == [len(row.ids) - row.start for row in rows]
    for _ in range(15):
        last = reward.step(rows, outcomes)
    assert last.loss < 0.5 * first.loss
    assert last.accuracy == 1.0
    sums = [math.fsum(row) for row in last.rewards]
    expected = (
        -sum(math.log(1 / (1 + math.exp(-s if y else s))) for s, y in zip(sums, outcomes, strict=True)) / 4
    )
    assert last.loss == pytest.approx(expected, abs=1e-6)


def test_when_an_online_reward_is_updated(base):
    before, rows = online(base, update="before")
    assert before.step(rows, [1, 0, 1, 0]).loss < math.log(2) - 1e-3
    never, rows = online(base, update="none")
    never.step(rows, [1, 0, 1, 0])
    assert never.step(rows, [1, 0, 1, 0]).loss == pytest.approx(math.log(2), rel=1e-5)
    with pytest.raises(InputError, match="one each"):
        never.step(rows, [1])
    with pytest.raises(ConfigurationError, match="adapter"):
        OnlineReward(torch.nn.Linear(1, 1))
    with pytest.raises(ConfigurationError, match="update"):
        online(base, update="late")


def test_rows_of_a_batch_do_not_mix(base):
    reward, rows = online(base, update="none")
    together = reward.step(rows, [1, 0, 1, 0]).rewards
    long = CausalRow((*rows[0].ids, *rows[0].ids), rows[0].start)
    beside = reward.step([rows[0], long], [1, 0]).rewards
    assert beside[0] == pytest.approx(together[0], abs=1e-5)
