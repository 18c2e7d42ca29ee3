"""Lowered stages as text: every step with what it reads and writes, regions line by line.

Names that hold a hash are numbered in order of appearance, so that the text of a stage changes only
when the stage does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from .region import Constant, Line, Load, Operand, Ref, Region, Shape
from .specs import ColumnSum, Outer, Piece, Product, operands

if TYPE_CHECKING:
    from .steps import Step

HASH = re.compile(r"\.v?[0-9a-f]{8,}$")


class Names:
    """Readable names of buffers and kernels."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name, with a number in place of a hash."""
        if not HASH.search(name):
            return name
        if name not in self._known:
            base = HASH.sub("", name)
            number = 1 + sum(HASH.sub("", k) == base for k in self._known)
            self._known[name] = f"{base}#{number}"
        return self._known[name]


def listing(title: str, steps: Sequence[Step]) -> str:
    """The title and all steps, one or more lines each."""
    names = Names()
    return "\n".join([title, *(line for s in steps for line in _step(s, names))])


def _step(step: Step, names: Names) -> list[str]:
    spec, buffers = step.kernel.spec, [names.of(b.name) for b in step.buffers]
    title = "  " + names.of(f"{step.kernel.kind}.{step.kernel.name.rsplit('_', 1)[1]}")
    if isinstance(spec, Region):
        return [title, *(_line(k, line, buffers) for k, line in enumerate(spec.lines))]
    if isinstance(spec, Product):
        left, (packed, out) = _pieces(spec.pieces, spec.pieces, buffers), buffers[-2:]
        columns = _columns(spec.column, spec.n_columns)
        return [f"{title}: {out}{columns} = {left} @ {packed} [{spec.k}x{spec.n_columns}]"]
    if isinstance(spec, ColumnSum):
        width = sum(piece.width for piece in spec.pieces)
        out = buffers[-1] + _columns(spec.column, width)
        return [f"{title}: {out} += sum of {_pieces(spec.pieces, spec.pieces, buffers)}"]
    assert isinstance(spec, Outer)
    both = spec.left + spec.right
    left, right = (_pieces(side, both, buffers) for side in (spec.left, spec.right))
    out = buffers[-1 if spec.sums is None else -2]
    at = _columns(spec.row, spec.k) + _columns(spec.column, spec.n_columns)
    text = f"{title}: {out}{at} += {left}^T {right}"
    if spec.sums is None:
        return [text]
    return [f"{text}; {buffers[-1]}{_columns(spec.sums, spec.n_columns)} += sum of {right}"]


def _columns(first: int, n: int) -> str:
    return f"[{first}:{first + n}]"


def _pieces(pieces: Sequence[Piece], all_pieces: tuple[Piece, ...], buffers: Sequence[str]) -> str:
    """Pieces side by side, as `buffer[columns] by index`."""
    needs = operands(all_pieces)
    source = {slot: buffers[k] for k, (slot, _) in enumerate(needs.sources)}
    index = {slot: buffers[len(source) + k] for k, slot in enumerate(needs.indices)}
    texts = []
    for p in pieces:
        by = "" if p.index is None else f" by {index[p.index]}"
        texts.append(f"{source[p.source]}{_columns(p.column, p.width)}{by}")
    return texts[0] if len(texts) == 1 else f"({' | '.join(texts)})"


def _line(number: int, line: Line, buffers: Sequence[str]) -> str:
    pairs = zip(line.args, line.shapes, strict=True)
    terms = [_operand(a, shape, buffers) for a, shape in pairs]
    terms += [f"{name}={value}" for name, value in line.attrs]
    shape = "x".join(map(str, line.shape))
    text = f"    %{number} = {line.op}({', '.join(terms)}) : [{shape}]"
    stores = [f"{buffers[s.array]}{_columns(s.column, line.size)}" for s in line.stores]
    return f"{text} -> {', '.join(stores)}" if stores else text


def _operand(operand: Operand, shape: Shape, buffers: Sequence[str]) -> str:
    if isinstance(operand, Ref):
        return f"%{operand.line}"
    if isinstance(operand, Constant):
        return f"{operand.value:g}"
    if isinstance(operand, Load):
        by = "" if operand.index is None else f" by {buffers[operand.index]}"
        columns = _columns(operand.column, prod(shape)) if shape else ""
        return f"{buffers[operand.array]}{columns}{by}"
    base = _operand(operand.base, operand.shape, buffers)
    where = f", axis {operand.axis} from {operand.start}" if operand.op == "slice" else ""
    return f"{operand.op}({base}{where})"
