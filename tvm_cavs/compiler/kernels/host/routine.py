"""The kernel that calls kernels: calls written down as integers, made in one compiled loop.

A kernel is called as TVM's foreign function interface has it (tvm/ffi/c_api.h): a function pointer,
its object, and a frame of arguments, 16 bytes each: what it is, then its value. TIR cannot follow
a pointer, so that line is in LLVM's own language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tvm import tirx
from tvm.tirx.script import builder as T

from ....runtime import COUNT, FORM_COLUMNS, GROUP, MOVE_COLUMNS, SLICE_COLUMNS, STEP_COLUMNS
from ..loopnest import Buffer, Expr, arrays, hold, kernel, loop, scalars, with_llvm
from .integers import Counter, at, ints, longs, put, when

LLVM = """
define weak_odr hidden i32 @tvm_cavs_call(i64 %function, i64 %object, ptr %frame, i32 %n) noinline {
  %result = alloca [2 x i64], align 16
  store [2 x i64] zeroinitializer, ptr %result
  %code = inttoptr i64 %function to ptr
  %self = inttoptr i64 %object to ptr
  %failed = call i32 %code(ptr %self, ptr %frame, i32 %n, ptr %result)
  ret i32 %failed
}
"""


def routine() -> None:
    """Runs slices order[first], ..., order[first + n - 1]: every step of each one's group.

    slices int64[..., width] as `segments` makes them; steps[groups[g]:groups[g + 1]] are those of
    group g, in the columns above, and run on at most parts[g] rows at once. result = (the place in
    `order` and the step of a call that failed, from 1 on; zeros if none did), after which nothing
    is called any more. The same in NumPy: `routine` of tests/helpers/host_kernels_in_numpy.py.
    """
    first, n, width = scalars(["first", "n", "width"])
    order, slices, groups, parts, *tables, result = arrays(
        [
            *ints("order"),
            *longs("slices", "groups", "parts", "steps", "forms", "moves", "frames", "result"),
        ]
    )
    calls, failed = _Calls(slices, *tables), Counter()
    put(result, 0, 0)
    put(result, 1, 0)

    def call(i: Expr, part: _Part, step: Expr) -> None:
        calls.make(part, step, failed)
        when(failed.value > 0, lambda: _report(result, i, step))

    with loop(n) as i:
        begin = hold(at(order, first + i) * width)
        group = hold(at(slices, begin + GROUP))
        start = hold(at(groups, group))
        total, most = hold(at(slices, begin + COUNT)), hold(at(parts, group))
        with loop((total + most - 1) // most) as p:
            offset = hold(p * most)
            part = _Part(begin, offset, hold(tirx.min(most, total - offset)))
            with loop(at(groups, group + 1) - start) as s:
                when(failed.value < 1, lambda: call(i, part, hold(start + s)))


def _report(result: Buffer, i: Expr, step: Expr) -> None:
    put(result, 0, i + 1)
    put(result, 1, step + 1)


class _Part(NamedTuple):
    """Rows of a slice: where the slice begins in `slices`, the first of its rows, how many."""

    begin: Expr
    offset: Expr
    rows: Expr


@dataclass(frozen=True)
class _Calls:
    """The slices, and the tables of what is called on them."""

    slices: Buffer
    steps: Buffer
    forms: Buffer
    moves: Buffer
    frames: Buffer

    def make(self, part: _Part, step: Expr, failed: Counter) -> None:
        """Call a step's kernel on a part, or note that it failed."""
        form, last, move, end, frame, count = (
            hold(at(self.steps, step * STEP_COLUMNS + j)) for j in range(STEP_COLUMNS)
        )
        found = self._serving(part, form, last)
        with loop(end - move) as j:
            self._move(part, (move + j) * MOVE_COLUMNS)
        function, self_ = (at(self.forms, found.value * FORM_COLUMNS + j) for j in (1, 2))
        place, n_args = tirx.address_of(self.frames[frame]), count.astype("int32")
        code = tirx.call_extern("int32", "tvm_cavs_call", function, self_, place, n_args)
        when(T.bind(code) != 0, lambda: failed.set(1))

    def _serving(self, part: _Part, form: Expr, last: Expr) -> Counter:
        """The last of these forms that serves as many rows."""
        found = Counter(form)
        with loop(last - form - 1) as j:
            more = form + 1 + j
            when(part.rows >= at(self.forms, more * FORM_COLUMNS), lambda: found.set(more))
        return found

    def _move(self, part: _Part, at_move: Expr) -> None:
        """Put what the slice's row has for the part into the frame of its step."""
        column = hold(at(self.moves, at_move + 1))
        value = Counter(at(self.slices, part.begin + column))
        when(column >= SLICE_COLUMNS, lambda: value.add(part.offset))
        when(column.equal(COUNT), lambda: value.set(part.rows))
        put(self.frames, at(self.moves, at_move), value.value)


def make(name: str) -> tirx.PrimFunc:
    """The kernel, as `routine` has it."""
    return with_llvm(kernel(name, "plan", routine), LLVM)
