"""What is written in LLVM's own words for tile registers, read here: few CPUs can run it."""

import operator
import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("tvm")

from tvm_cavs.compiler.kernels.cpu.amx import SIDE, _block

NUMBER = re.compile(r"  %(\w+) = (shl|mul|add|and|icmp ugt|icmp ult) i64 (\S+), (\S+)")
POINTER = re.compile(r"  %(\w+) = getelementptr i8, ptr (\S+), i64 (\S+)")
PHI = re.compile(r"  %(\w+) = phi i64 \[(\S+), %(\w+)\], \[(\S+), %\w+\]")
BRANCH = re.compile(r"  br i1 (\S+), label %(\w+), label %(\w+)")
CALL = re.compile(r"  call void @llvm\.(\S+?)\((.*)\)")
MEANING: dict[str, Callable[[int, int], int]] = {
    "shl": operator.lshift,
    "mul": operator.mul,
    "add": operator.add,
    "and": operator.and_,
    "icmp ugt": operator.gt,
    "icmp ult": operator.lt,
}


def calls(text: str, **known: int) -> Iterator[tuple[str, list[int]]]:
    """What a function calls, in order, with what; addresses are numbers."""
    lines = text.splitlines()[2:-1]
    labels = {line[:-1]: at for at, line in enumerate(lines) if not line.startswith(" ")}
    at, before, block = 0, "", ""

    def value(term: str) -> int:
        last = term.split()[-1]
        return known[last[1:]] if last.startswith("%") else int(last)

    while lines[at] != "  ret void":
        line, at = lines[at], at + 1
        if line[:-1] in labels:
            before, block = block, line[:-1]
        elif found := NUMBER.fullmatch(line):
            known[found[1]] = MEANING[found[2]](value(found[3]), value(found[4]))
        elif found := POINTER.fullmatch(line):
            known[found[1]] = value(found[2]) + value(found[3])
        elif found := PHI.fullmatch(line):
            known[found[1]] = value(found[2] if before == found[3] else found[4])
        elif found := BRANCH.fullmatch(line):
            at = labels[found[2] if value(found[1]) else found[3]]
        else:
            found = CALL.fullmatch(line)
            assert found, line
            yield found[1], [value(given) for given in found[2].split(", ")]


@pytest.mark.parametrize("n_steps", [0, 1, 18])
@pytest.mark.parametrize("n_columns", [1, 2])
@pytest.mark.parametrize("n_rows", [1, 2])
def test_a_block_takes_each_step_what_the_one_before_has_asked_for(
    n_rows: int, n_columns: int, n_steps: int
) -> None:
    """All products and where they go; every line of the next step's operands is asked for once,
    and of the result one row after the other.
    """
    a, b, c, lda, ldb, ldc = 1 << 20, 1 << 30, 1 << 40, 320, 192, 448
    rows, columns, steps = range(n_rows), range(n_columns), range(n_steps)
    tiles: dict[int, tuple[int, ...]] = {}
    sums: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    stored, asked = {}, list[tuple[int, int]]()
    text = _block(n_rows, n_columns)
    for name, given in calls(text, a=a, b=b, c=c, lda=lda, ldb=ldb, ldc=ldc, steps=n_steps):
        if name == "x86.tilezero":
            sums[given[0]] = []
        elif name == "x86.tileloadd64":
            tiles[given[0]] = tuple(given[1:])
        elif name == "x86.tdpbf16ps":
            sums[given[0]].append((tiles[given[1]], tiles[given[2]]))
        elif name == "x86.tilestored64":
            stored[given[1]] = sums[given[0]], given[2]
        else:
            assert name == "prefetch.p0"
            asked.append((given[0], given[1]))
    left = {(r, k): a + SIDE * r * lda + 64 * k for r in rows for k in range(n_steps + 1)}
    right = {(k, j): b + SIDE * k * ldb + 64 * j for k in range(n_steps + 1) for j in columns}
    assert stored == {
        c + SIDE * r * ldc + 64 * j: ([((left[r, k], lda), (right[k, j], ldb)) for k in steps], ldc)
        for r in rows
        for j in columns
    }
    expected = [(left[r, k + 1] + i * lda, 0) for k in steps for r in rows for i in range(SIDE)]
    expected += [
        (right[k + 1, j] + i * ldb, 0) for k in steps for j in columns for i in range(SIDE)
    ]
    expected += [
        (c + (SIDE * r + k % SIDE) * ldc + 64 * j, 1) for k in steps for r in rows for j in columns
    ]
    assert sorted(asked) == sorted(expected)
