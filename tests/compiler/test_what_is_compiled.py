"""What becomes of every function for tests, down to its kernels, is what it was: a line for each.

Nothing is compiled, and the target is none of this machine's, so the lines are the same everywhere.
A digest that changes says that programs, buffers, forms or kernels do: meant, or an error that no
number shows, such as an optimisation that is no longer made.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

from tvm import relax

import tvm_cavs as cavs
from helpers.functions import FUNCTIONS, N_WORDS
from helpers.one_op import OneOp, Weighted
from helpers.op_cases import CASES, Arg, Case
from helpers.printed import compiled_text, digest, kernel_text
from helpers.random_graphs import N_CLASSES, random_graph
from helpers.targets import X86
from schedules.layout import part_rows
from tvm_cavs.compiler import Compiler, relaxed
from tvm_cavs.compiler.assembly import ALL_ROWS, _most_rows, assemble
from tvm_cavs.compiler.direct import directly
from tvm_cavs.compiler.kinds import Kinds
from tvm_cavs.compiler.lowering.specs import Piece, Product, operands
from tvm_cavs.compiler.lowering.steps import Kernel, Step
from tvm_cavs.compiler.workload import forms_with, workloads
from tvm_cavs.graph import Kind, masks
from tvm_cavs.runtime import SCRATCH, Buffer, Role, Space, gradient_buffer
from tvm_cavs.transform import (
    SWITCHES,
    choose_policy,
    leaving_out,
    multiplications_saved,
    specialise,
)

TARGET = {**X86, "mcpu": "znver4", "num-cores": 2, "model": "l1=32K l2=1024K l3=32768K"}
AMX = {**X86, "mcpu": "sapphirerapids", "num-cores": 2, "model": "l1=48K l2=2048K"}
MORE_OF_THE_SAME = [f"random_{seed}" for seed in range(1, 8)]
SOME = {name: given for name, given in FUNCTIONS.items() if name not in MORE_OF_THE_SAME}


def programs_of(make: Callable[[], Any], loss: Any) -> tuple[cavs.Network, Any, tuple[str, ...]]:
    net = cavs.Network(make())
    programs = net.programs(loss)
    return net, programs, tuple(dict.fromkeys(read.name for read in programs.reads))


def seen(arity: int, pulls: tuple[str, ...], most: int = 4) -> list[int]:
    """The first masks of some random graphs, as vertices come."""
    rng = np.random.default_rng(1)
    graphs = [random_graph(rng, arity, 7) for _ in range(12)]
    found, _ = masks(cavs.batch(graphs), arity, pulls)
    return list(dict.fromkeys(found.tolist()))[:most]


def line(
    name: str,
    make: Callable[[], Any],
    loss: Any,
    without: Sequence[str] = (),
    target: Any = TARGET,
    precision: str = "float32",
    kernels: bool = False,
) -> str:
    """One row of the golden file: a few counts, and digests of all the rest."""
    net, programs, pulls = programs_of(make, loss)
    kinds = Kinds(programs, pulls, leaving_out(without))
    kinds.learn(seen(programs.arity, pulls))
    compiler = Compiler(target, cache=False, records=False, precision=precision, symbols=True)
    compiled = assemble(kinds, compiler, net.parameters())
    groups = [*compiled.forward, *compiled.backward]
    direct = directly([*kinds.forward, *kinds.backward], groups, compiler, net.parameters())
    counts = Counter(step.kind for g in groups for step in g.steps)
    calls = [len(part.calls) for pair in kinds.stages for side in pair if side for part in side]
    row = [
        name,
        f"{len(kinds.kinds)} kinds",
        f"{sum(calls)} calls",
        ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())),
        f"{len(compiled.packs)} packed, {sum(len(g.packs) for g in direct)} where few vertices are",
        digest([programs.forward, programs.adjoint, programs.reads]),
        digest([*kinds.kinds, *(side for pair in kinds.stages for side in pair), kinds.rank]),
        digest(compiled_text(compiled, direct)),
    ]
    if kernels:
        made = (compiler.noted[symbol].make() for symbol in sorted(compiler.noted))
        row.append(digest(kernel_text(func, compiler.target) for func in made))
    return "; ".join(map(str, row))


def regions(make: Callable[[], Any], loss: Any, target: Any, leaves: bool = False) -> str:
    """How many regions there are, and a digest of their texts: what each asks for and when, too.

    leaves: of vertices that have all inputs and no child.
    """
    net, programs, pulls = programs_of(make, loss)
    kinds = Kinds(programs, pulls, leaving_out(()))
    n, arity = len(pulls), programs.arity
    kinds.learn([((1 << n) - 1) << arity] if leaves else seen(arity, pulls))
    compiler = Compiler(target, cache=False, records=False, symbols=True)
    assemble(kinds, compiler, net.parameters())
    symbols = sorted(symbol for symbol in compiler.noted if symbol.startswith("region"))
    made = [kernel_text(compiler.noted[s].make(), compiler.target) for s in symbols]
    return f"{len(made)} regions, {digest(made)}"


def wide() -> cavs.VertexFunction:
    """A cell whose products are worth saving."""
    return cavs.nn.CELLS["tree_lstm"](N_WORDS, 40, 50, N_CLASSES)


def test_functions(golden: Any) -> None:
    """With everything on; of random ones the first."""
    golden("compiled_functions", "\n".join(line(n, *given) for n, given in SOME.items()))


def test_switches_and_kernels(golden: Any) -> None:
    """A cell and an awkward function with each optimisation left out; kernels of some."""
    rows = []
    for name in ("tree_rnn", "parts"):
        for switch in SWITCHES:
            rows.append(line(f"{name} without {switch}", *FUNCTIONS[name], [switch]))
    for name in ("passed",):
        rows.append(line(f"{name}, kernels", *FUNCTIONS[name], kernels=True))
    for target in (TARGET, AMX):
        for precision in ("float32", "bf16"):
            named = f"tree_lstm of 50, {target['mcpu']} {precision}"
            given = wide, cavs.loss.SoftmaxCrossEntropy()
            rows.append(line(named, *given, (), target, precision, kernels=True))
    golden("compiled_switches", "\n".join(rows))


@pytest.mark.parametrize("target", [TARGET, AMX], ids=lambda each: each["mcpu"])
def test_regions(target: Any, golden: Any) -> None:
    """Results do not show what a region asks for ahead, or in which order its loops run."""
    rows = [f"{name}: {regions(*given, target)}" for name, given in SOME.items()]
    golden(f"compiled_regions_{target['mcpu']}", "\n".join(rows))


def test_regions_of_ops(golden: Any) -> None:
    """Each op alone, backward too where it has a derivative, by shapes of its operands."""
    long = [(op, Case((Arg((n,)),), (), np.sum)) for op in ("argmax", "softmax") for n in (31, 32)]
    rows = []
    for op, case in (*((op, case) for op, cases in CASES.items() for case in cases), *long):
        loss = Weighted() if case.smooth and op != "argmax" else None
        rows.append(f"{op} {case}: {regions(partial(OneOp, op, case), loss, TARGET, True)}")
    golden("compiled_regions_of_ops", "\n".join(rows))


def test_wide_kinds(golden: Any) -> None:
    """The programs of vertices that may lack anything: they look, and mask."""
    rows = []
    for name, (make, loss) in SOME.items():
        _, programs, pulls = programs_of(make, loss)
        slots = tuple(range(programs.arity))
        made = [str(len(slots) + len(pulls))]
        for maybe in ((*slots, *pulls), slots, pulls[:1]):
            kind = Kind(slots, pulls, maybe)
            both = specialise(programs.forward, programs.adjoint, kind)
            made.append(f"{sum(len(p.calls) for p in both if p)} calls, {digest(both)}")
        rows.append(f"{name}: {'; '.join(made)}")
    golden("compiled_wide_kinds", "\n".join(rows))


def test_savings_and_sharing(golden: Any) -> None:
    """What decides how equal vertices are shared, and which kinds are wide."""
    rows = []
    some = {**FUNCTIONS, "tree_lstm of 50": (wide, cavs.loss.SoftmaxCrossEntropy())}
    for name, (make, loss) in some.items():
        _, programs, pulls = programs_of(make, loss)
        saved = {pull: multiplications_saved(programs, pull) for pull in pulls}
        policy = choose_policy(cavs.Network(make()).programs().forward, None)
        rows.append(f"{name}: saved {saved}, by rows {sorted(programs.row_sparse)}, {policy}")
    golden("compiled_savings", "\n".join(rows))


@pytest.mark.parametrize("loss", [None, cavs.loss.SoftmaxCrossEntropy()])
def test_memory_of_gradients_is_there_in_training(loss: Any) -> None:
    """A table has its rows' gradients, each as wide as a row; all else a whole one."""
    net, programs, pulls = programs_of(wide, loss)
    kinds = Kinds(programs, pulls)
    kinds.learn(seen(programs.arity, pulls))
    compiler = Compiler(TARGET, cache=False, records=False, symbols=True)
    compiled = assemble(kinds, compiler, net.parameters())
    shapes = {name: p.shape for name, p in net.parameters().items()}
    dense = {gradient_buffer(name): shape for name, shape in shapes.items() if name != "E"}
    kept = {b: shape for b, (shape, _) in compiled.fixed.items() if b.role is Role.GRADIENT}
    assert kept == (dense if loss else {}) and kept.keys() <= set(compiled.totals)
    assert compiled.tables == ({"E": shapes["E"][1]} if loss else {})


@pytest.mark.parametrize("name", ["tree_rnn"])
def test_digests_do_not_depend_on_what_was_before(name: str) -> None:
    """Or a golden digest would be of the order of tests."""
    once, again = (line(name, *FUNCTIONS[name], kernels=True) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("name", ["parts", "tree_lstm of 50"])
def test_what_is_measured_of_a_step_is_what_it_calls(name: str) -> None:
    """Its forms; of several products that read parameters where they lie, each its own."""
    make, loss = {**FUNCTIONS, "tree_lstm of 50": (wide, cavs.loss.SoftmaxCrossEntropy())}[name]
    net, programs, pulls = programs_of(make, loss)
    kinds = Kinds(programs, pulls)
    kinds.learn(seen(programs.arity, pulls))
    compiler = Compiler(TARGET, cache=False, records=False, symbols=True)
    compiled = assemble(kinds, compiler, net.parameters())
    stages, packed = [*kinds.forward, *kinds.backward], [*compiled.forward, *compiled.backward]
    read = 0
    for groups in (packed, directly(stages, packed, compiler, net.parameters())):
        found = workloads(stages, groups, compiler, net.parameters())
        for group, mine in zip(groups, found, strict=True):
            read = max(read, sum(workload.weights is not None for workload in mine))
            for step, workload in zip(group.steps, mine, strict=True):
                forms = forms_with(compiler.machine, workload, None)
                assert tuple(form.symbol for form in forms) == step.functions
    assert read


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_variables_of_a_stage_are_of_their_buffers_types(precision: str) -> None:
    """Those of packed weights too, which are words of two numbers in bfloat16."""
    net, programs, pulls = programs_of(wide, cavs.loss.SoftmaxCrossEntropy())
    kinds = Kinds(programs, pulls)
    kinds.learn(seen(programs.arity, pulls))
    compiler = Compiler(TARGET, cache=False, records=False, precision=precision, symbols=True)
    found = dict[bool, set[str]]({True: set(), False: set()})
    for group in kinds.forward:
        builder, lowered = relax.BlockBuilder(), group.lowered
        relaxed.stage_function(builder, "stage", lowered, compiler)
        (function,) = builder.get().functions.values()
        packed = {w.buffer: compiler.packed(w.k, w.n_columns)[1] for w in lowered.weights}
        variables = function.params[1 + len(lowered.spaces) :]
        for var, (buffer, b) in zip(variables, lowered.buffers.items(), strict=True):
            assert var.ty.dtype == packed.get(buffer, b.dtype)
            found[buffer in packed].add(str(var.ty.dtype))
    assert found[True] == {"float32" if precision == "float32" else "uint32"}
    assert "float32" in found[False]


IN_ORDER, CHOSEN = Piece(30, 0, 400, 10), Piece(30, 0, 400, 50, 0)


@pytest.mark.parametrize(
    ("pieces", "width"),
    [
        ((IN_ORDER,), 400),
        ((CHOSEN,), 0),
        ((CHOSEN, Piece(7, 1, 600, 2)), 600),
        ((Piece(7, 1, 600, 2), CHOSEN), 600),
        ((CHOSEN, IN_ORDER, Piece(7, 1, 600, 2, 1)), 400),
        ((IN_ORDER, Piece(7, 1, 600)), 1000),
    ],
)
@pytest.mark.parametrize("handed", [0, 100])
def test_rows_that_run_at_once_are_counted_by_what_is_read_in_order(
    pieces: tuple[Piece, ...], width: int, handed: int
) -> None:
    """And by what steps hand to each other; rows that an index chooses lie anywhere."""
    needs = operands(pieces)
    kept = [Buffer(Role.SAVED, f"s{slot}", ld, Space("edges")) for slot, ld in needs.sources]
    kept += [Buffer(Role.INPUT, f"i{slot}", 0, Space("edges"), "int32") for slot in needs.indices]
    out = Buffer(Role.SCRATCH, "out", 100, SCRATCH if handed else Space("edges"))
    buffers = (*kept, Buffer(Role.PACKED, "w", 0, None), out)
    step = Step(Kernel("product", Product(pieces, 100, 100)), (), buffers)
    low: Any = SimpleNamespace(steps=(step,), buffers={b.id: b for b in buffers})
    compiler: Any = SimpleNamespace(n_threads=3, part_bytes=1 << 20)
    whole = part_rows(width + handed, 3, 1 << 20) if width + handed else ALL_ROWS
    assert _most_rows(low, compiler) == whole
