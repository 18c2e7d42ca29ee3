"""Networks whose structure differs per example, batched automatically and compiled through TVM.

Words, one per idea (Cavs, USENIX ATC 2018):

* vertex function F: what one vertex does; instance graph G: which vertices an example has.
* `gather(k)` reads the state of child k; `scatter` publishes this vertex's state to its parents;
  `pull` reads this vertex's external input; `push` gives an external output.
* stages of F: *eager* depends on no gather; *recurrent* depends on a gather and feeds a scatter;
  *lazy* depends on a gather and feeds no scatter.
* *level*: vertices that run together. *row*: a vertex's place in a packed buffer. *plan*: the
  levels and rows of a batch. *kind*: vertices with the same inputs present. *record*: a stored
  tuning result. *executor*: what runs a compiled network.
"""

from . import data as data
from . import init as init
from . import loss as loss
from . import nn as nn
from .errors import CavsError as CavsError
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import DataError as DataError
from .errors import GraphError as GraphError
from .errors import ShapeError as ShapeError
from .errors import TargetError as TargetError
from .errors import TraceError as TraceError
from .errors import TrainingError as TrainingError
from .evaluation import evaluate as evaluate
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
from .graph import Graph as Graph
from .graph import batch as batch
from .network import Network as Network
from .network import record as record
from .trainer import Trainer as Trainer
from .versions import VERSION as __version__
from .versions import check_versions as _check_versions
from .vertex import Parameter as Parameter
from .vertex import RowSparse as RowSparse
from .vertex import Vertex as Vertex
from .vertex import VertexFunction as VertexFunction

_check_versions()
