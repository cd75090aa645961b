"""Training of the span reader on tiny models: its loss by hand, that it learns, repeats and resumes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agentprm.cli import main
from agentprm.errors import InputError
from agentprm.readers import SpanReader
from agentprm.readers.span_reader import SpanSettings, Window
from agentprm.training import PlanRecord, ReadingRecord
from agentprm.training.span_examples import ReadingExample, Shown, occurrences, span_examples
from agentprm.training.span_reader import (
    Group,
    ReadWindows,
    SpanTraining,
    evaluate_reader,
    span_loss,
    train_span_reader,
)

NAMES = ["Anna", "Bert", "Carl", "Dora", "Emil", "Frida", "Gustav", "Hanna"]


def toy_examples() -> list[ReadingExample]:
    found = []
    for i, name in enumerate(NAMES):
        for j, mother in enumerate(NAMES):
            if i != j:
                gold = Shown(name, f"The mother of {name} was {mother}.")
                other = Shown(mother, f"The father of {mother} was {NAMES[(i + j) % 8]}.")
                far = Shown("Rome", f"{name} ruled Rome in 1901.")
                found.append(ReadingExample(f"Who was the mother of {name}?", (mother,), gold, (other, far)))
    return found


HOW = SpanTraining(learning_rate=3e-3, head_rate=1e-2, epochs=12, held_out=8, evaluations=1, groups=8, seed=3)


def settings(folder: Path) -> SpanSettings:
    return SpanSettings(str(folder), max_length=48, stride=4, answer_tokens=4)


def test_the_loss_is_that_of_the_probabilities() -> None:
    window = Window([0], [0], [None])
    spans = [torch.tensor([[0.5, -1.0], [2.0, -torch.inf]]), torch.tensor([[0.1, 0.2], [0.3, -torch.inf]])]
    choices = [torch.tensor([0.4, -0.7]), torch.tensor([-0.2, 0.6])]
    odds = [
        [math.exp(v) for v in (0.5, -1.0, 2.0, 0.4, -0.7)],
        [math.exp(v) for v in (0.1, 0.2, 0.3, -0.2, 0.6)],
    ]
    total = 1 + sum(odds[0]) + sum(odds[1])

    read = [ReadWindows([0, 1], torch.stack(spans), torch.stack(choices))]
    answered = Group([window, window], [[(0, 0), (1, 0)], []], [None, None], [True, False])
    expected = -math.log((math.exp(0.5) + math.exp(2.0)) / total) + 0.3 * math.log(1 + sum(odds[1]))
    assert span_loss(read, [answered], 0.3).item() == pytest.approx(expected, rel=1e-5)

    boolean = Group([window, window], [[], []], [1, None], [True, False])
    expected = -math.log(math.exp(-0.7) / total)
    assert span_loss(read, [boolean], 0.0).item() == pytest.approx(expected, rel=1e-5)

    nothing = Group([window, window], [[], []], [None, None], [False, False])
    assert span_loss(read, [nothing], 0.3).item() == pytest.approx(math.log(total), rel=1e-5)
    # The windows of two questions, in two parts of another order.
    parts = [
        ReadWindows([3, 0], torch.stack([spans[1], spans[0]]), torch.stack([choices[1], choices[0]])),
        ReadWindows([1, 2], torch.stack([spans[1], spans[0]]), torch.stack([choices[1], choices[0]])),
    ]
    mean = span_loss(parts, [answered, nothing], 0.3).item()
    each = [span_loss(read, [g], 0.3).item() for g in (answered, nothing)]
    assert mean == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_reader_learns_and_refuses(encoder_folder: Path, tmp_path: Path) -> None:
    steps = []
    report = train_span_reader(
        toy_examples(),
        tmp_path / "out",
        settings=settings(encoder_folder),
        how=HOW,
        notes={"command": "agentprm train"},
        progress=lambda state: steps.append(state.step),
    )
    assert report is not None
    assert steps == list(range(1, report.planned + 1))
    reader = SpanReader(tmp_path / "out")
    score = evaluate_reader(reader, toy_examples())
    assert score["gold_em"] > 0.9
    assert score["among_em"] > 0.9
    assert score["none_refused"] > 0.9
    assert score["gold_refused"] < 0.1
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["held_out_read"][-1]["read_gold_em"] > 0.8
    assert card["command"] == "agentprm train"
    assert card["files"].keys() == {"span_reader.json", "span_reader.safetensors"}
    assert not (tmp_path / "out" / "checkpoints").exists()
    again = train_span_reader(toy_examples(), tmp_path / "out", settings=settings(encoder_folder), how=HOW)
    assert again is None
    with pytest.raises(InputError, match="another examples"):
        train_span_reader(toy_examples()[1:], tmp_path / "out", settings=settings(encoder_folder), how=HOW)


def weights(folder: Path) -> bytes:
    return (folder / "span_reader.safetensors").read_bytes()


def test_the_same_seed_gives_the_same_weights_also_after_a_kill(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentprm.training.span_reader._SAVED_EVERY", 3)
    short = replace(HOW, max_steps=8)
    there = settings(encoder_folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in ("one", "two"):
            train_span_reader(toy_examples(), tmp_path / name, settings=there, how=short)
        assert weights(tmp_path / "one") == weights(tmp_path / "two")

        class KilledError(Exception):
            pass

        calls = []

        def dies(*arguments: object) -> torch.Tensor:
            calls.append(1)
            if len(calls) == 6:
                raise KilledError
            return span_loss(*arguments)  # type: ignore[arg-type]

        with monkeypatch.context() as patched:
            patched.setattr("agentprm.training.span_reader.span_loss", dies)
            with pytest.raises(KilledError):
                train_span_reader(toy_examples(), tmp_path / "three", settings=there, how=short)
        assert not (tmp_path / "three" / "span_reader.safetensors").exists()
        train_span_reader(toy_examples(), tmp_path / "three", settings=there, how=short)
        assert weights(tmp_path / "three") == weights(tmp_path / "one")
        other = replace(short, seed=4)
        train_span_reader(toy_examples(), tmp_path / "four", settings=there, how=other)
        assert weights(tmp_path / "four") != weights(tmp_path / "one")
    finally:
        torch.set_num_threads(threads)


def test_a_training_goes_on_from_another_reader(encoder_folder: Path, tmp_path: Path) -> None:
    train_span_reader(toy_examples(), tmp_path / "first", settings=settings(encoder_folder), how=HOW)
    still = replace(HOW, max_steps=2, learning_rate=0.0, head_rate=0.0)
    train_span_reader(toy_examples(), tmp_path / "second", how=still, start=tmp_path / "first")
    assert SpanReader(tmp_path / "second").settings == settings(encoder_folder)
    assert weights(tmp_path / "second") == weights(tmp_path / "first")


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too few"):
        train_span_reader(toy_examples()[:3], tmp_path)


def test_occurrences_are_whole_words() -> None:
    assert occurrences("Rome, Romeo, rome", ["Rome"]) == [(0, 4), (13, 17)]
    assert occurrences("in 1901 (1901)", ["1901"]) == [(3, 7), (9, 13)]
    assert occurrences("A+ is A+", ["A+", " "]) == [(0, 2), (6, 8)]


def test_examples_come_from_records_and_from_the_steps_of_plans() -> None:
    passages = [
        {"title": "Get Up (song)", "text": "Get Up is a song by Dillon Smith. " + "x" * 80, "gold": True},
        {
            "title": "Dillon Smith",
            "text": "Dillon Smith was born on 5 October 1987. " + "y" * 80,
            "gold": True,
        },
        {"title": "Other", "text": "Another song came out in 1990. " + "z" * 80, "gold": False},
    ]
    two_hop = ReadingRecord.model_validate(
        {
            "id": "a",
            "set": "s",
            "question": "When was the performer of Get Up born?",
            "answers": ["5 October 1987"],
            "passages": passages,
        }
    )
    one_hop = ReadingRecord.model_validate(
        {
            "id": "b",
            "set": "t",
            "question": "When did another song come out?",
            "answers": ["1990"],
            "passages": [{**passages[2], "gold": True}],
        }
    )
    boolean = ReadingRecord.model_validate(
        {
            "id": "c",
            "set": "u",
            "question": "Is it a song?",
            "answers": ["yes"],
            "passages": [
                {"title": "", "text": "It sounds.", "gold": True},
                {"title": "", "text": "It is sung.", "gold": True},
            ],
        }
    )
    hopeless = ReadingRecord.model_validate(
        {
            "id": "d",
            "set": "t",
            "question": "Why?",
            "answers": ["because"],
            "passages": [{**passages[2], "gold": True}],
        }
    )
    plan = PlanRecord.model_validate(
        {
            "id": "a",
            "set": "s",
            "question": two_hop.question,
            "steps": [
                {"question": "Who performed Get Up?", "answer": "Dillon Smith"},
                {"question": "When was #1 born?", "answer": "5 October 1987"},
                {"question": "Compare #1 and #2", "answer": "Dillon Smith"},
            ],
        }
    )
    found = span_examples([two_hop, one_hop, boolean, hopeless], [plan], hard=2)
    by_question = {e.question: e for e in found}
    assert set(by_question) == {
        "Who performed Get Up?",
        "When was Dillon Smith born?",
        "When did another song come out?",
        "Is it a song?",
    }
    assert by_question["Who performed Get Up?"].gold.title == "Get Up (song)"
    assert by_question["When was Dillon Smith born?"].gold.title == "Dillon Smith"
    # A distractor that holds the answer is none.
    assert "Dillon Smith" not in {p.title for p in by_question["Who performed Get Up?"].distractors}
    assert by_question["Is it a song?"].gold.text == "It sounds. It is sung."
    assert by_question["Is it a song?"].distractors == ()
    drawn = span_examples([one_hop, one_hop, one_hop], per_set=2, hard=0)
    assert len(drawn) == 2


def test_facts_that_passages_state_become_examples() -> None:
    told = (
        "Ray Lee (1 May 1900 – 2 June 1950) was an actor. "
        "He was the son of Tom Lee, 2nd Earl of Foo and Ann Fox."
    )
    record = ReadingRecord.model_validate(
        {
            "set": "s",
            "question": "Why?",
            "answers": [],
            "passages": [{"title": "Ray Lee (actor)", "text": told}],
        }
    )
    found = span_examples([record], per_relation=3, hard=0)
    answers = {e.question.replace(" (actor)", ""): e.answers for e in found}
    said = set(answers.values())
    assert {("1 May 1900",), ("2 June 1950",), ("Tom Lee, 2nd Earl of Foo",), ("Ann Fox",)} <= said
    mother = next(question for question, answer in answers.items() if answer == ("Ann Fox",))
    assert "mother" in mother or "gave birth" in mother
    assert span_examples([record], hard=0) == []


def test_a_town_is_named_without_its_region() -> None:
    told = "Ray Lee (born 1 May 1900 in Ajaccio, Corsica) was an actor. He was educated at Foo College."
    record = ReadingRecord.model_validate(
        {"question": "Why?", "answers": [], "passages": [{"title": "Ray Lee", "text": told}]}
    )
    said = {e.answers for e in span_examples([record], per_relation=3, hard=0)}
    assert ("Ajaccio",) in said
    assert not any("Corsica" in answer for answers in said for answer in answers)


def test_questions_of_two_passages_are_read_where_the_answer_stands() -> None:
    film = {"title": "Up", "text": "Up is a film by Ann Fox.", "gold": True}
    director = {"title": "Ann Fox", "text": "Ann Fox was born in Rome.", "gold": True}
    other = {"title": "Bob", "text": "Bob was born in Oslo."}
    record = ReadingRecord.model_validate(
        {
            "set": "s",
            "question": "Where was the director of Up born?",
            "answers": ["Rome"],
            "passages": [film, director, other],
        }
    )
    assert span_examples([record], hard=0) == []
    (found,) = span_examples([record], multi_hop=5, hard=0)
    assert found.gold.title == "Ann Fox"
    assert {p.title for p in found.distractors} == {"Up", "Bob"}
    twice = record.model_copy(update={"answers": ["Ann Fox"]})  # in both: which one answers is not known
    assert span_examples([twice], multi_hop=5, hard=0) == []


def test_the_command_refuses_settings_of_another_kind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "reading.jsonl").write_text(
        '{"question": "Who?", "answers": ["Ann"], "passages": [{"text": "Ann."}]}\n'
    )
    given = ["train", "reader", str(tmp_path), "-o", str(tmp_path / "out")]
    for extra, said in (
        (["--rank", "4"], "--rank is for language models"),
        (["--kind", "lm", "--from", "packaged"], "--from is for span readers"),
        (["--from", "packaged", "--base", "x"], "leave out --base"),
    ):
        assert main([*given, *extra]) == 2
        assert said in capsys.readouterr().err
    assert main(given) == 2
    assert "too few to train" in capsys.readouterr().err


@pytest.mark.parametrize("count", [5, None])
def test_the_command_trains_a_reader(
    encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int | None
) -> None:
    records = [
        {
            "id": str(i),
            "question": e.question,
            "answers": list(e.answers),
            "passages": [
                {"title": e.gold.title, "text": e.gold.text, "gold": True},
                *({"title": p.title, "text": p.text} for p in e.distractors),
            ],
        }
        for i, e in enumerate((toy_examples() * 2)[:count])
    ]
    (tmp_path / "reading.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    given = ["train", "reader", str(tmp_path), "-o", str(tmp_path / "out"), "--base", str(encoder_folder)]
    assert main([*given, "--max-steps", "3", "-q"]) == 0
    assert "3 steps" in " ".join(capsys.readouterr().out.split())
    assert SpanReader(tmp_path / "out").candidates(["Who?"], [[]], n=1) == [[]]
    assert main([*given, "--max-steps", "3", "-q"]) == 0
    assert "trained to its end" in " ".join(capsys.readouterr().out.split())
