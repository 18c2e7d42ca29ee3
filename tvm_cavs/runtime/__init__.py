"""The machine that runs compiled kernels: memory, plans, slices, routines.

It lies beneath the compiler, which targets it, and needs NumPy and `tvm_ffi` only: a deployed model
stands on it alone.
"""

from .. import ffi  # noqa: F401  (first: what follows imports tvm_ffi)

# isort: split
from .area import Area as Area
from .arena import Arena as Arena
from .arena import Joined as Joined
from .batch_inputs import Filling as Filling
from .batch_memory import Batch as Batch
from .batch_memory import BatchMemory as BatchMemory
from .executable import ALL_ROWS as ALL_ROWS
from .executable import Block as Block
from .executable import CompiledGroup as CompiledGroup
from .executable import CompiledPack as CompiledPack
from .executable import CompiledStep as CompiledStep
from .executable import Executable as Executable
from .executable import GradientPart as GradientPart
from .executable import NetValue as NetValue
from .gradients import Gradients as Gradients
from .gradients import gradient_buffer as gradient_buffer
from .lending import Lending as Lending
from .memory import Both as Both
from .memory import HostMemory as HostMemory
from .memory import tensor_of as tensor_of
from .part import Part as Part
from .passes import Passes as Passes
from .plan import Plan as Plan
from .planner import Planner as Planner
from .planner import Ranks as Ranks
from .planner import UnknownKindsError as UnknownKindsError
from .prepared import Prepared as Prepared
from .prepared import read_outputs as read_outputs
from .roles import BufferId as BufferId
from .roles import Role as Role
from .room import OF_WEIGHTS as OF_WEIGHTS
from .room import Layout as Layout
from .routine import Call as Call
from .slices import Spaces as Spaces
from .spaces import ALL as ALL
from .spaces import EDGES as EDGES
from .spaces import OF_NO_KIND as OF_NO_KIND
from .spaces import PARTS as PARTS
from .spaces import SCRATCH as SCRATCH
from .spaces import STATE as STATE
from .spaces import Buffer as Buffer
from .spaces import RowGradient as RowGradient
from .spaces import Space as Space
from .spaces import choice_buffer as choice_buffer
from .spaces import index_buffer as index_buffer
from .spaces import space_of as space_of
from .tables import COUNT as COUNT
from .tables import EAGER as EAGER
from .tables import FORM_COLUMNS as FORM_COLUMNS
from .tables import GROUP as GROUP
from .tables import LAZY as LAZY
from .tables import LEVEL as LEVEL
from .tables import MOVE_COLUMNS as MOVE_COLUMNS
from .tables import RECURRENT as RECURRENT
from .tables import SLICE_COLUMNS as SLICE_COLUMNS
from .tables import STEP_COLUMNS as STEP_COLUMNS
from .threads import n_cores as n_cores
from .threads import threads_in_use as threads_in_use
from .threads import use_threads as use_threads
from .weights import WeightMemory as WeightMemory
from .weights import parameter_memory as parameter_memory
from .weights import value_of as value_of
from .workspace import Slots as Slots
from .workspace import Workspace as Workspace
