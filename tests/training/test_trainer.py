"""Trainer: averaging, clipping, multipliers, refusals, and state that survives a round trip."""

import copy
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_cavs.arguments import shown
from tvm_cavs.errors import CavsError, CheckpointError, ConfigError, TrainingError
from tvm_cavs.language.parameter import ANYONE, Parameter
from tvm_cavs.row_sparse import RowSparse
from tvm_cavs.training.lr_schedules import make_schedule
from tvm_cavs.training.optim import OPTIMIZERS
from tvm_cavs.training.trainer import Trainer
from tvm_cavs.training.updates import Updates


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


@pytest.mark.parametrize("n", [1, 4])
def test_no_clipping_below_the_bound(n):
    """The bound is for the mean: the sum over n = 4 has a norm of 2."""
    w = parameter([0.0], [0.5 * n])
    Trainer({"w": w}, "sgd", lr=1.0, clip_norm=1.0).step(n)
    assert w.data[0] == -0.5


def test_three_steps_of_adam_count_from_one():
    w, m, v, value = parameter([1.0]), 0.0, 0.0, 1.0
    trainer = Trainer({"w": w}, "adam", lr=0.1)
    for t, g in enumerate([0.5, -2.0, 0.25], 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
        w.grad = np.array([g], np.float32)
        trainer.step(1)
        assert w.data[0] == pytest.approx(value, rel=1e-5)


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


def test_a_rate_is_set_without_the_schedule_and_may_be_zero():
    w = parameter([0.0], [1.0])
    schedule = make_schedule(("step", {"every": 1, "factor": 0.5}))
    trainer = Trainer({"w": w}, "sgd", lr=1.0, schedule=schedule)
    trainer.step(1)
    for value, rate, moved in ((8.0, 4.0, -5.0), (0, 0.0, -5.0), (0.8, 0.1, -5.1)):
        trainer.lr = value
        assert trainer.lr == pytest.approx(rate)
        trainer.step(1)
        assert w.data[0] == pytest.approx(moved)


def test_a_parameter_without_a_gradient_stays():
    w, v = parameter([1.0], [1.0]), parameter([1.0])
    Trainer({"w": w, "v": v}, "adam", lr=0.1, weight_decay=1.0).step(1)
    assert v.data[0] == 1.0


def test_the_parameters_of_a_trainer_stay_the_ones_it_was_made_with():
    w = parameter([1.0], [1.0])
    given = {"w": w}
    trainer = Trainer(given, "adam", lr=0.1)
    given["v"] = parameter([1.0], [1.0])
    trainer.step(1)
    assert trainer.parameters == {"w": w} and given["v"].data[0] == 1.0


def test_step_without_backward():
    with pytest.raises(TrainingError, match=r"step\(3\).*loss.backward\(\)"):
        Trainer({"w": parameter([1.0])}, "sgd", lr=0.1).step(3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_gradients_change_nothing(bad):
    w = parameter([1.0, 2.0], [1.0, 1.0])
    table, unused = parameter(np.ones((3, 2))), parameter([1.0])
    table.grad = RowSparse(np.array([1]), np.array([[0.0, bad]], np.float32))
    trainer = Trainer({"unused": unused, "w": w, "table": table}, "adagrad", lr=0.1)
    with pytest.raises(TrainingError) as error:
        trainer.step(1)
    found = f"step 0: the gradient norm is {bad} (table: 1 of 2 not finite). The parameters are "
    assert str(error.value).startswith(found)
    np.testing.assert_array_equal(w.data, [1.0, 2.0])
    assert trainer.n_steps == 0


def test_a_step_that_fails_is_told_by_its_number_and_every_parameter_that_is_to_blame():
    w, v = parameter([1.0, 2.0], [1.0, 1.0]), parameter(np.ones((2, 3)), np.ones((2, 3)))
    trainer = Trainer({"w": w, "v": v}, "adam", lr=0.1)
    trainer.step(1)
    trainer.step(1)
    w.grad[1], v.grad[:, :2] = np.nan, np.inf
    with pytest.raises(TrainingError, match=r"step 2: .* \(w: 1 of 2; v: 4 of 6 not finite\)"):
        trainer.step(1)
    w.grad[:], v.grad[:] = 0, 0
    w.grad[0] = 3e15
    what = r"step 2: the gradient norm is 1\.5e\+15; .* at most 1e\+15 in float32"
    with pytest.raises(TrainingError, match=what):
        trainer.step(2)
    trainer.lr = 3e38
    v.lr_mult = w.lr_mult = 1.1
    with pytest.raises(TrainingError, match=r"step 2: the numbers .* a learning rate of 3\.3e\+38"):
        trainer.step(2)
    assert repr(trainer) == (
        "Trainer(adam, lr 3e+38, beta1 0.9, beta2 0.999, eps 1e-08; parameters w, v; step 2)"
    )


NO_NUMBERS = [float("nan"), float("inf"), -1, "1", True, None, [1], 1e39]


@pytest.mark.parametrize(
    ("optimizer", "name", "given"),
    [
        *(("sgd", name, v) for name in ("lr", "weight_decay") for v in NO_NUMBERS),
        *(("sgd", "clip_norm", v) for v in [0, *NO_NUMBERS] if v is not None),
        *(("momentum", "momentum", v) for v in [1, 1 - 1e-9, *NO_NUMBERS]),
        *(("adam", name, v) for name in ("beta1", "beta2") for v in [1, 1 - 1e-9, *NO_NUMBERS]),
        *((name, "eps", v) for name in ("adam", "adamw", "adagrad") for v in [0, 1e-45, -1]),
        *(("sgd", "schedule", v) for v in [3, None, "cosine"]),
        *((v, "optimizer", v) for v in [None, 3, "", ["sgd"], "adagrd"]),
        *(("sgd", "parameters", v) for v in [{}, [], None, {"w": 1}, parameter([1.0])]),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_by_name(optimizer, name, given):
    arguments = {"parameters": {"w": parameter([1.0])}, "optimizer": optimizer, "lr": 0.1}
    with pytest.raises(ConfigError, match=rf"{name}.*(expected|did you mean)") as error:
        Trainer(**arguments | {name: given})
    if name in ("parameters", "schedule"):
        assert str(error.value).endswith(f", given {shown(given)}")


@pytest.mark.parametrize("n", [0, -1, 10**400, *NO_NUMBERS], ids=lambda n: str(n)[:9])
def test_a_step_over_no_number_of_examples(n):
    w = parameter([1.0], [1.0])
    trainer = Trainer({"w": w}, "sgd", lr=0.1)
    with pytest.raises(TrainingError, match=r"step\(n\).*expected a finite number of 1 or more"):
        trainer.step(n)
    assert w.data[0] == 1.0 and trainer.n_steps == 0


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf, "1", None], ids=str)
def test_a_factor_that_is_none_changes_nothing(bad):
    """Of the schedule, or set on a parameter after the trainer was made."""
    w, v = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    factors = [1.0, 0.0, bad]
    trainer = Trainer({"w": w, "v": v}, "sgd", lr=0.0, schedule=lambda step: factors[step])
    trainer.step(1)
    trainer.step(1)
    with pytest.raises(TrainingError, match="schedule's factor at step 2: expected"):
        trainer.step(1)
    trainer = Trainer({"w": w, "v": v}, "sgd", lr=0.1)
    for name in ("lr_mult", "decay_mult"):
        setattr(v, name, bad)
        with pytest.raises(CavsError, match=f"{name}: expected a finite number of 0 or more"):
            trainer.step(1)
        setattr(v, name, 1.0)
    with pytest.raises(CavsError, match="lr: expected"):
        trainer.lr = bad
    assert w.data[0] == v.data[0] == 1.0 and trainer.n_steps == 0


def test_a_learning_rate_that_leaves_float32_when_corrected():
    """Adam divides it by 1 - beta1 in the first step."""
    w = parameter([1.0], [1.0])
    with pytest.raises(
        TrainingError, match=r"float32: .* rate of 3e\+38 and a weight decay of 0\. "
    ):
        Trainer({"w": w}, "adam", lr=3e38).step(1)
    with pytest.raises(TrainingError, match=r"a weight decay of 1e\+30"):  # w by 1 - lr * decay
        Trainer({"w": w}, "adamw", lr=1e30, weight_decay=1e30).step(1)
    assert w.data[0] == 1.0


# the norm of a gradient up to which each optimizer works, over how many graphs it ever is
LARGEST = {"sgd": 3e38, "momentum": 1e30, "adagrad": 1e15, "adam": 1e15, "adamw": 1e15}


@pytest.mark.parametrize("n", [1, 1000])
@pytest.mark.parametrize("name", LARGEST)
def test_a_mean_gradient_too_large_for_the_arrays_is_refused(name, n):
    """The sum over n may be larger, and what is clipped may be anything."""
    for size in (5.0 * 10.0**exponent for exponent in range(10, 35)):
        w = parameter([1.0], [size * n])
        trainer = Trainer({"w": w}, name, lr=1e-30)
        if size < LARGEST[name]:
            assert trainer.step(n) == pytest.approx(size, rel=1e-6)
            continue
        most = re.escape(f"norm is {size:.3g}; the optimizer's arrays hold what comes of at most")
        with pytest.raises(TrainingError, match=rf"{most} {re.escape(f'{LARGEST[name]:.3g}')} in"):
            trainer.step(n)
        assert Trainer({"w": w}, name, lr=1e-30, clip_norm=1.0).step(n) > LARGEST[name]


EXTREMES = st.sampled_from([0.0, 1e-30, 1e-4, 0.5, 1.0, 1e3, 1e7, 1e13, 1e18, 1e25, 3e38])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(OPTIMIZERS)), *[EXTREMES] * 5, st.booleans(), st.booleans())
def test_no_step_takes_a_parameter_or_its_state_out_of_float32(
    name, lr, decay, weight, slope, kept, by_rows, clips
):
    """Whatever its numbers, and in the steps that follow; or it says so and nothing is changed."""
    w = parameter([[weight, -weight]] * 3)
    g = np.array([[slope, slope]], "float32")
    w.grad = RowSparse(np.array([1]), g) if by_rows else g.repeat(3, axis=0)
    clip_norm = 1.0 if clips else None
    trainer = Trainer({"w": w}, name, lr=lr, weight_decay=decay, clip_norm=clip_norm)
    trainer.load_state(
        {n: np.full_like(a, kept) if a.ndim else a for n, a in trainer.state().items()}
    )
    for _ in range(4):
        before = w.data.copy(), copy.deepcopy(trainer.state())
        try:
            trainer.step(1)
        except TrainingError:
            np.testing.assert_array_equal(w.data, before[0])
            np.testing.assert_equal(trainer.state(), before[1])
            return
        assert np.isfinite(w.data).all()
        assert all(np.isfinite(array).all() for array in trainer.state().values())


def test_a_step_out_of_float32_says_what_takes_it_there():
    w = parameter([1.0, -2.0], [1.0, 1.0])
    trainer = Trainer({"w": w}, "sgd", lr=2**63, weight_decay=2**70)
    with pytest.raises(
        TrainingError,
        match=r"step 0: w would leave float32, whose largest number is 3.4e\+38: a learning rate "
        r"of 9.22e\+18, a weight decay of 1.18e\+21, values of up to 2\. The parameters "
        r"are unchanged",
    ):
        trainer.step(1)
    assert w.data.tolist() == [1.0, -2.0]


def test_what_is_clipped_may_be_as_large_as_float32_in_a_step_that_is_tried():
    w = parameter([1.0], [1e30])
    Trainer({"w": w}, "sgd", lr=1e10, clip_norm=1.0).step(1)
    assert w.data.tolist() == [-1e10]


def test_no_step_is_tried_first_where_numbers_are_usual(monkeypatch):
    """It takes several times as long as the step itself."""
    tried = []
    monkeypatch.setattr(Updates, "stay_finite", lambda self, *job: tried.append(1) or True)
    for name in OPTIMIZERS:
        w = parameter([1.0, -2.0], [1e3, 1.0])
        trainer = Trainer({"w": w}, name, lr=1.0, weight_decay=0.1)
        for _ in range(3):
            trainer.step(1)
            w.set_data([5.0, 1e11])
    assert not tried
    w.set_data([1.0, 1e13])
    trainer.step(1)
    trainer.step(1)
    assert len(tried) == 2
    w.set_data([1.0, 1.0])
    trainer.step(1)
    assert len(tried) == 2
    trainer.load_state({n: a + 1e25 if a.ndim else a for n, a in trainer.state().items()})
    trainer.step(1)
    assert len(tried) == 3


def test_a_step_gives_another_version_to_what_it_changes():
    parameters = {name: parameter([1.0], [1.0]) for name in "abc"}
    parameters |= {"still": parameter([1.0]), "frozen": parameter([1.0], [1.0], lr_mult=0.0)}
    for times, p in enumerate(parameters.values()):
        for _ in range(times):
            p.set_data([1.0])
    before = {name: p.version for name, p in parameters.items()}
    trainer = Trainer(parameters, "sgd", lr=0.1)
    for step in (1, 2, 3):
        trainer.step(1)
        changed = {name: p.version - before[name] for name, p in parameters.items()}
        assert changed == dict.fromkeys("abc", step) | {"still": 0, "frozen": 0}


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam", "adamw"])
@pytest.mark.parametrize("size", [1e-30, 1e14, 1e19, 3e38])
def test_gradients_near_the_ends_of_float32(name, size):
    """Clipped to 1 they are as good as any; without, they work or are refused, never nan."""
    w = parameter([1.0, 1.0], [size, -size])
    trainer = Trainer({"w": w}, name, lr=0.1, clip_norm=1.0)
    assert trainer.step(1) == pytest.approx(size * 2**0.5, rel=1e-6, abs=0)
    if size > 1 and name in ("sgd", "momentum"):
        np.testing.assert_allclose(w.data, [1 - 0.1 / 2**0.5, 1 + 0.1 / 2**0.5], rtol=1e-6)
    w = parameter([1.0, 1.0], [size, -size])
    trainer = Trainer({"w": w}, name, lr=1e-20)
    for _ in range(20):
        try:
            trainer.step(1)
        except TrainingError as error:
            assert "Set clip_norm" in str(error)
            assert trainer.n_steps == 0
            break
    for array in (w.data, *trainer.state().values()):
        assert np.isfinite(array).all()


def test_unknown_names():
    w = {"w": parameter([1.0])}
    with pytest.raises(
        ConfigError, match="'adagrd' is unknown; expected one of sgd, .*, adamw. Did.* 'adagrad'"
    ):
        Trainer(w, "adagrd", lr=0.1)
    with pytest.raises(ConfigError, match="does not take momentun; it takes momentum"):
        Trainer(w, "momentum", lr=0.1, momentun=0.5)


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


def test_the_arrays_of_a_state_have_the_names_of_what_they_hold():
    """Of Adam: `m` the mean of gradients, `v` that of their squares; other programs read them."""
    w = parameter([1.0, 1.0])
    trainer = Trainer({"w": w}, "adam", lr=0.1, beta1=0.9, beta2=0.99)
    w.grad = np.array([2.0, -4.0], np.float32)
    trainer.step(1)
    state = trainer.state()
    np.testing.assert_allclose(state["w.m"], [0.2, -0.4], rtol=1e-6)
    np.testing.assert_allclose(state["w.v"], [0.04, 0.16], rtol=1e-6)


def test_state_of_another_optimizer():
    w = parameter([1.0])
    state = Trainer({"w": w}, "adam", lr=0.1).state()
    with pytest.raises(CheckpointError, match=r"w\.m, w\.sum, w\.v"):
        Trainer({"w": w}, "adagrad", lr=0.1).load_state(state)


def test_state_of_another_shape_is_refused_though_it_has_as_many_elements():
    w = parameter(np.ones((2, 3)))
    state = Trainer({"w": w}, "momentum", lr=0.1).state()
    for shape in ((3, 2), (6,), (1, 2, 3)):
        with pytest.raises(CheckpointError, match=r"does not fit: w\.velocity is missing"):
            other = state | {"w.velocity": state["w.velocity"].reshape(shape)}
            Trainer({"w": w}, "momentum", lr=0.1).load_state(other)
    for other in (state | {"x": state["n_steps"]}, {"n_steps": state["n_steps"]}):
        name = "x" if "x" in other else r"w\.velocity"
        with pytest.raises(CheckpointError, match=f"does not fit: {name} is missing"):
            Trainer({"w": w}, "momentum", lr=0.1).load_state(other)


def test_a_copy_of_a_trainer_holds_its_parameters_and_memory_that_kernels_can_use(
    tmp_path, monkeypatch
):
    """Whoever reads the copied parameters waits for the copy; kernels go where they went before."""
    monkeypatch.setenv("TVM_CAVS_CACHE", str(tmp_path / "usual"))
    w = parameter(np.ones((2, 3)), np.ones((2, 3)))
    trainer = Trainer({"w": w}, "adam", lr=0.1, cache=tmp_path / "mine")
    trainer.step(1)
    for again in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        held = again.parameters["w"].changed_by
        assert held is not w.changed_by and held is not ANYONE
        assert w.changed_by is trainer.parameters["w"].changed_by
        for name, array in again.state().items():
            np.testing.assert_array_equal(array, trainer.state()[name])
            assert array is not trainer.state()[name] and array.flags.writeable
            assert name == "n_steps" or array.ctypes.data % 64 == 0
        again.parameters["w"].grad = np.ones((2, 3), np.float32)
        again.step(1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
