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
    with pytest.raises(ShapeError) as error:
        given.count("it", value, error=ShapeError)
    assert str(error.value) == f"it: expected a whole number from 0 to {MOST}, given {value!r}"


@pytest.mark.parametrize("form", [list, lambda values: np.array(values, "int64")])
def test_integers_are_those_of_32_bits(form):
    held = given.numbers("it", form([LEAST, 0, MOST]))
    assert held.tolist() == [LEAST, 0, MOST] and held.dtype == "int32"
    for value in (LEAST - 1, MOST + 1):
        with pytest.raises(GraphError, match=rf"^it: .* int32 \({LEAST} to {MOST}\)\.$"):
            given.numbers("it", form([0, value]))


HOLED = np.ma.masked_array([1, 2], [False, True])


@pytest.mark.parametrize("value", ["ab", b"ab", {1: 2}, {1}, frozenset(), {}.keys(), 3, None])
def test_what_has_no_order_is_no_list(value):
    with pytest.raises(
        ShapeError, match=f"^it: expected a list or an array of them, given {type(value).__name__} "
    ) as error:
        given.as_list("it", value, "them", ShapeError)
    assert str(error.value).endswith(f" {value!r}.")
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
    with pytest.raises(GraphError, match=f"^it: .*{re.escape(said)}"):
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
        with pytest.raises(
            GraphError, match=rf"^it: .* given shape \[{shape[0]}, {shape[1]}\]\."
        ) as error:
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


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "it: expected pairs (parent, child), given [1, 2]."),
        ([[1, 2], np.array(3)], "it: expected pairs (parent, child), given [[1, 2], array(3)]."),
        ([[0, 1], [2, True]], "it: expected vertex indices (integers), got bool."),
        (["ab"], "it: expected vertex indices (integers), got str."),
        ([[1, 2], [3]], "it: expected a list of vertex indices (setting an array"),
        (np.zeros(2, int), "it: expected 2 axes, given an array of shape [2]."),
    ],
    ids=str,
)
def test_what_is_no_pair_is_refused(value, said):
    with pytest.raises(GraphError, match=f"^{re.escape(said)}"):
        given.pairs("it", value)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([[1, 2], [3, 4]], "int32"),
        ([True, False], "int32"),
        ([[0.5], [2]], "float32"),
        ([[True], [False]], "int32"),
        ([], "float32"),
        (np.zeros((2, 3), "float32"), "float32"),
        (np.zeros((2, 3), "int32"), "int32"),
        (np.zeros((2, 3), ">f8", order="F"), "float32"),
        (np.zeros((2, 3), "uint8", order="F"), "int32"),
    ],
    ids=str,
)
def test_numbers_are_of_one_dtype_in_c_order_and_our_own(value, dtype):
    found = given.numbers("it", value)
    assert found.dtype == dtype and found.tolist() == np.asarray(value).tolist()
    assert found.flags.c_contiguous and found.flags.owndata and found is not value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["red", "blue"], "expected integers or floats, got <U4 such as 'red'. Turn strings into"),
        (np.zeros((0, 2), "U1"), "expected integers or floats, got <U1. Turn strings into"),
        ([1, None], "expected integers or floats, got object such as 1. Turn strings into"),
        (1j, "expected integers or floats, got complex128 such as 1j. Turn strings into"),
        ([[1], [2, 3]], "its rows differ in shape or are no numbers (setting an array"),
        ([True, 1], "bools and other things in one list (bool, int); give one of them."),
        ([0.5, np.bool_(1)], "bools and other things in one list (bool, float); give"),
        ([HOLED, HOLED], "a masked value in a list; give None where a row is absent."),
        ([2**63, -1], "integers beyond 64 bits; a value does not fit int32."),
    ],
    ids=str,
)
def test_what_is_no_number_is_refused(value, said):
    with pytest.raises(ShapeError, match=f"^it: {re.escape(said)}"):
        given.numbers("it", value, ShapeError)


def test_bools_of_two_types_are_all_bools():
    assert given.numbers("it", [True, np.bool_(0)]).tolist() == [1, 0]


def test_so_many_things_as_numbers_of_32_bits_tell_apart():
    given.check_numbered("it", MOST, "Less.")
    said = "it: 2,147,483,648, and there may be 2,147,483,647 (numbers of 32 bits). Less."
    with pytest.raises(GraphError, match=f"^{re.escape(said)}$"):
        given.check_numbered("it", MOST + 1, "Less.")
