"""Lists or arrays given by a user -> Field: one input of the vertices, present or absent at each.

Integers become int32, floats become float32; an absent row holds -1 or 0, so that a value that was
never given cannot be mistaken for one that was. What was given is copied, and a Field's arrays are
read-only, so it stays what it was when it was checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError
from ..given import as_list, numbers
from .levels import pointers


@dataclass(frozen=True, eq=False)
class Field:
    """One named input of the vertices. Both arrays are copied when it is made, and read-only.

    Attributes:
        values: int32[n_vertices, ...] or float32[n_vertices, ...]; rows of absent vertices hold -1
            (int32) or 0 (float32).
        present: bool[n_vertices]; zeros and ones will do.

    Raises:
        GraphError: they are no such arrays, or of different lengths.
    """

    values: np.ndarray
    present: np.ndarray

    def __post_init__(self) -> None:
        values = numbers("Field: values", _array("Field: values", self.values))
        given = numbers("Field: present", _array("Field: present", self.present))
        present = given.astype(bool)
        if given.shape != values.shape[:1] or (given != present).any():
            raise GraphError(
                f"Field: present has shape {list(given.shape)} for values of shape "
                f"{list(values.shape)}; expected one bool a row."
            )
        values[~present] = _filler(values.dtype)
        self.__dict__.update(_locked(values, present))

    def __reduce__(self) -> tuple[Callable[..., Field], tuple[np.ndarray, np.ndarray]]:
        """A copy is read-only too, which arrays do not remember by themselves."""
        return made_field, (self.values, self.present)

    def __repr__(self) -> str:
        return f"Field({self})"

    def __str__(self) -> str:
        shape = "".join(f"[{extent}]" for extent in self.values.shape[1:])
        return f"{self.values.dtype}{shape} at {int(self.present.sum())} of {len(self.present)}"


def made_field(values: np.ndarray, present: np.ndarray) -> Field:
    """A Field of arrays that are as its docstring says and nobody else's: they are not copied."""
    field = object.__new__(Field)
    field.__dict__.update(_locked(values, present))
    return field


def _locked(values: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    values.setflags(write=False)
    present.setflags(write=False)
    return {"values": values, "present": present}


def make_field(name: str, given: Any) -> Field:
    """A Field from an array (present everywhere), a list that holds None where absent, or a Field.

    Arrays and lists are copied.

    Raises:
        GraphError: the values are not numbers, differ in shape, or do not fit int32 or float32.
    """
    if isinstance(given, Field):
        return given
    what = f"input {name!r}"
    if isinstance(given, np.ndarray) and given.dtype != object:
        values = numbers(what, _array(what, given))
        return made_field(values, np.ones(len(values), bool))
    rows = as_list(what, given, "numbers")
    present = np.fromiter((row is not None for row in rows), bool, len(rows))
    if present.all() and rows:
        return made_field(numbers(what, rows), present)
    if not present.any():
        return empty_field(len(rows))
    held = numbers(what, [row for row in rows if row is not None])
    values = _absent(len(rows), held.dtype, held.shape[1:])
    values[present] = held
    return made_field(values, present)


def empty_field(n: int, dtype: Any = np.int32, shape: tuple[int, ...] = ()) -> Field:
    """A Field that is absent at all n vertices."""
    return made_field(_absent(n, dtype, shape), np.zeros(n, bool))


def _absent(n: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.full((n, *shape), _filler(np.dtype(dtype)), dtype)


def _filler(dtype: np.dtype[Any]) -> int:
    return -1 if dtype == np.int32 else 0


def _array(what: str, given: Any) -> Any:
    """An array as it is, anything else as a list; both have a first axis."""
    arrayed = isinstance(given, np.ndarray) and given.ndim > 0
    return given if arrayed else as_list(what, given, "numbers")


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
    n = int(np.sum(lengths))
    values, present = _absent(n, model.values.dtype, model.values.shape[1:]), np.zeros(n, bool)
    start = pointers(lengths)
    for g, field in held:
        values[start[g] : start[g + 1]] = field.values
        present[start[g] : start[g + 1]] = field.present
    return made_field(values, present)


def _concatenate(fields: Sequence[Field]) -> Field | None:
    """The fields in a row, or None where their dtypes or shapes differ."""
    try:
        values = np.concatenate([f.values for f in fields])
    except ValueError:
        return None
    if values.dtype != fields[0].values.dtype:
        return None
    return made_field(values, np.concatenate([f.present for f in fields]))


def _kind(field: Field) -> str:
    return f"{field.values.dtype}{list(field.values.shape[1:])}"
