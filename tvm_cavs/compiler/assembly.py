"""Assemble: the stage functions of all kinds seen so far -> compiled steps, ready to be called.

What can be decided once is decided here, so that planning a batch only adds up row counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..expressions import Expression
from ..language import Parameter, Program
from ..runtime import (
    ALL_ROWS,
    OF_NO_KIND,
    SCRATCH,
    Area,
    Block,
    Buffer,
    BufferId,
    CompiledGroup,
    CompiledPack,
    CompiledStep,
    Executable,
    GradientPart,
    NetValue,
    Role,
    RowGradient,
    Space,
    gradient_buffer,
)
from ..transform import expression
from .compiler import Compiler
from .forms import Form
from .kinds import Group, Kinds
from .lowering import rectangles
from .lowering.lowered import Lowered
from .lowering.parameter_gradients import total_shape
from .lowering.region import Region
from .lowering.specs import ColumnSum, Outer, Pack, Placement, Product, SegmentSum, operands
from .lowering.steps import Gradient, Kernel, Step, Weights
from .target_rules import layout

SITE_KEYS = BufferId(Role.SITE_KEYS)
Forms = Mapping[tuple[str, str], list[Form]]  # of a step, by stage and the kernel's symbol
Shapes = dict[BufferId, tuple[tuple[int, ...], str]]  # shape and dtype of buffers


def assemble(kinds: Kinds, compiler: Compiler, parameters: Mapping[str, Parameter]) -> Executable:
    """Compile what is new and put everything together."""
    groups = (*kinds.forward, *kinds.backward)
    stages = list({id(g.lowered): g.lowered for g in groups}.values())
    weights = list({w.buffer: w for low in stages for w in low.weights}.values())
    rows = list(dict.fromkeys(r for low in stages for r in low.row_gradients))
    forms = {key: form for g in groups for key, form in _step_forms(g, compiler).items()}
    packs = {w.buffer: _pack(w, compiler, parameters) for w in weights}
    sums = {r: compiler.segment_form(SegmentSum(r.width, r.width)) for r in rows}
    steps = (f for several in forms.values() for f in several)
    compiler.compile([*steps, *(form for form, _ in packs.values()), *sums.values()])
    net_values = _net_values(stages, weights)
    gradients = _dense_gradients(kinds, parameters)
    parts = {g.key: g for low in stages for g in low.gradients}.values()
    return Executable(
        forward=tuple(_group(g, forms, compiler) for g in kinds.forward),
        backward=tuple(_group(g, forms, compiler) for g in kinds.backward),
        packs=_compiled_packs(packs, compiler),
        net_values=net_values,
        row_sums={r: compiler.function(form.symbol) for r, form in sums.items()},
        gradients=tuple(map(_gradient_part, parts)),
        tables={name: parameters[name].shape[1] for name in sorted(kinds.programs.row_sparse)},
        buffers=_buffers_of_rows(stages),
        fixed=_weight_shapes(weights, compiler)
        | {v.buffer: (v.shape, "float32") for v in net_values}
        | _total_shapes(stages)
        | _key_shapes(kinds)
        | gradients,
        totals=(*gradients, *_total_shapes(stages)),
        cleared=tuple(r.buffer for r in rows if _left_out(r, kinds)),
        members={space: kinds.members(space) for space in _spaces(stages, rows)},
        n_parts=compiler.n_threads,
    )


def _step_forms(g: Group, compiler: Compiler) -> Forms:
    """The forms of a group's kernels, by stage and symbol."""
    recurrent, kernels = g.stage == "recurrent", [s.kernel for s in g.lowered.steps]
    return {(g.stage, kernel.name): compiler.forms(kernel, recurrent) for kernel in kernels}


def _compiled_packs(
    packs: Mapping[BufferId, tuple[Form, tuple[BufferId, ...]]], compiler: Compiler
) -> dict[BufferId, CompiledPack]:
    return {
        buffer: CompiledPack(function=compiler.function(form.symbol), sources=sources)
        for buffer, (form, sources) in packs.items()
    }


def _net_values(stages: Iterable[Lowered], weights: Iterable[Weights]) -> tuple[NetValue, ...]:
    """What NumPy evaluates: weights that are no rectangles of parameters, and what regions read."""
    found = [
        NetValue(_unpacked(w), _of_parameters(w.program, w.index), (w.k, w.n_columns))
        for w in weights
        if rectangles.flatten(w.program, w.index, "param") is None
    ]
    read = {}
    for low in stages:
        for buffer, i in low.net_values:
            size = max(1, low.program.calls[i].type.size)
            read[buffer] = NetValue(buffer, _of_parameters(low.program, i), (size,))
    return (*found, *read.values())


def _of_parameters(program: Program, i: int) -> Expression:
    return expression(program, i, lambda k: BufferId(Role.PARAMETER, program.calls[k]["name"]))


def _gradient_part(g: Gradient) -> GradientPart:
    """What is left to do of a contribution to a gradient when all kernels have run."""
    program, totals = g.program, dict(g.totals)
    parts = rectangles.flatten(program, g.index, "total", sums=True)
    if parts is None:

        def leaf(k: int) -> BufferId:
            return totals[k] if k in totals else BufferId(Role.PARAMETER, program.calls[k]["name"])

        return GradientPart(g.parameter, g.count, (), expression(program, g.index, leaf))
    blocks = (
        Block(
            total=totals[r.leaf],
            extent=rectangles.extent(program.calls[r.leaf].type.shape),
            rows=r.rows,
            columns=r.columns,
            row=r.row,
            column=r.column,
            transposed=r.transposed,
        )
        for r in parts
        if r.leaf in totals  # the others were added by a kernel
    )
    return GradientPart(g.parameter, g.count, tuple(blocks))


def _buffers_of_rows(stages: Iterable[Lowered]) -> dict[BufferId, Buffer]:
    """The buffers that grow with a batch."""
    found = (b for low in stages for b in low.buffers.values())
    return {b.id: b for b in found if b.space is not None}


def _dense_gradients(kinds: Kinds, parameters: Mapping[str, Parameter]) -> Shapes:
    """The gradients that have their parameter's shape."""
    if kinds.programs.adjoint is None:
        return {}
    dense = sorted(parameters.keys() - kinds.programs.row_sparse)
    return {gradient_buffer(name): (parameters[name].shape, "float32") for name in dense}


def _weight_shapes(weights: Iterable[Weights], compiler: Compiler) -> Shapes:
    """The weight operands as products read them."""
    return {w.buffer: compiler.packed(w.k, w.n_columns) for w in weights}


def _total_shapes(stages: Iterable[Lowered]) -> Shapes:
    """The sums over vertices that are no part of one gradient."""
    gradients = (g for low in stages for g in low.gradients)
    return {
        buffer: (total_shape(g.program, i), "float32") for g in gradients for i, buffer in g.totals
    }


def _key_shapes(kinds: Kinds) -> Shapes:
    """A key for every dropout of the function."""
    sites = [c["site"] for _, c in kinds.programs.forward.select("dropout")]
    return {SITE_KEYS: ((max(sites) + 1,), "uint32")} if sites else {}


def _spaces(stages: Iterable[Lowered], rows: Iterable[RowGradient]) -> list[Space]:
    """All spaces that have rows of a batch."""
    found = [s for low in stages for s in low.spaces]
    found += [b.space for low in stages for b in low.buffers.values() if b.space is not None]
    found += [Space("pull", r.pull) for r in rows] + [Space("edges")]
    return [s for s in dict.fromkeys(found) if s not in OF_NO_KIND]


def _group(g: Group, forms: Forms, compiler: Compiler) -> CompiledGroup:
    low, position = g.lowered, {space: i for i, space in enumerate(g.lowered.spaces)}

    def compiled(step: Step) -> CompiledStep:
        mine = forms[g.stage, step.kernel.name]
        note, flop_per_row = _work(step.kernel)
        return CompiledStep(
            functions=tuple(compiler.function(f.symbol) for f in mine),
            limits=tuple(f.min_rows for f in mine),
            starts=tuple(position[space] for space in step.starts),
            buffers=tuple(b.id for b in step.buffers),
            adds=_adds(step),
            kind=step.kernel.kind,
            note=note,
            flop_per_row=flop_per_row,
        )

    return CompiledGroup(
        stage=g.stage,
        member=g.member,
        spaces=low.spaces,
        steps=tuple(map(compiled, low.steps)),
        packs=tuple(w.buffer for w in low.weights),
        most_rows=_most_rows(low, compiler),
    )


def _most_rows(low: Lowered, compiler: Compiler) -> int:
    """Rows on which steps run at once: what they hand to each other is to stay in a near cache.

    Sums over rows are not taken apart: a sum's bits would depend on where.
    """
    if any(isinstance(s.kernel.spec, (Outer, ColumnSum)) for s in low.steps):
        return ALL_ROWS
    handed = {b.id: b.ld for b in low.buffers.values() if b.space == SCRATCH}
    handed |= {b.id: b.ld for s in low.steps for b in _read_in_order(s)}
    if not handed:
        return ALL_ROWS
    return layout.part_rows(sum(handed.values()), compiler.n_threads, compiler.part_bytes)


def _read_in_order(step: Step) -> list[Buffer]:
    """The rows that a product multiplies without an index."""
    if not isinstance(step.kernel.spec, Product):
        return []
    slots = {p.source for p in step.kernel.spec.pieces if p.index is None}
    sources = operands(step.kernel.spec.pieces).sources
    return [b for (slot, _), b in zip(sources, step.buffers, strict=False) if slot in slots]


def _adds(step: Step) -> tuple[tuple[BufferId, Area | None], ...]:
    """The gradients that a step adds to, and what of them it can replace instead."""
    spec = step.kernel.spec
    if isinstance(spec, ColumnSum):
        return ((step.buffers[-1].id, None),)
    if not isinstance(spec, Outer):
        return ()
    buffers = step.buffers[-1:] if spec.sums is None else step.buffers[-2:]
    area = Area(spec.row, spec.row + spec.k, spec.column, spec.column + spec.n_columns)
    return ((buffers[0].id, area), *((b.id, None) for b in buffers[1:]))


def _work(kernel: Kernel) -> tuple[str, int]:
    """What a kernel does, in a few words, and its product arithmetic for one row."""
    spec = kernel.spec
    if isinstance(spec, (Product, Outer)):
        return f"{spec.k} x {spec.n_columns}", 2 * spec.k * spec.n_columns
    if isinstance(spec, Region):
        return f"of {len(spec.lines)} lines", 0
    return "", 0


def _pack(
    w: Weights, compiler: Compiler, parameters: Mapping[str, Parameter]
) -> tuple[Form, tuple[BufferId, ...]]:
    """The kernel that packs a weight operand, and what it reads."""
    parts = rectangles.flatten(w.program, w.index, "param")
    if parts is None:
        whole = Placement(0, 0, 0, (0, w.k), (0, w.n_columns))
        spec = Pack(((w.k, w.n_columns),), (whole,), w.k, w.n_columns)
        return compiler.pack_form(spec), (_unpacked(w),)
    parts = rectangles.merged(parts)
    names = [w.program.calls[r.leaf]["name"] for r in parts]
    used = list(dict.fromkeys(names))
    places = tuple(
        Placement(used.index(name), r.row, r.column, r.rows, r.columns, r.transposed)
        for name, r in zip(names, parts, strict=True)
    )
    shapes = tuple((parameters[p].shape[0], parameters[p].shape[1]) for p in used)
    spec = Pack(shapes, places, w.k, w.n_columns)
    return compiler.pack_form(spec), tuple(BufferId(Role.PARAMETER, p) for p in used)


def _unpacked(w: Weights) -> BufferId:
    """Where NumPy puts a weight operand that is no rectangles of parameters."""
    return BufferId(Role.UNPACKED, w.buffer.key)


def _left_out(r: RowGradient, kinds: Kinds) -> bool:
    """Whether vertices of some kind have the input but give its row no gradient."""
    wanted = kinds.members(Space("pull", r.pull))
    writers = np.zeros(len(wanted), bool)
    for g in kinds.backward:
        if r in g.lowered.row_gradients:
            writers |= g.member
    return bool((wanted & ~writers).any())
