"""Initialisers: a random generator and a shape -> the first value of a parameter, float32.

A weight has shape [n_in, n_out]: rows are inputs, columns are outputs, as in `x @ W`. A weight that
holds several gates side by side is drawn gate by gate: `n_blocks` is the number of gates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .. import arguments
from ..errors import ShapeError
from ..given import floats

Shape: TypeAlias = tuple[int, ...]
Initializer: TypeAlias = Callable[[np.random.Generator, Shape], np.ndarray]


@dataclass(frozen=True)
class Zeros:
    """All zeros.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Zeros()
        >>> w = init(np.random.default_rng(0), (2, 3))
        >>> print(w)
        [[0. 0. 0.]
         [0. 0. 0.]]
    """

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        return np.zeros(shape, np.float32)


@dataclass(frozen=True)
class Constant:
    """The same value everywhere.

    Raises:
        ConfigError: it is no finite number.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Constant(0.5)
        >>> w = init(np.random.default_rng(0), (3,))
        >>> print(w)
        [0.5 0.5 0.5]
    """

    value: float

    def __post_init__(self) -> None:
        arguments.number("init.Constant(value=...)", self.value)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        return np.full(shape, self.value, np.float32)


@dataclass(frozen=True)
class Normal:
    """Gaussian with mean 0 and standard deviation `std`.

    Raises:
        ConfigError: std is below 0 or no finite number.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Normal(std=0.1)
        >>> w = init(np.random.default_rng(0), (100, 100))
        >>> print(w.dtype, f"{w.std():.2f}")
        float32 0.10
    """

    std: float = 0.01

    def __post_init__(self) -> None:
        arguments.number("init.Normal(std=...)", self.std, 0)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(self.std)


@dataclass(frozen=True)
class Uniform:
    """Uniform between -a and a.

    Raises:
        ConfigError: a is below 0 or no finite number.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Uniform(0.05)
        >>> w = init(np.random.default_rng(0), (100, 100))
        >>> print(f"{w.min():.2f} {w.max():.2f}")
        -0.05 0.05
    """

    a: float = 0.05

    def __post_init__(self) -> None:
        arguments.number("init.Uniform(a=...)", self.a, 0)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        return (2 * rng.random(shape, np.float32) - 1) * np.float32(self.a)


@dataclass(frozen=True)
class Xavier:
    """Uniform between -a and a with a = sqrt(6 / (n_in + n_out)) (Glorot and Bengio 2010, eq. 16).

    n_in is the first extent of the shape, n_out the last divided by `n_blocks`.

    Raises:
        ConfigError: n_blocks is no whole number of 1 or more.

    Examples:
        Four gates of 100 units that read 50 numbers: a = sqrt(6 / 150).

        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Xavier(n_blocks=4)
        >>> w = init(np.random.default_rng(0), (50, 400))
        >>> print(f"{w.min():.2f} {w.max():.2f}")
        -0.20 0.20
    """

    n_blocks: int = 1

    def __post_init__(self) -> None:
        arguments.whole("init.Xavier(n_blocks=...)", self.n_blocks, 1)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        n_in, n_out = shape[0], shape[-1] // self.n_blocks
        return Uniform((6 / (n_in + n_out)) ** 0.5)(rng, shape)


@dataclass(frozen=True)
class Orthogonal:
    """`gain` times a matrix with orthonormal rows or columns, whichever are fewer.

    Source: Saxe et al. 2014, section 3.

    Raises:
        ShapeError: the shape is not a matrix, or its columns do not divide into `n_blocks`.
        ConfigError: a gain that is no finite number; n_blocks that is no whole number above 0.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> init = cavs.init.Orthogonal(gain=2.0)
        >>> w = init(np.random.default_rng(0), (5, 3))
        >>> print(np.allclose(w.T @ w, 4.0 * np.eye(3), atol=1e-5))
        True
    """

    gain: float = 1.0
    n_blocks: int = 1

    def __post_init__(self) -> None:
        arguments.number("init.Orthogonal(gain=...)", self.gain)
        arguments.whole("init.Orthogonal(n_blocks=...)", self.n_blocks, 1)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        if len(shape) != 2 or shape[1] % self.n_blocks:
            raise ShapeError(
                f"Orthogonal(n_blocks={self.n_blocks}): expected a matrix whose columns divide "
                f"into {self.n_blocks} blocks, got shape {list(shape)}. "
                "Use Xavier() for other shapes."
            )
        block = (shape[0], shape[1] // self.n_blocks)
        gain = np.float32(self.gain)
        return np.hstack([gain * _orthonormal(rng, block) for _ in range(self.n_blocks)])


def _orthonormal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """float32[shape] with orthonormal columns, or rows where there are fewer of them."""
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.sign(np.diag(r))  # makes the distribution uniform (Mezzadri 2007)
    return (q if shape[0] >= shape[1] else q.T).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Array:
    """A given array, for instance pretrained word vectors; it is copied.

    Raises:
        ShapeError: it holds what is no finite number, or has another shape than the parameter.

    Examples:
        >>> import numpy as np
        >>> import tvm_cavs as cavs
        >>> vectors = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
        >>> class Words(cavs.VertexFunction):
        ...     def __init__(self):
        ...         self.E = cavs.Parameter((2, 2), cavs.init.Array(vectors))
        >>> net = cavs.Network(Words())
        >>> net.initialize()
        >>> print(net.parameters()["E"].data)
        [[0.1 0.2]
         [0.3 0.4]]
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", floats("init.Array", self.values, ShapeError))
        self.values.setflags(write=False)

    def __call__(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        if self.values.shape != tuple(shape):
            raise ShapeError(
                f"init.Array: the array has shape {list(self.values.shape)}, the parameter "
                f"{list(shape)}. Was it made for another vocabulary or width?"
            )
        return self.values.copy()
