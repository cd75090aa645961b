"""State: plain at every boundary, reducers that merge by id, usage that adds up."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.budget import SearchBudget, add_usage, empty_usage, metered, record, share_usage
from agentprm.documents import cite, merge_documents, plain, plain_document
from agentprm.errors import ConfigurationError, InputError
from agentprm.state import merge_steps, new_step, path_to

STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)


def round_trip(value):
    return STRICT.loads_typed(STRICT.dumps_typed(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        ({"a": (np.float64(1.0), {"b": np.str_("x")})}, {"a": [1.0, {"b": "x"}]}),
        ({1: 2}, {"1": 2}),
    ],
)
def test_plain_converts_numpy(value, expected):
    result = plain(value)
    assert result == expected
    assert round_trip(result) == expected
    assert type(result) in (float, int, bool, list, dict)


def test_plain_converts_tensors():
    torch = pytest.importorskip("torch")
    assert plain({"s": torch.tensor(1.5), "v": torch.arange(2)}) == {"s": 1.5, "v": [0, 1]}


@pytest.mark.parametrize("value", [object(), lambda: 1, 2**70, {"k": object()}])
def test_plain_refuses_what_a_checkpoint_cannot_hold(value):
    with pytest.raises(InputError, match=r"checkpoint|64 bits"):
        plain(value)


def test_plain_names_the_part_that_cannot_be_held():
    for value, part in (
        ({"a": [1, {"b": object()}]}, r"whole\['a'\]\[1\]\['b'\] is a object"),
        ([{"b": {3: 1}}], r"The key 3 of whole\[0\]\['b'\] is not a string"),
        ([[2**70]], r"whole\[0\]\[0\] is an integer of more"),
    ):
        with pytest.raises(InputError, match=part):
            plain(value, "whole", json_only=True)


def test_plain_ends_on_values_without_an_end():
    loop = []
    loop += [loop, loop]
    deep = 1
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep, {"a": loop}, np.longdouble(1), np.array([1], dtype=np.longdouble), 1j):
        for json_only in (False, True):
            with pytest.raises(InputError):
                plain(value, json_only=json_only)


def test_halves_of_surrogate_pairs_are_cleaned():
    document = plain_document(Document(page_content="a\ud83d\ude00b\ud83d", metadata={"k\udc00": ["\ud800"]}))
    assert document.page_content == "a\U0001f600b\ufffd"
    assert document.metadata == {"k\ufffd": ["\ufffd"]}
    assert round_trip(document) == document
    with pytest.raises(InputError, match="'bad'"):
        plain_document(Document(id="bad", page_content="x", metadata={"f": np.longdouble(1)}))


def test_plain_document_gets_an_id_and_plain_metadata():
    document = plain_document(Document(page_content="a", metadata={"score": np.float32(0.25)}))
    assert document.metadata == {"score": 0.25}
    assert document.id
    assert document.id == plain_document(Document(page_content="a")).id
    assert round_trip(document) == document


def test_a_citation_keeps_what_json_can_hold():
    """A missing number of a table is NaN, which an index and a checkpoint hold and a trace cannot."""
    metadata = {"page": 3, "price": math.nan, "far": math.inf, "rate": 0.5, "list": [1]}
    (citation,) = cite([Document(id="a", page_content="x", metadata=metadata)])
    assert citation["metadata"] == {"page": 3, "rate": 0.5}


def test_merge_steps_updates_the_usage_field_by_field():
    a = {**new_step("1", None), "usage": {**empty_usage(), "model_calls": 2, "retrievals": 1}}
    merged = merge_steps([a], [{"id": "1", "usage": {"model_calls": 3, "read_tokens": 7}}])
    assert merged[0]["usage"] == {**empty_usage(), "model_calls": 3, "retrievals": 1, "read_tokens": 7}
    assert a["usage"]["model_calls"] == 2, "what was there is not changed in place"


def test_merge_steps_updates_by_id_and_keeps_the_order():
    a, b = new_step("1", None, "q"), new_step("2", None, "r")
    merged = merge_steps([a, b], [{**a, "thought": "t"}, new_step("3", None)])
    assert [s["id"] for s in merged] == ["1", "2", "3"]
    assert merged[0]["thought"] == "t"
    assert a["thought"] == ""


def test_merge_documents_keeps_the_first_of_an_id():
    first, again = Document(id="d", page_content="one"), Document(id="d", page_content="two")
    assert merge_documents([first], [again, Document(id="e", page_content="x")])[0].page_content == "one"


def test_path_to_refuses_unknown_ids_and_cycles():
    a = new_step("1", None)
    assert [s["id"] for s in path_to([a, new_step("1.1", a)], "1.1")] == ["1", "1.1"]
    with pytest.raises(InputError):
        path_to([a], "9")
    loop = {**a, "parent_id": "1"}
    with pytest.raises(InputError):
        path_to([loop], "1")


@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5), st.integers(1, 7))
def test_shares_of_usage_add_up(counts, parts):
    usage = empty_usage()
    for key, count in zip(list(usage)[:5], counts, strict=True):
        usage[key] = count
    total = empty_usage()
    for share in share_usage(usage, parts):
        total = add_usage(total, share)
    assert {k: v for k, v in total.items() if k != "seconds"} == {
        k: v for k, v in usage.items() if k != "seconds"
    }


def test_shares_tell_what_readers_read_where_it_is_any():
    shares = share_usage({**empty_usage(), "read_tokens": 2, "reward_calls": 5, "seconds": 3.0}, 3)
    assert [share.get("read_tokens") for share in shares] == [1, 1, None]
    assert [share["reward_calls"] for share in shares] == [2, 2, 1]
    assert [share["seconds"] for share in shares] == [1.0] * 3
    assert share_usage(empty_usage(), 0) == []


def test_usages_of_which_fields_are_missing_add_up():
    assert add_usage({"model_calls": 2}, {"seconds": 0.5, "of_another_version": 3}) == {
        **empty_usage(),
        "model_calls": 2,
        "seconds": 0.5,
    }
    assert add_usage(None, {**empty_usage(), "read_tokens": 4})["read_tokens"] == 4
    assert "read_tokens" not in add_usage(None, {**empty_usage(), "read_tokens": 0})


def test_meters_nest_and_do_not_leak():
    record(model_calls=5)
    with metered() as outer:
        record(model_calls=1)
        with metered() as inner:
            record(model_calls=2)
    assert (outer.usage["model_calls"], inner.usage["model_calls"]) == (3, 2)


def test_budget_names_the_bound_and_counts_what_is_left():
    usage = {**empty_usage(), "model_calls": 3, "prompt_tokens": 60, "completion_tokens": 40}
    assert SearchBudget().exhausted(usage) is None
    assert SearchBudget(model_calls=3).exhausted(usage) == "model_calls"
    assert SearchBudget(tokens=100).exhausted(usage) == "tokens"
    assert SearchBudget(tokens=101).exhausted(usage) is None
    assert SearchBudget(model_calls=6).affordable("model_calls", 9, usage, reserve=1) == 2
    assert SearchBudget(model_calls=2).affordable("model_calls", 9, usage) == 0


@pytest.mark.parametrize("bad", [-1, "many", True, float("nan")])
def test_budget_refuses_nonsense(bad):
    with pytest.raises(ConfigurationError, match="model_calls"):
        SearchBudget(model_calls=bad)
