"""Lists or arrays given by a user -> Field: one input of the vertices, present or absent at each.

Integers become int32, floats become float32; an absent row holds -1 or 0, so that a value that was
never given cannot be mistaken for one that was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_cavs.errors import GraphError


@dataclass(frozen=True, eq=False)
class Field:
    """One named input of the vertices.

    Attributes:
        values: int32[n_vertices, ...] or float32[n_vertices, ...]; rows of absent vertices hold -1
            (int32) or 0 (float32).
        present: bool[n_vertices].
    """

    values: np.ndarray
    present: np.ndarray

    def __str__(self) -> str:
        shape = "".join(f"[{extent}]" for extent in self.values.shape[1:])
        return f"{self.values.dtype}{shape} at {int(self.present.sum())} of {len(self.present)}"


def make_field(name: str, given: Any) -> Field:
    """A Field from an array (present everywhere), a list that holds None where absent, or a Field.

    Raises:
        GraphError: the values are not numbers, differ in shape, or do not fit int32.
    """
    if isinstance(given, Field):
        return given
    if isinstance(given, np.ndarray) and given.dtype != object:
        return Field(_numbers(name, given), np.ones(len(given), bool))
    try:
        rows = list(given)
    except TypeError as error:
        raise GraphError(f"input {name!r}: expected a list or array, got {given!r}.") from error
    present = np.fromiter((row is not None for row in rows), bool, len(rows))
    if present.all() and rows:
        return Field(_numbers(name, rows), present)
    if not present.any():
        return empty_field(len(rows))
    values = _numbers(name, [row for row in rows if row is not None])
    field = empty_field(len(rows), values.dtype, values.shape[1:])
    field.values[present] = values
    return Field(field.values, present)


def empty_field(n: int, dtype: Any = np.int32, shape: tuple[int, ...] = ()) -> Field:
    """A Field that is absent at all n vertices."""
    filler = -1 if np.dtype(dtype) == np.int32 else 0
    return Field(np.full((n, *shape), filler, dtype), np.zeros(n, bool))


def join_inputs(inputs: Sequence[Mapping[str, Field]], lengths: Sequence[int]) -> dict[str, Field]:
    """Concatenate the inputs of several graphs; one that lacks a name is absent there.

    Raises:
        GraphError: as `join_fields`.
    """
    names = inputs[0].keys()
    if any(each.keys() != names for each in inputs):
        names = dict.fromkeys(name for each in inputs for name in each).keys()
    return {name: join_fields(name, [e.get(name) for e in inputs], lengths) for name in names}


def join_fields(name: str, fields: Sequence[Field | None], lengths: Sequence[int]) -> Field:
    """Concatenate one input over several graphs; None stands for a graph that lacks it.

    Raises:
        GraphError: two graphs hold it with different dtypes or shapes; both are named.
    """
    if None not in fields:
        fast = _concatenate([f for f in fields if f is not None])
        if fast is not None:
            return fast
    held = [(g, f) for g, f in enumerate(fields) if f is not None and f.present.any()]
    if not held:
        return empty_field(int(np.sum(lengths)))
    first, model = held[0]
    for g, field in held:
        if _kind(field) != _kind(model):
            raise GraphError(
                f"input {name!r}: graph {first} holds {_kind(model)} and graph {g} holds "
                f"{_kind(field)}. One input has one dtype and one shape at every vertex."
            )
    joined = empty_field(int(np.sum(lengths)), model.values.dtype, model.values.shape[1:])
    start = np.concatenate([[0], np.cumsum(lengths)])
    for g, field in held:
        joined.values[start[g] : start[g + 1]] = field.values
        joined.present[start[g] : start[g + 1]] = field.present
    return joined


def _concatenate(fields: Sequence[Field]) -> Field | None:
    """The fields in a row, or None where their dtypes or shapes differ."""
    try:
        values = np.concatenate([f.values for f in fields])
    except ValueError:
        return None
    if values.dtype != fields[0].values.dtype:
        return None
    return Field(values, np.concatenate([f.present for f in fields]))


def _kind(field: Field) -> str:
    return f"{field.values.dtype}{list(field.values.shape[1:])}"


def _numbers(name: str, rows: Any) -> np.ndarray:
    try:
        values = np.asarray(rows)
    except ValueError as error:
        raise GraphError(
            f"input {name!r}: its rows differ in shape ({error}). "
            "Every present row needs the same shape."
        ) from error
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=np.float32)
    if values.dtype.kind not in "iub":
        raise GraphError(
            f"input {name!r}: expected integers or floats, got {values.dtype} such as "
            f"{values.flat[0].item()!r}. Turn strings into indices with a Vocab first."
        )
    info = np.iinfo(np.int32)
    if values.size and (values.max() > info.max or values.min() < info.min):
        raise GraphError(f"input {name!r}: a value does not fit int32 ({info.min} to {info.max}).")
    return np.ascontiguousarray(values, dtype=np.int32)
