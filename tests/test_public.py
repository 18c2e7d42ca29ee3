"""The names of the package: there before they are loaded, and what is said where one cannot be."""

from typing import Any

import pytest

import tvm_cavs as cavs


def test_names_are_listed_before_they_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cavs, "Trainer", raising=False)
    assert {"Trainer", "Graph", "data", "__version__"} <= set(dir(cavs))
    assert cavs.Trainer.__name__ == "Trainer"


@pytest.mark.parametrize(
    ("absent", "said"), [("safetensors", "train"), ("another", "^no another$")]
)
def test_only_the_package_that_a_deployed_model_lacks_has_a_remedy(
    absent: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError(f"no {absent}", name=absent)

    monkeypatch.delattr(cavs, "Trainer", raising=False)
    monkeypatch.setattr(cavs, "_import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=said) as error:
        _ = cavs.Trainer
    assert error.value.name == absent


class Pair(cavs.VertexFunction):
    """A vertex function that keeps what it sees."""

    def __init__(self) -> None:
        self.state = {"h": 4, "c": 2}
        self.W = cavs.Parameter((3, 4))
        self.seen: list[Any] = []

    def forward(self, v: cavs.Vertex) -> None:
        state = v.gather(0)
        h = cavs.tanh(v.pull("x", (3,)) @ self.W) + state.h
        self.seen[:] = v, state, h, self.W
        v.scatter(h=h, c=state.c)
        v.push("out", h)


def test_everything_a_user_holds_says_what_it_is() -> None:
    function = Pair()
    net = cavs.Network(function)
    net.initialize(seed=0)
    net.hybridize("reference")
    graph = cavs.Graph.from_children([[], [0]], {"x": [[1.0, 2.0, 3.0], None]})
    net(graph)
    dataset = cavs.data.Dataset.from_graphs([graph] * 9)
    shown = {
        graph: "Graph(1 graphs, 2 vertices, 1 edges, levels 0..1, arity 1; "
        "x: float32[3] at 1 of 2)",
        graph.inputs["x"]: "Field(float32[3] at 1 of 2)",
        dataset: "Dataset(dataset: 9 graphs, 18 vertices, inputs x)",
        cavs.data.Loader(dataset, 2, 7): f"Loader({dataset}, batches of 2 graphs and 7 vertices at "
        "most, epoch 0)",
        cavs.data.Loader(dataset, 2): f"Loader({dataset}, batches of 2 graphs at most, epoch 0)",
        cavs.data.Vocab(("<unk>", *"abcde")): "Vocab(6 tokens: <unk>, a, b, c, d, e)",
        cavs.data.Vocab(("<unk>", *"abcdef")): "Vocab(7 tokens: <unk>, a, b, c, d, e, ...)",
        function: "Pair(arity 2, state {'h': 4, 'c': 2})",
        net: f"Network({function}, parameters W (12 numbers), executor reference)",
        cavs.Trainer(net.parameters(), "momentum", lr=0.5): "Trainer(momentum, lr 0.5, "
        "momentum 0.9; parameters W; step 0)",
    }
    assert {repr(each): text for each, text in shown.items()} == {t: t for t in shown.values()}
    assert [repr(each) for each in function.seen] == [
        f"Vertex(of {function})",
        "State(h: float32[4], c: float32[2])",
        "Value(%6 = add(%5, %1) : float32[4])",
        "Value(%0 = param(name=W) : float32[3x4] per net)",
    ]
    net.hybridize(target="host", threads=1)
    assert repr(net).endswith(", executor tvm, target='host', threads=1)")


class Bare(cavs.VertexFunction):
    """It says nothing of itself."""


def test_a_vertex_function_without_a_state_can_be_shown() -> None:
    assert repr(Bare()) == "Bare(arity 2, state None)"
    assert repr(cavs.Network(Bare())) == (
        "Network(Bare(arity 2, state None), parameters none (0 numbers), executor tvm)"
    )


def test_a_network_says_all_its_parameters_and_how_many_numbers_they_are() -> None:
    function = Bare()
    function.A, function.B = cavs.Parameter((70, 20)), cavs.Parameter((9,))  # type: ignore[attr-defined]
    assert "Bare(arity 2, state None), parameters A, B (1,409 numbers), " in repr(
        cavs.Network(function)
    )


@pytest.mark.parametrize("name", ["Trainr", "loss_"])
def test_a_name_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(AttributeError, match=f"^module 'tvm_cavs' has no attribute '{name}'$"):
        getattr(cavs, name)
