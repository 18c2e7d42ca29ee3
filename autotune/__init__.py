# A part of tvm_cavs. This line tells it from other packages of the same name.
"""Finding the best knobs for the kernels and row counts that a network really runs.

Batches of real data give tasks, kernels (`tasks.py`), then whole steps (`whole_steps.py`), a task
a space of knobs (`space.py`), a search takes candidates from it (`search.py`), worker processes
measure them, here or on other devices (`measure/`, `worker.py`), and records of all that are kept
(`store.py`). The compiler reads them; it never imports this package.
Nothing here knows a device: kernels, their knobs and their calls come through the compiler's door.
"""

from .measure import Bench as Bench
from .measure import bench_of as bench_of
from .report import Line as Line
from .report import Pair as Pair
from .report import line as line
from .report import pair as pair
from .search import method as method
from .space import Space as Space
from .store import Store as Store
from .tasks import KernelTask as KernelTask
from .tasks import Steps as Steps
from .tasks import Task as Task
from .tasks import tasks_of as tasks_of
from .tuning import Clock as Clock
from .tuning import Progress as Progress
from .tuning import Tuner as Tuner
from .whole_steps import StepBench as StepBench
from .whole_steps import step_tasks_of as step_tasks_of
from .worker import Settings as Settings
