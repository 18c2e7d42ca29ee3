"""The kernel of a region: loops over the elements of a row, row after row.

Lines of one shape whose operands are element for element share a loop; every value is computed once
and kept in a register. Only a value that another loop needs goes through a row-local array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from ...lowering.region import OWN_LOOP, Line, Load, Region, Shape, phases, row_locals
from ...target_rules import Strip
from ..loopnest import Buffer, Expr, arrays, int64, kernel, loop, scalars, scratch
from .asking import ask_for_next
from .elementwise import ELEMENTWISE, dropped, is_child, mix, one_hot
from .own_loops import OWN
from .row import Index, Local, Row, broadcast, flat


def region(spec: Region, cut: Strip, name: str) -> tirx.PrimFunc:
    """f(n, start of each by-row array..., arrays...): the region on n rows.

    Shapes: as `region.Array` says; other rows than start..start + n - 1 are not written. Tasks of
    the cut may run at the same time.
    """
    tasks = cut.tasks

    def emit() -> None:
        by_row = [a for a in spec.arrays if a.by_row]
        n, *starts = scalars(["n", *(f"start_{a.name}" for a in by_row)])
        buffers = arrays(
            [(a.name, (None, a.ld) if a.ld else (None,), a.dtype) for a in spec.arrays]
        )
        first = dict(zip((a.name for a in by_row), starts, strict=True))

        def rows_of(i: Expr) -> list[Expr | None]:
            return [T.bind(first[a.name] + i) if a.by_row else None for a in spec.arrays]

        with loop(tasks, "task") as task:
            begin, count = (int64(0), n) if tasks == 1 else _rows(task, tasks, n)
            locals_ = _locals(spec, buffers, int64(0) if tasks == 1 else task)
            with loop(count) as i:
                row = Row(spec, cut.lanes, buffers, rows_of(T.bind(begin + i)), locals_)
                if cut.ahead:
                    row.coming = rows_of(T.bind(begin + tirx.min(i + 1, count - 1)))
                _emit_row(row)

    return kernel(name, "region", emit)


def _rows(task: Expr, tasks: int, n: Expr) -> tuple[Expr, Expr]:
    begin = T.bind(task * n // int64(tasks))
    return begin, T.bind((task + 1) * n // int64(tasks) - begin)


def _locals(spec: Region, buffers: Sequence[Buffer], task: Expr) -> dict[int, Local]:
    """Row-local arrays, on the stack or in a task's row of a room."""
    in_rooms = {
        line: Local(buffers[room.array], (task,), first)
        for room in spec.rooms
        for line, first in room.firsts
    }
    on_stack = {
        i: Local(scratch([spec.lines[i].size], "local", spec.lines[i].dtype))
        for i in row_locals(spec.lines)
        if i not in in_rooms
    }
    return in_rooms | on_stack


def _emit_row(row: Row) -> None:
    """The loops of one row, in order."""
    lines, order = row.spec.lines, phases(row.spec.lines)
    keys = {i: _row_key(row, line) for i, line in enumerate(lines) if line.op == "dropout"}
    for phase in range(max(order, default=-1) + 1):
        shared: dict[Shape, list[int]] = {}
        for i in (i for i, at in enumerate(order) if at == phase):
            if lines[i].op in OWN_LOOP:
                OWN[lines[i].op](row, i, lines[i])
                row.store_local(i, lines[i])
            else:
                shared.setdefault(lines[i].shape, []).append(i)
        for shape, members in shared.items():
            _shared_loop(row, shape, members, keys)


def _shared_loop(row: Row, shape: Shape, members: Sequence[int], keys: Mapping[int, Expr]) -> None:
    """One loop over the elements of all lines of one shape in a phase."""
    lines = row.spec.lines
    held = {i: scratch([row.lanes], "local", lines[i].dtype) for i in members}

    def body(index: Index, lane: Expr) -> None:
        row.in_loop = {}
        position = flat(index, shape)
        for i in members:
            value = _element(row, lines[i], keys.get(i), index)
            # Through a register array, not a let: TVM substitutes lets, and trees of them explode.
            T.buffer_store(held[i], value, [lane])
            row.in_loop[i] = held[i][lane]
            if i in row.locals:
                row.locals[i].put(position, held[i][lane])
            row.store(lines[i], held[i][lane], position)

    row.over(shape, body, ask_for_next(row, shape, [lines[i] for i in members]))
    row.in_loop = {}


def _element(row: Row, line: Line, key: Expr, index: Index) -> Expr:
    """One element of an elementwise line."""
    operands = zip(line.args, line.shapes, strict=True)
    args = [row.at(a, s, broadcast(index, s)) for a, s in operands]
    if line.op == "dropout":
        return dropped(args[0], key, flat(index, line.shape), line["rate"])
    if line.op == "one_hot":
        return one_hot(args[0], int64(0) + index[-1])
    if line.op == "child_present":
        return is_child(args[0])
    return ELEMENTWISE[line.op](*args)


def _row_key(row: Row, line: Line) -> Expr:
    """Dropout's key of this row: the vertex's key mixed with that of the site and step."""
    vertex, keys = line.args[1], line.args[2]
    assert isinstance(vertex, Load) and isinstance(keys, Load)
    mine = row.buffers[vertex.array][row.rows[vertex.array]]
    return mix(T.bind(mine ^ row.buffers[keys.array][int64(line["site"])]))
