"""Benchmarks: how long a batch takes, planning and all, and how near the machine's limit that is.

A workload (`workloads`) is trained or run and timed (`measure`); its matrix products are counted
(`arithmetic`) and NumPy's best product is timed in between, in a process of its own (`sgemm`).
"""

from .arithmetic import product_flop as product_flop
from .arithmetic import tree_lstm_flop as tree_lstm_flop
from .measure import Case as Case
from .measure import Result as Result
from .measure import measure as measure
from .measure import profile_case as profile_case
from .sgemm import CLOCKS as CLOCKS
from .sgemm import Sgemm as Sgemm
from .workloads import WORKLOADS as WORKLOADS
from .workloads import Workload as Workload
