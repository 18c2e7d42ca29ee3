"""The language of vertex functions: what a user writes, and `trace`, which gives a Program.

NumPy only. Everything downstream reads Programs and never a vertex function.
"""

from . import functions as functions
from . import init as init
from .functions import abs as abs
from .functions import argmax as argmax
from .functions import concat as concat
from .functions import embedding as embedding
from .functions import equal as equal
from .functions import exp as exp
from .functions import gelu as gelu
from .functions import greater as greater
from .functions import layer_norm as layer_norm
from .functions import log as log
from .functions import log_softmax as log_softmax
from .functions import maximum as maximum
from .functions import minimum as minimum
from .functions import one_hot as one_hot
from .functions import pick as pick
from .functions import reduce_max as reduce_max
from .functions import reduce_mean as reduce_mean
from .functions import reduce_sum as reduce_sum
from .functions import relu as relu
from .functions import reshape as reshape
from .functions import sigmoid as sigmoid
from .functions import silu as silu
from .functions import softmax as softmax
from .functions import split as split
from .functions import sqrt as sqrt
from .functions import tanh as tanh
from .functions import where as where
from .ops import EFFECTS as EFFECTS
from .ops import OPS as OPS
from .ops import READS as READS
from .parameter import Parameter as Parameter
from .parameter import RowSparse as RowSparse
from .parameter import aligned_copy as aligned_copy
from .parameter import made_rows as made_rows
from .program import Builder as Builder
from .program import Call as Call
from .program import Program as Program
from .program import bounds as bounds
from .program import keep as keep
from .program import without_dead as without_dead
from .value import ABSENT as ABSENT
from .value import Attrs as Attrs
from .value import Recorder as Recorder
from .value import Type as Type
from .value import Value as Value
from .value import full as full
from .value import nothing as nothing
from .vertex import Vertex as Vertex
from .vertex import VertexFunction as VertexFunction
from .vertex import trace as trace
