"""The door to the package `schedules`: what a target can do, and how its kernels run.

Nothing else here imports `schedules`, so no other package of that name can stand in for it.
"""

from ..neighbours import check_neighbour

check_neighbour("schedules")

# ruff: noqa: E402  (the look comes first)
import schedules as schedules
from schedules import layout as layout
from schedules.choice import UNTUNED as UNTUNED
from schedules.choice import Bucket as Bucket
from schedules.choice import Chosen as Chosen
from schedules.choice import bucket_of as bucket_of
from schedules.choice import choose as choose
from schedules.choice import only as only
from schedules.domains import adjusted as adjusted
from schedules.domains import domains as domains
from schedules.host import instructions as instructions
from schedules.knobs import Knobs as Knobs
from schedules.knobs import StepKnobs as StepKnobs
from schedules.knobs import direct_knobs as direct_knobs
from schedules.knobs import misfit as misfit
from schedules.knobs import outer_knobs as outer_knobs
from schedules.knobs import part_bytes as part_bytes
from schedules.knobs import product_knobs as product_knobs
from schedules.knobs import region_knobs as region_knobs
from schedules.knobs import step_knobs as step_knobs
from schedules.layout import Strip as Strip
from schedules.layout import Tile as Tile
from schedules.layout import direct_panels as direct_panels
from schedules.layout import panels as panels
from schedules.layout import weights_shape as weights_shape
from schedules.loops import KERNEL as KERNEL
from schedules.loops import ROLE as ROLE
from schedules.records import Record as Record
from schedules.records import direct_key as direct_key
from schedules.records import merged as merged
from schedules.records import outer_key as outer_key
from schedules.records import precision_of as precision_of
from schedules.records import product_key as product_key
from schedules.records import read_records as read_records
from schedules.records import step_key as step_key
from schedules.records import target_key as target_key
from schedules.records import usable_records as usable_records
from schedules.records import write_records as write_records
from schedules.target import architecture as architecture
from schedules.target import describe as describe
from schedules.target import require_host as require_host
from schedules.target import require_precision as require_precision
from schedules.target import simd as simd
from schedules.target import threads as threads
from schedules.tiles import is_narrow as is_narrow
from schedules.tiles import is_narrow_outer as is_narrow_outer
