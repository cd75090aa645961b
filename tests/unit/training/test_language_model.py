"""Supervised fine-tuning: the loss is that of the replies alone, and what is trained is what is asked."""

import json
import math

import pytest
import torch

from agentprm.cli import main
from agentprm.engine.tokenizing import PromptText, load_tokenizer
from agentprm.errors import InputError
from agentprm.lm import Prompt, SamplingParams
from agentprm.lm.transformers import TransformersLM
from agentprm.questions.plan_text import parse_plan, plan_request, render_plan
from agentprm.training.data import PlanRecord, ReadingRecord
from agentprm.training.fitting import TrainSettings
from agentprm.training.language_model import (
    TextExample,
    causal_objective,
    causal_rows,
    train_language_model,
)
from agentprm.training.language_reader import NO_ANSWER, reading_examples
from agentprm.training.planner import plan_examples


def asked(text):
    return Prompt((("user", text),))


WORDS = ("red", "blue", "green", "yes", "no")
COLOURS = [TextExample(asked(f"{word} step"), f"the {word} one") for word in WORDS]
QUICK = TrainSettings(epochs=60, learning_rate=0.02, batch_tokens=256, evaluate_every=20)


def reply(lm, prompt):
    return lm.sample([prompt], params=SamplingParams(max_tokens=12, temperature=0))[0][0]


def test_the_loss_is_that_of_the_replies_tokens(base):
    lm = TransformersLM(str(base))
    text = PromptText(lm.tokenizer)
    rows = causal_rows(COLOURS, text)
    objective = causal_objective(lm.model, 0)
    with torch.no_grad():
        total, weight = objective.loss(lm.model, objective.collate(rows))
    end = lm.tokenizer.eos_token
    expected = sum(lm.loglikelihood([e.prompt], [[e.reply + end]])[0][0] for e in COLOURS)
    assert float(total) == pytest.approx(-expected, rel=1e-4)
    assert weight == sum(len(text.encode([e.reply])[0]) + 1 for e in COLOURS)
    alone = [objective.loss(lm.model, objective.collate([row]))[0].item() for row in rows]
    assert float(total) == pytest.approx(math.fsum(alone), rel=1e-5)  # padding changes nothing


def test_models_that_cap_their_logits_are_run_whole():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 50, "num_key_value_heads": 1, "head_dim": 8}
    config = Gemma2Config(final_logit_softcapping=0.5, **sizes)
    model = Gemma2ForCausalLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    objective = causal_objective(model, 0)
    ids = [3, 14, 15, 9, 2]
    from agentprm.training.language_model import CausalRow

    with torch.no_grad():
        total, _ = objective.loss(model, objective.collate([CausalRow(tuple(ids), 2)]))
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    assert float(total) == pytest.approx(-sum(float(logits[i - 1, ids[i]]) for i in (2, 3, 4)), rel=1e-4)


def test_a_prompts_control_tokens_are_data(base):
    text = PromptText(load_tokenizer(str(base)))
    [row] = causal_rows([TextExample(asked("red <|im_end|> blue"), "yes <|im_end|> no")], text)
    end = text.tokenizer.eos_token_id
    assert row.ids[row.start :].count(end) == 1
    assert row.ids[-1] == end
    assert text.encode([text.render(asked("red <|im_end|> blue"))])[0] == list(row.ids[: row.start])


def test_an_empty_reply_is_refused(base):
    text = PromptText(load_tokenizer(str(base)))
    with pytest.raises(InputError, match="empty"):
        causal_rows([TextExample(asked("red"), "")], text)


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "adapter"
    report = train_language_model(COLOURS, out, base=base, settings=QUICK, notes={"sets": {"colours": 5}})
    return out, report


def test_it_learns_its_replies_and_says_what_it_did(base, trained):
    out, report = trained
    assert report.losses[-1][1] < 0.1 < report.losses[0][1]
    lm = TransformersLM(str(base), adapters={"colours": str(out)})
    for example in COLOURS:
        got = reply(lm.with_adapter("colours"), example.prompt)
        assert (got.text, got.finish_reason) == (example.reply, "stop")
        assert reply(lm, example.prompt).text != example.reply
    card = json.loads((out / "card.json").read_text())
    assert card["sets"] == {"colours": 5}
    assert card["run"]["settings"]["seed"] == 0
    assert sorted(card["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {path.name for path in out.iterdir()} == {*card["files"], "README.md", "card.json"}


def test_a_finished_training_is_not_repeated_and_no_other_takes_its_folder(base, trained, tmp_path):
    out, _ = trained
    before = (out / "card.json").stat().st_mtime_ns
    assert train_language_model(COLOURS, out, base=base, settings=QUICK) is None
    assert (out / "card.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="examples, examples_sha256"):
        train_language_model(COLOURS[:3], out, base=base, settings=QUICK)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        train_language_model(COLOURS, tmp_path, base=base, settings=QUICK)


def test_killed_and_resumed_it_writes_the_same_adapter(base, trained, tmp_path):
    def kill(state):
        if state.step == 31:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_language_model(COLOURS, tmp_path / "a", base=base, settings=QUICK, progress=kill)
    report = train_language_model(COLOURS, tmp_path / "a", base=base, settings=QUICK)
    assert report.resumed_at == 30
    name = "adapter_model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (trained[0] / name).read_bytes()
    assert not (tmp_path / "a" / "checkpoints").exists()


def test_longer_examples_are_left_out_and_counted(base, tmp_path, caplog):
    long = TextExample(asked("red " * 300), "blue")
    one = TrainSettings(max_steps=1)
    train_language_model([*COLOURS, long], tmp_path / "a", base=base, settings=one, max_length=250)
    assert json.loads((tmp_path / "a" / "card.json").read_text())["left_out"] == 1
    assert "1 examples have more than 250 tokens" in caplog.text


PLANS = [
    {
        "question": "When was the poet born?",
        "steps": ["Who wrote the play?", "When was #1 born?"],
    },
    {"question": "Who wrote the blue play?", "steps": ["Who wrote the blue play?"]},
]


def plan(question, steps, **more):
    rows = [step if isinstance(step, dict) else {"question": step} for step in steps]
    return PlanRecord.model_validate({"question": question, "steps": rows, **more})


def test_plans_become_prompts_and_replies():
    [one, two] = plan_examples([plan(**row) for row in PLANS])
    assert one.prompt == plan_request(PLANS[0]["question"])
    assert one.reply == "1. Who wrote the play?\n2. When was #1 born?"
    assert parse_plan(two.reply) == PLANS[1]["steps"]


def test_plans_in_breaks_form_become_questions():
    steps = ["return the area where Tok Pisin is spoken", "return what is the currency in #1"]
    [example] = plan_examples([plan("Q?", steps, style="qdmr")])
    assert parse_plan(example.reply) == [
        "What is the area where Tok Pisin is spoken?",
        "What is the currency in #1?",
    ]


@pytest.mark.parametrize(
    "left_out",
    [
        plan("Q?", ["return plays", "return poets of #1"], style="qdmr"),
        plan("Q?", ["return the plays of Ann Lee", "return the number of #1"], style="qdmr"),
        plan("Q?", ["Who?", {"question": "When was Ann Lee born?", "depends_on": [1]}]),
        plan("Q?", [f"Who is {i}?" for i in range(9)]),
        plan("Q?", ["Is #2 old?", "Who?"]),
    ],
)
def test_plans_that_cannot_be_planned_are_left_out(left_out):
    assert plan_examples([left_out]) == []


def test_readings_become_the_prompts_of_the_nodes():
    record = ReadingRecord.model_validate(
        {
            "question": "Who wrote the play?",
            "answers": ["Ann Lee", "Lee"],
            "passages": [
                {"title": "Play", "text": "Ann Lee wrote the play.", "gold": True},
                *({"title": f"T{i}", "text": f"Text {i}."} for i in range(5)),
            ],
        }
    )
    [example] = reading_examples([record], unanswerable=0)
    assert example.reply == " Ann Lee"
    assert example.prompt.prefix == "Answer:"
    shown = example.prompt.messages[-1][1]
    assert "Play: Ann Lee wrote the play." in shown
    assert shown.count(": Text") == 2
    [other] = reading_examples([record], unanswerable=1)
    assert other.reply == f" {NO_ANSWER}"
    assert "Ann Lee" not in other.prompt.messages[-1][1]
    nothing = record.model_copy(update={"answers": []})
    assert reading_examples([nothing])[0].reply == f" {NO_ANSWER}"


def test_the_command_trains_a_planner(base, tmp_path, capsys):
    data = tmp_path / "plans.jsonl"
    rows = [
        {
            "question": f"{i}: {row['question']}",
            "steps": [{"question": s} for s in row["steps"]],
            "set": "toy",
        }
        for i in range(12)
        for row in PLANS
    ]
    left_out = {**rows[0], "question": "Which?", "set": "qdmr", "style": "qdmr"}
    data.write_text("\n".join(map(json.dumps, [left_out, *rows])))
    argv = ["train", "planner", str(data), "-o", str(tmp_path / "p"), "--base", str(base), "-q"]
    argv += ["--epochs", "40", "--learning-rate", "0.02", "--batch-tokens", "512", "--dev", "0.2"]
    assert main(argv) == 0
    assert "Trained a planner" in capsys.readouterr().out
    card = json.loads((tmp_path / "p" / "card.json").read_text())
    assert card["sets"] == {"toy": card["run"]["examples"]}
    assert main(argv) == 0
    assert "already" in capsys.readouterr().out
    assert main([*argv, "--seed", "1"]) == 2
    assert "another" in capsys.readouterr().err
    lm = TransformersLM(str(base), adapters={"planner": str(tmp_path / "p")}).with_adapter("planner")
    params = SamplingParams(max_tokens=60, temperature=0)
    text = lm.sample([plan_request(rows[0]["question"])], params=params)[0][0].text
    assert text == render_plan(PLANS[0]["steps"])


def test_the_command_names_a_bad_line(base, tmp_path, capsys):
    data = tmp_path / "plans.jsonl"
    data.write_text('{"question": "Who?"}\n')
    assert main(["train", "planner", str(data), "-o", str(tmp_path / "p"), "--base", str(base), "-q"]) == 2
    assert "line 1" in capsys.readouterr().err
