"""The thread pool that kernels run on: one per process."""

from __future__ import annotations

import os

import tvm_ffi

SHARE_ALL_CORES = -3  # a mode of TVM's thread pool
_pool_threads = 1


def threads_in_use() -> int:
    """How many threads TVM's pool has been given; 1 before that, and the pool is not made."""
    return _pool_threads


def use_threads(n: int) -> None:
    """Let TVM's pool, one per process, have as many threads as kernels are made for.

    By itself it takes half of the cores and binds each thread to one, the caller's too. Mode -3
    lets n threads share the cores that this process may run on, bound to none.
    """
    global _pool_threads
    _pool_threads = n
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    tvm_ffi.get_global_func("runtime.config_threadpool")(SHARE_ALL_CORES, n, cores)
