"""Assemble: the stage functions of all kinds seen so far -> compiled steps, ready to be called.

What can be decided once is decided here, so that planning a batch only adds up row counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from . import netlevel
from .compile import Compiler
from .contributions import gradient_buffer, total_shape
from .executable import ALL_ROWS, CompiledGroup, CompiledPack, CompiledStep, Executable
from .forms import Form
from .kinds import Group, Kinds
from .operands import operands
from .packing import Pack, Placement
from .plan import Space
from .products import Outer, Product
from .program import Program
from .regions import Region
from .roles import BufferId, Role
from .steps import Buffer, Gradient, Kernel, Lowered, RowGradient, Step, Weights
from .sums import ColumnSum, SegmentSum
from .target_rules import layout
from .vertex import Parameter

SITE_KEYS = BufferId(Role.SITE_KEYS)


@dataclass(frozen=True)
class NetValue:
    """A buffer that NumPy fills with net-level value %index of `program`, once per step.

    shape: the buffer's, a vector if a region reads it.
    """

    buffer: BufferId
    program: Program
    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Compiled(Executable):
    """An executable, and what is computed by programs: what parameters alone make, gradients."""

    net_values: tuple[NetValue, ...]
    gradients: tuple[Gradient, ...]


def assemble(kinds: Kinds, compiler: Compiler, parameters: Mapping[str, Parameter]) -> Compiled:
    """Compile what is new and put everything together."""
    groups = (*kinds.forward, *kinds.backward)
    stages = list({id(g.lowered): g.lowered for g in groups}.values())
    forms = {
        (g.stage, s.kernel.name): compiler.forms(s.kernel, g.stage == "recurrent")
        for g in groups
        for s in g.lowered.steps
    }
    weights = {w.buffer: w for low in stages for w in low.weights}
    packs = [_pack(w, compiler, parameters) for w in weights.values()]
    rows = dict.fromkeys(r for low in stages for r in low.row_gradients)
    sums = {r: compiler.segment_form(SegmentSum(r.width, r.width)) for r in rows}
    compiler.compile(
        [*(f for fs in forms.values() for f in fs), *(f for f, _, _ in packs), *sums.values()]
    )

    def compiled(groups: list[Group]) -> tuple[CompiledGroup, ...]:
        return tuple(_group(g, forms, compiler, parameters) for g in groups)

    values = [
        NetValue(_unpacked(w), w.program, w.index, (w.k, w.n_columns))
        for w in weights.values()
        if netlevel.flatten(w.program, w.index, "param") is None
    ]
    found = {
        buffer: NetValue(buffer, low.program, i, (max(1, low.program.calls[i].type.size),))
        for low in stages
        for buffer, i in low.net_values
    }
    buffers = {b.id: b for low in stages for b in low.buffers.values()}
    values += found.values()
    dense = parameters.keys() - kinds.programs.row_sparse if kinds.programs.adjoint else ()
    grads = {gradient_buffer(p): (parameters[p].shape, "float32") for p in sorted(dense)}
    totals = dict.fromkeys(n for low in stages for g in low.gradients for _, n in g.totals)
    return Compiled(
        forward=compiled(kinds.forward),
        backward=compiled(kinds.backward),
        packs={t: CompiledPack(compiler.function(f.symbol), s) for f, s, t in packs},
        net_values=tuple(values),
        row_sums={r: compiler.function(f.symbol) for r, f in sums.items()},
        gradients=tuple({g.key: g for low in stages for g in low.gradients}.values()),
        buffers={id: b for id, b in buffers.items() if b.space is not None},
        fixed=_fixed(stages, weights, values, compiler, kinds) | grads,
        totals=(*grads, *totals),
        cleared=tuple(r.buffer for r in rows if _left_out(r, kinds)),
        members={space: kinds.members(space) for space in _spaces(stages, rows)},
    )


def _spaces(stages: Iterable[Lowered], rows: Iterable[RowGradient]) -> list[Space]:
    """All spaces that have rows of a batch; scratch has those of the segment that is running."""
    found = [s for low in stages for s in low.spaces]
    found += [b.space for low in stages for b in low.buffers.values() if b.space is not None]
    found += [Space("pull", r.pull) for r in rows] + [Space("edges")]
    return [s for s in dict.fromkeys(found) if s.what != "scratch"]


def _group(
    g: Group,
    forms: Mapping[tuple[str, str], list[Form]],
    compiler: Compiler,
    parameters: Mapping[str, Parameter],
) -> CompiledGroup:
    spaces = g.lowered.spaces
    position = {s: i for i, s in enumerate(spaces)}
    steps = []
    for s in g.lowered.steps:
        mine = forms[g.stage, s.kernel.name]
        steps.append(
            CompiledStep(
                tuple(compiler.function(f.symbol) for f in mine),
                tuple(f.min_rows for f in mine),
                tuple(position[space] for space in s.starts),
                tuple(b.id for b in s.buffers),
                _adds(s, parameters),
                s.kernel.kind,
                *_work(s.kernel),
            )
        )
    packs = tuple(w.buffer for w in g.lowered.weights)
    most = _most_rows(g.lowered, compiler.n_threads)
    return CompiledGroup(g.stage, g.member, spaces, tuple(steps), packs, most)


def _most_rows(low: Lowered, n_threads: int) -> int:
    """Rows on which steps run at once: what they hand to each other is to stay in a near cache.

    Sums over rows are not taken apart: a sum's bits would depend on where.
    """
    if any(isinstance(s.kernel.spec, (Outer, ColumnSum)) for s in low.steps):
        return ALL_ROWS
    handed = {b.id: b.ld for b in low.buffers.values() if b.space == Space("scratch")}
    handed |= {b.id: b.ld for s in low.steps for b in _read_in_order(s)}
    return layout.part_rows(sum(handed.values()), n_threads) if handed else ALL_ROWS


def _read_in_order(step: Step) -> list[Buffer]:
    """The rows that a product multiplies without an index."""
    if not isinstance(step.kernel.spec, Product):
        return []
    slots = {p.source for p in step.kernel.spec.pieces if p.index is None}
    sources = operands(step.kernel.spec.pieces).sources
    return [b for (slot, _), b in zip(sources, step.buffers, strict=False) if slot in slots]


def _adds(step: Step, parameters: Mapping[str, Parameter]) -> tuple[tuple[BufferId, bool], ...]:
    """The gradients that a step adds to, and whether it can replace the whole of one instead."""
    spec = step.kernel.spec
    if isinstance(spec, ColumnSum):
        return ((step.buffers[-1].id, False),)
    if not isinstance(spec, Outer):
        return ()
    buffers = step.buffers[-1:] if spec.sums is None else step.buffers[-2:]
    shapes = {gradient_buffer(name): p.shape for name, p in parameters.items()}
    first, whole = buffers[0].id, (spec.k, spec.n_columns)
    covers = shapes.get(first, whole) == whole
    return ((first, covers), *((b.id, False) for b in buffers[1:]))


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
) -> tuple[Form, tuple[BufferId, ...], BufferId]:
    """The kernel that packs a weight operand, what it reads, and the buffer it fills."""
    parts = netlevel.flatten(w.program, w.index, "param")
    if parts is None:
        spec = Pack(
            ((w.k, w.n_columns),),
            (Placement(0, 0, 0, (0, w.k), (0, w.n_columns)),),
            w.k,
            w.n_columns,
        )
        return compiler.pack_form(spec), (_unpacked(w),), w.buffer
    parts = netlevel.merged(parts)
    names = [w.program.calls[r.leaf]["name"] for r in parts]
    used = list(dict.fromkeys(names))
    places = tuple(
        Placement(used.index(name), r.row, r.column, r.rows, r.columns, r.transposed)
        for name, r in zip(names, parts, strict=True)
    )
    shapes = tuple((parameters[p].shape[0], parameters[p].shape[1]) for p in used)
    spec = Pack(shapes, places, w.k, w.n_columns)
    sources = tuple(BufferId(Role.PARAMETER, p) for p in used)
    return compiler.pack_form(spec), sources, w.buffer


def _unpacked(w: Weights) -> BufferId:
    """Where NumPy puts a weight operand that is no rectangles of parameters."""
    return BufferId(Role.UNPACKED, w.buffer.key)


def _fixed(
    stages: list[Lowered],
    weights: Mapping[BufferId, Weights],
    values: list[NetValue],
    compiler: Compiler,
    kinds: Kinds,
) -> dict[BufferId, tuple[tuple[int, ...], str]]:
    """Shapes of the buffers that no batch changes."""
    fixed: dict[BufferId, tuple[tuple[int, ...], str]] = {}
    for w in weights.values():
        fixed[w.buffer] = compiler.packed(w.k, w.n_columns)
    for v in values:
        fixed[v.buffer] = (v.shape, "float32")
    for low in stages:
        for g in low.gradients:
            for i, buffer in g.totals:
                fixed[buffer] = (total_shape(g.program, i), "float32")
    sites = [c["site"] for _, c in kinds.programs.forward.select("dropout")]
    if sites:
        fixed[SITE_KEYS] = ((max(sites) + 1,), "uint32")
    return fixed


def _left_out(r: RowGradient, kinds: Kinds) -> bool:
    """Whether vertices of some kind have the input but give its row no gradient."""
    wanted = kinds.members(Space("pull", r.pull))
    writers = np.zeros(len(wanted), bool)
    for g in kinds.backward:
        if r in g.lowered.row_gradients:
            writers |= g.member
    return bool((wanted & ~writers).any())
