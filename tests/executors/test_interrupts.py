"""What is interrupted, anywhere and by anything, leaves nothing half done: the next call is right.

A tracer raises at one line after the other of what runs a step. All lines are tried by
`pytest tests/executors/test_interrupts.py --sweep`, in CI one in STRIDE. `scripts/interrupt.py`
does the same to a child process with real signals at random moments.
"""

from __future__ import annotations

import dis
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.law import dense
from helpers.random_graphs import N_CLASSES, N_WORDS, random_tree

pytestmark = pytest.mark.compiles
PACKAGE = Path(cavs.__file__).parent
TRACED = tuple(str(PACKAGE / part) for part in ("executors", "runtime", "nn", "training"))
ALSO = tuple(str(PACKAGE / part) for part in ("compiler/kinds.py", "language/parameter.py"))
STRIDE = 37  # in CI: a prime, so that it meets the lines of loops in turn
LOSS = cavs.loss.SoftmaxCrossEntropy()


class Tracer:
    """Counts the lines of the package that run; raises `error` at line number `at`."""

    def __init__(self, at: int = -1, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.n, self._at, self._error = 0, at, error

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith((*TRACED, *ALSO)):
            return None
        if event == "line" and not leaves_with(frame):
            self.n += 1
            if self.n == self._at:
                sys.settrace(None)
                raise self._error
        return self


def leaves_with(frame: FrameType) -> bool:
    """Whether a `with` statement is about to let go: Python handles no signal before it has."""
    text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
    code = frame.f_code.co_code[frame.f_lasti]
    return text.startswith("with ") and dis.opname[code] == "LOAD_CONST"


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(None)


def batches(n: int, seed: int) -> cavs.Graph:
    rng = np.random.default_rng(seed)
    return cavs.batch([random_tree(rng, 2, int(rng.integers(1, 8))) for _ in range(n)])


def network(cache: Path) -> cavs.Network:
    net = cavs.Network(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES))
    net.initialize(seed=3)
    net.hybridize("tvm", threads=1, cache=cache)
    return net


def gradients(net: cavs.Network, graph: cavs.Graph) -> list[np.ndarray]:
    """Loss and gradients of a step."""
    with cavs.record():
        loss = LOSS(net(graph))
    loss.backward()
    return [np.array(float(loss)), *(dense(p).copy() for p in net.parameters().values())]


def lines(run: Callable[[], object]) -> int:
    """How many lines of the package a call runs."""
    tracer = Tracer()
    with traced(tracer):
        run()
    return tracer.n


def places(n: int, sweep: bool) -> range:
    return range(1, n + 1, 1 if sweep else STRIDE)


def small_and_large(cache: Path) -> tuple[cavs.Network, cavs.Graph, cavs.Graph]:
    """Batches with the same kinds of vertices, of which the second needs more memory."""
    net, small = network(cache), batches(3, 1)
    large = cavs.batch([small, batches(30, 2)])
    net.prepare([large], LOSS)
    net.prepare([large])
    return net, small, large


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_step_in_which_buffers_grow(cache: Path, error: type[BaseException], sweep: bool) -> None:
    net, small, large = small_and_large(cache)
    want = {graph: gradients(net, graph) for graph in (small, large)}
    executor: Any = net.executor(LOSS)

    def forgotten() -> None:
        """As if no batch had ever come: buffers will grow."""
        executor._renew()
        gradients(net, small)

    forgotten()
    n_lines = lines(lambda: gradients(net, large))
    assert n_lines > 500
    for at in places(n_lines, sweep):
        forgotten()
        with pytest.raises(error), traced(Tracer(at, error)):
            gradients(net, large)
        for graph in (small, large):
            for got, expected in zip(gradients(net, graph), want[graph], strict=True):
                np.testing.assert_array_equal(got, expected, err_msg=f"line {at}")


def test_an_inference_in_which_buffers_grow(cache: Path, sweep: bool) -> None:
    net, small, large = small_and_large(cache)
    want = {graph: net(graph)["logits"] for graph in (small, large)}
    executor: Any = net.executor()
    executor._renew()
    net(small)
    n_lines = lines(lambda: net(large))
    for at in places(n_lines, sweep):
        executor._renew()
        net(small)
        with pytest.raises(KeyboardInterrupt), traced(Tracer(at)):
            net(large)
        for graph in (large, small):
            np.testing.assert_array_equal(net(graph)["logits"], want[graph], err_msg=f"line {at}")


def test_an_interrupted_update_is_made_as_a_whole_or_not_at_all(cache: Path, sweep: bool) -> None:
    net, small, _ = small_and_large(cache)
    trainer = cavs.Trainer(net.parameters(), "adam", lr=0.1, cache=cache)

    gradients(net, small)
    trainer.step(3)  # compiles
    names, held = list(net.parameters()), net.parameters().values()
    for p in held:
        p.set_data(p.data)  # as below: the trainer looks at them
    gradients(net, small)
    n_lines = lines(lambda: trainer.step(3))
    n_made = 0
    for at in {*places(n_lines, sweep), *range(n_lines - 3, n_lines + 1)}:
        gradients(net, small)
        data, kept = ([p.data.copy() for p in held], trainer.state())
        kept = {name: array.copy() for name, array in kept.items()}
        with pytest.raises(KeyboardInterrupt), traced(Tracer(at)):
            trainer.step(3)
        got = [*(p.data.copy() for p in held), *(a.copy() for a in trainer.state().values())]
        for p, old in zip(held, data, strict=True):
            p.set_data(old)
        trainer.load_state(kept)
        if not all(map(np.array_equal, got, [*data, *kept.values()])):
            n_made += 1
            gradients(net, small)
            trainer.step(3)
            whole = [*(p.data for p in held), *trainer.state().values()]
            for name, one, other in zip([*names, *kept], got, whole, strict=True):
                np.testing.assert_array_equal(one, other, err_msg=name)
    assert 1 <= n_made <= 3  # only after the line that makes it


def test_gradients_of_an_interrupted_pass_are_none(cache: Path) -> None:
    """Half of them are never taken for a gradient by the trainer."""
    net, small, _ = small_and_large(cache)
    trainer = cavs.Trainer(net.parameters(), "sgd", lr=0.1, cache=cache)
    gradients(net, small)
    executor: Any = net.executor(LOSS)
    with cavs.record():
        loss = LOSS(net(small))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    original = executor._execute
    executor._execute = interrupt
    with pytest.raises(KeyboardInterrupt):
        loss.backward()
    executor._execute = original
    assert all(p.grad is None for p in net.parameters().values())
    with pytest.raises(cavs.TrainingError, match="no parameter has a gradient"):
        trainer.step(3)
    with pytest.raises(cavs.TraceError, match="interrupted. Run the network on the batch again"):
        loss.backward()


def test_an_error_in_a_loader_or_a_loss(cache: Path) -> None:
    net, small, large = small_and_large(cache)
    want = gradients(net, small)

    def loader() -> Iterator[cavs.Graph]:
        yield small
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        for graph in net.ahead(loader(), LOSS):
            gradients(net, graph)

    class Broken(cavs.loss.LossFunction):
        def forward(self, v: cavs.Vertex) -> None:
            raise ZeroDivisionError

    with cavs.record(), pytest.raises(ZeroDivisionError):
        Broken()(net(large))
    for got, expected in zip(gradients(net, small), want, strict=True):
        np.testing.assert_array_equal(got, expected)
