"""Net-level values: rectangles mean what NumPy computes, for random slices, joins, transposes."""

import numpy as np
import pytest

from tvm_cavs.compiler.lowering.rectangles import Rectangle, flatten, merged
from tvm_cavs.language.program import Builder, Program
from tvm_cavs.language.value import Type, Value, full
from tvm_cavs.transform.net_values import net_value

SHAPES = ((4, 3), (2, 5), (3, 3), (5,), (4,), (1,))


def leaves(b: Builder, op: str = "param") -> list[Value]:
    """A parameter of each shape; or a total of a vertex's value of each shape."""
    if op == "param":
        kinds = [Type(shape, "float32", "net") for shape in SHAPES]
        return [b.call("param", name=f"p{i}", type=t) for i, t in enumerate(kinds)]
    reads = [b.call("pull", name=f"x{i}", type=Type(s)) for i, s in enumerate(SHAPES)]
    return [b.call("total", x) for x in reads]


def zeros(b: Builder, shape: tuple[int, ...]) -> Value:
    return full(b, 0.0, shape)


def grown(rng: np.random.Generator, b: Builder, pool: list[Value], sums: bool) -> Value:
    """One more value, a piece, a join or a transpose of values of the pool."""
    x = pool[rng.integers(len(pool))]
    axis = int(rng.integers(len(x.shape)))
    match int(rng.integers(4 if sums else 3)):
        case 0:
            start = int(rng.integers(x.shape[axis]))
            stop = int(rng.integers(start + 1, x.shape[axis] + 1))
            return b.call("slice", x, axis=axis, start=start, stop=stop)
        case 1 if len(x.shape) == 2:
            return b.call("transpose", x)
        case 3:
            same = [y for y in pool if y.shape == x.shape]
            return b.call("add", x, same[rng.integers(len(same))])
    cross = [y for y in pool if _fits(x, y, axis)]
    cross.append(zeros(b, x.shape))
    parts = [x, *(cross[rng.integers(len(cross))] for _ in range(rng.integers(1, 3)))]
    return b.call("concat", *(parts[k] for k in rng.permutation(len(parts))), axis=axis)


def _fits(x: Value, y: Value, axis: int) -> bool:
    both = zip(x.shape, y.shape, strict=True) if len(x.shape) == len(y.shape) else [(0, 1)]
    return all(m == n for k, (m, n) in enumerate(both) if k != axis or m == 0)


def assembled(
    program: Program, rectangles: list[Rectangle], i: int, values: dict[int, np.ndarray]
) -> np.ndarray:
    """What rectangles stand for, added up."""
    shape = program.calls[i].type.shape
    out = np.zeros(shape if len(shape) == 2 else (1, *shape))
    for r in rectangles:
        part = np.atleast_2d(values[r.leaf])[slice(*r.rows), slice(*r.columns)]
        n_rows, n_columns = r.shape
        target = out[r.row : r.row + n_rows, r.column : r.column + n_columns]
        target += part.T if r.transposed else part
    return out.reshape(shape)


@pytest.mark.parametrize("op", ["param", "total"])
@pytest.mark.parametrize("seed", range(60))
def test_rectangles_are_what_numpy_computes(op: str, seed: int) -> None:
    rng, b = np.random.default_rng(seed), Builder("net")
    pool = leaves(b, op)
    for _ in range(12):
        pool.append(grown(rng, b, pool, sums=op == "total"))
    program = b.finish()
    values = {i: rng.normal(size=c.type.shape).astype("float32") for i, c in program.select(op)}
    for x in pool:
        rectangles = flatten(program, x.index, op, sums=op == "total")
        assert rectangles is not None
        got = assembled(program, rectangles, x.index, values)
        want = net_value(program, x.index, values.__getitem__)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=str(program))
        fewer = merged(rectangles)
        assert len(fewer) <= len(rectangles)
        np.testing.assert_allclose(assembled(program, fewer, x.index, values), got, rtol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_was_cut_is_one_rectangle_again(transposed: bool) -> None:
    """Cut along both axes, joined in any order, and not across another parameter."""
    b = Builder("net")
    p, other = (b.call("param", name=n, type=Type((4, 6), "float32", "net")) for n in "pq")
    if transposed:
        p, other = (b.call("transpose", x) for x in (p, other))

    def cut(x: Value, axis: int, *at: int) -> list[Value]:
        ends = [0, *at, x.shape[axis]]
        pairs = zip(ends, ends[1:], strict=False)
        return [b.call("slice", x, axis=axis, start=m, stop=n) for m, n in pairs]

    rows = [b.call("concat", *cut(part, 1, 1, 3), axis=1) for part in cut(p, 0, 1, 2)]
    whole, mixed = b.call("concat", *rows, axis=0), b.call("concat", p, other, p, axis=0)
    program = b.finish()
    (found,) = merged(reversed(flatten(program, whole.index, "param") or ()))
    assert (found.row, found.column, found.rows, found.columns) == (0, 0, (0, 4), (0, 6))
    assert found.transposed == transposed
    assert len(merged(flatten(program, mixed.index, "param") or ())) == 3


def test_merged_keeps_what_does_not_go_on() -> None:
    a = Rectangle(0, 0, 0, (0, 2), (0, 3))
    for r in (
        Rectangle(0, 2, 0, (3, 4), (0, 3)),  # a row is left out
        Rectangle(0, 2, 0, (2, 4), (1, 4)),  # other columns
        Rectangle(0, 3, 0, (2, 4), (0, 3)),  # a hole in the result
        Rectangle(1, 2, 0, (2, 4), (0, 3)),  # another leaf
        Rectangle(0, 2, 0, (0, 3), (3, 5), True),
    ):
        assert merged([a, r]) == [a, r]
    assert merged([a, Rectangle(0, 2, 0, (2, 4), (0, 3))]) == [Rectangle(0, 0, 0, (0, 4), (0, 3))]


def test_what_moves_more_than_rectangles_is_computed() -> None:
    b = Builder("net")
    p, q = leaves(b)[:2]
    bent = b.call("reshape", p, shape=(3, 4))
    half = b.call("concat", q, b.call("mul", q, q), axis=0)
    added = b.call("add", p, p)
    program = b.finish()
    value = np.arange(12, dtype="float32").reshape(4, 3)
    for x in (bent, half, added):
        assert flatten(program, x.index, "param") is None
    np.testing.assert_array_equal(
        net_value(program, bent.index, lambda i: value), value.reshape(3, 4)
    )
    assert net_value(program, added.index, lambda i: value).dtype == "float32"


def test_zeros_are_no_rectangle() -> None:
    b = Builder("net")
    p = leaves(b)[0]
    joined = b.call("concat", zeros(b, (2, 3)), p, zeros(b, (1, 3)), axis=0)
    program = b.finish()
    rectangles = flatten(program, joined.index, "param")
    assert rectangles == [Rectangle(p.index, 2, 0, (0, 4), (0, 3))]


def test_broadcast_sums_are_computed() -> None:
    """A vector added to every row of a matrix is no rectangle of the sum."""
    b = Builder("net")
    totals = leaves(b, "total")
    wide = b.call("add", totals[2], b.call("slice", totals[3], axis=0, start=0, stop=3))
    program = b.finish()
    assert flatten(program, wide.index, "total", sums=True) is None
