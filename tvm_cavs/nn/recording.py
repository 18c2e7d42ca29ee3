"""Recording: whether networks run in training mode, here and now."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar
from threading import RLock
from typing import Any

_Lock: Any = type(RLock())


class _Recording(_Lock):  # type: ignore[misc]
    """A lock, held by the thread that records. `before`: the one around it.

    The `with` statement takes and releases a lock by code of C, which no signal interrupts. So a
    Ctrl-C at its beginning or end leaves nobody recording.
    """

    before: _Recording | None = None


_latest: ContextVar[_Recording | None] = ContextVar("recording", default=None)


def _current() -> _Recording | None:
    """The innermost `with record()` that this thread is in."""
    found = _latest.get()
    while found is not None and not found._is_owned():
        found = found.before
    return found


def is_recording() -> bool:
    """Whether this thread is in a `with record()` of this context."""
    return _current() is not None


def record() -> AbstractContextManager[object]:
    """Inside, networks run in training mode and losses can be differentiated.

    Examples:
        >>> import tvm_cavs as cavs
        >>> net = cavs.Network(cavs.nn.LSTM(vocab=10, embedding=4, hidden=8, n_classes=3))
        >>> net.initialize(seed=0)
        >>> net.hybridize("reference")
        >>> inputs = {"word": [7, 2], "label": [None, 1]}
        >>> with cavs.record():
        ...     loss = cavs.loss.SoftmaxCrossEntropy()(net(cavs.Graph.from_sequence(2, inputs)))
        >>> loss.backward()
        >>> print(loss.n_labels, net.parameters()["V"].grad.shape)
        1 (8, 3)
    """
    made = _Recording()
    made.before = _current()
    _latest.set(made)
    return made
