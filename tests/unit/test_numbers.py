import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentprm.rewards.base import sigmoid


@given(st.floats(allow_nan=False))
def test_sigmoid_is_that_of_torch(x):
    assert sigmoid(x) == pytest.approx(float(torch.tensor(x, dtype=torch.float64).sigmoid()), rel=1e-12)


def test_what_is_no_number_stays_so():
    assert math.isnan(sigmoid(math.nan))
