"""Parameters of a loaded model: what they are, and that others take their place, all or none."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.functions import Linear
from helpers.random_graphs import random_dag, random_tree
from tvm_cavs.deploy import Model, digest, load
from tvm_cavs.deploy.restoring import from_data
from tvm_cavs.errors import DeployError, ShapeError

pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def linear(cache, tmp_path_factory) -> tuple[cavs.Network, Path]:
    """A network whose products and sums read what parameters alone make, without backward pass."""
    net = cavs.Network(Linear())
    net.initialize(seed=4)
    net.hybridize("tvm", threads=1, cache=cache, records=False)
    folder = tmp_path_factory.mktemp("exports") / "out"
    net.export(folder)
    return net, folder


@pytest.fixture
def model(linear) -> Model:
    return load(linear[1])


def graphs() -> list[cavs.Graph]:
    rng = np.random.default_rng(0)
    return [make(rng, 2) for make in (random_tree, random_dag) * 4]


def drawn(net: cavs.Network, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=p.shape) for name, p in net.parameters().items()}
    return {name: values.astype("float32") for name, values in made.items()}


def test_answers_are_those_of_the_network_with_the_same_parameters(linear, model):
    """To the last bit: packed weights, and what NumPy makes of parameters, are made anew."""
    net, _ = linear
    batch = cavs.batch(graphs())
    for seed in (1, 2, 1):
        values = drawn(net, seed)
        model.set_parameters(values)
        for name, p in net.parameters().items():
            p.set_data(values[name])
        np.testing.assert_array_equal(model(batch)["score"], net(batch)["score"])


def test_what_is_shown_and_what_is_given_belong_to_the_caller(linear, model):
    values = drawn(linear[0], 3)
    model.set_parameters(values)
    before, kept = model.parameters, {name: array.copy() for name, array in values.items()}
    answer = model(graphs())["score"]
    for array in values.values():
        array.fill(7)
    np.testing.assert_array_equal(model(graphs())["score"], answer)
    with pytest.raises(ValueError, match="read-only"):
        before["U"][...] = 1
    model.set_parameters({"b": [5, 6]})
    for name, array in before.items():
        np.testing.assert_array_equal(array, kept[name])
    found = model.parameters
    assert found["b"].tolist() == [5.0, 6.0] and found["b"].dtype == "float32"
    np.testing.assert_array_equal(found["U"], kept["U"])


def test_what_does_not_fit_changes_nothing(model):
    before, answer = model.parameters, model(graphs())["score"]
    wrong = {"b": [1.0, np.nan], "U": np.ones((2, 3)), "V": [1.0], "W": [["a", "b"]] * 2}
    with pytest.raises(ShapeError) as refused:
        model.set_parameters({**wrong, 5: 5})
    for words in (
        r"nothing has changed",
        r"parameter b: expected finite numbers, given nan at (1,)",
        r"parameter U: expected shape (2, 2), given (2, 3)",
        r"no parameter is called 'V'; there are U, W, b",
        r"no parameter is called 5; there are U, W, b",
        r"parameter W: expected integers or floats",
    ):
        assert words in str(refused.value)
    for right in ({"W": np.ones((2, 2)), "b": [7.0]}, {"b": [7.0, 8.0], "W": [1.0]}):
        with pytest.raises(ShapeError, match="nothing has changed"):
            model.set_parameters(right)
    with pytest.raises(ShapeError, match=r"values by the names of parameters, given \[1\.0\]$"):
        model.set_parameters([1.0])
    np.testing.assert_array_equal(model(graphs())["score"], answer)
    assert all(model.parameters[name].tobytes() == before[name].tobytes() for name in before)


def test_an_arena_keeps_the_parameters_that_it_began_with(linear, model):
    """What runs there goes on as it began; a new one has the new parameters."""
    batch = cavs.batch(graphs())

    def run(arena):
        part, rows = model.part(batch, arena)
        joined = arena.join(part)
        while not joined.is_done:
            arena.step()
        return model.outputs_of(arena, joined, rows)["score"]

    old, before = model.arena(200), model(batch)["score"]
    model.set_parameters(drawn(linear[0], 9))
    np.testing.assert_array_equal(run(old), before)
    np.testing.assert_array_equal(run(model.arena(200)), model(batch)["score"])


def test_an_older_export_answers_and_keeps_its_parameters(linear, tmp_path):
    """It stored what is made of parameters, and not how."""
    net, folder = linear
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    program = json.loads((tmp_path / "program.json").read_text())
    del program["net_values"]
    (tmp_path / "program.json").write_text(json.dumps(program))
    manifest = json.loads((tmp_path / "manifest.yaml").read_text())
    del manifest["backward"]
    manifest["files"]["program.json"]["sha256"] = digest(tmp_path / "program.json")
    (tmp_path / "manifest.yaml").write_text(json.dumps(manifest))
    model = load(tmp_path)
    np.testing.assert_array_equal(model(graphs())["score"], load(folder)(graphs())["score"])
    with pytest.raises(DeployError, match="stored what it computes of its parameters.*again"):
        model.set_parameters({"b": [1.0, 2.0]})
    with pytest.raises(DeployError, match="^Linear was exported without its backward pass"):
        model.vjp(graphs())


def test_an_op_of_the_exporters_own(linear):
    """The model answers, and says what it cannot compute when that is asked for."""
    program = json.loads((linear[1] / "program.json").read_text())
    lines = [line for v in program["net_values"] for line in v["value"] if "op" in line]
    assert lines
    for line in lines:
        line["op"] = "novel"
    read = from_data(program, lambda symbol: symbol)
    with pytest.raises(DeployError, match="op 'novel', which the model computes of its parameters"):
        read.executable.net_values[0].value.value(lambda leaf: np.ones((2, 2), "float32"))
