"""A YAML file -> a training run, its folder and its report."""

from .build import build_loss as build_loss
from .build import build_network as build_network
from .build import first_batches as first_batches
from .config import load_config as load_config
from .display import clock as clock
from .display import open_console as open_console
from .display import show as show
from .loop import Outcome as Outcome
from .loop import fit as fit
from .process import process_age as process_age
from .process import stop_on_signal as stop_on_signal
from .report import metrics_table as metrics_table
from .report import print_curves as print_curves
from .report import say as say
from .run import Run as Run
from .run import resume as resume
from .run import start as start
from .runlog import BEST as BEST
from .runlog import LAST as LAST
from .runlog import new_folder as new_folder
from .runlog import write_whole as write_whole
from .schema import RunConfig as RunConfig
from .schema import choose as choose
from .splits import build_data as build_data
