"""What arguments may be, and to the letter what is said of others."""

import math

import numpy as np
import pytest

from tvm_cavs.arguments import LARGEST, MOST, extents, name, number, shown, whole
from tvm_cavs.errors import ConfigError, ShapeError

WHOLE = "x: expected a whole number"
NUMBER = "x: expected a finite number"


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "said"),
    [
        ((), (-5, 0, np.int64(7), 2**70), (True, 3.0, "3", None, np.bool_(1)), ""),
        ((3,), (3, 4), (2, -3), " of 3 or more"),
        ((None, 3), (3, -9), (4,), " of at most 3"),
        ((-2, 3), (-2, 3), (-3, 4), " from -2 to 3"),
        ((1, MOST), (1, MOST), (0, MOST + 1), f" from 1 to {MOST}"),
        ((1, 999_999), (999_999,), (1_000_000,), " from 1 to 999999"),
        ((1, 1_000_000), (1_000_000,), (1_000_001,), " from 1 to 1000000"),
    ],
)
def test_whole_numbers(bounds, good, bad, said):
    for each in good:
        found = whole("x", each, *bounds)
        assert type(found) is int and found == each
    for each in bad:
        with pytest.raises(ConfigError) as error:
            whole("x", each, *bounds)
        assert str(error.value) == f"{WHOLE}{said}, given {shown(each)}"


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "said"),
    [
        ({}, (-5, 0.5, LARGEST, -LARGEST, np.float32(2)), (True, "3", None, 1e39, 10**400), ""),
        ({"least": 0}, (0, 0.0, 3), (-1e-9,), " of 0 or more"),
        ({"least": 0, "most": 1}, (0, 1), (-0.1, 1.1), " from 0 to 1"),
        ({"most": 1}, (1, -5), (1.5,), " of at most 1"),
        ({"above": 0}, (1e-9,), (0, -1), " above 0"),
        ({"most": 1, "above": 0}, (1, 0.5), (0, 2), " of at most 1 above 0"),
        ({"least": 0, "below": 1}, (0, 0.9), (1, -0.1), " of 0 or more and below 1"),
        ({"below": 1}, (0.5, -3), (1, 2), " below 1"),
        ({"above": 0, "below": 1}, (0.5,), (0, 1), " above 0 and below 1"),
        ({"above": -2, "below": 2.5}, (2,), (-2, 2.5), " above -2 and below 2.5"),
        ({"below": -3}, (-4,), (-3,), " below -3"),
    ],
)
def test_numbers(bounds, good, bad, said):
    for each in good:
        found = number("x", each, **bounds)
        assert type(found) is float and found == each
    for each in (*bad, math.nan, math.inf, -math.inf):
        with pytest.raises(ConfigError) as error:
            number("x", each, **bounds)
        assert str(error.value) == f"{NUMBER}{said}, given {shown(each)}"


def test_shapes():
    assert extents("x", 3) == extents("x", [3]) == extents("x", np.array(3)) == (3,)
    assert extents("x", (2, np.int32(3))) == (2, 3) and extents("x", (), empty=True) == ()
    assert extents("x", (1, MOST)) == (1, MOST) and np.iinfo("int32").max == MOST
    for given, said in (
        ((), "x: expected a shape, one or more positive whole numbers, given ()"),
        ("ab", f"{WHOLE} from 1 to {MOST}, given 'ab'"),
        ({3}, f"{WHOLE} from 1 to {MOST}, given {{3}} (set)"),
        (0, f"{WHOLE} from 1 to {MOST}, given 0"),
        ((2, 0), f"x, extent 1: expected a whole number from 1 to {MOST}, given 0"),
        ((2, MOST), f"x: (2, {MOST}) has {2 * MOST} elements, expected at most {MOST}"),
        ((9, 8, MOST), f"x: (9, 8, {MOST}) has {72 * MOST} elements, expected at most {MOST}"),
        ((2, 3, 4, "5"), f"x, extent 3: expected a whole number from 1 to {MOST}, given '5'"),
    ):
        with pytest.raises(ShapeError) as error:
            extents("x", given, ShapeError)
        assert str(error.value) == said


def test_what_is_read_by_numbers_alone_is_no_shape():
    """Such as a value of the vertex language, which refuses that in other words."""

    class Numbered:
        def __getitem__(self, number):
            raise RuntimeError

    with pytest.raises(ConfigError, match=rf"^x: expected a whole number from 1 to {MOST}, given"):
        extents("x", Numbered())


def test_names():
    assert name("x", "a") == "a" and type(name("x", np.str_("a"))) is str
    for given in ("", "a\x00b", "\ud800", 3, None, b"a"):
        with pytest.raises(ConfigError) as error:
            name("x", given)
        what = "a name, a text that is not empty"
        assert str(error.value) == f"x: expected {what}, given {shown(given)}"


def test_what_was_given_is_shown_short():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    assert [shown(x) for x in (None, True, 3, 2.5, "a", [1])] == [
        *("None", "True", "3", "2.5", "'a'", "[1] (list)")
    ]
    assert shown("x" * 58) == f"'{'x' * 58}'" and shown("x" * 59) == f"'{'x' * 56}..."
    assert shown(Odd()) == "a Odd" and shown("\ud800") == "'\\ud800'"


def test_a_bound_that_is_a_fraction_is_said_as_it_is():
    with pytest.raises(ConfigError, match=r"x: expected a finite number from 0.25 to 0.5, given 1"):
        number("x", 1, 0.25, 0.5)
