"""What a network asks of its executor, call by call: of one that keeps what it was asked."""

import copy
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tvm_cavs as cavs
from helpers.networks import LOSS
from tvm_cavs import executors
from tvm_cavs.errors import TraceError
from tvm_cavs.executors import registry
from tvm_cavs.executors.protocol import Result, Seeds
from tvm_cavs.graph.graph import Graph
from tvm_cavs.graph.sharing import COPIES
from tvm_cavs.nn import network as module
from tvm_cavs.nn.loss import Loss
from tvm_cavs.nn.turn import Turn

WORD = {"word": [1, 1, 1], "label": [0, 0, 0]}
CHAIN = Graph.from_sequence(3, WORD)
EQUAL = Graph.from_children([[], [], [0, 1]], WORD)  # the first two vertices are equal


class Spy:
    """Outputs are the words; `asked` has what it was asked for, in order."""

    n_threads = 1

    def __init__(self, programs: Any, parameters: Any, option: int = 0) -> None:
        self.programs, self.option = programs, option
        self.asked: list[Any] = []

    def prepare(self, batches: Any) -> None:
        self.asked.append(("prepare", [*batches]))

    def _outputs(self, graph: Graph) -> Result:
        words = graph.inputs["word"].values.astype("float32")
        return Result({"logits": words, "loss": words, "correct": words})

    def plan(self, graph: Graph, ahead: bool = False) -> Any:
        self.asked.append(("plan", graph, ahead))
        return ("planned", graph)

    def run(self, planned: Any, seeds: Seeds) -> Result:
        self.asked.append(("run", *planned, seeds))
        return self._outputs(planned[1])

    def forward(self, graph: Graph, seeds: Seeds) -> Result:
        self.asked.append(("forward", graph, seeds))
        return self._outputs(graph)

    def backward(self) -> dict[str, np.ndarray]:
        self.asked.append(("backward",))
        return {name: np.ones(p.shape, "float32") for name, p in self.parameters.items()}

    parameters: dict[str, cavs.Parameter]


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> cavs.Network:
    monkeypatch.setitem(registry._REGISTERED, "spy", lambda: Spy)
    made = cavs.Network(cavs.nn.TreeLSTM(4, 2, 3, 2))
    made.initialize()
    made.hybridize("spy")
    return made


def spy(net: cavs.Network, loss: Any = None) -> Any:
    return net.executor(loss)


def train(net: cavs.Network, graph: Graph) -> Loss:
    spy(net, LOSS).parameters = net.parameters()
    with cavs.record():
        return LOSS(net(graph))


def test_an_executor_is_made_once_for_each_choice_and_loss(net: cavs.Network) -> None:
    first, training = spy(net), spy(net, LOSS)
    assert first is spy(net) and training is spy(net, cavs.loss.SoftmaxCrossEntropy())
    assert first.programs.adjoint is None and training.programs.adjoint is not None
    net.hybridize("spy", option=3)
    other = spy(net)
    assert other is not first and (first.option, other.option) == (0, 3)
    assert spy(net, LOSS) is not training and spy(net, LOSS).option == 3


@pytest.mark.parametrize("sharing", [True, False, None])
def test_batches_are_prepared_as_they_are_run(net: cavs.Network, sharing: bool | None) -> None:
    """In training with shared vertices they say how many each stands for."""
    net.hybridize("spy", sharing=sharing)
    net.prepare([CHAIN, EQUAL])
    net.prepare([CHAIN, EQUAL], LOSS)
    ((_, plain),), ((_, counted),) = spy(net).asked, spy(net, LOSS).asked
    assert [a is b for a, b in zip(plain, (CHAIN, EQUAL), strict=True)] == [True, True]
    counts = net.policy(LOSS) is not None
    assert counts == bool(sharing) or sharing is None
    assert [COPIES in graph.inputs for graph in counted] == [counts, counts]
    assert [graph.n_vertices for graph in counted] == [3, 2 if sharing else 3]
    train(net, EQUAL)
    _, graph, seeds = spy(net, LOSS).asked[-1]
    assert (COPIES in graph.inputs) == counts and seeds == Seeds(0, 0)


def test_what_was_shared_is_told_of_the_last_batch_alone(net: cavs.Network) -> None:
    net.hybridize("spy", sharing=True)
    outputs = net(EQUAL)
    assert str(net.last_sharing) == "2 of 3 vertices computed (67%)"
    assert spy(net).asked[-1][1].n_vertices == 2 and outputs["logits"].tolist() == [1.0, 1.0, 1.0]
    net(CHAIN)
    assert net.last_sharing is None and spy(net).asked[-1][1] is CHAIN


def test_dropout_counts_steps_of_training_and_copies_go_on(net: cavs.Network) -> None:
    net.seed(7)
    train(net, CHAIN)
    net(CHAIN)
    train(net, CHAIN)
    seeds = [call[-1] for call in spy(net, LOSS).asked]
    assert seeds == [Seeds(7, 0), Seeds(7, 1)] and spy(net).asked[-1][-1] == Seeds(7, 1)
    other = copy.deepcopy(net)
    train(other, CHAIN)
    assert (other.dropout_seed, other.step, net.step) == (7, 3, 2)
    assert spy(other, LOSS).asked[-1][-1] == Seeds(7, 2)


def test_a_plan_is_run_once(net: cavs.Network) -> None:
    """Another run of the same batch inside the loop is planned anew."""
    for graph in net.ahead([CHAIN, EQUAL]):
        net(graph)
        net(graph)
    told = [(call[0], call[1] if call[0] != "run" else call[2]) for call in spy(net).asked]
    assert told == [
        *(("plan", CHAIN), ("run", CHAIN), ("forward", CHAIN)),
        *(("plan", EQUAL), ("run", EQUAL), ("forward", EQUAL)),
    ]


@pytest.mark.parametrize(
    ("seconds", "n_cores", "ahead"),
    [(2e-3, 2, True), (0.9e-3, 2, False), (2e-3, 1, False), (2e-3, None, False)],
)
def test_long_passes_are_planned_ahead_where_a_core_is_free(
    net: cavs.Network,
    seconds: float,
    n_cores: int | None,
    ahead: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the last pass alone, however long all together have taken."""
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(module, "os", SimpleNamespace(cpu_count=lambda: n_cores))
    run = Spy.run

    def timed(self: Spy, planned: Any, seeds: Seeds) -> Result:
        now[0] += seconds
        return run(self, planned, seeds)

    monkeypatch.setattr(Spy, "run", timed)
    for graph in net.ahead([CHAIN] * 6):
        net(graph)
    plans = [call[2] for call in spy(net).asked if call[0] == "plan"]
    # the second one is begun before the first one has run
    assert plans == [False, False, *[ahead] * 4]


def test_gradients_are_those_of_the_backward_pass(net: cavs.Network) -> None:
    loss = train(net, CHAIN)
    assert (float(loss), loss.n_labels) == (3.0, 3)
    loss.backward()
    assert all((p.grad == 1.0).all() for p in net.parameters().values())  # type: ignore[union-attr]
    with net.parameters()["b"].writing() as data:
        data += 1
    with pytest.raises(TraceError, match=r"^b changed between the forward and the backward pass"):
        loss.backward()
    assert [call[0] for call in spy(net, LOSS).asked] == ["forward", "backward"]


@pytest.mark.parametrize(("label", "n"), [("", 3), ("target", 3), ("label", 2), ("word", 1)])
def test_a_loss_without_labels_counts_all_vertices(net: cavs.Network, label: str, n: int) -> None:
    class Plain(cavs.loss.LossFunction):
        def forward(self, v: cavs.Vertex) -> None:
            v.push("loss", cavs.reduce_sum(v.output("logits")))

    loss = Plain()
    loss.label = label
    graph = Graph.from_sequence(3, {"word": [1, None, None], "label": [None, 0, 1]})
    with cavs.record():
        assert loss(net(graph)).n_labels == n


def test_what_is_exported_has_data(
    net: cavs.Network, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(executors, "export", lambda *some, **_: given.append(some))
    empty = cavs.Network(cavs.nn.TreeLSTM(4, 2, 3, 2))
    with pytest.raises(TraceError, match=r"^parameter E \(4, 2\) has no data yet; call net.init"):
        empty.export(tmp_path)
    net.export(str(tmp_path), [CHAIN], backward=True)
    ((exportable, *rest),) = given
    assert exportable.programs is net.programs() and rest == [
        *(tmp_path, [CHAIN], None, False, None, True)
    ]


@pytest.mark.parametrize("change", ["set_data", "writing", "trainer"])
def test_what_has_changed_is_named_however_it_was(net: cavs.Network, change: str) -> None:
    loss, (name, p) = train(net, CHAIN), next(iter(net.parameters().items()))
    if change == "set_data":
        p.set_data(p.data + 1)
    elif change == "writing":
        with p.writing() as data:
            data += 1
    else:
        p.grad = np.ones(p.shape, "float32")
        cavs.Trainer({name: p}, "sgd", lr=1.0).step(1)
    with pytest.raises(TraceError, match=f"^{name} changed between"):
        loss.backward()


def test_all_that_have_changed_are_named_and_no_others(net: cavs.Network) -> None:
    loss, parameters = train(net, CHAIN), net.parameters()
    for name in ("b", "E"):
        parameters[name].set_data(parameters[name].data + 1)
    with pytest.raises(TraceError, match="^E, b changed between the forward and the backward pass"):
        loss.backward()
    assert list(parameters).index("E") < list(parameters).index("b")
    train(net, CHAIN).backward()


def test_a_seed_of_dropout_is_any_whole_number(net: cavs.Network) -> None:
    for seed in (-1, 0, 2**70, np.int64(3)):
        net.seed(seed)  # type: ignore[arg-type]
        assert net.dropout_seed == seed and type(net.dropout_seed) is int
    for wrong in (1.5, "1", None, True):
        with pytest.raises(
            cavs.ConfigError, match=f"^seed: expected a whole number, given {wrong!r}$"
        ):
            net.seed(wrong)  # type: ignore[arg-type]
    assert net.dropout_seed == 3


def test_a_parameter_that_changes_during_the_forward_pass_has_changed(
    net: cavs.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Spy.forward

    def changes(self: Spy, graph: Graph, seeds: Seeds) -> Result:
        with net.parameters()["U"].writing() as data:
            data += 1
        return forward(self, graph, seeds)

    monkeypatch.setattr(Spy, "forward", changes)
    with pytest.raises(TraceError, match="^U changed between"):
        train(net, CHAIN).backward()


def in_thread(work: Any) -> Any:
    """What another thread returns or raises, which is alive until it is asked to end."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except TraceError as error:
            found.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join()
    return found[0]


def test_a_forward_pass_that_fails_leaves_no_loss_that_waits() -> None:
    turn, losses = Turn(), [Loss(1.0, 1, {}, None), Loss(2.0, 1, {}, None)]
    held = turn.forward(lambda: losses[0])
    refused = in_thread(lambda: turn.forward(lambda: losses[1]))
    assert isinstance(refused, TraceError) and held is losses[0]
    assert str(refused).startswith(
        "thread 'other' trains a network that thread 'MainThread' trains: "
        "it has a loss that waits for backward(). Train in one thread"
    )

    def fails() -> Loss:
        raise ValueError("in the midst")

    with pytest.raises(ValueError, match="in the midst"):
        turn.forward(fails)
    assert in_thread(lambda: turn.forward(lambda: losses[1])) is losses[1]


def test_an_executor_is_made_when_all_parameters_have_data(net: cavs.Network) -> None:
    again = cavs.Network(cavs.nn.TreeLSTM(4, 2, 3, 2))
    again.hybridize("spy")
    for use in (lambda: again.executor(), lambda: again.executor(LOSS)):
        with pytest.raises(TraceError, match="no data yet; call net.initialize"):
            use()


def test_a_loss_is_summed_in_float64(net: cavs.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many vertices the float32 sum would lose those that are small."""
    words = np.array([2**24, 1, 1], "float32")
    monkeypatch.setattr(Spy, "_outputs", lambda *_: Result({"loss": words, "correct": words}))
    assert float(train(net, CHAIN)) == 2**24 + 2


@pytest.mark.parametrize("sharing", [True, False])
def test_a_graph_says_how_many_each_vertex_stands_for_in_training_alone(
    net: cavs.Network, sharing: bool
) -> None:
    net.hybridize("spy", sharing=sharing)
    for loss in (None, LOSS):
        run, shared = net.shared(EQUAL, loss)
        assert (shared is not None) == sharing and run.n_vertices == 3 - sharing
        assert (COPIES in run.inputs) == (sharing and loss is not None)


def test_whose_thread_ended_in_the_midst_is_followed_by_one_alone() -> None:
    """As where Ctrl-C came between the step and what ends it."""
    turn, loss, found = Turn(), Loss(1.0, 1, {}, None), []
    ended = threading.Thread(target=int)
    ended.start()
    ended.join()
    turn._running["it"] = ended

    def work() -> Loss:
        found.append(in_thread(lambda: turn.forward(lambda: loss)))
        return loss

    assert turn.forward(work) is loss
    assert isinstance(found[0], TraceError) and str(found[0]).startswith(
        "thread 'other' trains a network that thread 'MainThread' trains: "
        "it is in the midst of a step. Train in one thread"
    )
