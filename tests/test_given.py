"""Numbers that were given, at the borders of what they may be."""

import re

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


HOLED = np.ma.masked_array([1, 2], [False, True])


@pytest.mark.parametrize("value", ["ab", b"ab", {1: 2}, {1}, frozenset(), {}.keys(), 3, None])
def test_what_has_no_order_is_no_list(value):
    with pytest.raises(
        ShapeError, match=f"^it: expected a list or an array of them, given {type(value).__name__} "
    ):
        given.as_list("it", value, "them", ShapeError)
    with pytest.raises(GraphError, match="^it: expected a list or an array"):
        given.as_list("it", np.array(3), "them")
    for good in ((1, 2), range(1, 3), iter([1, 2]), np.array([1, 2]), {1: 1, 2: 2}.values()):
        assert given.as_list("it", good, "them") in ([1, 2], [1, 1])


@pytest.mark.parametrize(
    "read",
    [
        lambda x: given.as_list("it", x, "them"),
        lambda x: given.indices("it", x),
        lambda x: given.numbers("it", x),
        lambda x: given.pairs("it", x),
    ],
)
def test_what_a_mask_hides_is_no_value(read):
    with pytest.raises(GraphError, match="^it: expected a list or an array, given a masked array"):
        read(HOLED)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([0, True], "integers), got bool"),
        ([np.bool_(1)], "integers), got bool"),
        (np.array([True]), "integers), got bool"),
        ([1.0], "integers), got float"),
        (["1"], "integers), got str"),
        ([None, 1], "integers), got NoneType"),
        ([2**63, -1], "integers), got "),
        ([2**64], "integers), got integers beyond 64 bits"),
        ([2**63], f"{2**63} does not fit a signed integer of 64 bits"),
        (np.array([1, 2**63], "uint64"), f"{2**63} does not fit a signed integer of 64 bits"),
        (np.array([[1]]), "expected 1 axes, given an array of shape [1, 1]"),
    ],
    ids=str,
)
def test_what_is_no_index_is_refused(value, said):
    with pytest.raises(GraphError, match=re.escape(said)):
        given.indices("it", value)


@pytest.mark.parametrize(
    "value",
    [[], [0, -1, 2**63 - 1], np.array([3, 2**63 - 1], "uint64"), np.array([1, 2, 3], ">i2")[::2]],
    ids=str,
)
def test_indices_are_of_64_bits_and_our_own(value):
    found = given.indices("it", value)
    assert found.tolist() == list(value) and found.dtype == "int64"
    assert found.flags.c_contiguous and found.flags.owndata


@pytest.mark.parametrize("form", [list, np.array])
def test_pairs_stand_one_a_row(form):
    assert given.pairs("it", form([[1, 2], [3, 4], [5, 6]])).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert given.pairs("it", []).shape == given.pairs("it", np.zeros((0, 2), int)).shape == (0, 2)
    for shape in ((2, 3), (3, 3), (1, 1), (2, 1)):
        with pytest.raises(GraphError, match=re.escape(f"given shape {list(shape)}.")) as error:
            given.pairs("it", form(np.ones(shape, int).tolist()))
        assert str(error.value).endswith(" It has two rows: give edges.T.") == (shape[0] == 2)


@pytest.mark.parametrize("value", [[1e39, -1e38, 3.0], [-1e39, 5.0, np.inf], [[0.0], [-1e39]]])
def test_the_number_of_largest_size_is_said_to_be_too_large(value):
    with pytest.raises(
        ShapeError, match=r"^it: 1e\+39 does not fit float32 \(up to 3.40282e\+38\)"
    ):
        given.numbers("it", value, ShapeError)


def test_the_first_number_that_is_not_finite_is_named():
    values = np.array([[0.0, 1.0], [np.nan, 2.0], [3.0, np.inf]], np.float32)
    for read in (
        lambda: given.floats("it", values, ShapeError),
        lambda: given.parameter_values("it", values, (3, 2)),
    ):
        with pytest.raises(
            ShapeError, match=r"^it: expected finite numbers, given nan at \(1, 0\)$"
        ):
            read()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "bool"])
def test_a_parameter_is_float32_whatever_sets_it(dtype):
    """What is that already is not copied."""
    values = np.ones((2, 3), dtype)
    found = given.parameter_values("it", values, (2, 3))
    assert found.dtype == "float32" and (found is values) == (dtype == "float32")
    with pytest.raises(ShapeError, match=r"^it: expected shape \(3, 2\), given \(2, 3\)$"):
        given.parameter_values("it", values, (3, 2))
