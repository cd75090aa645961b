from __future__ import annotations

import numpy as np
import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers import average, rocchio

QUERY = np.array([1.0, 0.0, 2.0])
DOCS = np.array([[0.0, 3.0, 1.0], [2.0, 1.0, 0.0]])


def test_average_counts_the_query_as_one_of_n_plus_one():
    np.testing.assert_allclose(average(QUERY, DOCS), [1.0, 4 / 3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(average(QUERY, []), QUERY)


def test_rocchio_formula():
    worst = np.array([[1.0, 1.0, 1.0]])
    got = rocchio(QUERY, DOCS, worst, alpha=0.9, beta=0.1, gamma=0.2)
    np.testing.assert_allclose(got, 0.9 * QUERY + 0.1 * np.array([1, 2, 0.5]) - 0.2, atol=1e-6)
    weighted = rocchio(QUERY, DOCS, alpha=0, beta=1, weights=[3, 1])
    np.testing.assert_allclose(weighted, [0.5, 2.5, 0.75], rtol=1e-6)
    assert got.dtype == np.float32


def test_rocchio_without_feedback_is_the_query():
    np.testing.assert_allclose(rocchio(QUERY, [], alpha=0.3), QUERY)
    np.testing.assert_allclose(rocchio(QUERY, [], DOCS, gamma=0), QUERY)
    np.testing.assert_allclose(rocchio(QUERY, [], DOCS[:1], alpha=0.3, gamma=1), QUERY - DOCS[0])


def test_bad_arguments():
    with pytest.raises(ConfigurationError):
        rocchio(QUERY, DOCS, alpha=-1)
    with pytest.raises(ConfigurationError):
        rocchio(QUERY, DOCS, weights=[1, 2, 3])
    with pytest.raises(InputError):
        rocchio(QUERY, DOCS[:, :2])
    with pytest.raises(InputError):
        average(DOCS, DOCS)
