"""Trainer: averaging, clipping, multipliers, refusals, and state that survives a round trip."""

import numpy as np
import pytest

from tvm_cavs.errors import CheckpointError, ConfigError, TrainingError
from tvm_cavs.schedule import make_schedule
from tvm_cavs.trainer import Trainer
from tvm_cavs.vertex import Parameter, RowSparse


def parameter(values, grad=None, **multipliers):
    values = np.asarray(values, np.float32)
    p = Parameter(values.shape, **multipliers)
    p.set_data(values)
    p.grad = None if grad is None else np.asarray(grad, np.float32)
    return p


def test_gradients_are_divided_by_n():
    w = parameter([1.0], [8.0])
    assert Trainer({"w": w}, "sgd", lr=0.5).step(4) == 2.0
    assert w.data[0] == 0.0


def test_clipping_uses_the_norm_of_all_parameters():
    w, v = parameter([0.0], [30.0]), parameter([0.0], [40.0])
    norm = Trainer({"w": w, "v": v}, "sgd", lr=1.0, clip_norm=1.0).step(10)
    assert norm == pytest.approx(5.0)
    np.testing.assert_allclose([w.data[0], v.data[0]], [-0.6, -0.8], rtol=1e-6)


def test_no_clipping_below_the_bound():
    w = parameter([0.0], [0.5])
    Trainer({"w": w}, "sgd", lr=1.0, clip_norm=1.0).step(1)
    assert w.data[0] == -0.5


def test_multipliers_and_decay():
    frozen = parameter([1.0], [1.0], lr_mult=0.0)
    half = parameter([1.0], [1.0], lr_mult=0.5)
    plain, decayed = parameter([1.0], [0.0], decay_mult=0.0), parameter([1.0], [0.0])
    parameters = {"frozen": frozen, "half": half, "plain": plain, "decayed": decayed}
    Trainer(parameters, "sgd", lr=0.1, weight_decay=0.1).step(1)
    moved = [float(p.data[0]) for p in parameters.values()]
    np.testing.assert_allclose(moved, [1.0, 1 - 0.05 * 1.1, 1.0, 0.99], rtol=1e-6)


def test_the_schedule_counts_steps():
    w = parameter([0.0], [1.0])
    schedule = make_schedule(("step", {"every": 2, "factor": 0.1}))
    trainer = Trainer({"w": w}, "sgd", lr=1.0, schedule=schedule)
    rates = []
    for _ in range(4):
        rates.append(trainer.lr)
        trainer.step(1)
    np.testing.assert_allclose(rates, [1.0, 1.0, 0.1, 0.1])
    np.testing.assert_allclose(w.data, -2.2, rtol=1e-6)


def test_a_parameter_without_a_gradient_stays():
    w, v = parameter([1.0], [1.0]), parameter([1.0])
    Trainer({"w": w, "v": v}, "adam", lr=0.1, weight_decay=1.0).step(1)
    assert v.data[0] == 1.0


def test_step_without_backward():
    with pytest.raises(TrainingError, match=r"step\(3\).*loss.backward\(\)"):
        Trainer({"w": parameter([1.0])}, "sgd", lr=0.1).step(3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradients_change_nothing(bad):
    w = parameter([1.0, 2.0], [1.0, 1.0])
    table = parameter(np.ones((3, 2)))
    table.grad = RowSparse(np.array([1]), np.array([[0.0, bad]], np.float32))
    trainer = Trainer({"w": w, "table": table}, "adagrad", lr=0.1)
    with pytest.raises(TrainingError, match=r"step 0: .*table: 1 of 2 not finite.*unchanged"):
        trainer.step(1)
    np.testing.assert_array_equal(w.data, [1.0, 2.0])
    assert trainer.n_steps == 0


def test_unknown_names():
    with pytest.raises(ConfigError, match="adagrd.*expected one of sgd.*'adagrad'"):
        Trainer({}, "adagrd", lr=0.1)
    with pytest.raises(ConfigError, match="does not take momentun; it takes momentum"):
        Trainer({}, "momentum", lr=0.1, momentun=0.5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "adamw"])
def test_continuing_from_state_is_exact(name):
    def steps(trainer, w, first, last):
        for seed in range(first, last):
            w.grad = np.random.default_rng(seed).standard_normal(w.shape).astype(np.float32)
            trainer.step(1)

    start = np.ones((3, 2), np.float32)
    whole = parameter(start)
    steps(Trainer({"w": whole}, name, lr=0.1, weight_decay=0.1), whole, 0, 6)
    first = parameter(start)
    trainer = Trainer({"w": first}, name, lr=0.1, weight_decay=0.1)
    steps(trainer, first, 0, 3)
    second = parameter(first.data)
    resumed = Trainer({"w": second}, name, lr=0.1, weight_decay=0.1)
    resumed.load_state({key: value.copy() for key, value in trainer.state().items()})
    steps(resumed, second, 3, 6)
    np.testing.assert_array_equal(second.data, whole.data)


def test_state_of_another_optimizer():
    w = parameter([1.0])
    state = Trainer({"w": w}, "adam", lr=0.1).state()
    with pytest.raises(CheckpointError, match=r"w\.m, w\.sum, w\.v"):
        Trainer({"w": w}, "adagrad", lr=0.1).load_state(state)
