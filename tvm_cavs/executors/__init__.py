"""What runs a network's programs: the protocol, and the executors that can be chosen.

The executors themselves load by name, so that neither TVM nor the reference is imported before it
is wanted.
"""

from .exportable import About as About
from .exportable import Exportable as Exportable
from .exportable import export as export
from .observer import Made as Made
from .observer import Observer as Observer
from .protocol import Executor as Executor
from .protocol import PlanningExecutor as PlanningExecutor
from .protocol import Result as Result
from .protocol import Seeds as Seeds
from .registry import check_options as check_options
from .registry import check_parameters as check_parameters
from .registry import factory as factory
from .registry import names as names
from .registry import register as register
