"""A compiled network without its code <-> plain data that JSON can hold.

Functions are written as their symbols; buffers and spaces once, in tables, and then by number. What
is in the tables is also what `cpp/cavs.cpp` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime import (
    Buffer,
    BufferId,
    CompiledGroup,
    CompiledPack,
    CompiledStep,
    Executable,
    Role,
    Space,
)

Data = dict[str, Any]
Function = Callable[[str], Any]  # a symbol -> the function


@dataclass(frozen=True)
class Output:
    """What a vertex pushes: its name, where it lies, its shape at one vertex."""

    name: str
    buffer: BufferId
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Deployed:
    """A network's inference: what is compiled, and how vertices are told apart.

    arity: slots of a vertex. pulls: the inputs that kinds are told apart by. number: kinds by mask,
    rank: their order in a level, maybe: bits that tell none apart, as a `Planner` takes them.
    values: buffers that are not computed but stored. host: the kernels that plan, by name.
    """

    executable: Executable
    arity: int
    pulls: tuple[str, ...]
    number: Mapping[int, int]
    rank: np.ndarray
    maybe: int
    outputs: tuple[Output, ...]
    values: tuple[BufferId, ...]
    host: Mapping[str, Any]


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
        }
        self._numbers((*e.fixed, *e.buffers))
        spaces = [self._space_data(space) for space in self._spaces]
        return made | {"spaces": spaces, "buffers": [self._buffer_data(b) for b in self._buffer]}

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
                }
                for s in g.steps
            ],
        }

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


def from_data(data: Data, function: Function) -> Deployed:
    """The way back.

    Args:
        function: finds a kernel by its symbol.
    """
    spaces = [Space(each["what"], each["key"]) for each in data["spaces"]]
    ids = [_id(each) for each in data["buffers"]]
    members = {
        space: np.array(each["kinds"], bool)
        for space, each in zip(spaces, data["spaces"], strict=True)
        if each["kinds"] is not None
    }
    stored = list(zip(ids, data["buffers"], strict=True))
    executable = Executable(
        forward=tuple(_group(each, spaces, ids, function) for each in data["groups"]),
        backward=(),
        packs={
            ids[p["buffer"]]: CompiledPack(
                function(p["function"]), tuple(ids[i] for i in p["sources"])
            )
            for p in data["packs"]
        },
        row_sums={},
        buffers={
            id: Buffer(id.role, id.key, each["ld"], spaces[each["space"]], each["dtype"])
            for id, each in stored
            if "space" in each
        },
        fixed={id: (tuple(each["shape"]), each["dtype"]) for id, each in stored if "shape" in each},
        totals=(),
        cleared=(),
        members=members,
        n_parts=data["n_parts"],
    )
    kinds = data["kinds"]
    return Deployed(
        executable=executable,
        arity=data["arity"],
        pulls=tuple(data["pulls"]),
        number=dict(kinds["number"]),
        rank=np.array(kinds["rank"], "int64"),
        maybe=kinds["maybe"],
        outputs=tuple(
            Output(o["name"], ids[o["buffer"]], tuple(o["shape"])) for o in data["outputs"]
        ),
        values=tuple(ids[i] for i in data["values"]),
        host={name: function(symbol) for name, symbol in data["host"].items()},
    )


def _id(data: Data) -> BufferId:
    key = data["key"]
    return BufferId(Role(data["role"]), tuple(key) if isinstance(key, list) else key)


def _group(
    data: Data, spaces: list[Space], ids: list[BufferId], function: Function
) -> CompiledGroup:
    steps = tuple(
        CompiledStep(
            functions=tuple(map(function, s["functions"])),
            limits=tuple(s["limits"]),
            starts=tuple(s["starts"]),
            buffers=tuple(ids[i] for i in s["buffers"]),
            adds=(),
            kind=s["kind"],
            note=s["note"],
            flop_per_row=s["flop_per_row"],
        )
        for s in data["steps"]
    )
    return CompiledGroup(
        stage=data["stage"],
        member=np.array(data["member"], bool),
        spaces=tuple(spaces[i] for i in data["spaces"]),
        steps=steps,
        packs=tuple(ids[i] for i in data["packs"]),
        most_rows=data["most_rows"],
    )
