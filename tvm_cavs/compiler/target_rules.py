"""The door to the package `schedules`: what a target can do, and how its kernels run.

Nothing else here imports `schedules`, so no other package of that name can stand in for it.
"""

from ..neighbours import check_neighbour

check_neighbour("schedules")

# ruff: noqa: E402  (the look comes first)
import schedules as schedules
from schedules import layout as layout
from schedules.layout import DIRECT_AHEAD as DIRECT_AHEAD
from schedules.layout import DIRECT_ROWS as DIRECT_ROWS
from schedules.layout import Tile as Tile
from schedules.layout import direct_panels as direct_panels
from schedules.layout import panels as panels
from schedules.layout import weights_shape as weights_shape
from schedules.loops import KERNEL as KERNEL
from schedules.loops import ROLE as ROLE
from schedules.target import require_host as require_host
from schedules.target import require_precision as require_precision
from schedules.target import simd as simd
from schedules.target import threads as threads
