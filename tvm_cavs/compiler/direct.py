"""Direct: the groups of a compiled network, with products that read weights where they lie.

That is possible where a product's right operand is one rectangle of one parameter, as it stands or
transposed. Nothing is packed for such a product, which pays where a batch has few vertices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..language import Parameter
from ..runtime import BufferId, CompiledGroup, CompiledStep, Role
from .compiler import Compiler
from .forms import Form
from .kinds import Group
from .lowering import rectangles
from .lowering.specs import DirectWeights
from .lowering.steps import Step, Weights

Read = tuple[str, list[Form]]  # a parameter, and the forms of a product that reads it


def directly(
    groups: Sequence[Group],
    compiled: Sequence[CompiledGroup],
    compiler: Compiler,
    parameters: Mapping[str, Parameter],
) -> list[CompiledGroup]:
    """The compiled groups without the packing that they can do without."""
    found = [[_read(step, g, compiler, parameters) for step in g.lowered.steps] for g in groups]
    compiler.compile([form for reads in found for read in reads if read for form in read[1]])
    return [_group(g, reads, compiler) for g, reads in zip(compiled, found, strict=True)]


def _read(
    step: Step, g: Group, compiler: Compiler, parameters: Mapping[str, Parameter]
) -> Read | None:
    """What a product reads instead of packed weights; None for other steps, or if it cannot."""
    if step.kernel.kind != "product":
        return None
    (w,) = (w for w in g.lowered.weights if w.buffer == step.buffers[-2].id)
    place = rectangle_of(w, compiler, parameters)
    if place is None:
        return None
    name, rectangle = place
    return name, compiler.direct_forms(step.kernel, rectangle, g.stage == "recurrent")


def _group(g: CompiledGroup, reads: Sequence[Read | None], compiler: Compiler) -> CompiledGroup:
    steps = tuple(
        _step(step, read, compiler) if read else step
        for step, read in zip(g.steps, reads, strict=True)
    )
    left = {buffer for step in steps for buffer in step.buffers}
    return replace(g, steps=steps, packs=tuple(p for p in g.packs if p in left))


def _step(step: CompiledStep, read: Read, compiler: Compiler) -> CompiledStep:
    name, forms = read
    *operands, _packed, out = step.buffers
    return replace(
        step,
        functions=tuple(compiler.function(f.symbol) for f in forms),
        limits=tuple(f.min_rows for f in forms),
        buffers=(*operands, BufferId(Role.PARAMETER, name), out),
    )


def rectangle_of(
    w: Weights, compiler: Compiler, parameters: Mapping[str, Parameter]
) -> tuple[str, DirectWeights] | None:
    """The parameter, and where in it the operand lies, if it is one rectangle and can be read."""
    if not compiler.reads_directly(w.k, w.n_columns):
        return None
    parts = rectangles.flatten(w.program, w.index, "param")
    found = rectangles.merged(parts or ())
    if len(found) != 1:
        return None
    (r,) = found
    name = w.program.calls[r.leaf]["name"]
    shape = parameters[name].shape
    if r.shape != (w.k, w.n_columns) or len(shape) != 2:
        return None
    return name, DirectWeights(shape[1], r.rows[0], r.columns[0], r.transposed)
