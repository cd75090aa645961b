from __future__ import annotations

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.retrievers.filters import compile_filter

METADATA = {"n": 5, "s": "text", "tags": ["a", "b"], "deep": {"x": {"y": 1}}, "a.b": 2, "none": None}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        (None, True),
        ({"n": 5}, True),
        ({"n": 5, "s": "no"}, False),
        ({"n": {"$gt": 4, "$lte": 5}}, True),
        ({"n": {"$gte": 6}}, False),
        ({"n": {"$lt": "x"}}, False),
        ({"missing": {"$lt": 9}}, False),
        ({"missing": {"$ne": 9}}, True),
        ({"missing": {"$nin": [9]}}, True),
        ({"missing": None}, False),
        ({"none": None}, True),
        ({"n": {"$eq": 5}}, True),
        ({"n": {"$in": [1, 5]}}, True),
        ({"n": {"$nin": [1, 5]}}, False),
        ({"n": {"$in": {5.0, "x"}}}, True),
        ({"tags": {"$in": [1, ["a", "b"]]}}, True),
        ({"tags": {"$in": ["a", ("a", "b")]}}, False),
        ({"deep": {"$nin": [1, {"x": {"y": 1}}]}}, False),
        ({"tags": {"$contains": "a"}}, True),
        ({"s": {"$contains": "ex"}}, True),
        ({"s": {"$contains": 3}}, False),
        ({"n": {"$contains": 5}}, False),
        ({"n": {"$exists": True}, "m": {"$exists": False}}, True),
        ({"deep.x.y": 1}, True),
        ({"deep.x.z": 1}, False),
        ({"a.b": 2}, True),
        ({"deep": {"x": {"y": 1}}}, True),
        ({"$or": [{"n": 1}, {"s": "text"}]}, True),
        ({"$and": [{"n": 5}, {"$not": {"s": "text"}}]}, False),
        (lambda d: d.page_content == "p", True),
    ],
)
def test_operators(spec, expected):
    assert compile_filter(spec)(Document(page_content="p", metadata=METADATA)) is expected


@pytest.mark.parametrize(
    "spec",
    [
        "n == 5",
        {"n": {"$near": 5}},
        {"$xor": []},
        {"$or": []},
        {"$or": {"n": 5}},
        {"$not": [1]},
        {"n": {"$in": 5}},
        {"n": {"$exists": 1}},
    ],
)
def test_malformed(spec):
    with pytest.raises(ConfigurationError):
        compile_filter(spec)


def test_many_choices_are_not_compared_one_by_one():
    class Choice(str):
        compared = 0

        def __eq__(self, other):
            Choice.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    test = compile_filter({"s": {"$in": [Choice(i) for i in range(5000)]}})
    Choice.compared = 0
    hits = [test(Document(page_content="p", metadata={"s": str(i)})) for i in range(4000, 6000)]
    assert hits == [True] * 1000 + [False] * 1000
    assert Choice.compared < 5000
