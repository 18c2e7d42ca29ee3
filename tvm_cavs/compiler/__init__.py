"""Programs -> compiled kernels: kinds, lowering, forms, the kernel cache."""

from . import homeless  # noqa: F401  (first: what follows imports TVM)

# isort: split
from .assembly import SITE_KEYS as SITE_KEYS
from .assembly import assemble as assemble
from .compiler import Compiler as Compiler
from .direct import directly as directly
from .forms import Form as Form
from .host import host_kernels as host_kernels
from .kernels.update import SQUARES as SQUARES
from .kernels.update import Update as Update
from .kernels.update import squares as squares
from .kernels.update import update as update
from .kinds import Group as Group
from .kinds import Kinds as Kinds
from .library import make_library as make_library
from .stepping import Stepping as Stepping
from .target_rules import Bucket as Bucket
from .target_rules import Record as Record
from .target_rules import adjusted as adjusted
from .target_rules import bucket_of as bucket_of
from .target_rules import choose as choose
from .target_rules import domains as domains
from .target_rules import merged as merged
from .target_rules import misfit as misfit
from .target_rules import precision_of as precision_of
from .target_rules import read_records as read_records
from .target_rules import step_knobs as step_knobs
from .target_rules import target_key as target_key
from .target_rules import usable_records as usable_records
from .target_rules import write_records as write_records
from .trial import Libraries as Libraries
from .trial import NoServerError as NoServerError
from .trial import Recorded as Recorded
from .trial import Remote as Remote
from .trial import Runnable as Runnable
from .trial import Session as Session
from .trial import Tracker as Tracker
from .trial import Trial as Trial
from .trial import Wrong as Wrong
from .trial import no_server as no_server
from .trial import peak as peak
from .trial import recorded_of as recorded_of
from .trial import session as session
from .workload import Workload as Workload
from .workload import defaults as defaults
from .workload import workloads as workloads
