"""Values as pieces: constants, slices, concatenations, and the parts that are there."""

from __future__ import annotations

from collections.abc import Sequence

from ..language import Recorder, Value, full, nothing

Args = Sequence[Value]


def is_op(x: Value, op: str) -> bool:
    return bool(x.builder.calls[x.index].op == op)


def constant(x: Value) -> float | None:
    """The number that every element of `x` is, if that is known."""
    c = x.builder.calls[x.index]
    return c["value"] if c.op == "full" else None


def is_absent(x: Value) -> bool:
    """Whether `x` is what something absent gives; as a number it reads 0.0."""
    return is_op(x, "absent")


def read(b: Recorder, x: Value) -> Value:
    """`x` as whoever asks for its number reads it."""
    if is_absent(x):
        return full(b, 0.0, x.shape)
    if is_op(x, "concat"):
        return b.call(
            "concat", *(read(b, p) for p in b.define(x.index)[1]), axis=b.calls[x.index]["axis"]
        )
    return x


def part(b: Recorder, x: Value, start: int, stop: int, axis: int = 0) -> Value:
    """x[start:stop] along `axis`; the whole is itself."""
    if (start, stop) == (0, x.shape[axis]):
        return x
    return b.call("slice", x, axis=axis, start=start, stop=stop)


def join(b: Recorder, parts: Args, axis: int) -> Value:
    return parts[0] if len(parts) == 1 else b.call("concat", *parts, axis=axis)


def live(b: Recorder, x: Value) -> list[tuple[int, int]] | None:
    """The ranges of a concatenation that are there; None when all of it is."""
    if not is_op(x, "concat"):
        return None
    held = b.define(x.index)[1]
    out, start = [], 0
    for p in held:
        if not is_absent(p):
            out.append((start, start + p.shape[0]))
        start += p.shape[0]
    return out if len(out) < len(held) else None


def padded(b: Recorder, x: Value, ranges: list[tuple[int, int]], size: int, axis: int) -> Value:
    """Spread `x` out over `ranges` of an extent `size` along `axis`, where nothing else is."""

    def gap(n: int) -> Value:
        shape = list(x.shape)
        shape[axis] = n
        return nothing(b, tuple(shape))

    out, at, taken = [], 0, 0
    for start, stop in ranges:
        if start > at:
            out.append(gap(start - at))
        out.append(part(b, x, taken, taken + stop - start, axis))
        taken, at = taken + stop - start, stop
    if at < size:
        out.append(gap(size - at))
    return join(b, out, axis)
