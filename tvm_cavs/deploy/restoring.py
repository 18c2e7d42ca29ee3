"""Plain data -> Deployed: the way back from `writing`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..errors import DeployError
from ..expressions import Expression, Line
from ..meanings import MEANINGS
from ..runtime import (
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
)
from .program import Deployed, Output

Data = dict[str, Any]
Function = Callable[[str], Any]  # a symbol -> the function
NO_BACKWARD: Data = {
    **dict.fromkeys(("groups", "row_sums", "totals", "cleared", "gradients", "direct"), ()),
    "tables": {},
    "seeds": {},
    "direct_vertices": 0,
}


def from_data(data: Data, function: Function) -> Deployed:
    """What was exported.

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
    back = data.get("backward", NO_BACKWARD)
    fixed = {id: (tuple(each["shape"]), each["dtype"]) for id, each in stored if "shape" in each}
    wholes = {id: Area.of(shape) for id, (shape, _) in fixed.items() if shape}

    def groups(given: Iterable[Data]) -> tuple[CompiledGroup, ...]:
        return tuple(_group(each, spaces, ids, wholes, function) for each in given)

    executable = Executable(
        forward=groups(data["groups"]),
        backward=groups(back["groups"]),
        packs={
            ids[p["buffer"]]: CompiledPack(
                function(p["function"]), tuple(ids[i] for i in p["sources"])
            )
            for p in data["packs"]
        },
        row_sums={_row_gradient(r, ids): function(r["function"]) for r in back["row_sums"]},
        buffers={
            id: Buffer(id.role, id.key, each["ld"], spaces[each["space"]], each["dtype"])
            for id, each in stored
            if "space" in each
        },
        fixed=fixed,
        totals=tuple(ids[i] for i in back["totals"]),
        cleared=tuple(ids[i] for i in back["cleared"]),
        members=members,
        n_parts=data["n_parts"],
        net_values=tuple(
            NetValue(ids[v["buffer"]], _expression(v["value"], ids), tuple(v["shape"]))
            for v in data.get("net_values", ())
        ),
        gradients=tuple(_gradient(g, ids) for g in back["gradients"]),
        tables=dict(back["tables"]),
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
        seeds={name: ids[i] for name, i in back["seeds"].items()},
        direct=groups(back["direct"]),
        direct_vertices=back["direct_vertices"],
    )


def _id(data: Data) -> BufferId:
    key = data["key"]
    return BufferId(Role(data["role"]), tuple(key) if isinstance(key, list) else key)


def _group(
    data: Data,
    spaces: list[Space],
    ids: list[BufferId],
    wholes: Mapping[BufferId, Area],
    function: Function,
) -> CompiledGroup:
    steps = tuple(
        CompiledStep(
            functions=tuple(map(function, s["functions"])),
            limits=tuple(s["limits"]),
            starts=tuple(s["starts"]),
            buffers=tuple(ids[i] for i in s["buffers"]),
            adds=_adds(s, ids, wholes),
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


def _adds(
    step: Data, ids: list[BufferId], wholes: Mapping[BufferId, Area]
) -> tuple[tuple[BufferId, Area | None], ...]:
    adds = step.get("adds", ())
    areas = [area and Area(*area) for area in step.get("areas", [None] * len(adds))]
    return tuple(
        (ids[i], wholes[ids[i]] if covers else area)
        for (i, covers), area in zip(adds, areas, strict=True)
    )


def _row_gradient(data: Data, ids: list[BufferId]) -> RowGradient:
    buffer = ids[data["buffer"]]
    return RowGradient(data["parameter"], data["pull"], buffer, data["width"], data["n_rows"])


def _gradient(data: Data, ids: list[BufferId]) -> GradientPart:
    blocks = (
        Block(
            total=ids[b["total"]],
            extent=tuple(b["extent"]),
            rows=tuple(b["rows"]),
            columns=tuple(b["columns"]),
            row=b["row"],
            column=b["column"],
            transposed=b["transposed"],
        )
        for b in data["blocks"]
    )
    value = None if data["value"] is None else _expression(data["value"], ids)
    return GradientPart(data["parameter"], data["count"], tuple(blocks), value)


def _expression(data: list[Data], ids: list[BufferId]) -> Expression:
    return Expression(tuple(_line(line, ids) for line in data))


def _line(data: Data, ids: list[BufferId]) -> Line:
    shape = tuple(data["shape"])
    if "read" in data:
        return Line("read", (), {}, shape, leaf=ids[data["read"]])
    attrs = {k: float(v) if isinstance(v, str) else v for k, v in data["attrs"].items()}
    op = data["op"]
    return Line(op, tuple(data["args"]), attrs, shape, MEANINGS.get(op, partial(_unknown, op)))


def _unknown(op: str, *_: object, **__: object) -> None:
    """Stands for an op of the exporter's own.

    Raises:
        DeployError: it is evaluated.
    """
    raise DeployError(
        f"op {op!r}, which the model computes of its parameters, is none of tvm_cavs: exported "
        "models cannot compute it. Write it with ops of tvm_cavs, or read it from an input."
    )
