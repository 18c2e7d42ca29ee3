"""Stages as Relax functions: one IRModule that holds a compiled network whole.

A stage function takes the row count `n`, the first row in every space, and whole buffers with
symbolic row counts; its body calls the stage's kernels one after the other, in place. Relax's
virtual machine runs it (in a test, level by level); the executor makes the same kernel
calls itself, with the form of each kernel that suits the row count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax, tirx
from tvm.ir import PrimType, TupleType

from ..runtime import Buffer
from .compiler import Compiler
from .kinds import Group, Kinds
from .lowering.lowered import Lowered

Directions = Mapping[str, Sequence[Group]]


def stage_name(direction: str, stage: str, number: int) -> str:
    """Name of the function of group `number`, for example forward_recurrent_2."""
    return f"{direction}_{stage}_{number}"


def directions(kinds: Kinds) -> Directions:
    """The groups of a network by direction; inference has no backward ones."""
    return {"forward": kinds.forward, "backward": kinds.backward}


def network_module(kinds: Kinds, compiler: Compiler) -> tvm.IRModule:
    """All stage functions, and the kernels they call in their first form, not scheduled yet."""
    builder = relax.BlockBuilder()
    kernels: dict[str, tirx.PrimFunc] = {}
    for direction, groups in directions(kinds).items():
        for number, group in enumerate(groups):
            name = stage_name(direction, group.stage, number)
            stage_function(builder, name, group.lowered, compiler)
            for step in group.lowered.steps:
                kernel = step.kernel.name
                if kernel not in kernels:
                    made = compiler.forms(step.kernel)[0].make()
                    kernels[kernel] = made.with_attr("global_symbol", kernel)
    module = builder.get()
    for name, func in kernels.items():
        module[name] = func
    return module


def stage_function(
    builder: relax.BlockBuilder, name: str, lowered: Lowered, compiler: Compiler
) -> None:
    """Adds f(n, start of each space..., buffers...), which runs the stage on n rows in place."""
    n = relax.Var("n", PrimType("int64"))
    starts = [
        relax.Var(_identifier("start", s.what, s.key), PrimType("int64")) for s in lowered.spaces
    ]
    start_of = dict(zip(lowered.spaces, starts, strict=True))
    packed = {w.buffer: compiler.packed(w.k, w.n_columns) for w in lowered.weights}
    buffers = {id: _variable(b, packed.get(id)) for id, b in lowered.buffers.items()}
    with builder.function(name, [n, *starts, *buffers.values()], pure=False):
        for step in lowered.steps:
            own = {"outer": [1], "product": [0]}.get(step.kernel.kind, [])  # adds; its turn
            args = [
                n,
                *(tirx.IntImm("int64", value) for value in own),
                *(start_of[s] for s in step.starts),
                *(buffers[b.id] for b in step.buffers),
            ]
            kernel = relax.ExternFunc(step.kernel.name)
            builder.emit(relax.Call(kernel, args, ty_args=[TupleType([])]))
        builder.emit_func_output(relax.Tuple([]))


def _variable(b: Buffer, packed: tuple[tuple[int, ...], str] | None) -> relax.Var:
    """A whole buffer; the number of its rows is symbolic. `packed`: weights, shape and dtype."""
    if packed is not None:
        return relax.Var(_identifier(b.name), relax.TensorType(*packed))
    rows = tirx.Var(_identifier("rows", b.name), "int64")
    dims = (rows, b.ld) if b.ld else (rows,)
    return relax.Var(_identifier(b.name), relax.TensorType(dims, b.dtype))


def _identifier(*parts: object) -> str:
    return "_".join(str(p) for p in parts if p != "").replace(".", "_")
