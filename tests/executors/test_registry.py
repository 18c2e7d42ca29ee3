"""Executors: the registry, other packages' executors, options."""

from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from helpers.networks import network, some_graphs
from helpers.random_graphs import N_CLASSES
from tvm_cavs.errors import TargetError
from tvm_cavs.executors import registry
from tvm_cavs.executors.protocol import Result, Seeds
from tvm_cavs.graph.graph import Graph
from tvm_cavs.transform import SWITCHES, leaving_out
from tvm_cavs.transform.programs import Programs


class Doubling:
    """An executor that is not ours: every output is 2."""

    def __init__(self, programs: Programs, parameters: Any, scale: float = 2.0) -> None:
        self.names = [c["name"] for _, c in programs.forward.select("push")]
        self.scale = scale

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        return Result({n: np.full(graph.n_vertices, self.scale) for n in self.names})

    def backward(self) -> dict[str, Any]:
        return {}


def test_unknown_executors_and_options() -> None:
    net = network()
    with pytest.raises(TargetError, match="^executor 'tmv': expected one of reference, tvm$"):
        net.hybridize("tmv")
    with pytest.raises(
        TargetError, match="^executor 'reference' has no option threads; expected dtype$"
    ):
        net.hybridize("reference", threads=2)
    net.hybridize("reference", dtype="float16")
    with pytest.raises(TargetError, match="expected dtype float32 or float64, given 'float16'"):
        net(some_graphs(1)[0])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("kinds", "kind", "lazy"),
            "['kinds', 'kind', 'lazy']: there is no optimisation 'kind'",
        ),
        (["a", "b"], "['a', 'b']: there is no optimisation 'a', 'b'"),
        ("kind", "['kind']: there is no optimisation 'kind'"),
    ],
)
def test_optimisations_that_there_are_not_are_named_beside_those_that_there_are(
    names: Any, said: str
) -> None:
    with pytest.raises(TargetError) as error:
        leaving_out(names)
    assert str(error.value) == f"without={said}; expected some of {', '.join(SWITCHES)}"


def test_a_registered_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    registry.register("doubling", lambda: Doubling)
    assert "doubling" in registry.names()
    net = network()
    net.hybridize("doubling", scale=3.0)
    assert set(net(some_graphs(1)[0])["logits"].tolist()) == {3.0}
    net.hybridize("reference")
    assert net(some_graphs(1)[0])["logits"].shape == (7, N_CLASSES)


def test_the_last_executor_of_a_name_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a package may put its own in the place of one that is there."""
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    registry.register("mine", lambda: Doubling)
    registry.register("mine", lambda: registry.factory("reference"))
    assert registry.factory("mine") is registry.factory("reference")


def test_an_executor_may_take_any_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """It checks them by itself; and one that takes none is told so."""

    class Any_(Doubling):
        def __init__(self, programs: Programs, parameters: Any, **options: float) -> None:
            super().__init__(programs, parameters, sum(options.values()))

    class None_(Doubling):
        def __init__(self, programs: Programs, parameters: Any) -> None:
            super().__init__(programs, parameters)

    monkeypatch.setitem(registry._REGISTERED, "any", lambda: Any_)
    monkeypatch.setitem(registry._REGISTERED, "none", lambda: None_)
    net = network()
    net.hybridize("any", one=1.0, two=4.0)
    assert set(net(some_graphs(1)[0])["logits"].tolist()) == {5.0}
    with pytest.raises(
        TargetError, match="^executor 'none' has no option one, two; expected none$"
    ):
        net.hybridize("none", one=1.0, two=2.0)


def test_an_executor_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("theirs", f"{__name__}:Doubling", "tvm_cavs.executors")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    net = network()
    net.hybridize("theirs")
    assert set(net(some_graphs(1)[0])["logits"].tolist()) == {2.0}
    with pytest.raises(
        TargetError, match="^executor 'ours': expected one of reference, theirs, tvm$"
    ):
        net.hybridize("ours")
