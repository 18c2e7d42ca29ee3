"""Cells: ready-made vertex functions."""

from .cells import CELLS as CELLS
from .cells import GRU as GRU
from .cells import LSTM as LSTM
from .cells import Cell as Cell
from .cells import TreeFC as TreeFC
from .cells import TreeGRU as TreeGRU
from .cells import TreeLSTM as TreeLSTM
from .cells import TreeRNN as TreeRNN
