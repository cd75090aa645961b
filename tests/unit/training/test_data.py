"""Records of training examples: what is read, what is refused and how a file is written."""

import json

import pytest

from agentprm.errors import InputError, StorageError
from agentprm.rewards import StepText
from agentprm.training import (
    Passage,
    PlanRecord,
    PreferenceRecord,
    ReadingRecord,
    StepLabelRecord,
    read_records,
    write_records,
)

READING = {
    "id": "toy:1",
    "set": "toy",
    "question": "Who directed Dawn?",
    "answers": ["Ann Lee"],
    "passages": [
        {"title": "Dawn", "text": "Dawn is a film directed by Ann Lee.", "gold": True},
        {"title": "Dusk", "text": "Dusk is a river.", "gold": False},
    ],
}
PLAN = {
    "question": "When was the director of Dawn born?",
    "steps": [
        {"question": "Who directed Dawn?", "answer": "Ann Lee"},
        {"question": "When was #1 born?", "depends_on": [1], "evidence": [{"title": "Ann Lee", "text": "…"}]},
    ],
    "answer": "1950",
}
LABELS = {
    "question": "2 + 2 * 2?",
    "steps": ["2 * 2 = 4", {"query": "2 + 4?", "passages": ["A sum."], "thought": "6", "final_answer": "6"}],
    "labels": [True, 0.25],
    "labeller": "human",
}
PREFERENCE = {
    "question": "2 + 2 * 2?",
    "steps": ["2 * 2 = 4"],
    "rejected": "2 + 4 = 8",
    "critique": "The sum is wrong.",
    "chosen": "2 + 4 = 6",
}
ALL = [
    (ReadingRecord, READING),
    (PlanRecord, PLAN),
    (StepLabelRecord, LABELS),
    (PreferenceRecord, PREFERENCE),
]


def file_of(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("kind", "row"), ALL)
def test_records_survive_a_round_trip_with_unknown_fields(tmp_path, kind, row):
    row = {**row, "level": "hard", "nested": {"own": [1, None]}}
    records = read_records(file_of(tmp_path, row, row), kind)
    assert write_records(tmp_path / "new" / "copy.jsonl", records) == 2
    assert read_records(tmp_path / "new" / "copy.jsonl", kind) == records
    line = json.loads((tmp_path / "new" / "copy.jsonl").read_text().splitlines()[0])
    assert line["level"] == "hard"
    assert line["nested"] == {"own": [1, None]}


def test_a_reading_file_in_the_known_layout_is_written_as_it_was(tmp_path):
    path = file_of(tmp_path, READING)
    write_records(tmp_path / "copy.jsonl", read_records(path, ReadingRecord))
    assert json.loads((tmp_path / "copy.jsonl").read_text()) == READING


def test_fields_are_read(tmp_path):
    reading = read_records(file_of(tmp_path, READING), ReadingRecord)[0]
    assert [passage.gold for passage in reading.passages] == [True, False]
    assert reading.passages[0].document().metadata == {"title": "Dawn"}
    plan = read_records(file_of(tmp_path, PLAN), PlanRecord)[0]
    assert [step.references for step in plan.steps] == [[], [1]]
    labelled = read_records(file_of(tmp_path, LABELS), StepLabelRecord)[0]
    assert labelled.labels == [1.0, 0.25]
    assert StepText()(labelled.trajectory[1]) == "Sub-question: 2 + 4?\nEvidence:\nA sum.\nFinding: 6"
    assert labelled.trajectory[0]["thought"] == "2 * 2 = 4"
    preference = read_records(file_of(tmp_path, PREFERENCE), PreferenceRecord)[0]
    assert preference.chosen.thought == "2 + 4 = 6"


@pytest.mark.parametrize(
    ("kind", "row", "change", "complaint"),
    [
        (ReadingRecord, READING, {"question": None}, "field 'question'"),
        (ReadingRecord, READING, {"question": " "}, "field 'question': must not be blank"),
        (ReadingRecord, READING, {"answers": "Ann"}, "field 'answers'"),
        (ReadingRecord, READING, {"answers": [""]}, "an answer is blank"),
        (ReadingRecord, READING, {"answers": [7]}, "field 'answers.0'"),
        (ReadingRecord, READING, {"passages": [{"title": "T"}]}, "field 'passages.0.text'"),
        (ReadingRecord, READING, {"passages": [{"text": "T", "gold": "yes"}]}, "field 'passages.0.gold'"),
        (PlanRecord, PLAN, {"steps": []}, "field 'steps'"),
        (PlanRecord, PLAN, {"steps": [{"question": "Who?", "depends_on": [1]}]}, "only on earlier steps"),
        (PlanRecord, PLAN, {"steps": [{"question": "Who?", "depends_on": [0]}]}, "only on earlier steps"),
        (StepLabelRecord, LABELS, {"labels": [1]}, "2 steps, but 1 labels"),
        (StepLabelRecord, LABELS, {"labels": [1, 1.5]}, "field 'labels.1'"),
        (StepLabelRecord, LABELS, {"labels": [1, "good"]}, "field 'labels.1'"),
        (StepLabelRecord, LABELS, {"counts": [{}]}, "2 steps, but 1 counts"),
        (StepLabelRecord, LABELS, {"counts": [{}, {"rollouts": 1, "correct": 2}]}, "2 of 1 rollouts"),
        (StepLabelRecord, LABELS, {"labeller": None}, "field 'labeller'"),
        (PreferenceRecord, PREFERENCE, {"chosen": 3}, "field 'chosen'"),
    ],
)
def test_a_line_of_a_wrong_type_is_named(tmp_path, kind, row, change, complaint):
    path = file_of(tmp_path, row, "", {**row, **change})
    with pytest.raises(InputError) as refusal:
        read_records(path, kind)
    assert f"{path}, line 3: no {kind.__name__}" in str(refusal.value)
    assert complaint in str(refusal.value)


@pytest.mark.parametrize("line", ["{", "[1]", '{"question": NaN}', '"text"', "[" * 100_000])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    with pytest.raises(InputError, match="line 1: no"):
        read_records(file_of(tmp_path, line), PlanRecord)


def test_not_a_number_is_no_label(tmp_path):
    line = json.dumps({**LABELS, "labels": [1, float("nan")]})
    with pytest.raises(InputError, match="line 1"):
        read_records(file_of(tmp_path, line), StepLabelRecord)


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"There is no file .*none.jsonl"):
        read_records(tmp_path / "none.jsonl", ReadingRecord)
    with pytest.raises(InputError, match=r"There is no file .*plans.jsonl"):
        read_records(tmp_path, PlanRecord)
    with pytest.raises(InputError, match="is empty"):
        read_records(file_of(tmp_path, ""), ReadingRecord)
    (tmp_path / "latin.jsonl").write_bytes('{"question": "Café"}'.encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_records(tmp_path / "latin.jsonl", PlanRecord)


def test_a_folder_stands_for_its_file_of_the_kind(tmp_path):
    write_records(tmp_path / "reading.jsonl", [ReadingRecord(**READING)])
    assert read_records(tmp_path, ReadingRecord)[0].id == "toy:1"


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "reading.jsonl"
    write_records(path, [ReadingRecord(**READING)])
    old = path.read_bytes()

    def records():
        yield ReadingRecord(**READING)
        yield ReadingRecord(question="Who?", answers=[], passages=[Passage(text="\ud800")])

    with pytest.raises(InputError, match="valid Unicode"):
        write_records(path, records())
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["reading.jsonl"]
    with pytest.raises(StorageError, match="cannot be written"):
        write_records(path / "below.jsonl", [])


def test_each_kind_has_a_schema():
    for kind, row in ALL:
        schema = kind.model_json_schema()
        assert set(schema["required"]) <= set(row)
        assert "question" in schema["properties"]
