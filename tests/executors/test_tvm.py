"""The TVM executor over several batches: memory, later kinds, parameters, interruptions."""

import platform
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from helpers import functions
from helpers.random_graphs import N_WORDS

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.law import Case, assert_batch, dense, make_case, near, run
from schedules import layout
from tvm_cavs.compiler import widening
from tvm_cavs.errors import TargetError, TraceError
from tvm_cavs.executors import loaded
from tvm_cavs.executors.protocol import Seeds
from tvm_cavs.executors.tvm import TvmExecutor
from tvm_cavs.graph.field import Field
from tvm_cavs.language.vertex import Vertex
from tvm_cavs.row_sparse import RowSparse, merge
from tvm_cavs.runtime.batch_memory import Batch
from tvm_cavs.runtime.gradients import gradient_buffer
from tvm_cavs.runtime.roles import BufferId, Role
from tvm_cavs.runtime.spaces import space_of

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("both_kinds_of_weights")]


class Small(cavs.VertexFunction):
    """Words, two products with the children's states, dropout; quick to compile."""

    arity = 2
    state = {"h": 3}

    def __init__(self) -> None:
        self.E, self.U = cavs.Parameter((N_WORDS, 3)), cavs.Parameter((6, 3))

    def forward(self, v: Vertex) -> None:
        x = v.dropout(cavs.embedding(v.pull("word"), self.E), 0.3)
        h = cavs.tanh(x + cavs.concat(v.gather(0).h, v.gather(1).h) @ self.U)
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


def small(cache: Path, n: int) -> Case:
    return make_case(Small(), functions.Score(), cache, threads=1, n=n)


def executor_of(case: Case) -> TvmExecutor:
    made = case.net.executor(case.loss)
    assert isinstance(made, TvmExecutor)
    return made


def test_how_often_outputs_were_tried_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the parameters change during each try."""
    case = small(cache, 1)
    executor, ran = case.net.executor(), 0
    assert isinstance(executor, TvmExecutor)
    execute, parameter = executor._execute, next(iter(case.net.parameters().values()))

    def change(*given: Any) -> None:
        nonlocal ran
        ran += 1
        execute(*given)
        parameter.set_data(parameter.data)

    monkeypatch.setattr(executor, "_execute", change)
    with pytest.raises(TraceError, match="^in 4 tries another thread changed parameters while"):
        case.net(case.graphs[0])
    assert ran == 4


def test_buffers_grow_and_are_used_again(cache: Path) -> None:
    case = small(cache, 12)
    assert_batch(case, range(3))
    case.net.prepare(case.graphs, case.loss)  # the larger batch brings more kinds
    assert_batch(case, range(3))
    memory = executor_of(case).workspace.memory
    before = memory.sizes()
    assert_batch(case, range(12))
    large = {name: memory.read(name) for name in memory.sizes()}
    assert memory is executor_of(case).workspace.memory
    assert all(large[name].nbytes >= before[name] for name in before)
    assert sum(a.nbytes for a in large.values()) > 1.5 * sum(before.values())
    for chosen in ([4], range(12), range(5, 9)):
        assert_batch(case, chosen)
        assert all(memory.read(name) is array for name, array in large.items())


def test_buffers_grow_for_kinds_that_are_known(cache: Path) -> None:
    net = cavs.Network(Small())
    net.initialize(seed=1)
    net.hybridize("tvm", threads=1, cache=cache, sharing=False)
    executor = net.executor()
    assert isinstance(executor, TvmExecutor)
    for n in (3, 300, 7):
        graph = cavs.Graph.from_sequence(n, {"word": [1] * n})
        executor.run(executor.plan(graph), Seeds())
        assert (
            len(executor.workspace.memory.read(BufferId(Role.STATE, "h"))) > n
        )  # and a row of zeros
    assert len(executor.workspace.memory.read(BufferId(Role.STATE, "h"))) > 300


def planned(cache: Path) -> tuple[TvmExecutor, Batch]:
    case = small(cache, 12)
    case.net.prepare(case.graphs, case.loss)
    executor = executor_of(case)
    return executor, executor.plan(cavs.batch(case.graphs))


def test_a_first_batch_takes_a_row_for_every_vertex_of_a_space_and_no_more(cache: Path) -> None:
    executor, batch = planned(cache)
    held = [b for b in executor.compiled.buffers.values() if b.id in batch.memory]
    assert {b.role for b in held} >= {Role.CHILD, Role.INDEX, Role.PARENT_SLOTS, Role.VERTEX_KEYS}
    for b in held:
        n = int(batch.counts[batch.spaces.number[space_of(b)]])
        rows = {Role.PARENT_SLOTS: 2 * n, Role.PARENT_POINTERS: n + 1}.get(b.role, n)
        assert len(batch.memory.read(b.id)) == max(1, rows), b.name


def test_products_of_neighbouring_levels_begin_at_opposite_ends_of_their_weights(
    cache: Path,
) -> None:
    """So the second finds in cache what the first has read last."""
    executor, batch = planned(cache)
    executor.run(batch, Seeds())
    seen, turns = executor.workspace.seen_by(batch), []
    for part in (part for way in ("forward", "backward") for part in batch.parts(way)):
        calls = batch.passes.calls([part], seen, batch.replaced)
        for (_, given), step in zip(calls, part.group.steps, strict=True):
            if step.kind == "product":
                turns.append((part.level, given[1]))
    assert {level % 2 for level, _ in turns} == {0, 1}
    assert all(turn % 2 == level % 2 for level, turn in turns)


def test_slices_of_both_directions_are_all_there_are(cache: Path) -> None:
    _, batch = planned(cache)
    every = batch.spaces.slices(batch.cut, batch.memory)
    ways = [batch.slices(direction) for direction in ("forward", "backward")]
    assert all(ways) and [piece.row for way in ways for piece in way] == [s.row for s in every]


class Rows(cavs.VertexFunction):
    """Rows of a table, chosen by an input of any name, and products with both children's states."""

    arity = 2
    state = {"h": 4}

    def __init__(self, name: str) -> None:
        self.name = name
        self.E, self.U = cavs.Parameter((N_WORDS, 4)), cavs.Parameter((8, 4))

    def forward(self, v: Vertex) -> None:
        children = cavs.concat(v.gather(0).h, v.gather(1).h)
        h = cavs.tanh(children @ self.U + cavs.embedding(v.pull(self.name), self.E))
        v.scatter(h=h)
        v.push("logits", h)


@pytest.mark.parametrize("name", ["slots", "pointers", "word"])
def test_an_input_may_have_any_name(name: str, cache: Path) -> None:
    """What is found for an input is not taken for what is found for edges."""
    net = cavs.Network(Rows(name))
    net.initialize(seed=1)
    inputs = {name: [3, 1, 3, 2, 4], "label": [0, 1, 2, 3, 0]}
    graph = cavs.Graph.from_children([[], [], [0, 1], [], [2, 3]], inputs)
    loss_fn, found = cavs.loss.SoftmaxCrossEntropy(), []
    for options in ({"executor": "reference"}, {"executor": "tvm", "threads": 1, "cache": cache}):
        net.hybridize(sharing=False, **options)
        with cavs.record():
            loss = loss_fn(net(graph))
        loss.backward()
        found.append(dense(net.parameters()["E"]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_kinds_of_later_batches(cache: Path) -> None:
    case = small(cache, 8)
    leaves = [i for i, g in enumerate(case.graphs) if g.n_vertices == 1]
    n_kinds = []
    for chosen in (leaves or [0], [1], [2, 3], range(8), [0]):
        assert_batch(case, chosen)
        n_kinds.append(len(executor_of(case).kinds.kinds))
    assert n_kinds == sorted(n_kinds) and n_kinds[0] < n_kinds[-1] == n_kinds[-2]


def test_more_sets_of_slots_than_are_specialised(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones run as if all children were there."""
    case = small(cache, 8)
    assert_batch(case, range(8))
    every = {k.slots for k in executor_of(case).kinds.kinds}
    assert every == {(), (0,), (1,), (0, 1)}
    monkeypatch.setattr(widening, "MAX_SLOT_SETS", 1)
    case = small(cache, 8)
    for chosen in (*([i] for i in range(8)), range(8)):
        assert_batch(case, chosen)
    found = {k.slots for k in executor_of(case).kinds.kinds}
    assert len(found) == 3 and (0, 1) in found


def lone(n: int) -> cavs.Graph:
    """Vertices without children, all of one kind."""
    return cavs.Graph.from_children([[]] * n, {"x": [[1.0, 2.0, 3.0]] * n})


def test_gradients_that_are_alike_have_memory_of_their_own(cache: Path) -> None:
    """Two biases have one sum over vertices: writing to one gradient must not change the other."""
    net = cavs.Network(functions.TwoOrOne())
    net.initialize(seed=0)
    results = []
    for name, options in (("reference", {}), ("tvm", {"threads": 1, "cache": cache})):
        net.hybridize(name, **options)
        results.append(run(net, functions.Score(), lone(4))[2])
    for name in results[0]:
        near(results[1][name], results[0][name], name)
    grads = [p.grad for p in net.parameters().values()]
    for i, a in enumerate(grads):
        for b in grads[:i]:
            assert isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
            assert not np.shares_memory(a, b)


@pytest.mark.parametrize("make", [functions.Linear, functions.TwoLooks])
def test_parameters_written_in_place_are_seen(make: type[cavs.VertexFunction], cache: Path) -> None:
    """By products, look-ups, elementwise work, and what is computed from parameters alone."""
    net = cavs.Network(make())
    net.initialize(seed=1)
    graphs = make_case(make(), functions.Score(), cache, 1, 3).graphs
    batch = cavs.batch(graphs)
    net.hybridize("tvm", threads=1, cache=cache)
    seen = []
    for step in range(3):
        for k, p in enumerate(net.parameters().values()):
            with p.writing() as weight:
                weight += 0.1 * (k + step)
        got = run(net, functions.Score(), batch)
        executors = net._executors
        net.hybridize("reference")
        want = run(net, functions.Score(), batch)
        net.hybridize("tvm", threads=1, cache=cache)
        net._executors = executors
        near(got[0]["score"], want[0]["score"], "score")
        for name in want[2]:
            near(got[2][name], want[2][name], name)
        seen.append(got[0]["score"].copy())
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], seen[2])


class Offset(cavs.VertexFunction):
    """Of a parameter every vertex drops elements of its own; a child's state is added."""

    arity = 2
    state = {"h": 7}

    def __init__(self) -> None:
        self.b = cavs.Parameter((7,))

    def forward(self, v: Vertex) -> None:
        dropped = v.dropout(self.b, 0.5)  # type: ignore[arg-type]
        h = dropped + 0.5 * v.gather(0).h
        v.scatter(h=h)
        v.push("score", cavs.reduce_sum(h))


def test_dropout_of_a_parameter_is_each_vertexs_own(cache: Path) -> None:
    case = make_case(Offset(), functions.Score(), cache, threads=1, n=3)
    assert_batch(case, range(3))
    got = run(case.net, functions.Score(), cavs.Graph.from_children([[]] * 6))
    assert len(np.unique(got[1]["loss"])) > 1


def test_what_is_written_after_a_batch_ran_is_seen(cache: Path) -> None:
    """A batch that runs inside of `writing` packs what is there; the next one packs again."""
    net, graph = cavs.Network(Small()), cavs.Graph.from_sequence(3, {"word": [1, 2, 3]})
    net.initialize(seed=1)
    net.hybridize("tvm", threads=1, cache=cache)
    with net.parameters()["U"].writing() as weight:
        weight[...] = 1.0
        before = net(graph)["score"].copy()
        weight[...] = -1.0
    got = net(graph)["score"].copy()
    net.hybridize("reference")
    near(got, net(graph)["score"], "score")
    assert not np.array_equal(got, before)


def test_an_interrupted_compilation_is_done_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a later batch brings a new kind: batches after it still run right."""
    case = small(cache, 8)
    known = [min(range(8), key=lambda i: case.graphs[i].n_vertices)]
    assert_batch(case, known)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(loaded, "assemble", interrupt)
        with pytest.raises(KeyboardInterrupt):
            assert_batch(case, range(8))
    assert_batch(case, known)
    assert_batch(case, range(8))


def test_levels_in_parts_give_the_same_bits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows the steps of a level run on at once."""
    found = []
    for bytes_ in (512 << 10, 1):
        monkeypatch.setattr("tvm_cavs.compiler.compiler.part_bytes", lambda _, b=bytes_: b)
        monkeypatch.setattr(layout, "PART_MULTIPLE", 2)
        cell = cavs.nn.TreeLSTM(N_WORDS, 3, 4, 5)
        case = make_case(cell, cavs.loss.SoftmaxCrossEntropy(), cache, threads=1, n=20)
        found.append(run(case.net, case.loss, cavs.batch(case.graphs)))
        batch = executor_of(case).plan(cavs.batch(case.graphs))
        for direction in ("forward", "backward"):
            more = len(batch.parts(direction)) - len(batch.slices(direction))
            assert (more > 0) == (bytes_ == 1)
    for one, other in zip(*found, strict=True):  # outputs, losses, gradients
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)


def test_sums_of_rows_are_never_taken_apart(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where a stage sums rows and does nothing else: where they end decides no bit."""
    monkeypatch.setattr(layout, "PART_MULTIPLE", 2)
    found = []
    for bytes_ in (512 << 10, 1):
        monkeypatch.setattr("tvm_cavs.compiler.compiler.part_bytes", lambda _, b=bytes_: b)
        case = make_case(functions.TwoOrOne(), functions.Score(), cache, threads=1, n=20)
        found.append(run(case.net, case.loss, cavs.batch(case.graphs))[2])
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


@pytest.mark.parametrize("seed", [2, 6, 8])
def test_random_functions(seed: int, cache: Path) -> None:
    case = make_case(functions.Random(seed, n_calls=8), functions.Score(), cache, 1, 4)
    batches: Sequence[Sequence[int]] = (range(4), [0], [2, 1])
    for chosen in batches:
        assert_batch(case, chosen)


def test_a_target_that_cannot_run_here_is_refused_before_anything_is_compiled(
    tmp_path: Path,
) -> None:
    arm, x86 = ({"kind": "llvm", "mtriple": f"{m}-linux-gnu"} for m in ("aarch64", "x86_64"))
    net = cavs.Network(Small())
    net.initialize(seed=0)
    graph = cavs.Graph.from_children([[], [], [0, 1]], {"word": [1, 2, None]})
    with pytest.raises(TargetError, match="its kernels cannot run here"):
        net.hybridize("tvm", target=arm if platform.machine() == "x86_64" else x86, cache=tmp_path)
        net(graph)
    assert not list(tmp_path.iterdir())


def test_prepare_compiles_every_kind_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = small(cache, 8)
    case.net.prepare(case.graphs, case.loss)
    case.net.prepare(case.graphs)
    for name in ("assemble", "directly"):  # with packed weights, and without for small batches
        monkeypatch.setattr(loaded, name, lambda *_: pytest.fail("compiled again"))
    for chosen in ([0], [5, 1], range(8)):
        assert_batch(case, chosen)


def test_planning_ahead_compiles_nothing(cache: Path) -> None:
    """What is not known yet is learned by the pass itself."""
    case = small(cache, 8)
    executor, graph = executor_of(case), case.graphs[0]
    assert executor.plan(graph, ahead=True) is None
    assert executor._loaded is None
    case.net.prepare(case.graphs[:1], case.loss)
    known = set(executor.compiler._functions)
    assert executor.plan(graph, ahead=True) is not None
    wider = cavs.Graph.from_children([[], [0, 0], [1]], {"word": [None, 1, None]})
    assert executor.plan(wider, ahead=True) is None
    assert set(executor.compiler._functions) == known


def test_planning_ahead_does_not_compile_what_reads_weights_where_they_lie(cache: Path) -> None:
    """Of a small batch that is of known kinds: the pass itself does that."""
    executor = executor_of(small(cache, 1))
    large, few = (cavs.Graph.from_sequence(n, {"word": [1] * n}) for n in (60, 3))
    batch = executor.plan(large)
    assert executor.plan(large, ahead=True) is not None
    assert executor.plan(few, ahead=True) is None and executor.loaded.direct is None
    direct = executor.plan(few).passes
    assert direct is executor.loaded.direct and direct is not batch.passes
    ahead = executor.plan(few, ahead=True)
    assert ahead is not None and ahead.passes is direct


def test_a_backward_pass_needs_a_forward_pass_that_was_not_interrupted(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_of(small(cache, 1))
    batch = executor.plan(cavs.Graph.from_sequence(3, {"word": [1, 2, 3]}))
    assert executor.spaces is batch.spaces
    none = "no forward pass to go back from.*interrupted"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(TraceError, match=none):
        executor.backward()
    for call in (lambda: executor.run(batch, Seeds()), executor.backward):
        executor.run(batch, Seeds())
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(executor, "_execute", interrupt)
            call()
        with pytest.raises(TraceError, match=none):
            executor.backward()
    executor.run(batch, Seeds())
    for _ in range(2):
        assert executor.backward().keys() == {"E", "U"}


def test_a_table_whose_gradient_has_rows_takes_no_memory_for_all(cache: Path) -> None:
    case = small(cache, 3)
    case.net.prepare(case.graphs, case.loss)
    executor = executor_of(case)
    assert case.net.programs(case.loss).row_sparse == {"E"}
    fixed = executor.compiled.fixed
    assert [name for name in "EU" if gradient_buffer(name) in fixed] == ["U"]


def assert_steps(function: cavs.VertexFunction, graphs: Sequence[cavs.Graph], cache: Path) -> None:
    """Gradients are the reference's, whichever of the graphs the step before has run."""
    net, loss = cavs.Network(function), functions.Score()
    net.initialize(seed=4)

    def gradients(graph: cavs.Graph) -> dict[str, np.ndarray]:
        with cavs.record():
            loss(net(graph)).backward()
        return {name: dense(p) for name, p in net.parameters().items()}

    net.hybridize("reference")
    want = [gradients(graph) for graph in graphs]
    net.hybridize("tvm", threads=1, cache=cache, sharing=False)
    net.prepare(graphs, loss)
    for number in (*range(len(graphs)), *range(len(graphs))):
        for name, value in gradients(graphs[number]).items():
            near(value, want[number][name], f"{name}, graph {number}")


def test_parts_of_one_parameter(cache: Path) -> None:
    """What a step adds to is cleared, whichever part of a gradient the step before has made."""
    x = np.random.default_rng(4).normal(size=(5, functions.WIDTH))
    children = [[], [], [0, 1], [], [2, 3]]
    some = [x[0].tolist(), None, x[2].tolist(), None, None]
    steps = [cavs.Graph.from_children(children, {"x": given}) for given in (some, x)]
    nowhere = Field(np.zeros_like(x, "float32"), np.zeros(5, bool))
    steps.append(replace(steps[0], inputs={"x": nowhere}))
    assert_steps(functions.Parts(), steps, cache)


def test_half_of_a_parameter_alone(cache: Path) -> None:
    """A part that one call makes is added to what was cleared, and does not stand for the whole."""
    x = np.random.default_rng(4).normal(size=(3, 4)).astype("float32")
    everywhere = cavs.Graph.from_sequence(3, {"x": x})
    nowhere = replace(everywhere, inputs={"x": Field(np.zeros_like(x), np.zeros(3, bool))})
    assert_steps(functions.Halves(), [everywhere, nowhere], cache)


def test_rows_that_get_no_gradient_this_time(cache: Path) -> None:
    word, x = [0, 1, 2, 1], [1.0] * 4
    steps = [
        cavs.Graph.from_sequence(4, {"word": word, "x": given})
        for given in (x, [None, None, 1.0, None], [1.0, None, None, None])
    ]
    assert_steps(functions.Sometimes(), steps, cache)


def test_a_plan_from_before_new_kinds(cache: Path) -> None:
    """It is made again: what was compiled since has other spaces."""
    case = small(cache, 8)
    few = cavs.Graph.from_children([[], [0]], {"word": [1, None]})
    alone = cavs.Graph.from_children([[]], {"word": [1]})
    executor = executor_of(case)
    want = executor.run(executor.plan(few), Seeds(1, 1)).outputs["loss"].copy()
    case.net.hybridize("tvm", threads=1, cache=cache)
    executor = executor_of(case)
    early = executor.plan(few)
    executor.run(executor.plan(cavs.batch([*case.graphs, alone])), Seeds(1, 1))
    np.testing.assert_array_equal(executor.run(early, Seeds(1, 1)).outputs["loss"], want)
    assert executor.backward()


def test_rows_of_a_table_chosen_by_two_inputs_add_up() -> None:
    one = RowSparse(np.array([3, 1], "int32"), np.array([[1, 2], [3, 4]], "float32"))
    other = RowSparse(np.array([4, 1], "int32"), np.array([[5, 6], [7, 8]], "float32"))
    both = merge([one, other], 2)
    assert both.rows.tolist() == [1, 3, 4]
    assert both.values.tolist() == [[10, 12], [1, 2], [5, 6]]
    assert merge([], 2).values.shape == (0, 2)


class Learned:
    """Kinds by name; what is learned tells some apart or none."""

    def __init__(self, kinds: tuple[str, ...], by: dict[int, str]) -> None:
        self.kinds, self.by = kinds, by

    def copy(self) -> "Learned":
        return Learned(self.kinds, self.by)

    def learn(self, masks: Any) -> list[int]:
        found = [mask for mask in masks if mask in self.by]
        self.kinds = tuple(dict.fromkeys([*self.kinds, *(self.by[mask] for mask in found)]))
        return found


@pytest.mark.parametrize(
    ("masks", "done"), [([1], "nothing"), ([2], "known"), ([3], "compiled"), ([2, 3], "compiled")]
)
def test_kinds_are_compiled_where_there_are_others(
    masks: list[int], done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new set of inputs of a kind that is there is known from now on, with the same kernels."""
    executor: Any = TvmExecutor.__new__(TvmExecutor)
    for name in ("compiler", "planner", "_parameters", "_memory", "_none_yet"):
        setattr(executor, name, None)
    executor._learning, kinds = threading.RLock(), Learned(("a",), {2: "a", 3: "b"})
    executor._loaded = SimpleNamespace(kinds=kinds, knowing=lambda kinds: ("known", kinds.kinds))
    monkeypatch.setattr(
        "tvm_cavs.executors.tvm.load", lambda kinds, *given: ("compiled", kinds.kinds)
    )
    before = executor._loaded
    executor._learn(masks)
    names = ("a", "b") if done == "compiled" else ("a",)
    assert executor._loaded is before if done == "nothing" else executor._loaded == (done, names)
    assert kinds.kinds == ("a",)


def test_what_is_loaded_knows_more_kinds_with_the_same_kernels() -> None:
    """All that later batches are ranked by; whatever else there is stays."""
    prepared: Any = SimpleNamespace(planner=SimpleNamespace(ranks=lambda *given: given))
    old: Any = SimpleNamespace(number="old")
    new: Any = SimpleNamespace(number="number", rank="rank", maybe="maybe")
    others: Any = [object() for _ in range(3)]
    made = loaded.Loaded(old, prepared, prepared, *others).knowing(new)
    assert made.kinds is new and made.ranks == ("number", "rank", "maybe")
    assert [made.prepared, made.weights, made.gradients, made.direct] == [prepared, *others]
