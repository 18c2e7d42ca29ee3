"""Metrics, schedules and the trainer against plain Python, on random batches and settings."""

import math
from typing import Any

import numpy as np
import pytest

from tvm_cavs.errors import ConfigError, DataError
from tvm_cavs.graph.batching import batch
from tvm_cavs.graph.field import Field
from tvm_cavs.graph.graph import Graph
from tvm_cavs.language.parameter import Parameter
from tvm_cavs.row_sparse import RowSparse
from tvm_cavs.training.lr_schedules import SCHEDULES, check_settings, make_schedule
from tvm_cavs.training.metrics import METRICS, Tally
from tvm_cavs.training.trainer import Trainer

SEEDS = range(6)


def random_tree(rng: np.random.Generator, label: Any) -> Graph:
    """Some vertices with a label and some without; `label(n)`: those of n vertices."""
    n = int(rng.integers(1, 7))
    children = [[v - 1] if v and rng.random() < 0.7 else [] for v in range(n)]
    present = rng.random(n) < 0.7
    present[rng.integers(n)] = True
    return Graph.from_children(children, {"y": Field(label(n), present)})


def counted_slowly(name: str, graph: Graph, outputs: np.ndarray) -> tuple[float, int]:
    """The total and the count of one metric, a vertex at a time."""
    total, count, plain = 0.0, 0, name.removeprefix("root_")
    for v in range(graph.n_vertices):
        field = graph.inputs["y"]
        is_root = v not in graph.child.tolist()
        if not field.present[v] or (name.startswith("root_") and not is_root):
            continue
        label, output = field.values[v], outputs[v].astype("float64")
        if plain == "accuracy":
            total, count = total + (int(np.argmax(output)) == label), count + 1
        elif plain == "binary_accuracy":
            if label != 2:
                p = np.exp(output) / np.exp(output).sum()
                total, count = total + ((p[3] + p[4] > p[0] + p[1]) == (label > 2)), count + 1
        elif plain == "mse":
            total, count = total + float(((output - label) ** 2).sum()), count + label.size
        else:
            total += int(((output > 0) == (label == 1)).sum())
            count += label.size
    return total, count


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", SEEDS)
def test_metrics(name: str, seed: int) -> None:
    rng, metric = np.random.default_rng(seed), METRICS[name]
    width = 5 if metric.learns == "classes" else int(rng.integers(1, 4))
    labels = {
        "classes": lambda n: rng.integers(0, 5, n).astype("int32"),
        "numbers": lambda n: rng.normal(size=(n, width)).astype("float32"),
        "answers": lambda n: rng.integers(0, 2, (n, width)).astype("float32"),
    }[metric.learns]
    tally, total, count, n_graphs = Tally((name,)), 0.0, 0, 0
    for _ in range(4):
        graph = batch([random_tree(rng, labels) for _ in range(3)])
        outputs = rng.normal(size=(graph.n_vertices, width)).astype("float32")
        tally.add(outputs, graph, "y")
        more, n = counted_slowly(name, graph, outputs)
        total, count, n_graphs = total + more, count + n, n_graphs + 3
    assert tally.counts[name] == count and tally.n_graphs == n_graphs
    assert tally.totals[name] == pytest.approx(total, rel=1e-6)
    assert tally.values()[name] == pytest.approx(total / count, rel=1e-6)
    assert metric.larger_is_better == ("mse" not in name)


@pytest.mark.parametrize("name", METRICS)
def test_a_label_counts_only_where_it_is_present_and_the_metric_looks(name: str) -> None:
    """One that training would refuse is refused where it counts, and passed over elsewhere."""
    is_class = METRICS[name].learns == "classes"
    for bad in (-1, 5) if is_class else (math.nan, math.inf):
        for v, present in ((1, True), (0, True), (1, False)):
            values = np.array([1, 1], "int32") if is_class else np.ones((2, 1), "float32")
            values[v] = bad
            field = Field(values, np.array([present or v != 0, present or v != 1]))
            graph = batch([Graph.from_sequence(1, {"y": values[1 - v : 2 - v]})] * 3)
            tally, width = Tally((name,)), 5 if is_class else 1
            tally.add(np.zeros((3, width), "float32"), graph, "y")
            chain = batch([Graph.from_children([[], [0]], {"y": field})])
            counts = present and (v == 1 or not METRICS[name].roots_only)
            if not counts:
                tally.add(np.zeros((2, width), "float32"), chain, "y")
                continue
            with pytest.raises(DataError, match=f"{name}: graph 3, vertex {v}: 'y' is .*expected"):
                tally.add(np.zeros((2, width), "float32"), chain, "y")


def test_schedules() -> None:
    for step in range(60):
        assert SCHEDULES["constant"](step) == 1.0
        for n in (1, 7, 50):
            assert SCHEDULES["step"](step, every=n) == 0.5 ** (step // n)
            assert SCHEDULES["step"](step, every=n, factor=0.25) == 0.25 ** (step // n)
            assert SCHEDULES["warmup"](step, n_steps=n) == min(1.0, (step + 1) / n)
            for floor in (None, 0.0, 0.2, 1.0):
                low, given = floor or 0.0, {} if floor is None else {"floor": floor}
                wave = (1 + math.cos(math.pi * step / n)) / 2 if step < n else 0.0
                found = SCHEDULES["cosine"](step, n_steps=n, **given)
                assert found == pytest.approx(low + (1 - low) * wave, abs=1e-12)
    rows = ("step", {"every": 3}), ("warmup", {"n_steps": 5}), ("cosine", {"n_steps": 9})
    for step in range(12):
        each = [SCHEDULES[name](step, **settings) for name, settings in rows]
        assert make_schedule(*rows)(step) == pytest.approx(math.prod(each), abs=1e-15)


SETTINGS: list[tuple[str, dict[str, Any], bool]] = [  # a schedule, its settings, whether they work
    *(("step", {"every": n}, n >= 1) for n in (1, 5, 0.5, 0, -1)),
    *(("step", {"every": 1, "factor": f}, 0 < f <= 1) for f in (1, 0.5, 1e-9, 0, -0.5, 1.01)),
    *(("cosine", {"n_steps": n}, n >= 1) for n in (1, 5, 0.99, 0)),
    *(("cosine", {"n_steps": 1, "floor": f}, 0 <= f <= 1) for f in (0, 1, 0.5, -0.01, 1.01)),
    *(("warmup", {"n_steps": n}, n >= 1) for n in (1, 5, 0.5, 0)),
    ("constant", {}, True),
    ("cosine", {}, False),
    ("cosine", {"floor": 0.5}, False),
    ("warmup", {"n_steps": 1, "floor": 0.5}, False),
    ("step", {"factor": 0.5}, False),
    ("step", {"step": 1, "every": 1}, False),
]


@pytest.mark.parametrize(("name", "settings", "works"), SETTINGS, ids=str)
def test_settings_of_schedules(name: str, settings: dict[str, Any], works: bool) -> None:
    if works:
        check_settings(name, settings)
        assert 0 <= make_schedule((name, settings))(0) <= 1
        return
    with pytest.raises(ConfigError, match=name):
        make_schedule((name, settings))


def rule(name: str, w: Any, g: Any, state: list[Any], c: dict[str, Any]) -> Any:
    """One update as the papers write it, in float64; `state` changes in place."""
    if name != "adamw":
        g = g + c["decay"] * w
    if name == "sgd":
        return w - c["lr"] * g
    if name == "momentum":
        state[0] = c["momentum"] * state[0] + g
        return w - c["lr"] * state[0]
    if name == "adagrad":
        state[0] = state[0] + g * g
        return w - c["lr"] * g / (np.sqrt(state[0]) + c["eps"])
    state[0] = c["beta1"] * state[0] + (1 - c["beta1"]) * g
    state[1] = c["beta2"] * state[1] + (1 - c["beta2"]) * g * g
    m, v = state[0] / (1 - c["beta1"] ** c["t"]), state[1] / (1 - c["beta2"] ** c["t"])
    shrunk = w - (c["lr"] * c["decay"] * w if name == "adamw" else 0)
    return shrunk - c["lr"] * m / (np.sqrt(v) + c["eps"])


EXTRA = {
    "sgd": {},
    "momentum": {"momentum": 0.7},
    "adagrad": {"eps": 1e-3},
    "adam": {"beta1": 0.6, "beta2": 0.8, "eps": 1e-3},
    "adamw": {"beta1": 0.6, "beta2": 0.8, "eps": 1e-3},
}


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", EXTRA)
def test_steps_of_a_trainer(name: str, decay: float, clip: float | None) -> None:
    """Parameters with factors of their own, some frozen, at times without a gradient, and a table
    of which a batch uses some rows; the step that counts them comes back after a round trip.
    """
    rng = np.random.default_rng(len(name))
    factors = {"a": (1.0, 1.0), "b": (0.5, 2.0), "frozen": (0.0, 1.0), "t": (2.0, 0.0)}
    parameters, w, states = {}, {}, {}
    for key, (lr_mult, decay_mult) in factors.items():
        p = Parameter((4, 3), lr_mult=lr_mult, decay_mult=decay_mult)
        w[key] = rng.normal(size=(4, 3)).astype("float32").astype("float64")
        p.set_data(w[key])
        parameters[key], states[key] = p, [np.zeros((4, 3)) for _ in range(2)]

    def made() -> Trainer:
        schedule = make_schedule(("step", {"every": 2}), ("warmup", {"n_steps": 3}))
        return Trainer(parameters, name, 0.1, decay, clip, schedule, **EXTRA[name])

    trainer = made()
    for t in range(1, 7):
        n, dense, sums = int(rng.integers(1, 5)), {}, 0.0
        for key, p in parameters.items():
            p.grad = None
            if key == "b" and t == 2:
                continue
            rows = rng.permutation(4)[:2] if key == "t" else np.arange(4)
            values = rng.normal(size=(len(rows), 3)).astype("float32")
            p.grad = RowSparse(rows, values) if key == "t" else values
            dense[key] = rows, values.astype("float64")
            sums += 0.0 if key == "frozen" else float((dense[key][1] ** 2).sum())
        norm = math.sqrt(sums) / n
        scale = (clip / norm if clip is not None and norm > clip else 1.0) / n
        factor = 0.5 ** ((t - 1) // 2) * min(t / 3, 1.0)
        assert trainer.lr == pytest.approx(0.1 * factor, rel=1e-12)
        assert trainer.step(n) == pytest.approx(norm, rel=1e-5)
        for key, (rows, g) in dense.items():
            lr_mult, decay_mult = factors[key]
            if not lr_mult:
                continue
            own = {"lr": 0.1 * factor * lr_mult, "decay": decay * decay_mult, "t": t}
            held = [s[rows] for s in states[key]]
            w[key][rows] = rule(name, w[key][rows], g * scale, held, own | EXTRA[name])
            for s, h in zip(states[key], held, strict=True):
                s[rows] = h
        for key, p in parameters.items():
            np.testing.assert_allclose(p.data, w[key], rtol=2e-4, atol=2e-5, err_msg=f"{key} {t}")
        assert trainer.n_steps == t
        if t == 3:
            state, trainer = trainer.state(), made()
            trainer.load_state(state)
