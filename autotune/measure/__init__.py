"""Measuring: candidates of a recorded kernel -> their times, whatever a candidate does.

A Bench measures some candidates at a time: one in a worker process on this machine (`local.py`),
or as many as there are servers (`over_rpc.py`). One that hangs or crashes costs the time until
that is noticed, and a new worker.
"""

from .bench import Bench as Bench
from .bench import bench_of as bench_of
from .local import LocalBench as LocalBench
from .over_rpc import RpcBench as RpcBench
