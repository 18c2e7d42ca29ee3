"""Schedules at the steps where their value is known."""

import numpy as np
import pytest

from tvm_cavs.arguments import shown
from tvm_cavs.errors import ConfigError
from tvm_cavs.training.lr_schedules import SCHEDULES, check_settings, make_schedule


def test_values():
    assert SCHEDULES["constant"](7) == 1.0
    assert [SCHEDULES["step"](s, every=3, factor=0.5) for s in (0, 2, 3, 6)] == [1, 1, 0.5, 0.25]
    cosine = [SCHEDULES["cosine"](s, n_steps=10, floor=0.2) for s in (0, 5, 10, 99)]
    np.testing.assert_allclose(cosine, [1.0, 0.6, 0.2, 0.2])
    assert [SCHEDULES["warmup"](s, n_steps=4) for s in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]


def test_schedules_multiply():
    schedule = make_schedule(("warmup", {"n_steps": 2}), ("step", {"every": 1, "factor": 0.1}))
    np.testing.assert_allclose([schedule(0), schedule(1)], [0.5, 0.1])
    assert make_schedule()(5) == 1


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cosin", {}, "'cosin' is unknown; expected one of constant, step, cosine, warmup"),
        ("step", {"factor": 0.5}, "'step' takes every, factor; missing: every; unknown: none"),
        ("constant", {"every": 2}, "'constant' takes no settings; missing: none; unknown: every"),
        (
            "cosine",
            {"n_steps": 0},
            "'cosine': n_steps: expected a finite number of 1 or more, given 0",
        ),
        ("cosine", {"n_steps": True}, "n_steps: expected a finite number"),
        ("cosine", {"n_steps": 9, "floor": -0.1}, "floor: expected .* from 0 to 1, given -0.1"),
        ("cosine", {"n_steps": 9, "floor": float("nan")}, "floor: expected a finite number"),
        ("step", {"every": float("inf")}, "every: expected a finite number"),
        ("step", {"every": 2, "factor": -1}, "factor: expected a finite number"),
        ("step", {"every": 2, "factor": 0}, "factor: .* of at most 1 above 0, given 0$"),
        (
            "step",
            {"every": 2, "factor": 1.5},
            "'step': factor: .* of at most 1 above 0, given 1.5$",
        ),
        ("step", {"every": 0.5}, "'step': every: .* of 1 or more, given 0.5$"),
        (
            "cosine",
            {"n_steps": 9, "floor": 1.5},
            "'cosine': floor: expected .* from 0 to 1, given 1.5",
        ),
        ("cosine", {}, "'cosine' takes n_steps, floor; missing: n_steps; unknown: none.$"),
        ("step", {"b": 1, "a": 2}, "missing: every; unknown: a, b.$"),
        ("warmup", None, "'warmup': expected settings by name, given None"),
        (3, {}, "^schedule: expected a name, a text that is not empty, given 3$"),
    ],
)
def test_refusals(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        check_settings(name, settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("step", {"every": 1, "factor": 1}),
        ("cosine", {"n_steps": 1, "floor": 0}),
        ("cosine", {"n_steps": 1, "floor": 1}),
        ("warmup", {"n_steps": 1}),
        ("constant", {}),
    ],
)
def test_settings_at_their_ends_are_taken(name, settings):
    assert make_schedule((name, settings), [name, settings])(0) == 1.0


@pytest.mark.parametrize("row", ["warmup", "ab", ("warmup",), ("warmup", {"n_steps": 1}, 2), None])
def test_rows_are_pairs(row):
    with pytest.raises(ConfigError, match="^make_schedule: expected pairs such as ") as error:
        make_schedule(("constant", {}), row)
    assert str(error.value).endswith(f", given {shown(row)}")
