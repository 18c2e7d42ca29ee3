"""Gradients -> parameters one step further, metrics, checkpoints."""

from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import Progress as Progress
from .checkpoint import installed_versions as installed_versions
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import restore as restore
from .checkpoint import save_checkpoint as save_checkpoint
from .evaluation import as_json as as_json
from .evaluation import evaluate as evaluate
from .evaluation import in_order as in_order
from .evaluation import nothing_to_count as nothing_to_count
from .lr_schedules import SCHEDULES as SCHEDULES
from .lr_schedules import check_settings as check_settings
from .lr_schedules import make_schedule as make_schedule
from .metrics import LEARNS as LEARNS
from .metrics import METRICS as METRICS
from .metrics import fitting as fitting
from .optim import OPTIMIZERS as OPTIMIZERS
from .optim import check_hyper as check_hyper
from .trainer import Trainer as Trainer
