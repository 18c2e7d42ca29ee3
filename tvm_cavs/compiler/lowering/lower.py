"""Lower: one stage Program -> steps, each a kernel on whole buffers.

A stage is cut at its matrix products. What lies between two of them is one region
(`region.py`), and a product reads its left operand through pieces: gathers, word vectors and
concatenations are read where they are and never copied first.
"""

from __future__ import annotations

from ...language import Builder, Call, Program, Value
from ...runtime import Buffer, BufferId, Role, space_of
from ...transform import ALL, Options
from .buffer_assignment import assign_buffers
from .lowered import Lowered
from .parameter_gradients import Contributions, Part, contributions, summed_with
from .places import is_product
from .region_builder import RegionBuilder
from .specs import ColumnSum, Outer, Product
from .steps import Kernel, Slots, Spot, Step, Weights, identity


def expand(program: Program) -> Program:
    """Softmax and log-softmax as their maximum, exponentials and sum."""

    def rule(
        b: Builder, op: str, args: tuple[Value, ...], attrs: dict[str, object]
    ) -> Value | None:
        if op not in ("softmax", "log_softmax"):
            return None
        shifted = b.call("sub", args[0], b.call("max", args[0], keep=True))
        e = b.call("exp", shifted)
        total = b.call("sum", e, keep=True)
        return e / total if op == "softmax" else shifted - b.call("log", total)

    b = Builder(program.name, shared=True, rule=rule)
    new: list[Value] = []
    for c in program.calls:
        new.append(b.call(c.op, *(new[a] for a in c.args), where=c.where, **dict(c.attrs)))
    return b.finish()


def lower(program: Program, arity: int, options: Options = ALL) -> Lowered:
    """Steps of one stage (or of a whole Program that has no stages to cut).

    Args:
        arity: slots of a vertex, the row layout of what an adjoint scatters.
        options: whether lines share a region, and whether products gather.

    Raises:
        TraceError: the program uses an op in a way that has no kernel.
    """
    # without slots nothing is gathered, but an adjoint still reads their rows: none
    return _Lowering(expand(program), max(arity, 1), options).run()


class _Lowering:
    """The kernels of one program, in an order in which every value is there when it is read."""

    def __init__(self, program: Program, arity: int, options: Options) -> None:
        self.program, self.calls = program, program.calls
        self.added: Contributions = contributions(program)
        self.places = assign_buffers(program, arity, self.added.rows, options)
        self.summed_with = summed_with(program)
        self.steps: list[Step] = []
        self.weights: dict[BufferId, Weights] = {}
        self.net_values: dict[BufferId, int] = {}

    def run(self) -> Lowered:
        """Regions in order; after each, the products and sums that can run."""
        ready = self.places.ready
        for r in range(max(ready, default=0) + 1):
            self._region(r)
            for i, c in enumerate(self.calls):
                if is_product(c) and ready[i] == r + 1:
                    self._product(i, c)
                elif c.op == "total" and ready[c.args[0]] == r and i not in self.summed_with:
                    self._total(i, c)
        return Lowered(
            self.program,
            tuple(self.steps),
            tuple(self.weights.values()),
            self.added.gradients,
            tuple(row for _, row, _ in self.added.rows),
            tuple(self.net_values.items()),
        )

    def _region(self, r: int) -> None:
        builder = RegionBuilder(self.places, r)
        for i in range(len(self.calls)):
            if i in self.places.lines and self.places.ready[i] == r:
                builder.line(i)
        for i, to in self.places.copies:
            if self.places.ready[i] == r:
                builder.copy(i, to)
        self.net_values |= builder.net_values
        if builder.lines:
            self.steps.append(builder.step())

    def _product(self, i: int, c: Call) -> None:
        slots, to = Slots(), self.places.home[i]
        pieces = tuple(self.places.pieces(c.args[0], slots))
        spec = Product(pieces, c.type.size, to.buffer.ld, to.column)
        weights = self._weights(c.args[1])
        packed = Buffer(weights.role, weights.key, 0, None)
        starts, buffers = slots.parameters(pieces)
        starts = (space_of(to.buffer), *starts)
        self.steps.append(Step(Kernel("product", spec), starts, (*buffers, packed, to.buffer)))

    def _weights(self, i: int) -> BufferId:
        """The packed right operand %i of a product."""
        buffer = BufferId(Role.PACKED, identity(self.program, i))
        k, n_columns = self.calls[i].type.shape
        self.weights[buffer] = Weights(buffer, self.program, i, k, n_columns)
        return buffer

    def _total(self, i: int, c: Call) -> None:
        """A sum over vertices, added up part by part: a weight gradient, or a sum of rows."""
        source, parts = self.calls[c.args[0]], self.added.totals[i]
        if source.op != "outer":
            self._column_sums(c.args[0], parts)
            return
        biases = [self.added.totals[t] for t, outer in self.summed_with.items() if outer == i]
        together = [b for b in biases if len(b) == 1 and b[0].columns == parts[0].columns]
        for k, part in enumerate(parts):
            self._outer(source, part, together[0][0].spot if together and not k else None)
        for bias in biases:
            if bias not in together:
                self._column_sums(source.args[1], bias)

    def _outer(self, source: Call, part: Part, bias: Spot | None) -> None:
        """A part of a weight gradient; with `bias` the sums of its right operand too."""
        slots, spot, pieces = Slots(), part.spot, self.places.pieces
        left = tuple(pieces(source.args[0], slots, *part.rows))
        right = tuple(pieces(source.args[1], slots, *part.columns))
        sums = None if bias is None else bias.column
        spec = Outer(left, right, spot.ld, spot.column, spot.row, sums)
        starts, buffers = slots.parameters(left + right)
        out = [
            Buffer(s.buffer.role, s.buffer.key, s.ld, None) for s in (spot, bias) if s is not None
        ]
        self.steps.append(Step(Kernel("outer", spec), starts, (*buffers, *out)))

    def _column_sums(self, i: int, parts: tuple[Part, ...]) -> None:
        """The sum of the rows of %i."""
        for part in parts:
            slots, spot = Slots(), part.spot
            pieces = tuple(self.places.pieces(i, slots, *part.columns))
            starts, buffers = slots.parameters(pieces)
            kernel = Kernel("column_sum", ColumnSum(pieces, spot.column))
            out = Buffer(spot.buffer.role, spot.buffer.key, spot.ld, None)
            self.steps.append(Step(kernel, starts, (*buffers, out)))
