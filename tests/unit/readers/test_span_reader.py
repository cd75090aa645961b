"""The span reader against enumerations of every span."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError
from agentprm.readers import Reader, ReaderAnswer, SpanReader
from agentprm.readers.base import LEAD
from agentprm.readers.span_reader import SpanModel, SpanSettings, load_encoder, trimmed, windows

PASSAGES = [
    Document("Anna was born in Rome. The mother of Anna was Dora.", metadata={"title": "Anna"}),
    Document("Bert ruled Oslo in 1902 and was the son of Carl.", metadata={"title": "Bert"}),
]
QUESTION = "Who is the mother of Anna?"


@pytest.fixture(scope="module")
def reader(encoder_folder: Path) -> SpanReader:
    settings = SpanSettings(str(encoder_folder), max_length=48, stride=4, answer_tokens=4)
    encoder, tokenizer = load_encoder(settings.base)
    torch.manual_seed(1)
    model = SpanModel(encoder, settings.answer_tokens)
    # Untrained heads hardly tell one token from another; larger ones do.
    for head in (model.span, model.choice):
        torch.nn.init.normal_(head.weight, std=1.0)
    return SpanReader.of(model.eval(), tokenizer, settings)


def every_answer(
    reader: SpanReader, question: str, passages: list[Document]
) -> tuple[dict[str, float], float]:
    """Odds of every answer text against none, by running the encoder on each passage and trying all spans."""
    odds: dict[str, float] = {}
    model, tokenizer = reader._model, reader._tokenizer
    for passage in passages:
        text = f"{passage.metadata['title']}. {passage.page_content}"
        coded = tokenizer(question, text, return_offsets_mapping=True, return_tensors="pt")
        offsets, kinds = coded.pop("offset_mapping")[0].tolist(), coded.sequence_ids(0)
        head = len(text) - len(passage.page_content)
        types = torch.tensor([[0 if k != 1 else 1 for k in kinds[:-1]] + [1]])
        with torch.no_grad():
            hidden = model.encoder(
                input_ids=coded["input_ids"], attention_mask=coded["attention_mask"], token_type_ids=types
            ).last_hidden_state[0]
            begin, end = model.span(hidden).T.tolist()
            none, yes, no = model.choice(hidden[0]).tolist()
        places = [i for i, k in enumerate(kinds) if k == 1 and offsets[i][0] >= head]
        for i in places:
            for j in places:
                if i <= j < i + 4:
                    quoted = text[offsets[i][0] : offsets[j][1]].casefold()
                    odds[quoted] = odds.get(quoted, 0.0) + math.exp(begin[i] + end[j] - none)
        odds["yes"] = odds.get("yes", 0.0) + math.exp(yes - none)
        odds["no"] = odds.get("no", 0.0) + math.exp(no - none)
    return odds, 1 + sum(odds.values())


@pytest.mark.parametrize("count", [1, 2])
def test_the_best_answer_and_its_probability_are_those_of_the_enumeration(
    reader: SpanReader, count: int
) -> None:
    odds, total = every_answer(reader, QUESTION, PASSAGES[:count])
    (found,) = reader.candidates([QUESTION], [PASSAGES[:count]], n=3)
    assert found[0].no_answer == pytest.approx(1 / total, rel=1e-4)
    single = max(odds, key=lambda text: odds[text])
    assert found[0].text.casefold() == single
    assert found[0].score == pytest.approx(odds[single] / total, rel=1e-3)
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)


def test_answers_are_quotations_and_do_not_overlap(reader: SpanReader) -> None:
    (found,) = reader.candidates([QUESTION], [PASSAGES], n=6)
    assert len(found) == 6
    quotations = [a for a in found if a.start >= 0]
    for answer in quotations:
        assert answer.passage is not None
        assert PASSAGES[answer.passage].page_content[answer.start : answer.end] == answer.text
    for one in quotations:
        for other in quotations:
            if one is not other and one.passage == other.passage:
                assert one.end <= other.start or other.end <= one.start


def test_company_changes_nothing(reader: SpanReader) -> None:
    asked = [QUESTION, "What city was Bert king of?", "Who was born in 1901?"]
    shown = [PASSAGES, PASSAGES[1:], PASSAGES[:1]]
    together = reader.candidates(asked, shown, n=2)
    for question, passages, answers in zip(asked, shown, together, strict=True):
        alone = reader.candidates([question], [passages], n=2)[0]
        assert [(a.text, a.passage) for a in alone] == [(a.text, a.passage) for a in answers]
        assert [a.score for a in alone] == pytest.approx([a.score for a in answers], rel=1e-4)


def test_a_title_on_the_first_line_is_read_once_and_never_quoted(reader: SpanReader) -> None:
    bare, headed = (
        PASSAGES[0],
        PASSAGES[0].model_copy(update={"page_content": f"Anna\n{PASSAGES[0].page_content}"}),
    )
    ours, theirs = (reader.candidates([QUESTION], [[d]], n=3)[0] for d in (bare, headed))
    assert [(a.text, a.score) for a in ours] == [(a.text, a.score) for a in theirs]
    for answer in theirs:
        assert answer.start < 0 or headed.page_content[answer.start : answer.end] == answer.text


def test_what_leads_to_a_passage_is_read_and_never_quoted(reader: SpanReader) -> None:
    lead = "Up: Up was sung by Anna."
    led = PASSAGES[0].model_copy(update={"metadata": {"title": "Anna", LEAD: lead}})
    found = reader.candidates([QUESTION], [[led]], n=3)[0]
    titled = PASSAGES[0].model_copy(update={"metadata": {"title": f"{lead} Anna"}})
    assert found == reader.candidates([QUESTION], [[titled]], n=3)[0]
    assert found != reader.candidates([QUESTION], [PASSAGES[:1]], n=3)[0]
    for answer in found:
        assert answer.start < 0 or led.page_content[answer.start : answer.end] == answer.text


def test_nothing_to_read_is_no_answer(reader: SpanReader) -> None:
    assert reader.read([QUESTION], [[]]) == [ReaderAnswer("", 1.0, 1.0)]
    assert reader.read([], []) == []


def test_a_question_is_refused_where_none_is_likelier(encoder_folder: Path, reader: SpanReader) -> None:
    settings = reader.settings
    sure = SpanReader.of(reader._model, reader._tokenizer, settings)
    sure.refusal = 0.0
    (refused,) = sure.read([QUESTION], [PASSAGES])
    (guess,) = sure.candidates([QUESTION], [PASSAGES], n=1)[0]
    assert refused.text == ""
    assert refused.passage is None
    assert refused.no_answer == guess.no_answer
    sure.refusal = 1.0
    assert sure.read([QUESTION], [PASSAGES])[0] == guess


async def test_async_answers_are_the_same(reader: SpanReader) -> None:
    assert await reader.aread([QUESTION], [PASSAGES]) == reader.read([QUESTION], [PASSAGES])
    twin = await reader.acandidates([QUESTION], [PASSAGES], n=2)
    assert twin == reader.candidates([QUESTION], [PASSAGES], n=2)


def test_long_passages_are_read_in_windows_that_hold_every_token(reader: SpanReader) -> None:
    text = " ".join(f"Anna was born in {1901 + i % 3}." for i in range(30))
    cut = windows(reader._tokenizer, QUESTION, "Anna", text, reader.settings)
    assert len(cut) > 2
    assert all(len(row.input_ids) == len(row.token_type_ids) == len(row.offsets) <= 48 for row in cut)
    whole = {
        tuple(o)
        for o in reader._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
    }
    assert {o for row in cut for o in row.offsets if o is not None} == whole
    (answer,) = reader.candidates([QUESTION], [[Document(text, metadata={"title": "Anna"})]], n=1)[0]
    assert answer.text == "yes" or answer.text == "no" or text[answer.start : answer.end] == answer.text


def test_a_saved_reader_reads_alike(reader: SpanReader, tmp_path: Path) -> None:
    reader.save(tmp_path / "reader")
    again = SpanReader(tmp_path / "reader")
    ours, theirs = (r.candidates([QUESTION], [PASSAGES], n=1)[0][0] for r in (reader, again))
    assert (ours.text, ours.start) == (theirs.text, theirs.start)
    assert ours.score == pytest.approx(theirs.score, rel=0.02)  # fp16 on the disk
    names = {p.name for p in (tmp_path / "reader").iterdir()}
    assert names == {"span_reader.json", "span_reader.safetensors"}


def test_damaged_and_foreign_folders_are_refused(reader: SpanReader, tmp_path: Path) -> None:
    reader.save(tmp_path / "good")
    with pytest.raises(ConfigurationError, match=r"holds no span_reader\.json"):
        SpanReader(tmp_path)

    def changed(name: str, **entries: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        path = folder / "span_reader.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))
        return folder

    with pytest.raises(ConfigurationError, match="format 1"):
        SpanReader(changed("format", format=2))
    with pytest.raises(ConfigurationError, match="must hold"):
        SpanReader(changed("extra", code="x"))
    with pytest.raises(ConfigurationError, match="out of their range"):
        SpanReader(changed("range", answer_tokens=0))
    with pytest.raises(ConfigurationError, match="has changed"):
        SpanReader(changed("digest", sha256="0" * 64))
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        SpanReader(changed("base", base="no/such-model"))


def test_bad_input_is_refused(reader: SpanReader) -> None:
    with pytest.raises(InputError, match="1 questions with passages for 2"):
        reader.candidates([QUESTION], [[], []], n=1)
    with pytest.raises(InputError, match="n must be"):
        reader.candidates([QUESTION], [PASSAGES], n=0)


def test_the_contract_needs_candidates_alone() -> None:
    class Fixed(Reader):
        def candidates(self, questions, passages, *, n):  # type: ignore[no-untyped-def]
            return [[ReaderAnswer("Dora", 0.8, 0.1, 0, 0, 4)] for _ in questions]

    assert Fixed().read(["?"], [[]])[0].text == "Dora"


@pytest.mark.parametrize(
    ("question", "boolean"), [("Is she in Rome?", True), ("Where is she?", False), ("In which town?", False)]
)
def test_a_question_for_something_is_not_answered_by_yes(
    reader: SpanReader, question: str, boolean: bool
) -> None:
    bias = reader._model.choice.bias.detach()
    before = bias[1].item()
    bias[1] = 50.0
    (found,) = reader.candidates([question], [PASSAGES[:1]], n=3)
    bias[1] = before
    assert (found[0].text == "yes") is boolean


@pytest.mark.parametrize(
    ("span", "kept"),
    [
        ("Eleanor. He was born", "Eleanor"),
        ("Henry J. Kaiser", "Henry J. Kaiser"),
        ("St. Louis", "St. Louis"),
        ("Ava (Inwa", "Ava"),
        ("(Inwa", "Inwa"),
        ("Inwa)", "Inwa"),
        ("Ava (Inwa)", "Ava (Inwa)"),
        ('"Rugrats', "Rugrats"),
        ('Rugrats"', "Rugrats"),
        ('"Rugrats"', '"Rugrats"'),
        ('a 12" single', 'a 12" single'),
        ('"', ""),
        ("(", ""),
    ],
)
def test_a_quotation_is_cut_where_a_sentence_begins_and_holds_no_half_of_a_pair(span: str, kept: str) -> None:
    text = f"He met {span} there."
    start, end = trimmed(text, 7, 7 + len(span))
    assert text[start:end] == kept
