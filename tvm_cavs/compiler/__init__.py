"""Programs -> compiled kernels: kinds, lowering, forms, the kernel cache."""

from . import homeless  # noqa: F401  (first: what follows imports TVM)

# isort: split
from .assembly import SITE_KEYS as SITE_KEYS
from .assembly import Compiled as Compiled
from .assembly import NetValue as NetValue
from .assembly import assemble as assemble
from .compiler import Compiler as Compiler
from .direct import directly as directly
from .forms import Form as Form
from .host import host_kernels as host_kernels
from .kernels.update import Update as Update
from .kernels.update import squares as squares
from .kernels.update import update as update
from .kinds import Group as Group
from .kinds import Kinds as Kinds
from .lowering import rectangles as rectangles
from .lowering.parameter_gradients import gradient_buffer as gradient_buffer
from .lowering.steps import Gradient as Gradient
