"""Deployed -> plain data that JSON can hold.

Buffers and spaces are written once, in tables, and then by number. What is in the tables is also
what `cpp/cavs.cpp` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..expressions import Expression, Line
from ..runtime import Area, BufferId, CompiledGroup, CompiledStep, Executable, GradientPart, Space
from .program import Deployed

Data = dict[str, Any]


def to_data(deployed: Deployed) -> Data:
    """The plain data."""
    return _Writer(deployed.executable).data(deployed)


class _Writer:
    """Numbers buffers and spaces."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        used = [s for g in (*executable.forward, *executable.backward) for s in g.spaces]
        used += [b.space for b in executable.buffers.values() if b.space is not None]
        self._spaces = list(dict.fromkeys((*executable.members, *used)))
        self._space = {space: i for i, space in enumerate(self._spaces)}
        self._buffer: dict[BufferId, int] = {}

    def data(self, d: Deployed) -> Data:
        e = self._executable
        made = {
            "arity": d.arity,
            "pulls": list(d.pulls),
            "kinds": {
                "number": sorted([mask, kind] for mask, kind in d.number.items()),
                "rank": d.rank.tolist(),
                "maybe": d.maybe,
            },
            "outputs": [
                {"name": o.name, "buffer": self._number(o.buffer), "shape": list(o.shape)}
                for o in d.outputs
            ],
            "host": dict(sorted(d.host.items())),
            "n_parts": e.n_parts,
            "groups": [self._group(g) for g in e.forward],
            "packs": [
                {
                    "buffer": self._number(buffer),
                    "function": pack.function,
                    "sources": self._numbers(pack.sources),
                }
                for buffer, pack in e.packs.items()
            ],
            "values": self._numbers(d.values),
            "net_values": [
                {
                    "buffer": self._number(v.buffer),
                    "value": self._expression(v.value),
                    "shape": list(v.shape),
                }
                for v in e.net_values
            ],
        }
        if e.backward or d.seeds:
            made["backward"] = self._backward(d)
        self._numbers((*e.fixed, *e.buffers))
        spaces = [self._space_data(space) for space in self._spaces]
        return made | {"spaces": spaces, "buffers": [self._buffer_data(b) for b in self._buffer]}

    def _backward(self, d: Deployed) -> Data:
        e = self._executable
        return {
            "groups": [self._group(g) for g in e.backward],
            "row_sums": [
                {
                    "parameter": r.parameter,
                    "pull": r.pull,
                    "buffer": self._number(r.buffer),
                    "width": r.width,
                    "n_rows": r.n_rows,
                    "function": function,
                }
                for r, function in e.row_sums.items()
            ],
            "totals": self._numbers(e.totals),
            "cleared": self._numbers(e.cleared),
            "gradients": [self._gradient(g) for g in e.gradients],
            "tables": dict(e.tables),
            "seeds": {name: self._number(buffer) for name, buffer in d.seeds.items()},
            "direct": [self._group(g) for g in d.direct],
            "direct_vertices": d.direct_vertices,
        }

    def _gradient(self, g: GradientPart) -> Data:
        blocks = [asdict(b) | {"total": self._number(b.total)} for b in g.blocks]
        value = None if g.value is None else self._expression(g.value)
        return {"parameter": g.parameter, "count": g.count, "blocks": blocks, "value": value}

    def _expression(self, expression: Expression) -> list[Data]:
        return [self._line(line) for line in expression.lines]

    def _line(self, line: Line) -> Data:
        shape = list(line.shape)
        if isinstance(line.leaf, BufferId):
            return {"read": self._number(line.leaf), "shape": shape}
        # a number may be none of JSON's, such as infinity; no other attribute is a text
        attrs = {k: repr(float(v)) if isinstance(v, float) else v for k, v in line.attrs.items()}
        return {"op": line.op, "args": list(line.args), "attrs": attrs, "shape": shape}

    def _number(self, buffer: BufferId) -> int:
        return self._buffer.setdefault(buffer, len(self._buffer))

    def _numbers(self, buffers: Iterable[BufferId]) -> list[int]:
        return [self._number(buffer) for buffer in buffers]

    def _group(self, g: CompiledGroup) -> Data:
        return {
            "stage": g.stage,
            "member": g.member.astype(int).tolist(),
            "spaces": [self._space[space] for space in g.spaces],
            "most_rows": g.most_rows,
            "packs": self._numbers(g.packs),
            "steps": [
                {
                    "kind": s.kind,
                    "note": s.note,
                    "flop_per_row": s.flop_per_row,
                    "functions": list(s.functions),
                    "limits": list(s.limits),
                    "starts": list(s.starts),
                    "buffers": self._numbers(s.buffers),
                    **self._adds(s),
                }
                for s in g.steps
            ],
        }

    def _adds(self, step: CompiledStep) -> Data:
        """What it adds to, whether it can replace all of that, and areas that are less than all."""
        if not step.adds:
            return {}
        fixed = self._executable.fixed
        covers = [area is not None and area == Area.of(fixed[b][0]) for b, area in step.adds]
        adds = [(self._number(b), all_) for (b, _), all_ in zip(step.adds, covers, strict=True)]
        areas = [None if c else area for (_, area), c in zip(step.adds, covers, strict=True)]
        return {"adds": adds} | ({"areas": areas} if any(areas) else {})

    def _space_data(self, space: Space) -> Data:
        members = self._executable.members.get(space)
        kinds = None if members is None else members.astype(int).tolist()
        return {"what": space.what, "key": space.key, "base": space.base, "kinds": kinds}

    def _buffer_data(self, id: BufferId) -> Data:
        """Its identity, and how large it is: rows of a space, or a shape that no batch changes."""
        key = list(id.key) if isinstance(id.key, tuple) else id.key
        made: Data = {"role": id.role.value, "key": key}
        if id in self._executable.buffers:
            b = self._executable.buffers[id]
            assert b.space is not None, b
            made |= {"space": self._space[b.space], "ld": b.ld, "dtype": b.dtype}
        elif id in self._executable.fixed:
            shape, dtype = self._executable.fixed[id]
            made |= {"shape": list(shape), "dtype": dtype}
        return made
