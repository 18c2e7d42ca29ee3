"""What a user holds: networks, losses, ready-made cells."""

from . import loss as loss
from .cells import CELLS as CELLS
from .cells import GRU as GRU
from .cells import LSTM as LSTM
from .cells import Cell as Cell
from .cells import TreeFC as TreeFC
from .cells import TreeGRU as TreeGRU
from .cells import TreeLSTM as TreeLSTM
from .cells import TreeRNN as TreeRNN
from .loss import LOSSES as LOSSES
from .loss import LossFunction as LossFunction
from .loss import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from .network import Network as Network
from .parameter_files import set_parameters as set_parameters
from .recording import record as record

# Cells; the rest users find in tvm_cavs itself, or is for other packages of it.
__all__ = [
    "CELLS",
    "Cell",
    "GRU",
    "LSTM",
    "TreeFC",
    "TreeGRU",
    "TreeLSTM",
    "TreeRNN",
]
