"""Threads that kernels run on.

TVM keeps a pool of threads for each thread that calls kernels. It takes half of the cores by itself
and binds each thread to one, the caller's too; so no kernel is called before the pool was told.
"""

from __future__ import annotations

import os
import threading
import weakref

import tvm_ffi

from ..renewal import renewed_after_fork

SHARE_ALL_CORES = -3  # a mode of TVM's thread pool: its threads are bound to no core
MOST_POOLS = 8  # threads that have a pool; others that call kernels use one core


class _Pool:
    """What is known of a thread's pool, as long as the thread lives.

    alone: it has no threads, and kernels run in the one that calls them. told: how many to use.
    """

    def __init__(self, alone: bool) -> None:
        self.alone, self.told = alone, 0


class _Mine(threading.local):
    """The pool of this thread; None before it has called a kernel that is made for several."""

    pool: _Pool | None = None


_mine = _Mine()
_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def n_cores() -> int:
    """The cores that this process may use."""
    return len(_cores())


def _cores() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def threads_in_use() -> int:
    """How many threads kernels run on that this thread calls; 1 before it has called one."""
    pool = _mine.pool
    return 1 if pool is None or pool.alone else pool.told


def use_threads(n: int) -> None:
    """From now on kernels that this thread calls run on `n` threads; no result depends on that.

    They share the cores that this process may run on, bound to none. If more threads than
    MOST_POOLS call kernels, the later ones use one core; so does a thread that has forked.
    """
    pool = _mine.pool
    if pool is not None and pool.told == n:
        return
    if pool is None:
        pool = _make_pool()
    if not pool.alone:
        _configure(n, sorted(_cores()))
    pool.told = n


def _make_pool() -> _Pool:
    pool = _Pool(alone=sum(not p.alone for p in list(_pools)) >= MOST_POOLS)
    if pool.alone:
        _be_alone()
    _pools.add(pool)
    _mine.pool = pool
    return pool


def _be_alone() -> None:
    """Let TVM run kernels in this thread, as it does where it knows of one core."""
    cores = _cores()
    _configure(1, sorted(cores)[:1])
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # it has bound this thread to that core


def _configure(n: int, cores: list[int]) -> None:
    given = SHARE_ALL_CORES, n, [str(core) for core in cores]
    tvm_ffi.get_global_func("runtime.config_threadpool")(*given)


def _after_fork(_: object) -> None:
    """The copy of this thread's pool has no threads: waiting for them would never end."""
    _pools.clear()
    pool = _mine.pool
    if pool is None or pool.alone:
        return
    _be_alone()
    pool.alone = True
    _pools.add(pool)


renewed_after_fork(_mine, _after_fork)
