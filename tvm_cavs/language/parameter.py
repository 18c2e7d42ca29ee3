"""Parameters: what a network learns, and the gradients of what was used of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from threading import RLock
from typing import Any, TypeAlias

import numpy as np

from .. import arguments
from ..arrays import aligned
from ..errors import ShapeError, TraceError
from ..given import numbers, parameter_values
from ..interrupts import assigned, in_one_go
from ..renewal import renewed_after_fork
from ..row_sparse import RowSparse as RowSparse
from ..row_sparse import made_rows as made_rows
from . import init as initialisers

Gradient: TypeAlias = "np.ndarray | RowSparse"


# A parameter's gradient, and whether it is a user's that was not looked at yet and may not fit.
Grad: TypeAlias = "tuple[Gradient | None, bool]"
NO_GRADIENT: Grad = (None, False)


class Changing:
    """Holds `lock` while it changes parameters, so that no thread reads what is half changed."""

    def __init__(self) -> None:
        self._renew()
        renewed_after_fork(self, Changing._renew)

    def _renew(self) -> None:
        self.lock = RLock()


ANYONE = Changing()  # changes the parameters that no trainer has


class Writing:
    """Inside `with`, a parameter's data may be changed; it has another version inside, and another
    afterwards, when the array is read-only.
    """

    __slots__ = ("_data", "_parameter")

    def __init__(self, parameter: Parameter, data: np.ndarray) -> None:
        self._parameter, self._data = parameter, data

    def __enter__(self) -> np.ndarray:
        self._parameter.version += 1
        return self._data

    def __exit__(self, *_: object) -> None:
        self._data.setflags(write=False)
        self._parameter.version += 1


class Parameter:
    """A trained array, shared by all vertices.

    Shapes: `data` float32[shape], filled by `Network.initialize`; `grad` the same, or `RowSparse`
    for a table that is only read by `embedding`, or None before the first backward pass. `lr_mult`
    and `decay_mult` multiply the trainer's learning rate and weight decay. `version` grows with
    every change of the data, so that what was made from it is known to be old. `changing` has the
    lock that is held while the data change.

    A copy (`copy`, `pickle`) has memory of its own and no gradient.

    Raises:
        ShapeError: the shape is no list of positive whole numbers, or `init` no initialiser.
        ConfigError: a factor is below 0 or no finite number.

    Examples:
        >>> import tvm_cavs as cavs
        >>> w = cavs.Parameter((2,), cavs.init.Zeros(), lr_mult=0.5)
        >>> w.set_data([1.0, 2.0])
        >>> with w.writing() as data:
        ...     data *= 10
        >>> print(w.shape, w.data)
        (2,) [10. 20.]
    """

    def __init__(
        self,
        shape: Sequence[int],
        init: initialisers.Initializer | None = None,
        lr_mult: float = 1.0,
        decay_mult: float = 1.0,
    ) -> None:
        self.shape = arguments.extents("Parameter(shape)", shape, ShapeError)
        if init is not None and (isinstance(init, type) or not callable(init)):
            raise ShapeError(
                "Parameter(init=...): expected an initialiser, a function of a generator and a "
                f"shape such as cavs.init.Xavier(), given {arguments.shown(init)}"
            )
        self.init = init or (initialisers.Xavier() if len(self.shape) > 1 else initialisers.Zeros())
        self.lr_mult = arguments.number("Parameter(lr_mult=...)", lr_mult, 0)
        self.decay_mult = arguments.number("Parameter(decay_mult=...)", decay_mult, 0)
        self.name = ""
        self.version = 0
        self.changed_by = ANYONE
        self._grad: Grad = NO_GRADIENT
        self._data: np.ndarray | None = None
        self._view: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the gradient, which belongs to the pass that made it."""
        dropped = {"_view": None, "_grad": NO_GRADIENT}
        return {k: v for k, v in vars(self).items() if k != "changed_by"} | dropped

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.changed_by = ANYONE
        if self._data is not None:
            self._hold(self._data)

    @property
    def data(self) -> np.ndarray:
        """float32[shape], to be read: it follows every change. `set_data` and `writing` change it.

        Raises:
            TraceError: before `Network.initialize`.
        """
        if self._view is None:
            raise TraceError(
                f"parameter {self.name or '?'} {self.shape} has no data yet; "
                "call net.initialize(seed=0)"
            )
        return self._view

    @property
    def memory(self) -> np.ndarray:
        """The memory of `data`, for compiled code; who writes there holds `changing` and changes
        `version` first.

        Raises:
            TraceError: before `Network.initialize`.
        """
        _ = self.data
        assert self._data is not None
        return self._data

    @property
    def changing(self) -> Any:
        """The lock that is held while the data change."""
        return self.changed_by.lock

    def writing(self) -> Writing:
        """`with p.writing() as data`: the memory, float32[shape], to be changed in place inside.

        Meanwhile no other thread may run a network that has the parameter.

        Raises:
            TraceError: before `Network.initialize`.
        """
        return Writing(self, self.memory.view())

    def set_data(self, values: Any) -> None:
        """Copy `values` in, keeping the memory that an executor may already know.

        Raises:
            ShapeError: the shapes differ, or a value is no finite number.
        """
        given = parameter_values(f"parameter {self.name or '?'}", values, self.shape)
        with self.changing:
            self.version += 1
            if self._data is None:
                self._hold(given)
            else:
                self._data[...] = given

    def _hold(self, values: np.ndarray) -> None:
        """Take memory, and copy `values` there."""
        self._data = aligned_copy(values)
        self._view = self._data.view()
        self._view.flags.writeable = False

    @property
    def grad(self) -> Gradient | None:
        """What the last backward pass of a network left, or what was assigned, which is copied.

        The next backward pass of that network uses the memory again: copy what is to be kept. It
        may be changed in place, to be scaled for instance, before `Trainer.step`.
        """
        return self._grad[0]

    @grad.setter
    def grad(self, given: Any) -> None:
        if given is not None and not isinstance(given, RowSparse):
            given = _floats(f"gradient of {self.name or '?'}", given)
        self._grad = given, given is not None

    def checked_grad(self) -> Gradient | None:
        """`grad`, which fits the parameter.

        Raises:
            ShapeError: one that a user has given does not.
        """
        grad, may_not_fit = self._grad
        if not may_not_fit or grad is None:
            return grad
        rows = grad.rows if isinstance(grad, RowSparse) else None
        shape = grad.values.shape if isinstance(grad, RowSparse) else grad.shape
        expected = self.shape if rows is None else (len(rows), *self.shape[1:])
        if shape != expected:
            raise ShapeError(
                f"gradient of shape {shape}: expected {expected}, as of its parameter "
                f"{self.name or '?'}"
            )
        if rows is not None and rows.max(initial=0) >= self.shape[0]:
            raise ShapeError(
                f"gradient of {self.name or '?'}: row {rows.max()} is none of its rows "
                f"0..{self.shape[0] - 1}"
            )
        self._grad = grad, False
        return grad

    def __repr__(self) -> str:
        return f"Parameter({self.name or '?'}, {self.shape})"


def take_gradients(
    parameters: Mapping[str, Parameter], made: Mapping[str, Gradient] | None = None
) -> None:
    """Give parameters the gradients that an executor made, or none: to all of them or to no one.

    They fit, and stay where they are.
    """
    grads: Iterable[Grad] = repeat(NO_GRADIENT)
    if made is not None:
        grads = zip(map(made.__getitem__, parameters), repeat(False), strict=False)
    in_one_go(assigned(parameters.values(), "_grad", grads))


def _floats(what: str, given: Any) -> np.ndarray:
    return np.asarray(numbers(what, given, ShapeError), np.float32)


def aligned_copy(values: np.ndarray) -> np.ndarray:
    """float32 like `values`, in memory that kernels can use as it is."""
    made = aligned(values.shape)
    made[...] = values
    return made
