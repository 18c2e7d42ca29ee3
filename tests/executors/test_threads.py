"""Threads and processes: any number of threads run a network, one trains it; what forks do.

`--sweep`: 64 threads make a thousand calls each.
"""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tvm")

import tvm_cavs as cavs
from helpers.law import dense
from helpers.locks import held, locks_of
from helpers.random_graphs import N_CLASSES, N_WORDS, random_tree
from tvm_cavs.executors.weights import Weights
from tvm_cavs.runtime import threads

pytestmark = pytest.mark.compiles
LOSS = cavs.loss.SoftmaxCrossEntropy()
N_THREADS = 8


def network(cache: Path, threads: int = 1, **options: Any) -> cavs.Network:
    net = cavs.Network(cavs.nn.TreeRNN(N_WORDS, 3, 4, N_CLASSES))
    net.initialize(seed=3)
    net.hybridize("tvm", threads=threads, cache=cache, **options)
    return net


def some_batches(n: int) -> list[cavs.Graph]:
    """Batches of sizes from one vertex to many."""
    rng = np.random.default_rng(0)
    return [
        cavs.batch([random_tree(rng, 2, int(rng.integers(1, 9))) for _ in range(1 + i * i % 7)])
        for i in range(n)
    ]


def in_threads(n: int, work: Callable[[int], Any]) -> list[Any]:
    """`work(i)` in n threads that begin together."""
    together = threading.Barrier(n)

    def run(i: int) -> Any:
        together.wait()
        return work(i)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(run, range(n)))


@pytest.mark.parametrize("options", [{}, {"sharing": True}, {"executor": "reference"}], ids=str)
def test_threads_that_call_one_network_get_its_answers(
    cache: Path, options: Any, sweep: bool
) -> None:
    """Kinds of vertices that are new to it come while others run."""
    graphs = some_batches(8)
    net = network(cache)
    is_reference = "executor" in options
    if is_reference:
        net.hybridize("reference", dtype="float32")
    else:
        net.hybridize("tvm", threads=1, cache=cache, **options)
    alone = copy.deepcopy(net)
    want = [alone(graph)["logits"] for graph in graphs]
    n_threads, n_calls = (64, 1000) if sweep and not is_reference else (N_THREADS, 24)

    def work(i: int) -> int:
        wrong = 0
        for k in range(i, i + (2 if is_reference else n_calls)):
            got = net(graphs[k % 8])["logits"]
            wrong += not np.array_equal(got, want[k % 8])
        return wrong

    assert in_threads(n_threads, work) == [0] * n_threads


def test_one_trains_while_others_run_another_network(cache: Path) -> None:
    graphs = some_batches(8)
    net, other = network(cache), network(cache)
    want = [other(graph)["logits"] for graph in graphs]

    def train(net: cavs.Network) -> list[np.ndarray]:
        trainer = cavs.Trainer(net.parameters(), "adam", lr=0.1, cache=cache)
        for graph in graphs * 3:
            with cavs.record():
                loss = LOSS(net(graph))
            loss.backward()
            trainer.step(graph.n_graphs)
        return [p.data.copy() for p in net.parameters().values()]

    expected = train(copy.deepcopy(net))

    def work(i: int) -> Any:
        if i == 0:
            return train(net)
        return all(np.array_equal(other(graphs[k % 8])["logits"], want[k % 8]) for k in range(24))

    found, *right = in_threads(N_THREADS, work)
    assert all(right)
    for got, value in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, value)


def test_answers_never_mix_old_and_new_parameters(cache: Path) -> None:
    """Of a network that a trainer changes at the same time."""
    net, graph = network(cache), some_batches(4)[3]
    held = net.parameters()
    trainer = cavs.Trainer(held, "sgd", lr=1.0, cache=cache)
    for p in held.values():
        p.grad = np.full(p.shape, 0.25, np.float32)
    states, one_step = [], copy.deepcopy(net)
    for sign in (1, -1):
        states.append(one_step(graph)["logits"])
        for p in one_step.parameters().values():
            p.set_data(p.data - sign * np.float32(0.25))
    done = threading.Event()

    def change() -> None:
        try:
            for _ in range(200):
                trainer.step(1)
                for p in held.values():
                    p.grad = -np.asarray(p.grad)
                time.sleep(0.0005)
        finally:
            done.set()

    def look(_: int) -> int:
        n = 0
        while not done.is_set():
            try:
                got = net(graph)["logits"]
            except cavs.TraceError as error:
                assert "another thread changed parameters" in str(error)
                continue
            near = [np.allclose(got, state, atol=1e-3) for state in states]
            assert any(near), "an answer of no state of the parameters"
            n += 1
        return n

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        assert sum(pool.map(look, range(3))) > 10
        changing.result()


def test_another_thread_that_trains_is_refused_by_name(cache: Path) -> None:
    net, graph = network(cache), some_batches(2)[1]

    def forward() -> cavs.nn.Loss:
        with cavs.record():
            return LOSS(net(graph))

    loss = forward()
    with ThreadPoolExecutor(1, "other") as pool:
        refused = pool.submit(forward).exception()
        assert isinstance(refused, cavs.TraceError)
        assert "'other_0' trains a network that thread 'MainThread' trains" in str(refused)
        assert "waits for backward()" in str(refused)
        loss.backward()
        theirs = pool.submit(forward).result()  # a step is done: anyone may go on
        with pytest.raises(cavs.TraceError, match="thread 'MainThread' trains.*'other_0'"):
            forward()
        del theirs
        forward()
        net(graph)  # to run it is no training
    lost = ThreadPoolExecutor(1)
    kept = lost.submit(forward).result()
    lost.shutdown()
    forward()  # the thread is gone, whatever its loss waits for
    del kept


def test_a_handler_that_trains_in_the_midst_of_a_step(cache: Path) -> None:
    """Both are right; of the two losses one can go back."""
    net, graph = network(cache), some_batches(2)[1]
    with cavs.record():
        want = float(LOSS(net(graph)))
    inner = []

    class Again(cavs.loss.SoftmaxCrossEntropy):
        def forward(self, v: cavs.Vertex) -> None:
            inner.append(LOSS(net(graph)))
            super().forward(v)

    with cavs.record():
        outer = Again()(net(graph))
    assert float(outer) == float(inner[0]) == want
    with pytest.raises(cavs.TraceError, match="not the network's last"):
        inner[0].backward()
    outer.backward()


def test_a_handler_may_enter_what_its_thread_has_entered(cache: Path) -> None:
    """A network that a handler calls waits for no lock of the call that was interrupted."""
    net, graph = network(cache), some_batches(2)[1]
    with cavs.record():
        LOSS(net(graph)).backward()
    locks = locks_of(net)
    lent, *slots = net.executor(LOSS)._memory_of_batches._lent, *net.executor(LOSS)._slots._all
    assert {id(each) for each in (lent._lock, *(slot.lock for slot in slots))} < set(map(id, locks))
    assert {type(lock) for lock in locks} == {type(threading.RLock())}


def test_networks_keep_their_numbers_of_threads(cache: Path) -> None:
    nets = [network(cache, threads=n) for n in (2, 1, 2)]
    graph = cavs.batch(some_batches(7) * 12)
    want = nets[1](graph)["logits"]
    for net, n in zip(nets, (2, 1, 2), strict=True):
        np.testing.assert_array_equal(net(graph)["logits"], want)
        executor: Any = net.executor()
        assert executor.n_threads == n
        assert n == 1 or threads.threads_in_use() == 2


def test_few_threads_have_a_pool(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And others run kernels that are made for two threads by themselves."""
    net, graph = network(cache, threads=2), cavs.batch(some_batches(7) * 12)
    want = net(graph)["logits"]
    n_pools = sum(not pool.alone for pool in threads._pools)
    monkeypatch.setattr(threads, "MOST_POOLS", n_pools)

    def work(_: int) -> tuple[bool, int, int]:
        same = np.array_equal(net(graph)["logits"], want)
        return same, threads.threads_in_use(), len(os.sched_getaffinity(0))

    n_cores = len(os.sched_getaffinity(0))
    for n in (1, 3):  # one that calls alone might use all cores
        assert in_threads(n, work) == [(True, 1, n_cores)] * n


def forked(work: Callable[[], Any]) -> Any:
    """What a forked process makes of `work`, or an error if it hangs."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=lambda: there.send(work()))
    child.start()
    try:
        assert here.poll(60), "the forked process hangs or failed"
        return here.recv()
    finally:
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("n", [1, 2])
def test_a_forked_process_answers_and_trains(cache: Path, n: int) -> None:
    """Though a pool of threads was there, and another thread held locks, when it was forked."""
    net, graph = network(cache, threads=n), cavs.batch(some_batches(7) * 12)
    trainer = cavs.Trainer(net.parameters(), "adam", lr=0.1, cache=cache)

    def step() -> list[np.ndarray]:
        with cavs.record():
            loss = LOSS(net(graph))
        loss.backward()
        trainer.step(graph.n_graphs)
        found = [np.array(float(loss)), net(graph)["logits"]]
        return found + [dense(p) for p in net.parameters().values()]

    step()
    executors: list[Any] = [net.executor(), net.executor(LOSS)]
    locks = [lock for e in executors for lock in (e._learning, e._slots._all[0].lock)]
    locks += [net._executors._making, trainer._changing.lock]
    with held(locks):
        found = [forked(step) for _ in range(2)]
        assert forked(lambda: forked(lambda: float(step()[0]))) == found[0][0]  # a child's child
    for got in (*found[1:], step()):
        for value, expected in zip(got, found[0], strict=True):
            np.testing.assert_array_equal(value, expected)


def uses_two(_: int) -> int:
    """How many threads kernels run on, called by a thread that wants two."""
    threads.use_threads(2)
    return threads.threads_in_use()


def test_weights_are_packed_by_as_many_threads_as_run_them(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ran before: the pool of a thread keeps what it was told last."""
    log: list[object] = []
    load = Weights.load

    def noted(self: Weights, *given: Any) -> None:
        log.append("packed")
        load(self, *given)

    monkeypatch.setattr(Weights, "load", noted)
    monkeypatch.setattr("tvm_cavs.executors.tvm.use_threads", log.append)
    net, (graph,) = network(cache, threads=2), some_batches(1)
    with cavs.record():
        loss = LOSS(net(graph))
    assert log == [2, "packed"]
    loss.backward()
    assert log[2:] == [2]


def test_a_thread_that_has_ended_makes_room_for_the_pool_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gc.collect()
    n_pools = sum(not pool.alone for pool in threads._pools)
    monkeypatch.setattr(threads, "MOST_POOLS", n_pools + 1)
    assert [in_threads(1, uses_two) for _ in range(3)] == [[2]] * 3
    assert sorted(in_threads(2, uses_two)) == [1, 2]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_pools_of_threads_that_a_fork_has_not_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    n_pools = sum(not pool.alone for pool in threads._pools)
    monkeypatch.setattr(threads, "MOST_POOLS", n_pools + 1)
    has_pool, may_end = threading.Event(), threading.Event()

    def keep_a_pool(_: int) -> None:
        uses_two(0)
        has_pool.set()
        may_end.wait(60)

    with ThreadPoolExecutor(1) as other:
        other.submit(keep_a_pool, 0)
        assert has_pool.wait(60)
        try:
            assert in_threads(1, uses_two) == [1]
            assert forked(lambda: in_threads(1, uses_two)) == [2]
        finally:
            may_end.set()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_of_processes_answers(cache: Path, method: str) -> None:
    """A network travels there by pickle."""
    net, graph = network(cache), some_batches(4)[3]
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        answers = [pool.submit(net, graph) for _ in range(2)]
        for answer in answers:
            np.testing.assert_array_equal(answer.result(120)["logits"], net(graph)["logits"])


def test_no_thread_stays(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a loop over batches planned ahead is left, and the network goes."""
    monkeypatch.setattr("tvm_cavs.nn.network.LONG_FORWARD", -1.0)
    monkeypatch.setattr("tvm_cavs.nn.network.os.cpu_count", lambda: 64)
    before = set(threading.enumerate())
    net = network(cache)
    batches: Iterator[cavs.Graph] = net.ahead(some_batches(6))
    for graph in batches:
        net(graph)
        if len(set(threading.enumerate()) - before):
            break
    else:
        pytest.fail("no batch was planned in a thread")
    del net, batches
    gc.collect()
    assert set(threading.enumerate()) <= before
