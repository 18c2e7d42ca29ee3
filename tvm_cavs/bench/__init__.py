"""Benchmarks: how long a batch takes, planning and all, and how near the machine's limit that is.

A workload (`workloads`) is trained or run and timed (`measure`); its matrix products are counted
(`arithmetic`) and NumPy's best product is timed in between, in a process of its own (`sgemm`).
"""

from ..bench_names import OFF as OFF
from ..bench_names import measurable as measurable
from .ablate import Ablation as Ablation
from .ablate import ablate as ablate
from .ablate import ablation_table as ablation_table
from .ablation_plot import save_ablations as save_ablations
from .arithmetic import product_flop as product_flop
from .arithmetic import tree_lstm_flop as tree_lstm_flop
from .compare import Comparison as Comparison
from .compare import Peers as Peers
from .compare import compare as compare
from .measure import Case as Case
from .measure import Result as Result
from .measure import measure as measure
from .measure import profile_case as profile_case
from .peer_plot import save_comparison as save_comparison
from .peer_table import peer_table as peer_table
from .sgemm import CLOCKS as CLOCKS
from .sgemm import Sgemm as Sgemm
from .workloads import WORKLOADS as WORKLOADS
from .workloads import Workload as Workload
