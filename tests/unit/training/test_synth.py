"""Questions from a collection without labels: what is asked, what is kept, and going on after a stop."""

import json

import pytest
from langchain_core.documents import Document

from agentprm.cli import main, opening
from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.evaluation.qa import contains_answer
from agentprm.readers import ReaderAnswer
from agentprm.retrievers import MentionIndex
from agentprm.testing import FakeEmbeddings, ScriptedLanguageModel, fake_store
from agentprm.training import PlanRecord, ReadingRecord, read_records
from agentprm.training.questions import collect_facts, draft_questions
from agentprm.training.rewording import keeps_meaning
from agentprm.training.synth import reading_with, synthesize

PASSAGES = {
    "Dawn": "Dawn is a 1960 French film directed by Ann Lee. It stars Cy Dee.",
    "Dusk": "Dusk is a 1971 French film directed by Bob Fox.",
    "Noon": "Noon is a 1980 film directed by Ann Lee and Bob Fox.",
    "Ann Lee": "Ann Lee (born 3 May 1930) was a French film director. She was born in Lyon.",
    "Bob Fox": "Bob Fox (born 4 June 1940) is an English footballer.",
    "Lyon": "Lyon is a city in France. It has a population of 522,000.",
    "Acme": "Acme is a company based in Lyon. It was founded by Ann Lee in 1975.",
    "Zeta": "Zeta is a company based in Ulm. It was founded in 1999.",
    "Night (1950 film)": "Night is a film directed by Eve Gray.",
    "Night (1990 film)": "Night is a film directed by Flo Hay.",
}


def documents():
    return [
        Document(id=f"p{place}", page_content=text, metadata={"title": title})
        for place, (title, text) in enumerate(PASSAGES.items())
    ]


@pytest.fixture
def store():
    return fake_store(documents())


def drafts(store, seed=0):
    return list(draft_questions(collect_facts(store, store.mentions), seed))


def test_questions_of_every_kind(store):
    made = drafts(store)
    found = {(draft["kind"], tuple(draft["answers"])): draft for draft in made}
    two = found["two_hop", ("3 May 1930",)]
    assert two["question"] in {
        f"{asked} the {role} of {name}{end}"
        for asked, end in (("When was", " born?"), ("What is the date of birth of", "?"))
        for role, names in (
            ("director", ("Dawn", "the film Dawn")),
            ("founder", ("Acme", "the company Acme")),
        )
        for name in names
    }
    assert two["hops"][0]["answers"] == ["Ann Lee"]
    assert "#1" in two["hops"][1]["question"]
    assert "Ann Lee" in two["hops"][1]["asked"]
    assert ("two_hop", ("522,000",)) in found  # of the place where Acme is based, or where Ann Lee was born
    assert found["one_hop", ("Ann Lee and Bob Fox", "Ann Lee", "Bob Fox")]["hops"][0]["gold"] == "p2"
    years = {"Dawn": 1960, "Dusk": 1971, "Noon": 1980}
    for draft in made:
        if draft["kind"] == "comparison" and draft["answers"][0] in years:
            first, second = [hop["triple"][0] for hop in draft["hops"][:2]]
            earlier = "first" in draft["question"]
            named = [name for name in (first, second) if name in years]
            if len(named) == 2:
                best = min(named, key=years.get) if earlier else max(named, key=years.get)
                assert draft["answers"] == [best]
    assert len({draft["question"] for draft in made}) == len(made)


def test_a_footballer_is_not_taken_for_the_director(store):
    asked = [draft for draft in drafts(store) if draft["kind"] == "two_hop"]
    assert asked
    assert not any(draft["hops"][0]["answers"] == ["Bob Fox"] for draft in asked)


def test_namesakes_are_told_apart(store):
    asked = [d["question"] for d in drafts(store) if d["kind"] == "one_hop" and "Night" in d["question"]]
    assert len(asked) == 2
    assert all("Night (1950 film)" in question or "Night (1990 film)" in question for question in asked)


def test_yes_and_no_are_about_as_frequent():
    peoples = ("French", "Danish", "Greek", "Italian", "Polish")
    people = [
        Document(
            id=f"p{i}",
            page_content=f"Ann Lee{i} (born 1950) is a {peoples[i % 5]} painter.",
            metadata={"title": f"Ann Lee{i}"},
        )
        for i in range(80)
    ]
    facts = collect_facts(people, MentionIndex.from_documents(people))
    answers = [d["answers"][0] for d in draft_questions(facts) if "same nationality" in d["question"]]
    assert len(answers) == 40
    assert 15 <= answers.count("yes") <= 30


def test_the_seed_decides(store):
    assert drafts(store) == drafts(store)
    assert drafts(store, 1) != drafts(store)


class Quoting:
    """Finds the answers of the drafts in passages, word for word."""

    def __init__(self, store, blind=(), knows=()):
        self.answers = {}
        for draft in drafts(store):
            self.answers[draft["question"]] = draft["answers"]
            self.answers |= {hop["asked"]: hop["answers"] for hop in draft["hops"]}
        self.blind, self.knows = blind, knows
        self.calls = 0

    def read(self, questions, passages):
        self.calls += 1
        return [
            ReaderAnswer(self.say(question, documents), 1.0, 0.0)
            for question, documents in zip(questions, passages, strict=True)
        ]

    def say(self, question, documents):
        answers = self.answers[question]
        if any(answer in self.knows for answer in answers):
            return answers[0]
        if any(answer in self.blind for answer in answers):
            return ""
        return next((a for d in documents for a in answers if contains_answer(d.page_content, [a])), "")


def test_the_files_hold_what_was_asked(store, tmp_path):
    report = synthesize(store, tmp_path, reader=Quoting(store), unanswerable=1.0, distractors=2)
    reading, plans = read_records(tmp_path, ReadingRecord), read_records(tmp_path, PlanRecord)
    texts = PASSAGES
    assert sum(report.kept.values()) == len(plans) > 20
    assert report.drafted == len(drafts(store)) >= len(plans)
    one_hop = [record for record in reading if record.type == "one_hop"]
    assert report.unanswerable == len(one_hop) == report.kept["one_hop"]
    for record in reading:
        gold = [passage for passage in record.passages if passage.gold]
        others = [passage for passage in record.passages if not passage.gold]
        assert all(texts[passage.title] == passage.text for passage in record.passages)
        assert len(others) <= 2
        if record.type == "none":
            assert not record.answers
            assert not gold
            continue
        assert len(gold) == (1 if record.type == "one_hop" else 2)
        if record.type != "comparison":
            assert any(contains_answer(passage.text, record.answers) for passage in gold)
            assert not any(contains_answer(passage.text, record.answers) for passage in others)
            assert (
                record.sentence in record.passages[[p.gold for p in record.passages].index(True)].text or gold
            )
    for plan in plans:
        sizes = {"one_hop": 1, "two_hop": 2, "comparison": 3}
        assert len(plan.steps) == sizes[plan.type]
        assert all(step.answer for step in plan.steps)
    first = {record.id: record.question for record in reading if record.type != "none"}
    assert {plan.id: plan.question for plan in plans} == first


def test_a_question_stays_only_if_it_is_read_from_its_passages_and_not_without(store, tmp_path):
    everything = synthesize(store, tmp_path / "all", reader=Quoting(store))
    blind = synthesize(store, tmp_path / "blind", reader=Quoting(store, blind=["3 May 1930"]))
    assert blind.dropped["not read from its passages"] > 0
    assert not any("3 May 1930" in r.answers for r in read_records(tmp_path / "blind", ReadingRecord))
    knows = synthesize(store, tmp_path / "knows", reader=Quoting(store, knows=["522,000"]))
    assert knows.dropped["answered without them"] > 0
    assert not any("522,000" in r.answers for r in read_records(tmp_path / "knows", ReadingRecord))
    assert sum(blind.kept.values()) < sum(everything.kept.values())


def test_a_stopped_run_goes_on_and_ends_as_a_whole_one(store, tmp_path):
    whole = Quoting(store)
    report = synthesize(store, tmp_path / "whole", reader=whole, questions=30)

    class Stopping(Quoting):
        def read(self, questions, passages):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().read(questions, passages)

    with pytest.raises(KeyboardInterrupt):
        synthesize(store, tmp_path / "cut", reader=Stopping(store), questions=30)
    rest = Quoting(store)
    assert synthesize(store, tmp_path / "cut", reader=rest, questions=30) == report
    assert rest.calls == whole.calls - 2
    again, kept = Quoting(store), []
    assert synthesize(store, tmp_path / "cut", reader=again, questions=30, on_question=kept.append) == report
    assert again.calls == 0
    assert kept[-1] == 30
    assert kept == sorted(kept)
    for name in ("reading.jsonl", "plans.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    threaded = synthesize(store, tmp_path / "threads", reader=Quoting(store), questions=30, threads=3)
    assert threaded.kept == report.kept
    assert (tmp_path / "threads" / "plans.jsonl").read_bytes() == (
        tmp_path / "whole" / "plans.jsonl"
    ).read_bytes()


def test_fewer_questions_are_the_first_ones(store, tmp_path):
    synthesize(store, tmp_path, questions=30)
    many = read_records(tmp_path, PlanRecord)
    report = synthesize(store, tmp_path, questions=5)
    assert read_records(tmp_path, PlanRecord) == many[:5]
    assert sum(report.kept.values()) == 5


def test_a_collection_that_grew_is_checked_again(store, tmp_path):
    synthesize(store, tmp_path, questions=5, distractors=9)
    assert not any("Eos" in p.title for r in read_records(tmp_path, ReadingRecord) for p in r.passages)
    store.add_documents([Document(id="new", page_content="Eos means dawn.", metadata={"title": "Eos"})])
    synthesize(store, tmp_path, questions=5, distractors=9)
    assert any("Eos" in p.title for r in read_records(tmp_path, ReadingRecord) for p in r.passages)


def test_a_language_model_reads_and_is_asked_what_it_knows():
    model = ScriptedLanguageModel(lambda prompt: "Lyon" if "Text:" in prompt else "unknown")
    answer = reading_with(model)
    passages = [[Document(page_content="Lyon.")], []]
    assert list(answer(["Where?", "Where?"], passages)) == ["Lyon", "unknown"]


def test_a_collection_without_facts_and_wrong_settings_are_refused(store, tmp_path):
    with pytest.raises(InputError, match="No passage states a fact"):
        synthesize(fake_store(["Nothing to see."]), tmp_path)
    for wrong in ({"questions": 0}, {"distractors": -1}, {"unanswerable": 1.5}):
        with pytest.raises(ConfigurationError):
            synthesize(store, tmp_path, **wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        synthesize(store, tmp_path / "file")


def test_the_command(store, tmp_path, capsys, monkeypatch):
    store.save(tmp_path / "index")
    monkeypatch.setattr(opening, "embeddings_called", lambda name: FakeEmbeddings())
    data = tmp_path / "data"
    assert (
        main(["synth", str(tmp_path / "index"), "-o", str(data), "--questions", "7", "--reader", "none"]) == 0
    )
    out = capsys.readouterr().out
    assert "kept 7 of" in " ".join(out.split())
    assert len(read_records(data, PlanRecord)) == 7
    assert json.loads((data / "reading.jsonl").read_text().splitlines()[0])["set"] == "synth"
    assert main(["synth", str(tmp_path / "none"), "-o", str(data), "--reader", "none"]) == 2
    assert "There is no index" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["synth", str(tmp_path / "index"), "-o", str(tmp_path / "file")]) == 2


def test_the_command_says_if_there_is_no_reader_to_check_with(store, tmp_path, capsys, monkeypatch):
    store.save(tmp_path / "index")
    monkeypatch.setattr(opening, "embeddings_called", lambda name: FakeEmbeddings())

    def missing(**options):
        raise MissingDependencyError.for_extra("torch", "transformers")

    monkeypatch.setattr("agentprm.packaged.default_reader", missing)
    assert main(["synth", str(tmp_path / "index"), "-o", str(tmp_path / "data"), "--questions", "3"]) == 0
    assert "not checked by a reader" in capsys.readouterr().err
    monkeypatch.setattr("agentprm.packaged.default_reader", lambda: Quoting(store, blind=["1960"]))
    assert main(["synth", str(tmp_path / "index"), "-o", str(tmp_path / "data")]) == 0
    captured = capsys.readouterr()
    assert "not read from its passages" in captured.out
    assert "not checked" not in captured.err


def test_a_writer_puts_questions_in_other_words_and_loses_none(store, tmp_path):
    def reply(text):
        question = text[text.rindex("Question: ") + 10 :].split("\n")[0]
        if "Dawn" in question:
            return " What about that film?"
        return f" Tell me, {question[0].lower()}{question[1:]}"

    synthesize(store, tmp_path / "plain", questions=20)
    synthesize(store, tmp_path / "new", questions=20, writer=ScriptedLanguageModel(reply), writer_name="toy")
    plain, new = read_records(tmp_path / "plain", PlanRecord), read_records(tmp_path / "new", PlanRecord)
    for before, after in zip(plain, new, strict=True):
        kept = "Dawn" in before.question
        assert (before.question == after.question) == kept
        assert kept or after.question == f"Tell me, {before.question[0].lower()}{before.question[1:]}"
        if after.type == "two_hop":
            assert after.steps == before.steps
        else:
            assert after.steps[-1].question.endswith(after.question)
            assert after.steps[:-1] == before.steps[:-1]
    assert any("Dawn" in plan.question for plan in new)


@pytest.mark.parametrize(
    ("new", "kept"),
    [
        ("By whom was Dawn of 1960 directed?", True),
        ("By whom was Dawn directed?", False),
        ("By whom was the film of 1960 directed?", False),
        ("Dawn of 1960 was directed by someone.", False),
        ("Was Dawn of 1960 directed by Ann Lee?", False),
        ("", False),
    ],
)
def test_a_rewording_keeps_names_and_numbers(new, kept):
    assert keeps_meaning("Who directed Dawn of 1960?", new, ["Ann Lee"]) is kept
