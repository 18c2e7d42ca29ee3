"""Gradients of an exported model: the bits of training's executor, without compiler or language."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers import functions
from helpers.gradient_check import dense
from helpers.law import TOLERANCE
from helpers.locks import fork_beside, locks_of
from helpers.paths import ROOT
from helpers.random_graphs import N_CLASSES, N_WORDS, random_chain, random_dag, random_tree
from helpers.targets import X86
from tvm_cavs.compiler import Compiler
from tvm_cavs.data import to_json
from tvm_cavs.deploy import Model, load, to_data
from tvm_cavs.deploy.restoring import _adds, from_data
from tvm_cavs.errors import DeployError, GraphError, OutOfMemoryError, ShapeError
from tvm_cavs.executors import Exportable, Seeds, exporting, factory
from tvm_cavs.runtime import Area, BufferId, Role, Workspace
from tvm_cavs.transform import SEED, seeded

pytestmark = pytest.mark.compiles

MAKERS = {
    "table, dropout": lambda: cavs.nn.TreeLSTM(N_WORDS, 6, 8, N_CLASSES, dropout=0.3),
    "two outputs, inputs that may be absent": functions.Attention,
    "matrices that parameters make": functions.Linear,
    "gradients of two stages": functions.EachStage,
}
TABLE = "table, dropout"


class Exported(NamedTuple):
    """A network, the folder that it was exported to with its backward pass, and that loaded."""

    net: cavs.Network
    folder: Path
    model: Model


def network(function: cavs.VertexFunction, cache: Path) -> cavs.Network:
    net = cavs.Network(function)
    net.initialize(seed=4)
    rng = np.random.default_rng(5)
    for p in net.parameters().values():
        p.set_data(rng.normal(0, 0.5, p.shape))
    net.hybridize("tvm", threads=1, cache=cache, records=False)
    return net


@pytest.fixture(scope="module")
def exported(cache, tmp_path_factory):
    """Makes each once, when it is asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            net = network(MAKERS[name](), cache)
            folder = tmp_path_factory.mktemp("exports") / "out"
            net.export(folder, backward=True)
            made[name] = Exported(net, folder, load(folder))
        return made[name]

    return get


@pytest.fixture
def tree(exported) -> Exported:
    return exported(TABLE)


def some_graphs(n: int) -> list[cavs.Graph]:
    """Trees, DAGs with several parents, a chain; with absent inputs and empty slots."""
    rng = np.random.default_rng(n)
    makers = [lambda: random_tree(rng, 2, 9), lambda: random_dag(rng, 2, 8)]
    return [makers[i % 2]() for i in range(n - 1)] + [random_chain(rng, 30)]


def seeds_for(outputs: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=x.shape).astype("float32") for name, x in outputs.items()}


def of_executor(net: cavs.Network, graph: cavs.Graph, seeds: dict[str, Any], **options: Any):
    """Outputs and gradients as an executor of training's process computes them."""
    name = options.pop("name", "tvm")
    executor = factory(name)(seeded(net.programs()), net.parameters(), **options)
    given = {SEED + output: values for output, values in seeds.items()}
    outputs = executor.forward(graph.with_inputs({**graph.inputs, **given}), Seeds()).outputs
    return outputs, executor.backward()


def same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Equal to the last bit, rows in the same order."""
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        given = found[name]
        assert type(given) is type(wanted), name
        if isinstance(wanted, cavs.RowSparse):
            assert given.rows.tolist() == wanted.rows.tolist()
            given, wanted = given.values, wanted.values
        assert given.dtype == "float32" and given.tobytes() == wanted.tobytes(), name


def near(found: Mapping[str, Any], expected: Mapping[str, Any], net: cavs.Network) -> None:
    for name, p in net.parameters().items():
        given, wanted = dense(found[name], p.shape), dense(expected[name], p.shape)
        scale = max(1.0, float(np.abs(wanted).max()))
        np.testing.assert_allclose(given, wanted, rtol=0, atol=TOLERANCE * scale, err_msg=name)


@pytest.mark.parametrize("name", MAKERS)
def test_the_law(name, exported, cache):
    """The bits of training's executor, for batches that read weights directly and packed ones; the
    reference's numbers, one vertex at a time.
    """
    net, _, model = exported(name)
    for n in (12, 90):  # more vertices than are read directly
        graph = cavs.batch(some_graphs(n))
        outputs, pullback = model.vjp(graph)
        seeds = seeds_for(outputs)
        options = {"threads": 1, "cache": cache, "records": False}
        wanted, gradients = of_executor(net, graph, seeds, **options)
        same(outputs, wanted)
        found = pullback(seeds)
        same(found, gradients)
        if n == 12:
            near(found, of_executor(net, graph, seeds, name="reference")[1], net)


class Weighted(cavs.loss.LossFunction):
    """A sum of scores with weights, which are the gradient of the scores."""

    def forward(self, v: cavs.Vertex) -> None:
        v.push("loss", v.output("score") * v.pull("weight", (), "float32"))


@pytest.mark.parametrize("name", ["matrices that parameters make", "gradients of two stages"])
def test_what_training_leaves_in_its_parameters(name, exported):
    """The same bits."""
    net, _, model = exported(name)
    graph = cavs.batch(some_graphs(20))
    outputs, pullback = model.vjp(graph)
    seeds = seeds_for(outputs)
    with cavs.record():
        loss = Weighted()(net(graph.with_inputs({**graph.inputs, "weight": seeds["score"]})))
    loss.backward()
    same(pullback(seeds), {name: p.grad for name, p in net.parameters().items()})


def test_a_loss_of_training(cache, exported):
    """Where nothing is dropped, gradients of logits by hand lead to those of the loss itself."""
    net, _, model = exported(TABLE)
    plain = network(cavs.nn.TreeLSTM(N_WORDS, 6, 8, N_CLASSES), cache)
    graph = cavs.batch(some_graphs(20))
    with cavs.record():
        loss = cavs.loss.SoftmaxCrossEntropy()(plain(graph))
    loss.backward()
    outputs, pullback = model.vjp(graph)
    field = graph.inputs["label"]
    e = np.exp(outputs["logits"] - outputs["logits"].max(1, keepdims=True))
    d_logits = e / e.sum(1, keepdims=True) - np.eye(N_CLASSES)[field.values]
    d_logits[~field.present] = 0
    near(pullback({"logits": d_logits}), {k: p.grad for k, p in plain.parameters().items()}, net)


def test_a_process_without_compiler_and_language_learns(tree, tmp_path):
    """Steps of gradient descent in NumPy, whose loss falls; training's process gets the same."""
    net, folder, model = tree
    graphs = some_graphs(6)
    (tmp_path / "in.jsonl").write_text("\n".join(to_json(graph) for graph in graphs))
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        rest = name.partition("tvm_cavs.")[2].partition(".")[0]
        if name.split(".")[0] in ("tvm", "schedules", "safetensors", "pydantic", "yaml"):
            raise ImportError(name)
        if rest in ("language", "transform", "compiler", "executors", "nn", "training"):
            raise ImportError(name)
sys.meta_path.insert(0, Hidden())
import numpy as np
from tvm_cavs.deploy import load
from tvm_cavs.data import read_graphs
model = load({str(folder)!r})
lines = open("in.jsonl").read().splitlines()
graphs = list(read_graphs("in.jsonl", enumerate(lines, 1), {{"word": "integers"}}))
losses = []
for step in range(4):
    outputs, pullback = model.vjp(graphs)
    losses.append(float((outputs["logits"] ** 2).sum()))
    new = {{name: p.copy() for name, p in model.parameters.items()}}
    for name, g in pullback({{"logits": 2 * outputs["logits"]}}).items():
        if isinstance(g, np.ndarray):
            new[name] -= np.float32(0.001) * g
        else:
            new[name][g.rows] -= np.float32(0.001) * g.values
    model.set_parameters(new)
assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0], losses
np.savez("out.npz", **new)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    learned = np.load(tmp_path / "out.npz")
    moved = load(folder)
    moved.set_parameters(learned)
    assert not np.array_equal(moved(graphs)["logits"], model(graphs)["logits"])
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    try:
        for name, p in net.parameters().items():
            p.set_data(learned[name])
        same(moved(graphs), net(cavs.batch(graphs)))
    finally:
        for name, p in net.parameters().items():
            p.set_data(before[name])


def test_a_pullback_is_called_again(tree):
    """It is linear, and what it gave stays the caller's own."""
    outputs, pullback = tree.model.vjp(some_graphs(8))
    assert repr(pullback) == f"<pullback of {len(outputs['logits'])} vertices>"
    one, other = seeds_for(outputs, 1), seeds_for(outputs, 2)
    first = pullback(one)
    kept = {name: dense(g, tree.model.parameters[name].shape).copy() for name, g in first.items()}
    second = pullback(other)
    for g in second.values():
        (g.values if isinstance(g, cavs.RowSparse) else g).fill(np.nan)
    for name, g in first.items():
        np.testing.assert_array_equal(dense(g, kept[name].shape), kept[name])
    same(pullback(one), first)
    total = pullback({"logits": one["logits"] + other["logits"]})
    apart = pullback(other)
    summed = {name: kept[name] + dense(apart[name], kept[name].shape) for name in kept}
    near(total, summed, tree.net)


def test_outputs_that_are_left_out_count_as_zeros(exported):
    model = exported("two outputs, inputs that may be absent").model
    outputs, pullback = model.vjp(some_graphs(8))
    seeds = seeds_for(outputs)
    zeros = np.zeros_like(outputs["score"])
    with pytest.raises(ShapeError, match="; there are prediction, score$"):
        pullback({"loss": 1})
    pullback(seeds)  # what an earlier call gave is gone
    same(pullback({"prediction": seeds["prediction"]}), pullback(seeds | {"score": zeros}))
    for gradient in pullback({}).values():
        assert not gradient.any()


def test_what_does_not_fit_is_named(tree):
    outputs, pullback = tree.model.vjp(some_graphs(3))
    n = len(outputs["logits"])
    with pytest.raises(ShapeError, match=r"no output .* called 'logit'; there are logits$"):
        pullback({"logit": outputs["logits"]})
    words = rf"gradient of output logits: expected shape \({n}, 3\), given \({n}, 2\)"
    with pytest.raises(ShapeError, match=words):
        pullback({"logits": outputs["logits"][:, :2]})
    with pytest.raises(ShapeError, match=rf"expected shape \({n}, 3\), given \(3, {n}\)"):
        pullback({"logits": outputs["logits"].T})
    with pytest.raises(ShapeError, match="gradients by the names of outputs, given 'logits'$"):
        pullback("logits")
    with pytest.raises(
        ShapeError, match=r"called 'logit';(.|\n)*called 'loss';(.|\n)*given \(1,\)"
    ):
        pullback({"logit": 1, "loss": 2, "logits": [0.5]})
    wide = cavs.Graph.from_children([[], [], [], [0, 1, 2]], {"word": [1, 1, 1, None]})
    with pytest.raises(GraphError, match="vertex 3 has 3 children"):
        tree.model.vjp(wide)
    pullback({"logits": outputs["logits"].tolist()})


@pytest.mark.parametrize("name", [name for name in MAKERS if not name.startswith("two outputs")])
def test_a_program_that_was_read_is_the_one_that_was_written(name):
    """Whatever it holds; nothing is compiled."""
    net = cavs.Network(MAKERS[name]())
    net.initialize(seed=4)
    exportable = Exportable(net.programs(None), net.parameters(), net.policy())
    compiler = Compiler(n_threads=1, cache=False, symbols=True, target={**X86, "mcpu": "haswell"})
    areas, fixed = set(), {}
    for program in exporting._Exported(exportable, compiler, (), True)._programs.values():
        data = json.loads(json.dumps(to_data(program)))
        again = to_data(from_data(data, lambda symbol: symbol))
        assert json.loads(json.dumps(again)) == data
        steps = [s for group in program.executable.backward for s in group.steps]
        fixed = program.executable.fixed
        for buffer, area in (add for step in steps for add in step.adds):
            areas.add(area and ("all" if area == Area.of(fixed[buffer][0]) else "some"))
    assert areas >= {None, "all"}, "gradients that a call can replace, and others"
    assert ("some" in areas) == (name == TABLE)


def test_a_program_of_before_areas_adds_where_it_cannot_replace_all():
    """Its steps say of a buffer only whether they can replace all of it."""
    ids = [BufferId(Role.GRADIENT, name) for name in "Wb"]
    wholes = {ids[0]: Area.of((2, 3))}
    step = {"adds": [[0, False], [1, False]]}
    assert _adds(step, ids, wholes) == ((ids[0], None), (ids[1], None))
    assert _adds({"adds": [[0, True]]}, ids, wholes) == ((ids[0], Area(0, 2, 0, 3)),)
    now = _adds({**step, "areas": [[0, 2, 0, 1], None]}, ids, wholes)
    assert now == ((ids[0], Area(0, 2, 0, 1)), (ids[1], None))


def test_the_manifest_says_whether_it_is_there(tree, tmp_path):
    """A folder without says how to get one with it."""
    assert tree.model.manifest["backward"] is True
    data = json.loads((tree.folder / "manifest.yaml").read_text())
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in tree.folder.iterdir():
        if path.name != "backward.json":
            (plain / path.name).write_bytes(path.read_bytes())
    del data["files"]["backward.json"]
    (plain / "manifest.yaml").write_text(json.dumps(data | {"backward": False}))
    model = load(plain)
    same(model(some_graphs(4)), tree.model(some_graphs(4)))
    with pytest.raises(
        DeployError, match=r"^TreeLSTM was .* without its backward .*DIR --backward"
    ):
        model.vjp(some_graphs(4))


def test_the_parameters_of_the_forward_pass(tree):
    """A pullback goes back with them, whatever was set since."""
    model, graphs = load(tree.folder), some_graphs(10)
    outputs, pullback = model.vjp(graphs)
    seeds = seeds_for(outputs)
    before = pullback(seeds)
    model.set_parameters({name: 0.5 * p for name, p in model.parameters.items()})
    same(pullback(seeds), before)
    assert not np.array_equal(model.vjp(graphs)[1](seeds)["U"], before["U"])


def test_threads_see_all_old_or_all_new_parameters(tree):
    model, graphs = load(tree.folder), some_graphs(8)
    choices = [model.parameters, {name: 0.5 * p for name, p in model.parameters.items()}]
    seeds, expected = {}, []
    for parameters in choices:
        model.set_parameters(parameters)
        outputs, pullback = model.vjp(graphs)
        seeds = seeds or seeds_for(outputs)
        expected.append((outputs["logits"].tobytes(), pullback(seeds)["U"].tobytes()))
    wrong: list[object] = []
    end = threading.Event()

    def learn() -> None:
        try:
            while not end.is_set():
                outputs, pullback = model.vjp(graphs)
                found = outputs["logits"].tobytes(), pullback(seeds)["U"].tobytes()
                if found not in expected:
                    wrong.append(found)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=learn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for i in range(60):
        model.set_parameters(choices[i % 2])
    end.set()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_process_goes_back(tree):
    """Though another thread held every lock when it was forked."""
    model, graphs = load(tree.folder), some_graphs(5)
    outputs, pullback = model.vjp(graphs)
    seeds = seeds_for(outputs)
    expected = pullback(seeds)
    locks = locks_of(model)
    assert {id(model._backward._lent._lock), id(model._changing)} < set(map(id, locks))

    def work() -> None:
        same(pullback(seeds), expected)
        same(model.vjp(graphs)[1](seeds), expected)
        same(model(graphs), outputs)
        model.set_parameters({"b": np.zeros(tree.net.parameters()["b"].shape)})

    fork_beside(locks, work)


def test_the_memory_limit(tree, monkeypatch):
    graphs = some_graphs(5)
    model = load(tree.folder)
    monkeypatch.setenv("TVM_CAVS_MEMORY", "2K")
    with pytest.raises(OutOfMemoryError, match="TVM_CAVS_MEMORY"):
        model.vjp(graphs)
    monkeypatch.delenv("TVM_CAVS_MEMORY")
    same(model.vjp(graphs)[0], tree.model.vjp(graphs)[0])


def test_an_interrupted_call_leaves_nothing(tree, monkeypatch):
    """Its pullback says so, and its workspace is not used again; that of one that is gone is."""
    model, graphs = load(tree.folder), some_graphs(5)
    outputs, pullback = model.vjp(graphs)
    seeds, lent = seeds_for(outputs), model._backward._lent
    expected = pullback(seeds)
    first = lent._owned[0][0]
    del pullback
    _, pullback = model.vjp(graphs)
    assert [workspace for workspace, _ in lent._owned] == [first]

    def run(self, batch, direction):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "run", run)
        with pytest.raises(KeyboardInterrupt):
            pullback(seeds)
    with pytest.raises(DeployError, match="was interrupted. Call vjp again"):
        pullback(seeds)
    del pullback
    assert not lent._owned
    same(model.vjp(graphs)[1](seeds), expected)


class Many(cavs.VertexFunction):
    """A vertex with so many inputs that not all sets of them can be compiled."""

    state = {"h": 4}
    arity = 1

    def __init__(self) -> None:
        self.W = cavs.Parameter((4, 4))

    def forward(self, v: cavs.Vertex) -> None:
        h = v.gather(0).h @ self.W
        for i in range(11):
            h = h + v.pull(f"x{i}", (4,))
        v.scatter(h=cavs.tanh(h))
        v.push("logits", h)


def chain(absent: int) -> cavs.Graph:
    rows = {f"x{i}": [None if i == absent else [0.5] * 4, [0.25] * 4] for i in range(11)}
    return cavs.Graph.from_sequence(2, rows)


def test_kinds_that_are_too_many(cache, tmp_path):
    """Those of the data go back, others are refused; gradients of outputs are no inputs there."""
    net = network(Many(), cache)
    seen = [chain(3), chain(4)]
    net.export(tmp_path / "out", seen, backward=True)
    model, graph = load(tmp_path / "out"), cavs.batch(seen)
    assert model.manifest["complete"] is False
    outputs, pullback = model.vjp(seen)
    seeds = seeds_for(outputs)
    options = {"threads": 1, "cache": cache, "records": False}
    same(pullback(seeds), of_executor(net, graph, seeds, **options)[1])
    with pytest.raises(GraphError, match="^Many was exported for the vertices .*x5") as refused:
        model.vjp(chain(6))
    assert SEED not in str(refused.value)
    net.export(tmp_path / "again", seen, backward=True)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


class OneMoves(cavs.VertexFunction):
    """Pushes what a parameter moves, and what none does."""

    arity, state = 0, {"h": 2}

    def __init__(self) -> None:
        self.w = cavs.Parameter((2,))

    def forward(self, v: cavs.Vertex) -> None:
        v.scatter(h=v.pull("x", (2,)) * self.w)
        v.push("moved", v.pull("x", (2,)) * self.w)
        v.push("still", v.pull("x", (2,)) * 3.0)


def test_a_gradient_of_what_no_parameter_moves_goes_nowhere(cache, tmp_path):
    network(OneMoves(), cache).export(tmp_path / "out", backward=True)
    graph = cavs.Graph.from_children([[], []], {"x": [[1.0, 2.0], [3.0, 4.0]]})
    _, pullback = load(tmp_path / "out").vjp(graph)
    one = np.ones((2, 2))
    assert pullback({"moved": one, "still": one})["w"].tolist() == [4.0, 6.0]
    assert pullback({"still": one})["w"].tolist() == [0.0, 0.0]


def test_an_input_of_a_reserved_name():
    class Reserved(cavs.VertexFunction):
        state = {"h": 1}

        def __init__(self) -> None:
            self.b = cavs.Parameter((1,))

        def forward(self, v: cavs.Vertex) -> None:
            v.scatter(h=v.pull(f"{SEED}logits", (1,)) + self.b)

    with pytest.raises(cavs.TraceError, match="reserved; use another"):
        cavs.Network(Reserved()).programs()
