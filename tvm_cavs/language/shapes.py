"""Shape rules: the types of an op's operands and its attributes -> the type of its result, or
ShapeError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ShapeError
from .value import Attrs, Type

Types = Sequence[Type]


def broadcast(types: Types, attrs: Attrs) -> Type:
    """NumPy's broadcasting of float32 operands."""
    made = Type(_joint_shape(types), "float32", _per(types))
    _floats(types)
    return made


def compare(types: Types, attrs: Attrs) -> Type:
    """Integers with integers, floats with floats; the result is 0.0 or 1.0."""
    if len({t.dtype for t in types}) != 1:
        raise ShapeError(f"cannot compare {' with '.join(map(str, types))}: the dtypes differ")
    return Type(_joint_shape(types), "float32", _per(types))


def _joint_shape(types: Types) -> tuple[int, ...]:
    shapes = {t.shape for t in types}
    try:
        return shapes.pop() if len(shapes) == 1 else tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        raise ShapeError(f"{' and '.join(map(str, types))} do not broadcast") from None


def matmul(types: Types, attrs: Attrs) -> Type:
    """[m] @ [m, n] -> [n]; the matrix is the net's. The adjoint also takes vectors of the net."""
    x, w = types
    _floats(types)
    if len(x.shape) != 1 or len(w.shape) != 2 or w.per != "net":
        raise ShapeError(
            f"x @ W takes a vertex's vector and a parameter matrix, given {x} and {w}; "
            "a product of two vertex vectors is reduce_sum(a * b)"
        )
    if x.shape[0] != w.shape[0]:
        raise ShapeError(f"left {x} and right {w} disagree: {x.shape[0]} != {w.shape[0]}")
    return Type((w.shape[1],), "float32", x.per)


def outer(types: Types, attrs: Attrs) -> Type:
    """[m], [n] -> [m, n]."""
    if any(len(t.shape) != 1 for t in types):
        raise ShapeError(f"outer takes two vectors, given {types[0]} and {types[1]}")
    return Type((types[0].shape[0], types[1].shape[0]), "float32", _per(types))


def transpose(types: Types, attrs: Attrs) -> Type:
    """The axes in reverse."""
    return replace(types[0], shape=types[0].shape[::-1])


def concat(types: Types, attrs: Attrs) -> Type:
    """Equal in all extents but that of `axis`."""
    axis, first = attrs["axis"], types[0]
    if any(not t.shape for t in types):
        raise ShapeError(
            f"cannot concatenate scalars: {', '.join(map(str, types))}; reshape them to (1,)"
        )
    alike = len({(len(t.shape), t.dtype) for t in types}) == 1 and 0 <= axis < len(first.shape)
    if not alike or len({t.shape[:axis] + t.shape[axis + 1 :] for t in types}) != 1:
        raise ShapeError(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in types)
    return Type(tuple(shape), first.dtype, _per(types))


def cut(types: Types, attrs: Attrs) -> Type:
    """Elements `start` to before `stop` along `axis`."""
    (x,), axis, start, stop = types, attrs["axis"], attrs["start"], attrs["stop"]
    if not 0 <= axis < len(x.shape) or not 0 <= start < stop <= x.shape[axis]:
        raise ShapeError(
            f"slice [{start}:{stop}] of {x} along axis {axis} is empty or out of range"
        )
    shape = list(x.shape)
    shape[axis] = stop - start
    return replace(x, shape=tuple(shape))


def reshape(types: Types, attrs: Attrs) -> Type:
    """As many elements as before."""
    shape = tuple(attrs["shape"])
    if any(n < 1 for n in shape):
        raise ShapeError(f"cannot reshape {types[0]} to {shape}: extents are positive")
    if int(np.prod(shape, dtype=int)) != types[0].size:
        raise ShapeError(f"cannot reshape {types[0]} to {shape}: the sizes differ")
    return replace(types[0], shape=shape)


def reduce(types: Types, attrs: Attrs) -> Type:
    """The last axis goes, or with `keep` has extent 1."""
    (x,) = types
    _floats(types)
    if not x.shape:
        raise ShapeError(f"nothing to reduce in the scalar {x}")
    return replace(x, shape=x.shape[:-1] + ((1,) if attrs["keep"] else ()))


def along_last(types: Types, attrs: Attrs) -> Type:
    """The operand's type; it has a last axis."""
    _floats(types)
    if not types[0].shape:
        raise ShapeError(f"expected a vector, given the scalar {types[0]}")
    return types[0]


def dropout(types: Types, attrs: Attrs) -> Type:
    """The operand's shape; other elements are dropped at every vertex."""
    return replace(along_last(types, attrs), per="vertex")


def embedding(types: Types, attrs: Attrs) -> Type:
    """One row of a table."""
    index, table = types
    _index(index, "embedding")
    if len(table.shape) != 2 or table.per != "net":
        raise ShapeError(f"embedding takes rows from a parameter matrix, given {table}")
    return Type((table.shape[1],))


def pick(types: Types, attrs: Attrs) -> Type:
    """One element of a vector."""
    x, index = types
    _index(index, "pick")
    if len(x.shape) != 1 or x.dtype != "float32":
        raise ShapeError(f"pick takes one element of a float32 vector, given {x}")
    return Type((), "float32", "vertex")


def one_hot(types: Types, attrs: Attrs) -> Type:
    """A vector of `depth` elements."""
    _index(types[0], "one_hot")
    if attrs["depth"] < 1:
        raise ShapeError(f"one_hot has at least one element, given depth {attrs['depth']}")
    return Type((attrs["depth"],))


def argmax(types: Types, attrs: Attrs) -> Type:
    """An index into a vector."""
    if len(types[0].shape) != 1:
        raise ShapeError(f"argmax takes a vector, given {types[0]}")
    return Type((), "int32", types[0].per)


def full(types: Types, attrs: Attrs) -> Type:
    """A constant of the net."""
    return Type(attrs["shape"], "float32", "net")


def same(types: Types, attrs: Attrs) -> Type:
    """What a write writes."""
    return types[0]


def given(types: Types, attrs: Attrs) -> Type:
    """What a read says."""
    t = attrs["type"]
    assert isinstance(t, Type)
    return t


def total(types: Types, attrs: Attrs) -> Type:
    """A sum over all vertices is the net's."""
    return replace(types[0], per="net")


def total_rows(types: Types, attrs: Attrs) -> Type:
    """A table of `rows` rows."""
    return Type((attrs["rows"], types[1].shape[0]), "float32", "net")


def _per(types: Types) -> str:
    return "vertex" if any(t.per == "vertex" for t in types) else "net"


def _floats(types: Types) -> None:
    if any(t.dtype != "float32" for t in types):
        raise ShapeError(f"expected float32 operands, given {' and '.join(map(str, types))}")


def _index(t: Type, what: str) -> None:
    if t.dtype != "int32" or t.shape != ():
        raise ShapeError(f"the index of {what} is one int32, given {t}")
