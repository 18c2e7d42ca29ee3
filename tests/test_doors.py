"""What a user can hand to a public name: it is taken and right, or refused in a CavsError.

Each door is a call that works, of which one or two arguments are replaced by something odd. What
comes out is used once, so that nothing is accepted here and falls over later. In the environment,
`DOORS_EXAMPLES=20000` tries as many cases instead of the few that run every time.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tvm_cavs as cavs
from tvm_cavs.data.dataset import Dataset, build_graphs
from tvm_cavs.data.listops import generate
from tvm_cavs.data.listops_trees import listops_dataset
from tvm_cavs.data.loader import Loader
from tvm_cavs.data.ptb import parse_ptb_tree
from tvm_cavs.data.vocab import Vocab
from tvm_cavs.graph import graph as graph_module
from tvm_cavs.nn.cells import CELLS
from tvm_cavs.training.evaluation import evaluate
from tvm_cavs.training.lr_schedules import make_schedule

EXAMPLES = int(os.environ.get("DOORS_EXAMPLES", "1300"))


@dataclass(frozen=True)
class Door:
    """A call that works, and what is done with what it gives."""

    call: Callable[..., Any]
    valid: dict[str, Any]
    use: Callable[[Any], object] = field(default=repr)


def forms_of(values: list[Any]) -> list[Any]:
    """The same list as arrays of every kind that people have at hand."""
    found: list[Any] = [
        tuple(values),
        iter(values),
        {0: values},
        [values],
        np.array(values, object),
    ]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for dtype in ("int8", "uint64", ">i4", "float16", "float64", "bool", "U3", "M8[s]", "c8"):
            try:
                found.append(np.array(values).astype(dtype))
            except (ValueError, TypeError, OverflowError, RuntimeWarning):
                continue
    try:
        array = np.array(values)
    except ValueError:  # rows of several lengths
        array = np.array(values, object)
    found += [np.ma.masked_array(array), np.asfortranarray(np.stack([array, array]))]
    found += [np.repeat(array, 2)[::2], np.broadcast_to(array, (2, *array.shape))]
    return found


SCALARS: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, -(2**31), 2**63, 2**70, -(2**70)),
    *(0.0, -0.0, 0.5, 1.0, -1.5, 1e-45, 1e39, 1e400, float("nan"), float("-inf")),
    *("", "a", "0", "1", "nan", "word", "h", "\ud800", "\x00", b"1", 1j),
    *(Decimal("0.5"), Decimal("nan"), Fraction(1, 3), np.int64(1), np.float32(0.5), np.bool_(True)),
    *(np.uint64(2**63), np.array(1), np.array([1]), np.datetime64("2020"), object(), len, int),
    *([], (), {}, set(), [[]], [None], [1, None], [0, 1], [1.0, None], [[1], [2, 3]], {"h": 1}),
]


def odd_like(valid: Any) -> st.SearchStrategy[Any]:
    """Something in the place of a valid argument: a stranger, or the same in another form."""
    kinds = [st.sampled_from(SCALARS).map(copy_of)]
    if isinstance(valid, np.ndarray):
        valid = valid.tolist()
    if isinstance(valid, list):
        kinds.append(st.sampled_from(range(len(forms_of(valid)))).map(lambda i: forms_of(valid)[i]))
        if valid:
            spot = st.tuples(st.integers(0, len(valid) - 1), st.sampled_from(SCALARS))
            kinds.append(spot.map(lambda at: [*valid[: at[0]], at[1], *valid[at[0] + 1 :]]))
            kinds.append(st.integers(0, len(valid)).map(lambda n: valid[:n]))
            kinds.append(st.just([*valid, valid[-1]]))
    if isinstance(valid, dict) and valid:
        name = next(iter(valid))
        kinds.append(odd_like(valid[name]).map(lambda value: {**valid, name: value}))
        kinds.append(st.sampled_from(SCALARS[:40]).map(lambda key: {key: valid[name]}))
    if isinstance(valid, (int, float)):
        kinds.append(st.integers(-3, 9))
        kinds.append(st.floats())
    return st.one_of(kinds)


def copy_of(value: Any) -> Any:
    """A scalar that no other case has changed."""
    return copy.deepcopy(value) if isinstance(value, (list, dict, set)) else value


# --- doors


class Small(cavs.VertexFunction):
    """A vertex function whose every part can be replaced."""

    arity = 1

    def __init__(self, state: Any, width: Any, body: Callable[..., Any] | None = None) -> None:
        self.state, self.body = state, body
        self.W = cavs.Parameter((3, 2))
        self.width = width

    def forward(self, v: cavs.Vertex) -> None:
        x = v.pull("x", self.width)
        h = x @ self.W + v.gather(0).h
        if self.body is not None:
            h = h + cavs.reduce_sum(self.body(v, x, h)) * 0.5
        v.scatter(h=h)
        v.push("prediction", h)


CHAIN = cavs.Graph.from_sequence(3, {"x": np.ones((3, 3), "float32"), "target": np.ones((3, 2))})
TREE = cavs.Graph.from_children([[], [], [0, 1]], {"word": [1, 2, None], "label": [None, 0, 1]})
WORDS = cavs.Graph.from_sequence(3, {"word": [1, 2, 3], "label": [0, 1, 2]})
DATA = Dataset.from_graphs([TREE, TREE])


def in_language(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the vertex language, called while a network is traced and run once."""

    def run(**given: Any) -> Any:
        function = Small({"h": 2}, 3, lambda v, x, h: as_vector(call(v, x, h, **given)))
        return run_network(cavs.Network(function))

    return run


def as_vector(value: Any) -> Any:
    if isinstance(value, list):
        value = cavs.concat(*value)
    if value.type.dtype == "int32":
        value = cavs.one_hot(value, 3)
    size = int(np.prod(value.shape, dtype=int))
    return cavs.reshape(value, (size,))


def run_network(net: cavs.Network) -> Any:
    """Forward and backward in the reference executor."""
    net.initialize(0)
    net.hybridize(executor="reference")
    with cavs.record():
        loss = cavs.loss.SquaredError()(net(CHAIN))
    loss.backward()
    return float(loss)


def check_graph(graph: cavs.Graph) -> None:
    """Every promise holds, it prints, joins and is one of its own batch."""
    graph_module.check(graph)
    assert str(graph)
    both = cavs.batch([graph, graph])
    graph_module.check(both)
    assert both.n_graphs == 2 * graph.n_graphs
    for held in graph.inputs.values():
        assert held.values.dtype in (np.int32, np.float32) and held.present.dtype == bool
        assert len(held.values) == len(held.present) == graph.n_vertices


def check_finite(values: np.ndarray) -> None:
    assert np.isfinite(values).all()


def step_of(trainer: cavs.Trainer) -> None:
    """A step changes its parameters to finite numbers."""
    p = next(iter(trainer.parameters.values()))
    p.grad = np.ones(p.shape, "float32")
    trainer.step(1)
    assert np.isfinite(p.data).all()


def trainer(**given: Any) -> cavs.Trainer:
    p = cavs.Parameter((2, 3))
    p.name = "W"
    p.set_data(np.ones((2, 3)))
    return cavs.Trainer({"W": p}, **given)


def drawn(make: Callable[..., Any]) -> Callable[..., Any]:
    """An initialiser, asked for a parameter."""

    def run(shape: Any, **given: Any) -> Any:
        p = cavs.Parameter(shape, init=make(**given))
        function = Small({"h": 2}, 3)
        function.W = p
        net = cavs.Network(function)
        net.initialize(0)
        assert np.isfinite(p.data).all()
        return p

    return run


def setting(**given: Any) -> cavs.Parameter:
    p = cavs.Parameter((2, 3))
    p.set_data(**given)
    return p


def cell(name: str) -> Callable[..., Any]:
    def run(**given: Any) -> Any:
        net = cavs.Network(CELLS[name](**given))
        net.initialize(0)
        net.hybridize(executor="reference")
        graph = TREE if "tree" in name else WORDS
        return net(graph)["logits"]

    return run


def applied(**given: Any) -> Any:
    """A gradient given by hand, applied by a trainer."""
    p = cavs.Parameter((4, 3))
    p.set_data(np.ones((4, 3)))
    p.grad = cavs.RowSparse(**given)
    cavs.Trainer({"p": p}, "sgd", lr=1.0).step(1)
    assert np.isfinite(p.data).all()
    return p


def hybridized(**given: Any) -> Any:
    net = cavs.Network(Small({"h": 2}, 3))
    net.initialize(0)
    net.hybridize("reference", **given)
    return net(CHAIN)["prediction"]


def called(**given: Any) -> Any:
    net = cavs.Network(Small({"h": 2}, 3))
    net.initialize(0)
    net.hybridize("reference")
    return net(**given)


def evaluated(**given: Any) -> Any:
    net = cavs.Network(CELLS["tree_gru"](4, 3, 2, 3))
    net.initialize(0)
    net.hybridize("reference")
    return evaluate(net, DATA, **given)


CELL = {"vocab": 4, "embedding": 3, "hidden": 2, "n_classes": 3, "arity": 2, "dropout": 0.0}
INPUTS = {"x": [1, None, 3], "y": [[1.0, 2.0], None, [3.0, 4.0]]}
DOORS: dict[str, Door] = {
    "from_children": Door(
        cavs.Graph.from_children,
        {"children": [[], [], [0, 1]], "inputs": INPUTS, "vertex_id": [5, 6, 7]},
        check_graph,
    ),
    "from_parents": Door(
        cavs.Graph.from_parents, {"parents": [2, 2, -1], "inputs": INPUTS, "root": -1}, check_graph
    ),
    "from_edges": Door(
        cavs.Graph.from_edges,
        {"n_vertices": 3, "edges": [[2, 0], [2, 1]], "inputs": INPUTS},
        check_graph,
    ),
    "from_sequence": Door(cavs.Graph.from_sequence, {"length": 3, "inputs": INPUTS}, check_graph),
    "from_csr": Door(
        cavs.Graph.from_csr,
        {
            "child_ptr": [0, 0, 0, 2],
            "child": [0, 1],
            "inputs": INPUTS,
            "graph_ptr": [0, 3],
            "vertex_id": [5, 6, 7],
        },
        check_graph,
    ),
    "batch": Door(cavs.batch, {"graphs": [TREE, TREE]}, check_graph),
    "build_graphs": Door(
        build_graphs,
        {"children": [[[], [0]], [[]]], "inputs": {"x": [1, 2, 3]}},
        lambda graphs: [check_graph(g) for g in graphs],
    ),
    "Field": Door(
        lambda values, present: cavs.Graph.from_sequence(
            3, {"x": graph_module.Field(values, present)}
        ),
        {"values": np.ones(3, "float32"), "present": np.ones(3, bool)},
        check_graph,
    ),
    "Parameter": Door(
        cavs.Parameter, {"shape": [2, 3], "init": None, "lr_mult": 1.0, "decay_mult": 1.0}
    ),
    "set_data": Door(setting, {"values": np.ones((2, 3))}, lambda p: check_finite(p.data)),
    "Constant": Door(drawn(cavs.init.Constant), {"shape": (3, 2), "value": 0.5}),
    "Normal": Door(drawn(cavs.init.Normal), {"shape": (3, 2), "std": 0.5}),
    "Uniform": Door(drawn(cavs.init.Uniform), {"shape": (3, 2), "a": 0.5}),
    "Xavier": Door(drawn(cavs.init.Xavier), {"shape": (3, 2), "n_blocks": 1}),
    "Orthogonal": Door(drawn(cavs.init.Orthogonal), {"shape": (3, 2), "gain": 1.0, "n_blocks": 1}),
    "Array": Door(drawn(cavs.init.Array), {"shape": (3, 2), "values": np.ones((3, 2))}),
    "RowSparse": Door(applied, {"rows": np.array([1, 3]), "values": np.ones((2, 3), "float32")}),
    "VertexFunction": Door(
        lambda **given: run_network(cavs.Network(Small(**given))), {"state": {"h": 2}, "width": 3}
    ),
    "Network": Door(cavs.Network, {"function": Small({"h": 2}, 3)}, run_network),
    "hybridize": Door(hybridized, {"dtype": "float32", "sharing": None}),
    "net": Door(called, {"graph": CHAIN}),
    "Trainer": Door(
        trainer,
        {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "clip_norm": 1.0},
        step_of,
    ),
    "adam": Door(
        trainer, {"optimizer": "adam", "lr": 0.1, "beta1": 0.9, "beta2": 0.9, "eps": 1e-8}, step_of
    ),
    "adagrad": Door(trainer, {"optimizer": "adagrad", "lr": 0.1, "eps": 1e-8}, step_of),
    "make_schedule": Door(
        lambda n_steps, floor: make_schedule(("cosine", {"n_steps": n_steps, "floor": floor})),
        {"n_steps": 4, "floor": 0.1},
        lambda schedule: [schedule(step) for step in range(6)],
    ),
    "Vocab": Door(Vocab, {"tokens": ["<unk>", "a"]}, lambda v: (str(v), v.index(["a"]))),
    "Vocab.build": Door(Vocab.build, {"tokens": ["a", "b"], "min_count": 1}, str),
    "Loader": Door(
        lambda **given: Loader(DATA, **given),
        {"batch_size": 2, "vertex_budget": 6, "shuffle": True, "seed": 0},
        lambda loader: [check_graph(b) for b in loader],
    ),
    "Dataset": Door(Dataset.from_graphs, {"graphs": [TREE, TREE], "name": "d"}, str),
    "generate": Door(
        generate,
        {"n": 2, "seed": 1, "max_tokens": 9},
        lambda made: [check_graph(g) for g in listops_dataset(made)],
    ),
    "parse_ptb_tree": Door(parse_ptb_tree, {"text": "(1 (0 a) (2 b))"}, repr),
    "evaluate": Door(evaluated, {"metrics": ["accuracy"]}),
    "SquaredError": Door(
        lambda **given: cavs.loss.SquaredError(**given),
        {"output": "prediction", "label": "target"},
        lambda loss: cavs.Network(Small({"h": 2}, 3)).programs(loss),
    ),
    **{
        name: Door(cell(name), {k: v for k, v in CELL.items() if k != "arity" or "tree" in name})
        for name in CELLS
    },
}
LANGUAGE: dict[str, Door] = {
    "pull": Door(
        lambda v, x, h, name, shape, dtype: v.pull(name, shape, dtype),
        {"name": "x", "shape": (3,), "dtype": "float32"},
    ),
    "gather": Door(lambda v, x, h, slot: v.gather(slot).h, {"slot": 0}),
    "present": Door(lambda v, x, h, name: v.present(name) * x, {"name": "x"}),
    "dropout": Door(lambda v, x, h, rate: v.dropout(x, rate), {"rate": 0.5}),
    "add": Door(lambda v, x, h, other: x + other, {"other": 1.0}),
    "radd": Door(lambda v, x, h, other: other / x, {"other": 1.0}),
    "matmul": Door(lambda v, x, h, other: x @ other, {"other": 1.0}),
    "slice": Door(lambda v, x, h, a, b, c: x[a:b:c], {"a": 0, "b": 2, "c": 1}),
    "item": Door(lambda v, x, h, key: x[key], {"key": 0}),
    "split": Door(lambda v, x, h, sections: cavs.split(x, sections), {"sections": 3}),
    "reshape": Door(lambda v, x, h, shape: cavs.reshape(x, shape), {"shape": [3, 1]}),
    "concat": Door(lambda v, x, h, axis: cavs.concat(x, x, axis=axis), {"axis": 0}),
    "one_hot": Door(lambda v, x, h, depth: cavs.one_hot(cavs.argmax(x), depth), {"depth": 3}),
    "maximum": Door(lambda v, x, h, b: cavs.maximum(x, b), {"b": 0.0}),
    "where": Door(lambda v, x, h, a, b: cavs.where(x > 0, a, b), {"a": 1.0, "b": 0.0}),
    "reduce_sum": Door(lambda v, x, h, keepdims: cavs.reduce_sum(x, keepdims), {"keepdims": True}),
    "layer_norm": Door(
        lambda v, x, h, scale, shift, epsilon: cavs.layer_norm(x, scale, shift, epsilon),
        {"scale": 1.0, "shift": 0.0, "epsilon": 1e-5},
    ),
    "push": Door(lambda v, x, h, name: (v.push(name, x), x)[1], {"name": "other"}),
    "sigmoid": Door(lambda v, x, h, given: cavs.sigmoid(given) + x, {"given": 1.0}),
    "pick": Door(lambda v, x, h, index: cavs.pick(x, index) * x, {"index": 0}),
}
DOORS |= {f"v.{n}": Door(in_language(d.call), d.valid, d.use) for n, d in LANGUAGE.items()}
NOT_VALID = {"v.matmul", "v.item", "v.sigmoid", "v.pick"}  # their first argument is odd already


@pytest.mark.parametrize("name", sorted(set(DOORS) - NOT_VALID))
def test_what_works_is_taken(name: str) -> None:
    door = DOORS[name]
    door.use(door.call(**door.valid))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(DOORS)))
    valid = DOORS[name].valid
    replaced = draw(st.sets(st.sampled_from(sorted(valid)), min_size=1, max_size=2))
    return name, {**valid, **{key: draw(odd_like(valid[key])) for key in sorted(replaced)}}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=EXAMPLES <= 2000,
)
@given(cases())
def test_anything_else_is_taken_or_refused(case: tuple[str, dict[str, Any]]) -> None:
    name, given_ = case
    door = DOORS[name]
    try:
        door.use(door.call(**given_))
    except cavs.CavsError as error:
        assert len(str(error)) > 20, f"{name}: {error!r} says too little"
