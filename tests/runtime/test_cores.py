"""The cores that a process may use: those of its affinity, not those of the machine."""

import os
import threading

import pytest

pytest.importorskip("tvm_ffi")

from tvm_cavs.runtime import threads


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a system without affinity")
def test_cores_are_those_that_the_process_may_run_on(monkeypatch):
    told = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {9, 3, 5})
    monkeypatch.setattr(threads, "_configure", lambda n, cores: told.append((n, cores)))
    assert threads.n_cores() == 3
    other = threading.Thread(target=threads.use_threads, args=(2,))  # whose pool is not told yet
    other.start()
    other.join()
    assert told == [(2, [3, 5, 9])]


@pytest.mark.parametrize(("count", "n"), [(7, 7), (None, 1)])
def test_where_no_affinity_is_known_all_cores_count(monkeypatch, count, n):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    assert threads.n_cores() == n


def test_a_pool_is_told_each_change_and_no_more(monkeypatch):
    """Fewer threads too."""
    told, used = [], []
    monkeypatch.setattr(threads, "_configure", lambda n, cores: told.append(n))

    def work():
        used.append(threads.threads_in_use())
        for n in (3, 3, 1, 1, 2):
            threads.use_threads(n)
            used.append(threads.threads_in_use())

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert told == [3, 1, 2] and used == [1, 3, 3, 1, 1, 2]
