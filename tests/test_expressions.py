"""Values that a network has once, evaluated line by line as float32."""

import numpy as np
import pytest

from tvm_cavs.expressions import Expression, Line
from tvm_cavs.meanings import MEANINGS


def expression(op: str, held: list[list[float]], **attrs: object) -> tuple[Expression, np.ndarray]:
    """An op of one leaf, and the leaf's values, which are read flat."""
    values = np.array(held, np.float32)
    leaf = Line("leaf", (), {}, values.shape, leaf="W")
    return Expression((leaf, Line(op, (0,), attrs, values.shape, MEANINGS[op]))), values.reshape(-1)


@pytest.mark.parametrize("op", ["log", "sqrt", "exp", "softmax", "transpose", "sigmoid"])
def test_a_value_is_float32_of_leaves_that_are_read_flat(op: str) -> None:
    """Infinities and NaN are values like others: nothing warns."""
    made, flat = expression(op, [[-1.0, 0.0, 1e3], [2.0, 3.0, np.inf]])
    with np.errstate(all="ignore"):
        expected = np.asarray(MEANINGS[op](flat.reshape(2, 3)), np.float32)
    found = made.value(lambda leaf: {"W": flat}[leaf])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_every_line_is_rounded() -> None:
    """A line that computes in double is float32 before the next one reads it."""
    tenth = Line("full", (), {"value": 0.1, "shape": (1,)}, (1,), MEANINGS["full"])
    made = Expression((tenth, Line("add", (0, 0), {}, (1,), MEANINGS["add"])))
    assert made.value(dict.get) == np.float32(0.1) + np.float32(0.1) and made.shape == (1,)
    assert made.value(dict.get).dtype == np.float32
