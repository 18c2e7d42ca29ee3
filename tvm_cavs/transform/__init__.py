"""Program -> Program: adjoints, rewrites, kinds, stages; what a network runs, made and checked.

NumPy only; nothing here knows of kernels.
"""

from .absence import Need as Need
from .absence import absent_ranges as absent_ranges
from .absence import presences as presences
from .absence import saved_runs as saved_runs
from .autodiff import differentiate as differentiate
from .net_values import expression as expression
from .net_values import net_value as net_value
from .options import ALL as ALL
from .options import SWITCHES as SWITCHES
from .options import Options as Options
from .options import leaving_out as leaving_out
from .programs import SEED as SEED
from .programs import Programs as Programs
from .programs import check_names as check_names
from .programs import choose_policy as choose_policy
from .programs import counted as counted
from .programs import only_pushes as only_pushes
from .programs import seeded as seeded
from .savings import multiplications_saved as multiplications_saved
from .specialisation import specialise as specialise
from .stages import STAGES as STAGES
from .stages import Stages as Stages
from .stages import split as split
