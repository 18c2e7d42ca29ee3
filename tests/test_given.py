"""Numbers that were given, at the borders of what they may be."""

import numpy as np
import pytest

from tvm_cavs import given
from tvm_cavs.errors import GraphError, ShapeError

LEAST, MOST = -(2**31), 2**31 - 1


@pytest.mark.parametrize("value", [0, 1, MOST])
def test_a_count_is_from_zero_on_unless_said(value):
    assert given.count("it", value) == value


@pytest.mark.parametrize("value", [-1, MOST + 1, True, 1.0, "1", None])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ShapeError, match="it"):
        given.count("it", value, error=ShapeError)


@pytest.mark.parametrize("form", [list, lambda values: np.array(values, "int64")])
def test_integers_are_those_of_32_bits(form):
    held = given.numbers("it", form([LEAST, 0, MOST]))
    assert held.tolist() == [LEAST, 0, MOST] and held.dtype == "int32"
    for value in (LEAST - 1, MOST + 1):
        with pytest.raises(GraphError, match="does not fit int32"):
            given.numbers("it", form([0, value]))
